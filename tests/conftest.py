"""Stand-in data: the layouts of the real data sets, with a few small random images."""

from __future__ import annotations

import atexit
import bz2
import faulthandler
import json
import logging
import os
import signal

# Tests share few cores with each other and with the runs they start; threads that wait for cores cost more than
# they bring, and a process that has some is not to be forked. Before anything that starts them is imported.
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import rich
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import OmegaConf
from PIL import Image

from tl_runner import cli
from tl_runner.methods.base import Method
from tl_runner.overrides import of_stage
from tl_runner.parts import expand
from tl_runner.search import config_dir, groups

CONFIGS = groups([config_dir()])
EXPERIMENTS = sorted(
    f"{group.removeprefix('experiment').lstrip('/')}/{name}".lstrip("/")
    for group, options in CONFIGS.items()
    if group.startswith("experiment")
    for name in options
)


# One method of each kind: alignment, an adversary, turns, a memory, a teacher, no source, few labels, a wrapper.
KINDS = ("mmd", "dann", "mcd", "atdoc", "mean_teacher", "shot", "finetune", "ewc", "sdat")


def walk(names: Sequence[object], fast: Sequence[object] = KINDS) -> list[Any]:
    """All of them as parameters of a test that takes seconds; those not in `fast` are slow tests."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]


torch.set_num_threads(1)

STARTED = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Slow tests that have not begun after so many minutes are skipped, and say so: CI has a limit."""
    minutes = os.environ.get("TLRUN_TEST_MINUTES")
    if minutes and item.get_closest_marker("slow") and time.monotonic() - STARTED > 60 * float(minutes):
        pytest.skip(f"TLRUN_TEST_MINUTES={minutes} are over")


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLRUN_DATA", str(tmp_path / "data"))


@pytest.fixture(autouse=True, scope="session")
def _each_shipped_config_is_parsed_once() -> Iterator[None]:
    """Nearly all the time of a composition goes into reading the same YAML files again."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        source = SourcesRegistry.instance().resolve("file")
    original, known = source.load_config, {}

    def load_config(self: Any, config_path: str) -> Any:
        if Path(self.path) != config_dir():
            return original(self, config_path)
        if config_path not in known:
            known[config_path] = original(self, config_path)
        return deepcopy(known[config_path])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "load_config", load_config)
        yield


@cache
def method_class(name: str) -> type[Method]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cls = get_class(compose(f"method/{name}")["method"]["_target_"])
    assert issubclass(cls, Method)
    return cls


def composed(*overrides: str) -> dict[str, Any]:
    """The resolved config of a command line."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        overrides = tuple(f"++{o}" if of_stage(o) else o for o in overrides)
        config: Any = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
        return expand(config)


def lasting_folder() -> Path:
    """An empty one that all tests of a process may read from."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


Tlrun = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tlrun(tmp_path: Path) -> Tlrun:
    """Runs the real command line in an empty working folder, in a process of its own.

    It is a fork of this one, where torch has been imported: starting Python anew takes longer than most runs.
    """

    def run(
        *arguments: str, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        work, said = tmp_path / "work", [tmp_path / f"said-{time.monotonic_ns()}-{n}" for n in (1, 2)]
        work.mkdir(exist_ok=True)
        if (pid := os.fork()) == 0:
            _become(work, said, ["tlrun", *arguments], env)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out, err = (file.read_text() for file in said)
        assert code == 0 or not check, out + err
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run


def _become(work: Path, said: Sequence[Path], command: list[str], env: Mapping[str, str] | None) -> NoReturn:
    """Be a fresh `tlrun`, and end."""
    code = 1
    try:
        for number, file in enumerate(said, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        faulthandler.dump_traceback_later(600, exit=True, file=2)  # Or one that hangs would hold up all.
        os.chdir(work)
        # What other tests have written, and this process has imported, a fresh one would not know.
        theirs = str(work.parents[1])
        sys.path[:] = [place for place in sys.path if not place.startswith(theirs)]
        for name, module in [*sys.modules.items()]:
            if str(getattr(module, "__file__", None)).startswith(theirs):
                del sys.modules[name]
        sys.argv = command
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        for handler in [*logging.root.handlers]:  # Pytest's.
            logging.root.removeHandler(handler)
        GlobalHydra.instance().clear()
        rich._console = None  # It knows the width of another terminal.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def result_folder(done: subprocess.CompletedProcess[str]) -> Path:
    """The folder that a run's last line names."""
    return Path(done.stdout.strip().splitlines()[-1].removeprefix("Results: "))


