"""Data sets that the `datasets` library loads: without a network, from folders and files of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import composed, with_tiny_encoder

from tl_runner.data.hub import HubTexts
from tl_runner.errors import DataError, UserError
from tl_runner.run import run

datasets = pytest.importorskip("datasets")
TEXTS = {"text": ["good film", "bad film", "a book"], "label": ["pos", "neg", "pos"]}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def with_classes(columns: dict[str, Any], names: list[str]) -> Any:
    """Labels as most data sets of the hub have them: numbers, and the names of their classes."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    return datasets.Dataset.from_dict(columns, features)


@pytest.mark.parametrize(
    "kind", ["csv", "tsv", "json", "jsonl", "parquet", "folder", "disk", "disk of splits"]
)
def test_files_and_folders_of_every_kind_are_the_same_texts(kind: str, tmp_path: Path) -> None:
    table, place = datasets.Dataset.from_dict(TEXTS), tmp_path / "mine"
    if kind == "disk":
        table.save_to_disk(place)
    elif kind == "disk of splits":
        datasets.DatasetDict({"train": table}).save_to_disk(place)
    elif kind == "folder":
        place.mkdir()
        table.to_parquet(place / "train.parquet")
    else:
        place = place.with_suffix(f".{kind}")
        write = {"csv": table.to_csv, "tsv": table.to_csv, "parquet": table.to_parquet}.get(
            kind, table.to_json
        )
        write(place, **({"sep": "\t"} if kind == "tsv" else {}))
    for name, domain in ((str(place), "mine"), ("{domain}", str(place))):
        found = HubTexts(name).read(domain)
        assert (found.texts, found.classes, found.split) == (TEXTS["text"], ("neg", "pos"), None)
        assert found.labels.tolist() == [1, 0, 1]
        assert found.names == ["train:0", "train:1", "train:2"]


def test_splits_and_names_of_classes_are_the_data_sets(tmp_path: Path) -> None:
    """As of imdb: texts without labels in a split of their own, which has another name."""
    names = ["neg", "pos"]
    parts = {
        "train": with_classes({"text": ["good", "bad"], "label": [1, 0]}, names),
        "test": with_classes({"text": ["very good"], "label": [1]}, names),
        "unsupervised": with_classes({"text": ["a film"], "label": [-1]}, names),
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "imdb")
    found = HubTexts(str(tmp_path / "imdb")).read("imdb")
    assert found.texts == ["good", "bad", "very good"]
    assert found.split is not None
    assert found.split.tolist() == ["train", "train", "test"]
    assert [found.classes[k] for k in found.labels] == ["pos", "neg", "pos"]
    other = HubTexts(str(tmp_path / "imdb"), splits={"train": "test", "val": "train"}).read("imdb")
    assert other.texts == ["very good", "good", "bad"]
    alone = HubTexts(str(tmp_path / "imdb"), splits={"train": "unsupervised"}).read("imdb")
    assert (alone.texts, alone.classes) == (["a film"], ())
    # A published test set whose labels are kept back.
    kept = HubTexts(str(tmp_path / "imdb"), splits={"train": "train", "test": "unsupervised"}).read("imdb")
    assert kept.texts == ["good", "bad"]


def test_domains_are_the_values_of_a_column(tmp_path: Path) -> None:
    columns = {"body": ["x", "y", "z"], "stars": [5, 1, 5], "shop": ["book", "dvd", "book"]}
    datasets.Dataset.from_dict(columns).to_json(tmp_path / "all.jsonl")
    fields = {"text": "body", "label": "stars", "domain": "shop"}
    reader = HubTexts(str(tmp_path / "all.jsonl"), fields=fields)
    assert reader.read("book").texts == ["x", "z"]
    assert reader.read("book").names == ["train:0", "train:2"]
    assert reader.read("dvd").classes == ("1",)
    with pytest.raises(DataError, match="no row of domain 'bok'; did you mean 'book'"):
        reader.read("bok")