def write_run(
    folder: Path,
    method: str = "mmd",
    source: Any = "a",
    target: Any = "b",
    seed: int = 0,
    picks: Mapping[str, float] | None = None,
    stages: Mapping[str, str | None] | None = None,
    seconds: float = 10.0,
    labeled_per_class: int | str = 0,
    root: str = "/data/x",
    method_node: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A folder as a run leaves it, without training.

    Args:
        picks: pick -> target accuracy. stages: stage -> the method it names, None for the run's.
        labeled_per_class, root: of `data`. method_node: in place of the method's own.
        config: more keys of the root config.
    """
    picks = {"last": 0.5, "source_val": 0.4, "im": 0.5, "oracle": 0.6} if picks is None else picks
    stages = {"adapt": None} if stages is None else stages

    def node(name: str) -> dict[str, Any]:
        return {"_target_": f"tl_runner.methods.{name}.{name}"}

    whole: dict[str, Any] = {
        "data": {
            **{"source": source, "target": target, "seed": seed, "root": root},
            "labeled_per_class": labeled_per_class,
        },
        "model": {"_target_": "tl_runner.nn.model.Model", "backbone": {"name": "resnet18"}},
        "method": method_node or node(method),
        "trainer": {"epochs": 2},
        "recipe": {"stages": {k: {"method": v and node(v)} for k, v in stages.items()}},
        "init_from": None,
        "paths": {"data": "/data"},
        "seed": seed,
        **config,
    }
    timing = {
        "seconds": seconds,
        "train_seconds": seconds / 2,
        "samples_per_second": 100.0,
        "peak_memory_mb": 64.0,
    }
    found = {
        pick: {
            "epoch": 2 if pick == "last" else 1,
            "target": {"accuracy": value, "macro_f1": value - 0.1, "ece": 1 - value},
            "validators": {"im": 1.0},
        }
        for pick, value in picks.items()
    }
    results = {
        "folder": str(folder),
        "data": " -> ".join("+".join(d) if isinstance(d, list) else str(d) for d in (source, target)),
        "stages": {
            k: {"method": v or method, "epochs": 2, "picks": found, "losses": {}, "timing": timing}
            for k, v in stages.items()
        },
        "source_accuracy": {},
        "seconds": seconds,
        "environment": {"packages": {"torch": "2.15.0"}, "gpu": None},
        "config": whole,
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "status.json").write_text('{"state": "done", "why": ""}')
    rows = [f"{k},{e},{1 / e},{e},{0.2 * e}" for k in stages for e in (1, 2)]
    text = "\n".join(["stage,epoch,loss/source,val/im,test/accuracy", *rows])
    (folder / "metrics.csv").write_text(text + "\n")
    return folder


def save_image(path: Path, seed: int, size: tuple[int, int] = (40, 36)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def image_folders(
    root: Path,
    domains: Sequence[str],
    classes: Sequence[str],
    layout: str = "{domain}/{class}/*",
    each: int = 8,
    splits: Sequence[str] = ("train", "test"),
) -> None:
    """`each` images per class and domain, by turns in each split if the layout has some."""
    splits = splits if "{split}" in layout else [""]
    for domain in domains:
        for c, name in enumerate(classes):
            for i in range(each):
                place = layout.replace("{domain}", domain).replace("{class}", name)
                place = place.replace("{split}", splits[i % len(splits)]).replace("*", f"frame_{i:04d}.png")
                save_image(root / place, seed=hash((domain, c, i)) % 2**32)


def stand_in(data: dict[str, Any]) -> None:
    """Write random images, or texts, where a composed `data` node looks for real ones."""
    domains = [
        d
        for key in ("source", "target")
        for d in ([data[key]] if isinstance(data[key], str) else data[key] or [])
    ]
    kind = data["_target_"].rpartition(".")[2]
    classes = ["back_pack", "bike", "mug", "ruler"]
    if kind == "FolderData":
        splits = ("train", "test", "val") if data["labeled_per_class"] == "all" else ("train", "test")
        image_folders(Path(data["root"]), domains, classes, data["layout"], splits=splits)
    elif kind == "ListData":
        root = Path(data["root"])
        image_folders(root, domains, classes)
        for domain in domains:
            lines = [
                f"{f.relative_to(root).as_posix()} {classes.index(f.parent.name)}"
                for f in sorted((root / domain).rglob("*.png"))
            ]
            for template in data["files"]:
                part = slice(0, None, 2) if "train" in template else slice(1, None, 2)
                (root / template.replace("{domain}", domain)).write_text("\n".join(lines[part]) + "\n")
    elif data["reader"]["_target_"].endswith("AmazonReviews"):
        review_files(Path(data["reader"]["root"]), domains)
    elif data["reader"]["_target_"].endswith("Conll"):
        conll_files(Path(data["reader"]["root"]), [*data["reader"]["files"].values()])
    elif data["reader"]["_target_"].endswith("DigitsFive"):
        digit_files(Path(data["reader"]["root"]))


WORDS = (
    "good",
    "bad",
    "book",
    "film",
    "the",
    "a",
    "was",
    "very",
    "anna",
    "bonn",
    "acme",
    "went",
    "to",
    "##s",
    ".",
)


def tiny_encoder(folder: Path) -> str:
    """A folder with an untrained BERT of two layers and a tokenizer of a few words, as transformers keeps them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    core.add_special_tokens(special)
    core.enable_padding()  # as those that are published may have it
    folder.mkdir(parents=True, exist_ok=True)
    core.save(str(folder / "tokenizer.json"))
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(vocabulary), **shape)).save_pretrained(folder)
    return str(folder)