def test_domains_are_configs(tmp_path: Path) -> None:
    for name in ("de", "en"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name} good,pos\n")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.csv\n" for name in ("de", "en"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    reader = HubTexts(str(tmp_path), config="{domain}")
    assert [reader.read(name).texts for name in ("de", "en")] == [["de good"], ["en good"]]
    with pytest.raises(DataError, match="BuilderConfig 'fr' not found"):
        reader.read("fr")
    with pytest.raises(DataError, match=r"data\.reader\.config=de: .*de\.csv has no configs"):
        HubTexts(str(tmp_path / "de.csv"), config="de").read("de")


def tagged(rows: dict[str, Any], names: list[str] | None = None) -> Any:
    tags = datasets.Value("string") if names is None else datasets.ClassLabel(names=names)
    words = datasets.Value("string")
    features = {"tokens": datasets.List(words), "ner_tags": datasets.List(tags)}
    return datasets.Dataset.from_dict(rows, datasets.Features(features))


@pytest.mark.parametrize("named", [False, True])
def test_sentences_and_tags(named: bool, tmp_path: Path) -> None:
    names = ["O", "I-PER", "B-PER", "I-LOC"]
    tags = [[0, 1], [], [3, 1]]
    rows = {"tokens": [["the", "anna"], [], ["bonn", "anna"]], "ner_tags": tags}
    if not named:
        rows["ner_tags"] = [[names[k] for k in of] for of in tags]
    datasets.DatasetDict(
        {"train": tagged(rows, names if named else None), "test": tagged(rows, names if named else None)}
    ).save_to_disk(tmp_path / "wnut")
    found = HubTexts(str(tmp_path / "wnut")).read("wnut")
    assert found.texts == ["the", "anna", "bonn", "anna"] * 2
    assert found.group is not None
    assert found.group.tolist() == [0, 0, 2, 2, 3, 3, 5, 5]
    assert [found.classes[k] for k in found.labels[:4]] == ["O", "B-PER", "B-LOC", "B-PER"]  # IOB2
    assert found.names[2] == "train:2 bonn"


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            TEXTS,
            {"fields": {"text": "txt"}},
            r"data\.reader\.fields\.text: .* no column 'txt'; did you mean 'text'",
        ),
        (
            TEXTS,
            {"fields": {"texts": "x"}},
            r"data\.reader\.fields: there is no 'texts'; did you mean 'text'",
        ),
        (TEXTS, {"splits": {"test": "tst"}}, r"data\.reader\.splits: .* no split 'tst'; known: train"),
        (TEXTS, {"splits": {"dev": "train"}}, r"data\.reader\.splits: there is no 'dev'"),
        ({"body": ["x"]}, {}, "has no column 'text' or 'tokens', but body"),
        ({"text": ["x", "y"], "label": ["a", None]}, {}, "train:1: has no label, and others of 'train' have"),
        ({"text": [1, 2], "label": ["a", "b"]}, {}, "train:0: expected a text, got '1'"),
        ({"tokens": [["a", "b"]], "ner_tags": [["O"]]}, {}, "train:0: expected a tag for each of 2 words"),
        ({"tokens": [["a"]], "ner_tags": [["NN"]]}, {}, "train:0: 'NN' is no tag"),
        ({"tokens": [["a"]], "ner_tags": [[3]]}, {}, "train:0: '3' is no tag"),
        ({"tokens": [["a"]]}, {}, "train:0: expected a tag for each of 1 words, got 'None'"),
    ],
)
def test_what_is_wrong_is_named(
    columns: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "mine")
    with pytest.raises(DataError, match=message):
        HubTexts(str(tmp_path / "mine"), **options).read("mine")


def test_a_tag_that_is_not_taught_is_named(tmp_path: Path) -> None:
    parts = {
        "train": tagged({"tokens": [["a", "b"]], "ner_tags": [["O", "B-PER"]]}),
        "test": tagged({"tokens": [["a"], ["b"]], "ner_tags": [["O"], ["B-FOO"]]}),
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "mine")
    with pytest.raises(
        DataError, match="mine, test:1: tag 'B-FOO' is in no training sentence, which have B-PER, O"
    ):
        HubTexts(str(tmp_path / "mine")).read("mine")


def test_one_domain_is_not_taken_for_two(tmp_path: Path) -> None:
    datasets.Dataset.from_dict(TEXTS).to_json(tmp_path / "mine.jsonl")
    with pytest.raises(DataError, match="so it is one domain, 'mine', and has no 'other'"):
        HubTexts(str(tmp_path / "mine.jsonl")).read("other")


def test_what_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, message in (
        (str(tmp_path / "nowhere"), "there is no file or folder"),
        ("mine.parquet", "there is no file or folder 'mine.parquet'"),
    ):
        with pytest.raises(DataError, match=message):
            HubTexts(name).read("x")
    for name, content, message in (
        ("x.txt", b"good", r"x\.txt: is none of \.csv, \.tsv"),
        ("x.json", b"{", r"x\.json: could not be loaded \("),
        ("x.parquet", b"no parquet", r"x\.parquet: could not be loaded \(ArrowInvalid"),
        (
            "x.csv",
            b"text,label\ncaf\xe9,pos\n",
            r"x\.csv: could not be loaded \(UnicodeDecodeError.*data=text reads",
        ),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            HubTexts(str(tmp_path / name)).read("x")
    # What a machine without a network meets.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="hub is not to be reached, and the data set is not in its cache"):
        HubTexts("stanfordnlp/imdb").read("imdb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need datasets, .* pip install 'tl-runner\[text\]'"):
        HubTexts("stanfordnlp/imdb").read("imdb")


def test_code_of_a_data_set_is_never_run(tmp_path: Path) -> None:
    folder, ran = tmp_path / "mine", tmp_path / "ran"
    folder.mkdir()
    datasets.Dataset.from_dict(TEXTS).to_parquet(folder / "train.parquet")
    assert HubTexts(str(folder)).read("mine").texts == TEXTS["text"]
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w')\n")
    with pytest.raises(
        DataError, match=r"mine: could not be loaded \(RuntimeError: Dataset scripts are no longer"
    ):
        HubTexts(str(folder)).read("mine")
    assert not ran.exists()


@pytest.mark.parametrize("tuning", ["full", "frozen"])
def test_data_sets_are_domains_of_a_run(tuning: str, tmp_path: Path) -> None:
    for name in ("books", "films"):
        columns = {"text": [f"{w} {name}" for w in ("good", "bad") * 6], "label": [1, 0] * 6}
        datasets.DatasetDict({"train": with_classes(columns, ["neg", "pos"])}).save_to_disk(tmp_path / name)
    source, target = (str(tmp_path / name) for name in ("books", "films"))
    config = composed(
        *("trainer=smoke", "data=hf_text", f"data.source={source}", f"data.target={target}", "model=minilm"),
        *("data.max_length=32", f"tuning={tuning}"),
    )
    with_tiny_encoder(config, tmp_path / "encoder")
    results = run(config, tmp_path / "run")
    assert results["data"] == f"{source} -> {target}"
    assert {f.suffix for f in (tmp_path / "cache" / "tokens").iterdir()} >= {".npy"}