def with_tiny_encoder(config: dict[str, Any], folder: Path) -> None:
    """Put it in place of the encoder that a composed config reads texts with."""
    name = tiny_encoder(folder)
    config["model"]["name"] = config["model"]["backbone"]["name"] = config["data"]["tokenizer"] = name


def review_files(root: Path, domains: Sequence[str], each: int = 12) -> None:
    """Amazon's files, in which good is good and bad is bad."""
    rng = np.random.default_rng(0)
    for number, domain in enumerate(domains):
        (root / domain).mkdir(parents=True)
        for label, word in (("positive", "good"), ("negative", "bad")):
            texts = [
                " ".join([word, *rng.choice(WORDS[2 + number : 9], size=rng.integers(1, 12))])
                for _ in range(each)
            ]
            reviews = [
                f"<review>\n<title>\nx\n</title>\n<review_text>\n{t}\n</review_text>\n</review>"
                for t in texts
            ]
            (root / domain / f"{label}.review").write_text("\n".join(reviews) + "\n", encoding="latin-1")


def conll_files(
    root: Path, files: Sequence[str] = ("eng.train", "eng.testa", "eng.testb"), each: int = 30
) -> None:
    """CoNLL-2003's files: tags in IOB1, of names of one or two words."""
    rng = np.random.default_rng(0)
    names = {"anna": "I-PER", "bonn": "I-LOC", "acme": "I-ORG"}
    root.mkdir(parents=True, exist_ok=True)
    for file in files:
        lines = ["-DOCSTART- -X- O O", ""]
        for i in range(each):
            for word in (*names, *rng.choice(WORDS[:8], size=rng.integers(1, 6)), "anna", "anna", "."):
                lines.append(f"{word} NN I-NP {names.get(word, 'O')}")
            lines += ["bonn NN I-NP I-LOC", "bonn NN I-NP B-LOC"] if i % 2 else []
            lines.append("")
        (root / file).write_text("\n".join(lines))


def digit_files(root: Path, n: int = 60) -> None:
    """MNIST's and USPS's file formats with random pixels."""
    rng = np.random.default_rng(0)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, usps in (("train", "usps.bz2"), ("t10k", "usps.t.bz2")):
        labels = np.arange(n, dtype=np.uint8) % 10
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, n, 28, 28) + pixels.tobytes()
        )
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + labels.tobytes())
        rows = (
            f"{y + 1} " + " ".join(f"{i + 1}:{v:.3f}" for i, v in enumerate(rng.uniform(-1, 1, 256)))
            for y in labels
        )
        (root / usps).write_bytes(bz2.compress(("\n".join(rows) + "\n").encode()))


def _names(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else value
