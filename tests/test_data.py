"""From files to roles: readers, decoding, the cache of pixels, and who may know which label."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tl_runner.data import store
from tl_runner.data.builtin import EmbeddedDigits, GaussianShift
from tl_runner.data.domains import DomainData, FolderData, Prepared
from tl_runner.data.folders import Folders, Lists
from tl_runner.data.samples import Samples, from_labels, unify_classes
from tl_runner.data.store import ArrayStore, FileStore, build_map, cached_pixels, decode
from tl_runner.errors import DataError, UserError
from tl_runner.types import HIDDEN


def picture(path: Path, value: int = 0, side: int = 6) -> Path:
    """An image of one colour that tells which it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (value, 255 - value, 7)).save(path)
    return path


def tree(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        picture(root / name, i)
    return root


# Folders


@pytest.mark.parametrize(
    ("layout", "prefix"),
    [
        ("{domain}/{class}/*", "art/cat/"),
        ("{domain}/images/{class}/*", "art/images/cat/"),
        ("images/{class}/{domain}/*", "images/cat/art/"),
        ("{domain}/{class}/*.png", "art/cat/"),
        ("{domain}/{class}/**/*", "art/cat/"),
        ("{domain}/{class}/**/*", "art/cat/deep/deeper/"),
        ("{domain}/**/{class}/*", "art/some/where/cat/"),
        ("{domain}/**/{class}/*", "art/cat/"),
        ("{domain}_set/{class}/*", "art_set/cat/"),
        ("a+b/{domain}/{class}/*", "a+b/art/cat/"),
    ],
)
def test_layouts_with_classes(tmp_path: Path, layout: str, prefix: str) -> None:
    tree(tmp_path, prefix + "b.png", prefix + "a.png", prefix.replace("cat", "dog") + "a.png")
    tree(tmp_path, prefix.replace("art", "other") + "x.png")
    samples = Folders(str(tmp_path), layout).read("art")
    assert samples.classes == ("cat", "dog")
    assert samples.labels.dtype == np.int64
    assert {(n, samples.classes[y]) for n, y in zip(samples.names, samples.labels, strict=True)} == {
        (prefix + "a.png", "cat"),
        (prefix + "b.png", "cat"),
        (prefix.replace("cat", "dog") + "a.png", "dog"),
    }
    assert samples.files == [tmp_path / n for n in samples.names]
    assert samples.split is None


@pytest.mark.parametrize("layout", ["{domain}/{split}/{class}/*", "{split}/{domain}/{class}/*"])
def test_layouts_with_splits(tmp_path: Path, layout: str) -> None:
    def name(split: str, kind: str) -> str:
        return layout.format(domain="art", split=split, **{"class": kind}).replace("*", "x.png")

    tree(tmp_path, name("train", "cat"), name("Validation", "cat"), name("test", "dog"))
    samples = Folders(str(tmp_path), layout).read("art")
    assert samples.split is not None
    found = {(samples.classes[y], s) for y, s in zip(samples.labels, samples.split, strict=True)}
    assert found == {("cat", "train"), ("cat", "val"), ("dog", "test")}
    tree(tmp_path, name("extra", "cat"))
    with pytest.raises(DataError, match=r"'extra' is no split; expected train, val or test"):
        Folders(str(tmp_path), layout).read("art")


def test_a_mapping_gives_each_domain_its_layout(tmp_path: Path) -> None:
    tree(tmp_path, "photos/cat/x.png", "art/images/dog/y.png", "raw/z.png")
    layouts = {"default": "{domain}/{class}/*", "art": "{domain}/images/{class}/*", "plain": "raw/*"}
    reader = Folders(str(tmp_path), layouts)
    assert reader.read("photos").classes == ("cat",)
    assert reader.read("art").classes == ("dog",)
    assert reader.read("plain").classes == ()
    with pytest.raises(DataError, match="no layout for domain 'artt'; did you mean 'art'"):
        Folders(str(tmp_path), {"art": "{domain}/*"}).read("artt")


def test_a_layout_without_classes_is_unlabelled(tmp_path: Path) -> None:
    tree(tmp_path, "art/x.png", "art/y.png", "art/deep/z.png")
    samples = Folders(str(tmp_path), "{domain}/*").read("art")
    assert samples.names == ["art/x.png", "art/y.png"]
    assert samples.classes == ()
    assert (samples.labels == HIDDEN).all()


def test_only_images_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path, "art/cat/x.png", "art/cat/Y.JPG", "art/cat/.hidden.png")
    (tmp_path / "art/cat/notes.txt").touch()
    (tmp_path / "art/empty").mkdir()
    with caplog.at_level(logging.WARNING):
        samples = Folders(str(tmp_path)).read("art")
    assert samples.names == ["art/cat/Y.JPG", "art/cat/x.png"]
    assert samples.classes == ("cat",)
    assert "'empty'" in caplog.text
    assert "cat" not in caplog.text


def test_a_hidden_folder_is_no_class(tmp_path: Path) -> None:
    tree(tmp_path, "art/cat/x.png", "art/.ipynb_checkpoints/x-checkpoint.png")
    assert Folders(str(tmp_path)).read("art").classes == ("cat",)


@pytest.mark.parametrize(
    ("root", "layout", "domain", "says"),
    [
        ("absent", "{domain}/{class}/*", "art", ["absent", "{domain}/{class}/*", "example.org", "data.root"]),
        ("", "{domain}/{class}/*", "arrt", ["arrt/{class}/*", "did you mean 'art'", "example.org"]),
        ("", "{domian}/{class}/*", "art", ["unknown {domian}", "{domain}, {class}, {split}"]),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, root: str, layout: str, domain: str, says: list[str]
) -> None:
    tree(tmp_path, "art/cat/x.png")
    with pytest.raises(DataError) as caught:
        Folders(str(tmp_path / root), layout, "https://example.org").read(domain)
    for part in says:
        assert part in str(caught.value)


# Lists


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    return tree(tmp_path, "cat/a b.png", "cat/c.png", "dog/d.png", "dog/e.png")


LISTS: dict[str, tuple[str, str]] = {
    "txt": ("art.txt", "cat/a b.png 0\ncat/c.png 0\n\ndog/d.png 1\n"),
    "csv": (
        "all.csv",
        "path,label,domain\ncat/a b.png,0,art\ndog/e.png,1,other\ncat/c.png,0,art\ndog/d.png,1,art\n",
    ),
    "csv-bom": ("all.csv", "\ufeffpath,label\ncat/a b.png,0\ncat/c.png,0\ndog/d.png,1\n"),
    "txt-bom": ("art.txt", "\ufeffcat/a b.png 0\ncat/c.png 0\ndog/d.png 1\n"),
    "csv-of-a-mac": ("all.csv", "path,label\rcat/a b.png,0\rcat/c.png,0\rdog/d.png,1\r"),
    "tsv": ("all.tsv", "label\tpath\n0\tcat/a b.png\n0\tcat/c.png\n1\tdog/d.png\n"),
}


@pytest.mark.parametrize(("name", "text"), LISTS.values(), ids=LISTS)
@pytest.mark.parametrize(("class_from", "classes"), [("label", ("0", "1")), ("folder", ("cat", "dog"))])
def test_lists(listed: Path, name: str, text: str, class_from: Any, classes: tuple[str, ...]) -> None:
    (listed / name).write_text(text, encoding="utf-8")
    template = name.replace("art", "{domain}")
    samples = Lists(str(listed), template, class_from).read("art")
    assert samples.names == ["cat/a b.png", "cat/c.png", "dog/d.png"]
    assert samples.labels.tolist() == [0, 0, 1]
    assert samples.classes == classes
    assert samples.files == [listed / n for n in samples.names]
    assert samples.split is None


def test_splits_of_lists(listed: Path) -> None:
    (listed / "art_train.txt").write_text("cat/c.png 0\n")
    (listed / "art_test.txt").write_text("dog/d.png 1\ndog/e.png 1\n")
    samples = Lists(str(listed), ["{domain}_train.txt", "{domain}_test.txt"]).read("art")
    assert samples.split is not None
    assert samples.split.tolist() == ["train", "test", "test"]
    (listed / "all.csv").write_text("path,label,split\ncat/c.png,0,train\ndog/d.png,1,val\n")
    samples = Lists(str(listed), "all.csv").read("any")
    assert samples.split is not None
    assert samples.split.tolist() == ["train", "val"]


def test_a_table_without_labels(listed: Path) -> None:
    (listed / "all.csv").write_text("path\ncat/c.png\ndog/d.png\n")
    samples = Lists(str(listed), "all.csv").read("art")
    assert samples.classes == ()
    assert (samples.labels == HIDDEN).all()


MALFORMED: dict[str, tuple[str, str, str]] = {
    "txt": ("l.txt", "cat/c.png 0\n\nlonely.png\n", r"l\.txt:3: expected 'path label', got 'lonely.png'"),
    "csv-too-few": ("l.csv", "path,label\ncat/c.png,0\ndog/d.png\n", r"l\.csv:3: expected 2 fields"),
    "csv-no-path": ("l.csv", "path,label\n,0\n", r"l\.csv:2: has no path"),
    "csv-quote": ("l.csv", 'path,label\ncat/c.png,0\n"dog/d.png,1\n', r"l\.csv:3: is no row of a table"),
    "csv-no-label": (
        "l.csv",
        "path,label\ncat/c.png,0\ndog/d.png,\n",
        r"^dog/d\.png: has no label, and others of domain 'art' have",
    ),
    "csv-too-many": ("l.csv", "path,label\ncat/c.png,0\ndog/d.png,1,2\n", r"l\.csv:3: expected 2 fields"),
    "csv-after-a-blank-line": (
        "l.csv",
        "path,label\n\ncat/c.png,0\n\ndog/d.png\n",
        r"l\.csv:5: expected 2 fields",
    ),
    "csv-header": ("l.csv", "file,label\ncat/c.png,0\n", r"l\.csv: expected a header with 'path'.*'file'"),
    "csv-split": ("l.csv", "path,label,split\ncat/c.png,0,trian\n", "'trian' is no split"),
    "absent-image": ("l.txt", "cat/c.png 0\ncat/no.png 0\n", r"1 listed images do not exist: .*cat.no\.png"),
    "absent-domain": (
        "l.csv",
        "path,label,domain\ncat/c.png,0,arts\n",
        "no row of domain 'art'; did you mean 'arts'",
    ),
}


@pytest.mark.parametrize(("name", "text", "says"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_list_names_file_and_line(listed: Path, name: str, text: str, says: str) -> None:
    (listed / name).write_text(text)
    with pytest.raises(DataError, match=says):
        Lists(str(listed), name).read("art")


@pytest.mark.parametrize(
    ("name", "line"), [("l.csv", "cat/c.png,caf\u00e9\n"), ("l.txt", "cat/c.png caf\u00e9\n")]
)
def test_lists_in_another_encoding(listed: Path, name: str, line: str) -> None:
    head = "path,label\n" if name == "l.csv" else "cat/c.png x\n"
    (listed / name).write_text(head + line, encoding="latin-1")
    with pytest.raises(DataError, match=rf"{name}:2: is not utf-8 \(byte 0xe9\); set data\.encoding"):
        Lists(str(listed), name).read("art")
    assert "caf\u00e9" in Lists(str(listed), name, encoding="latin-1").read("art").classes


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no list file .*art\.txt.*example\.org"):
        Lists(str(tmp_path), "{domain}.txt", source_url="https://example.org").read("art")


# Decoding

COLORS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
GREY = np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8)
DEEP = np.random.default_rng(2).integers(0, 65536, (8, 8), dtype=np.uint16)


def indexed(transparency: int | None) -> tuple[Image.Image, np.ndarray[Any, Any]]:
    image = Image.fromarray((GREY % 4).astype(np.uint8), "P")
    palette = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]]
    image.putpalette([v for color in palette for v in color])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image, np.array(palette, np.uint8)[GREY % 4]


def turned() -> tuple[Image.Image, Any]:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: shown after a quarter turn clockwise
    return Image.fromarray(COLORS), exif


def thrice(grey: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.repeat(grey[..., None], 3, axis=2)


def write_modes(folder: Path) -> dict[str, tuple[Path, np.ndarray[Any, Any]]]:
    palette, palette_rgb = indexed(None)
    holes, holes_rgb = indexed(2)
    lying, exif = turned()
    alpha = np.dstack([COLORS, np.full((8, 8), 90, np.uint8)])
    inks = Image.fromarray(np.dstack([255 - COLORS, np.zeros((8, 8), np.uint8)]), "CMYK")
    images: dict[str, tuple[Image.Image, str, np.ndarray[Any, Any], dict[str, Any]]] = {
        "RGB": (Image.fromarray(COLORS), "png", COLORS, {}),
        "L": (Image.fromarray(GREY), "png", thrice(GREY), {}),
        "1": (Image.fromarray(GREY > 99), "png", thrice(np.where(GREY > 99, 255, 0)), {}),
        "LA": (Image.fromarray(np.dstack([GREY, GREY]), "LA"), "png", thrice(GREY), {}),
        "RGBA": (Image.fromarray(alpha, "RGBA"), "png", COLORS, {}),
        "P": (palette, "png", palette_rgb, {}),
        "P-transparency": (holes, "png", holes_rgb, {"transparency": 2}),
        "I;16": (Image.fromarray(DEEP), "png", thrice(DEEP / 257), {}),
        "I": (Image.fromarray(DEEP.astype(np.int32)), "tiff", thrice(DEEP / 257), {}),
        "F": (Image.fromarray(GREY.astype(np.float32) / 255), "tiff", thrice(GREY), {}),
        "CMYK": (inks, "tiff", COLORS, {}),
        "EXIF": (lying, "png", np.rot90(COLORS, -1), {"exif": exif}),
    }
    for name, (image, suffix, _, options) in images.items():
        image.save(folder / f"{name.replace(';', '')}.{suffix}", **options)
    return {n: (folder / f"{n.replace(';', '')}.{s}", rgb) for n, (_, s, rgb, _) in images.items()}


MODES = ("RGB", "L", "1", "LA", "RGBA", "P", "P-transparency", "I;16", "I", "F", "CMYK", "EXIF")


@pytest.mark.filterwarnings("ignore:'mode' parameter")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_decoded(tmp_path: Path, mode: str, channels: int) -> None:
    path, rgb = write_modes(tmp_path)[mode]
    if mode in ("L", "I;16", "CMYK"):
        with Image.open(path) as image:
            assert image.mode == mode
    found = decode(path, 8, channels)
    assert found.dtype == np.uint8
    assert found.shape == (8, 8, channels)
    weights = np.array([0.299, 0.587, 0.114])
    expected = rgb.astype(float) if channels == 3 else (rgb @ weights)[..., None]
    assert np.abs(found - expected).max() <= 1


def test_sixteen_bits_are_scaled_by_the_format_not_the_content(tmp_path: Path) -> None:
    for name, top in (("dim", 2000), ("bright", 65535)):
        Image.fromarray((np.ones((4, 4)) * top).astype(np.uint16)).save(tmp_path / f"{name}.png")
    assert decode(tmp_path / "dim.png", 4, 1).max() <= 8
    assert decode(tmp_path / "bright.png", 4, 1).min() == 255


@pytest.mark.parametrize(("width", "height", "side"), [(40, 40, 16), (50, 30, 16), (8, 8, 20)])
def test_decoding_resizes_with_an_antialiased_bilinear_filter(
    tmp_path: Path, width: int, height: int, side: int
) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True)[0]
    found = torch.from_numpy(decode(tmp_path / "x.png", side, 3).copy()).permute(2, 0, 1)
    assert (found - expected).abs().max() <= 1.6
    assert np.array_equal(decode(pixels, side, 3), decode(tmp_path / "x.png", side, 3))


# Maps of pixels


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


class Counted:
    """Stands in for `decode`: counts, and fails where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.fails: dict[str, BaseException] = {}
        self.lock = threading.Lock()
        self.original: Callable[..., Any] = store.decode
        monkeypatch.setattr(store, "decode", self)

    def __call__(self, source: Any, side: int, channels: int) -> Any:
        name = source.name if isinstance(source, Path) else "array"
        with self.lock:
            self.names.append(name)
        if name in self.fails:
            raise self.fails[name]
        return self.original(source, side, channels)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def photos(root: Path, n: int = 10, corrupt: tuple[int, ...] = ()) -> Samples:
    """n images, the i-th of colour i; class `even` or `odd`."""
    files = [picture(root / f"{i:03d}.png", i) for i in range(n)]
    for i in corrupt:
        files[i].write_bytes(b"no image")
    return from_labels(
        "art", [f.name for f in files], [("even", "odd")[i % 2] for i in range(n)], files=files
    )


def colors(rows: store.Store, count: int) -> list[int]:
    return rows.rows(torch.arange(count))[:, 0, 0, 0].tolist()


def opened(samples: Samples, folder: Path, pool: ThreadPoolExecutor, on_corrupt: str = "error") -> Any:
    return cached_pixels(samples, 6, 3, folder, on_corrupt, pool)


def test_images_are_decoded_once(tmp_path: Path, pool: ThreadPoolExecutor, counted: Counted) -> None:
    samples, folder = photos(tmp_path / "in"), tmp_path / "out"
    kept, rows = opened(samples, folder, pool)
    assert sorted(counted.names) == [f"{i:03d}.png" for i in range(10)]
    assert (len(kept), rows.shape) == (10, (6, 6, 3))
    assert colors(rows, 10) == list(range(10))
    _, again = opened(samples, folder, pool)
    assert len(counted.names) == 10
    assert torch.equal(again.rows(torch.arange(10)), rows.rows(torch.arange(10)))
    assert not list(folder.glob("*.part"))
    assert not list(folder.glob("*.done"))


@pytest.mark.parametrize("change", ["rewritten", "added", "renamed", "removed"])
def test_changed_files_are_decoded_again(
    tmp_path: Path, pool: ThreadPoolExecutor, counted: Counted, change: str
) -> None:
    folder = tmp_path / "out"
    samples = photos(tmp_path / "in")
    opened(samples, folder, pool)
    if change == "rewritten":
        picture(tmp_path / "in/003.png", 200)
        stamp = (tmp_path / "in/003.png").stat().st_mtime_ns + 10**9
        os.utime(tmp_path / "in/003.png", ns=(stamp, stamp))
    elif change == "renamed":
        assert samples.files is not None
        samples.files[3] = samples.files[3].rename(tmp_path / "in/renamed.png")
        samples.names[3] = "renamed.png"
    else:
        samples = photos(tmp_path / "in", 11) if change == "added" else samples.keep(np.arange(9))
    counted.names.clear()
    _, rows = opened(samples, folder, pool)
    assert len(counted.names) == len(samples)
    assert colors(rows, len(samples))[3] == (200 if change == "rewritten" else 3)


@pytest.mark.parametrize(("side", "channels"), [(5, 3), (6, 1)])
def test_another_size_is_another_map(
    tmp_path: Path, pool: ThreadPoolExecutor, side: int, channels: int
) -> None:
    samples = photos(tmp_path / "in")
    opened(samples, tmp_path / "out", pool)
    _, rows = cached_pixels(samples, side, channels, tmp_path / "out", "error", pool)
    assert rows.shape == (side, side, channels)
    assert rows.rows(torch.tensor([1])).shape == (1, side, side, channels)


def test_jobs_that_build_the_same_map_share_the_work(
    tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHUNK", 8)
    samples, folder = photos(tmp_path / "in", 60), tmp_path / "out"
    start = threading.Barrier(4)

    def job() -> list[int]:
        with ThreadPoolExecutor(2) as own:
            start.wait()
            return colors(opened(samples, folder, own)[1], 60)

    with ThreadPoolExecutor(4) as jobs:
        results = [f.result() for f in [jobs.submit(job) for _ in range(4)]]
    assert results == [list(range(60))] * 4
    assert len(counted.names) == 60


def test_a_killed_build_goes_on_where_it_stopped(
    tmp_path: Path, pool: ThreadPoolExecutor, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHUNK", 4)
    samples, folder = photos(tmp_path / "in", 18), tmp_path / "out"
    counted.fails["009.png"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        opened(samples, folder, pool)
    (done,) = folder.glob("*.done")
    assert done.read_text() == "8"
    assert len(list(folder.glob("*.part"))) == 1
    assert not list(folder.glob("*.npy"))

    counted.fails.clear()
    counted.names.clear()
    _, rows = opened(samples, folder, pool)
    assert sorted(counted.names) == [f"{i:03d}.png" for i in range(8, 18)]
    assert colors(rows, 18) == list(range(18))
    assert not list(folder.glob("*.part"))
    assert not list(folder.glob("*.done"))


def test_a_build_killed_after_its_last_row_is_finished(
    tmp_path: Path, pool: ThreadPoolExecutor, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, folder = photos(tmp_path / "in"), tmp_path / "out"

    def killed(stream: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(samples, folder, pool)
    assert not list(folder.glob("*.npy"))
    _, rows = opened(samples, folder, pool)
    assert len(counted.names) == 10
    assert colors(rows, 10) == list(range(10))


def test_a_record_without_its_part_starts_afresh(
    tmp_path: Path, pool: ThreadPoolExecutor, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHUNK", 4)
    samples, folder = photos(tmp_path / "in"), tmp_path / "out"
    counted.fails["009.png"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        opened(samples, folder, pool)
    next(folder.glob("*.part")).unlink()
    counted.fails.clear()
    assert colors(opened(samples, folder, pool)[1], 10) == list(range(10))


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill(first: int, last: int) -> Any:
        if first:
            raise ValueError("no more")
        return np.zeros((last - first, 2))

    path = tmp_path / "deep" / "x.npy"
    with pytest.raises(ValueError, match="no more"):
        build_map(path, (500, 2), np.float32, fill, "test")
    assert {p.suffix for p in path.parent.iterdir()} <= {".lock"}
    build_map(path, (500, 2), np.float32, lambda a, b: np.arange(a, b)[:, None] * [1, 2], "test")
    assert np.load(path)[:, 1].tolist() == [2 * i for i in range(500)]


def test_a_full_disk_is_told_before_it_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map's file is sparse: who writes into one that the disk cannot hold gets a SIGBUS, not an error."""

    def full(number: int, start: int, size: int) -> None:
        assert size > 500 * 2 * 4
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    path = tmp_path / "x.npy"
    with pytest.raises(DataError, match=r"cannot write the cache .*x\.npy .*No space left.*set paths\.cache"):
        build_map(path, (500, 2), np.float32, lambda a, b: np.zeros((b - a, 2)), "test")
    assert {p.suffix for p in tmp_path.iterdir()} <= {".lock"}


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write the cache .*NotADirectory.*set paths\.cache"):
        build_map(
            tmp_path / "file" / "sub" / "x.npy", (1, 2), np.float32, lambda a, b: np.zeros((1, 2)), "test"
        )


CORRUPT = (1, 6, 17)


@pytest.mark.parametrize("chunk", [4, 128])
def test_all_corrupt_files_are_listed(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(store, "CHUNK", chunk)
    samples = photos(tmp_path / "in", 18, CORRUPT)
    for _ in range(2):
        with pytest.raises(DataError, match=r"3 images cannot be read.*on_corrupt=skip") as caught:
            opened(samples, tmp_path / "out", pool)
        assert samples.files is not None
        for i in range(18):
            assert (str(samples.files[i]) in str(caught.value)) == (i in CORRUPT)


@pytest.mark.parametrize("chunk", [4, 128])
def test_corrupt_files_are_left_out_also_from_the_cache(
    tmp_path: Path,
    pool: ThreadPoolExecutor,
    counted: Counted,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    chunk: int,
) -> None:
    monkeypatch.setattr(store, "CHUNK", chunk)
    samples = photos(tmp_path / "in", 18, CORRUPT)
    good = [i for i in range(18) if i not in CORRUPT]
    for _ in range(2):
        caplog.clear()
        kept, rows = opened(samples, tmp_path / "out", pool, "skip")
        assert kept.names == [f"{i:03d}.png" for i in good]
        assert [kept.classes[y] for y in kept.labels] == [("even", "odd")[i % 2] for i in good]
        assert colors(rows, len(good)) == good
        assert "3 unreadable images left out" in caplog.text
        assert "006.png" in caplog.text
    assert len(counted.names) == 18
    with pytest.raises(DataError, match="3 images cannot be read"):
        opened(samples, tmp_path / "out", pool, "error")


def test_a_killed_build_remembers_corrupt_files(
    tmp_path: Path, pool: ThreadPoolExecutor, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHUNK", 4)
    samples = photos(tmp_path / "in", 18, CORRUPT)
    counted.fails["013.png"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        opened(samples, tmp_path / "out", pool, "skip")
    counted.fails.clear()
    kept, rows = opened(samples, tmp_path / "out", pool, "skip")
    good = [i for i in range(18) if i not in CORRUPT]
    assert kept.names == [f"{i:03d}.png" for i in good]
    assert colors(rows, len(good)) == good


def test_a_file_that_can_be_read_again_is_not_remembered_as_corrupt(
    tmp_path: Path, pool: ThreadPoolExecutor, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions or a network drive: repaired without a new time stamp.
    monkeypatch.setattr(store, "CHUNK", 4)
    samples = photos(tmp_path / "in", 18)
    counted.fails["001.png"] = PermissionError("may not be read")
    with pytest.raises(DataError, match=r"001\.png"):
        opened(samples, tmp_path / "out", pool)
    counted.fails.clear()
    _, rows = opened(samples, tmp_path / "out", pool)
    assert colors(rows, 18) == list(range(18))


def test_an_error_without_words_is_reported_too(
    tmp_path: Path, pool: ThreadPoolExecutor, counted: Counted
) -> None:
    counted.fails["003.png"] = MemoryError()
    with pytest.raises(DataError, match=r"1 images cannot be read.*\n.*003\.png \(MemoryError"):
        opened(photos(tmp_path / "in"), tmp_path / "out", pool)


def array_samples(array: np.ndarray[Any, Any]) -> Samples:
    n = len(array)
    return from_labels("art", [f"a{i}" for i in range(n)], [str(i % 2) for i in range(n)], array=array)


@pytest.mark.parametrize("shape", [(5, 6, 6), (5, 6, 6, 1), (5, 6, 6, 3)])
@pytest.mark.parametrize("side", [6, 12])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_become_rows(
    tmp_path: Path, pool: ThreadPoolExecutor, shape: tuple[int, ...], side: int, channels: int
) -> None:
    array = np.broadcast_to(
        np.arange(5, dtype=np.uint8).reshape(-1, *[1] * (len(shape) - 1)) * 40, shape
    ).copy()
    kept, rows = cached_pixels(array_samples(array), side, channels, tmp_path, "error", pool)
    assert len(kept) == 5
    assert rows.shape == (side, side, channels)
    found = rows.rows(torch.arange(5))
    assert found.dtype == torch.uint8
    assert (found == torch.arange(5).view(-1, 1, 1, 1) * 40).all()
    assert bool(list(tmp_path.glob("*.npy"))) == (side != 6 or (channels == 1 and shape[-1] == 3))


def test_an_array_keeps_its_own_size_if_none_is_asked_for(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    _, rows = cached_pixels(array_samples(np.zeros((5, 6, 6, 3), np.uint8)), None, 3, tmp_path, "error", pool)
    assert rows.shape == (6, 6, 3)


def test_vectors_are_rows_as_they_are(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    array = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    _, rows = cached_pixels(array_samples(array), None, 3, tmp_path, "error", pool)
    assert rows.shape == (4,)
    assert np.array_equal(rows.rows(torch.tensor([3, 1])).numpy(), array[[3, 1]])


def test_files_need_a_size(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with pytest.raises(DataError, match=r"model\.resize"):
        cached_pixels(photos(tmp_path), None, 3, tmp_path, "error", pool)


def test_the_map_on_disk_cannot_be_written_to_through_its_rows(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    samples = photos(tmp_path / "in")
    _, rows = opened(samples, tmp_path / "out", pool)
    assert isinstance(rows, ArrayStore)
    rows.data.zero_()
    assert colors(opened(samples, tmp_path / "out", pool)[1], 10) == list(range(10))


def test_decoding_at_every_step_gives_the_same_rows(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    samples = photos(tmp_path / "in")
    assert samples.files is not None
    _, mapped = cached_pixels(samples, 4, 3, tmp_path / "out", "error", pool)
    direct = FileStore(samples.files, 4, 3, pool)
    wanted = torch.tensor([7, 0, 7])
    assert direct.shape == mapped.shape
    assert torch.equal(direct.rows(wanted), mapped.rows(wanted))


def test_decoding_at_every_step_names_a_corrupt_file(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    samples = photos(tmp_path / "in")
    assert samples.files is not None
    content = picture(tmp_path / "in/004.png", 4, side=64).read_bytes()
    samples.files[4].write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"004\.png"):
        FileStore(samples.files, 4, 3, pool).rows(torch.tensor([3, 4]))


# Classes


def labelled(domain: str, labels: list[str] | None, n: int = 0) -> Samples:
    count = len(labels) if labels is not None else n
    array = np.zeros((count, 4, 4, 3), np.uint8)
    array[..., 0] = np.arange(count)[:, None, None]
    return from_labels(domain, [f"{domain}{i}" for i in range(count)], labels, array=array)


ABC, AB, BCD = list("abc"), list("ab"), list("bcd")


@pytest.mark.parametrize(
    ("source", "target", "label_set", "classes"),
    [
        (ABC, ABC, "closed", ("a", "b", "c")),
        (ABC, None, "closed", ("a", "b", "c")),
        (ABC, AB, "partial", ("a", "b", "c")),
        (ABC, BCD, "shared", ("b", "c")),
        (AB, ABC, "shared", ("a", "b")),
    ],
)
def test_class_lists(source: list[str], target: Any, label_set: str, classes: tuple[str, ...]) -> None:
    domains = {"s": labelled("s", source), "t": labelled("t", target, 2)}
    assert unify_classes(domains, ["s"], label_set) == classes


@pytest.mark.parametrize(
    ("source", "target", "label_set", "says"),
    [
        (ABC, AB, "closed", r"domain 't' lacks classes: \['c'\].*data\.label_set=partial"),
        (AB, ABC, "closed", r"domain 't' has classes that s lacks: \['c'\]"),
        (AB, ABC, "partial", r"has classes that s lacks: \['c'\].* or set data\.label_set=shared \(keep"),
        (ABC, BCD, "closed", r"has classes that s lacks: \['d'\] and lacks classes: \['a'\]"),
        (["a"], ["b"], "shared", "share no class name"),
        (None, ABC, "closed", "source domain 's' has no labels"),
        (None, None, "closed", "none of the domains has labels"),
    ],
)
def test_classes_that_do_not_match_are_named(source: Any, target: Any, label_set: str, says: str) -> None:
    domains = {"s": labelled("s", source, 2), "t": labelled("t", target, 2)}
    with pytest.raises(DataError, match=says):
        unify_classes(domains, ["s"], label_set)


def test_two_sources_must_agree_even_if_the_target_may_lack_classes() -> None:
    domains = {"s": labelled("s", ABC), "r": labelled("r", AB), "t": labelled("t", AB)}
    with pytest.raises(DataError, match=r"domain 'r' lacks classes: \['c'\]"):
        unify_classes(domains, ["s", "r"], "partial")


# Domains


class Given:
    """A reader of what it was given."""

    def __init__(self, **domains: Samples) -> None:
        self.domains = domains

    def read(self, domain: str) -> Samples:
        return self.domains[domain]


SIZES = {"a": 30, "b": 50, "c": 10}


def many(seed: int, sizes: dict[str, int] | None = None) -> list[str]:
    labels = [k for k, n in (sizes or SIZES).items() for _ in range(n)]
    return [labels[i] for i in np.random.default_rng(seed).permutation(len(labels))]


def divided(reader: Given | None = None, **options: Any) -> Prepared:
    reader = reader or Given(s=labelled("s", many(0)), t=labelled("t", many(1)))
    return DomainData(reader, **({"source": "s", "target": "t", "resize": 4} | options)).prepare()


def ids(prepared: Prepared, name: str, evaluation: bool = False) -> list[int]:
    """The numbers of a role's samples in their domain, read off the pixels."""
    rows = (prepared.evaluation if evaluation else prepared.roles)[name]
    found: Tensor = rows.gather(torch.arange(len(rows)))[:, 0, 0, 0]
    return found.tolist()


def names_of(prepared: Prepared, y: Tensor) -> list[str]:
    return [prepared.info.classes[k] for k in y.tolist()]


def test_transductive() -> None:
    data = divided()
    everything = list(range(90))
    assert ids(data, "target") == ids(data, "target", evaluation=True) == everything
    assert list(data.roles) == ["source", "target"]
    assert set(data.evaluation) == {"source_val", "target"}
    assert data.truth is not None
    assert names_of(data, data.truth) == many(1)
    assert (data.roles["target"].y == HIDDEN).all()
    assert (data.evaluation["target"].y == HIDDEN).all()
    assert data.info.classes == ("a", "b", "c")
    assert data.info.sizes == {"source": 81, "target": 90}
    assert data.info.domains == {"source": ("s",), "target": ("t",)}
    assert data.info.shape == (4, 4, 3)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_validation_is_held_out_per_class(share: float) -> None:
    data = divided(source_val=share)
    train, held = ids(data, "source"), ids(data, "source_val", evaluation=True)
    assert sorted(train + held) == list(range(90))
    for name, n in SIZES.items():
        assert names_of(data, data.evaluation["source_val"].y).count(name) == round(share * n)
    for rows, numbers in ((data.roles["source"], train), (data.evaluation["source_val"], held)):
        assert names_of(data, rows.y) == [many(0)[i] for i in numbers]
    assert ids(divided(source_val=share), "source") == train
    assert ids(divided(source_val=share, seed=1), "source") != train


def test_no_validation_if_none_is_wanted() -> None:
    data = divided(source_val=0.0)
    assert len(data.roles["source"]) == 90
    assert "source_val" not in data.evaluation


@pytest.mark.parametrize("protocol", ["transductive", "split"])
@pytest.mark.parametrize("count", [1, 3])
def test_labelled_target_samples_are_neither_unlabelled_nor_tested(protocol: str, count: int) -> None:
    options: dict[str, Any] = {"protocol": protocol, "labeled_per_class": count}
    data = divided(**options)
    known, target, test = ids(data, "labeled"), ids(data, "target"), ids(data, "target", evaluation=True)
    assert names_of(data, data.roles["labeled"].y) == [many(1)[i] for i in known]
    assert {k: names_of(data, data.roles["labeled"].y).count(k) for k in SIZES} == dict.fromkeys(SIZES, count)
    assert not set(known) & (set(target) | set(test))
    assert (
        sorted(known + target) == list(range(90))
        if protocol == "transductive"
        else not set(target) & set(test)
    )
    assert sorted({*known, *target, *test}) == list(range(90))
    assert data.truth is not None
    assert names_of(data, data.truth) == [many(1)[i] for i in test]
    assert ids(divided(**options), "labeled") == known
    assert ids(divided(**options, seed=1), "labeled") != known


def test_all_labels_need_a_split() -> None:
    with pytest.raises(DataError, match="leaves nothing to test on"):
        divided(labeled_per_class="all")
    data = divided(labeled_per_class="all", protocol="split")
    assert "target" not in data.roles
    assert sorted(ids(data, "labeled") + ids(data, "target", evaluation=True)) == list(range(90))


def test_too_few_labelled_samples_name_the_class() -> None:
    with pytest.raises(DataError, match="domain 't' has 10 training samples of class 'c'"):
        divided(labeled_per_class=11)
    with pytest.raises(DataError, match="domain 't' has no labels"):
        divided(Given(s=labelled("s", many(0)), t=labelled("t", None, 9)), labeled_per_class=1)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_split_of_the_target_does_not_depend_on_its_labels(share: float) -> None:
    shuffled = Given(s=labelled("s", many(0)), t=labelled("t", many(7)))
    unlabelled = Given(s=labelled("s", many(0)), t=labelled("t", None, 90))
    found = [divided(r, protocol="split", target_test=share) for r in (None, shuffled, unlabelled)]
    for data in found:
        assert ids(data, "target") == ids(found[0], "target")
        assert ids(data, "target", evaluation=True) == ids(found[0], "target", evaluation=True)
        assert (data.roles["target"].y == HIDDEN).all()
    first = found[0]
    assert sorted(ids(first, "target") + ids(first, "target", evaluation=True)) == list(range(90))
    assert len(first.evaluation["target"]) == round(90 * share)
    assert found[2].truth is None
    assert ids(divided(protocol="split", target_test=share, seed=1), "target") != ids(first, "target")


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_splits_of_the_data_are_used(held_out: str) -> None:
    def with_split(domain: str, seed: int) -> Samples:
        samples = labelled(domain, many(seed))
        samples.split = np.array(["train"] * 60 + [held_out] * 20 + ["test"] * 10)
        return samples

    reader = Given(s=with_split("s", 0), t=with_split("t", 1))
    data = divided(reader, protocol="split", labeled_per_class=2)
    assert ids(data, "source") == list(range(60))
    tested = list(range(60, 90))
    assert ids(data, "source_val", evaluation=True) == (tested[:20] if held_out == "val" else tested)
    assert ids(data, "target", evaluation=True) == (tested[20:] if held_out == "val" else tested)
    assert sorted(ids(data, "labeled") + ids(data, "target")) == list(range(60))
    assert ("labeled_val" in data.evaluation) == (held_out == "val")
    if held_out == "val":
        assert ids(data, "labeled_val", evaluation=True) == tested[:20]


@pytest.mark.parametrize(
    ("label_set", "target", "classes", "left"),
    [("partial", AB, ABC, 6), ("shared", BCD, ["b", "c"], 4), ("closed", ABC, ABC, 9)],
)
def test_label_sets(label_set: str, target: list[str], classes: list[str], left: int) -> None:
    labels = 3 * target if label_set != "shared" else 2 * target
    reader = Given(s=labelled("s", 10 * ABC), t=labelled("t", labels))
    data = divided(reader, label_set=label_set)
    assert list(data.info.classes) == classes
    assert len(data.roles["target"]) == left
    assert data.truth is not None
    tested = ids(data, "target", evaluation=True)
    assert names_of(data, data.truth) == [labels[i] for i in tested]
    assert all(labels[i] in classes for i in tested)
    assert names_of(data, data.roles["source"].y) == [(10 * ABC)[i] for i in ids(data, "source")]
    assert set(names_of(data, data.roles["source"].y)) == set(classes)


def test_a_class_mismatch_names_the_classes() -> None:
    with pytest.raises(DataError, match=r"domain 't' lacks classes: \['c'\]"):
        divided(Given(s=labelled("s", 3 * ABC), t=labelled("t", 3 * AB)))


def test_several_sources_and_targets_keep_apart() -> None:
    reader = Given(**{name: labelled(name, many(i)) for i, name in enumerate("pqrt")})
    data = divided(reader, source=["p", "q"], target=["r", "t"])
    assert data.info.domains == {"source": ("p", "q"), "target": ("r", "t")}
    for role, seeds in (("source", (0, 1)), ("target", (2, 3))):
        rows, numbers = data.roles[role], ids(data, role)
        assert rows.names == data.info.domains[role]
        assert set(rows.domain.tolist()) == {0, 1}
        if role == "source":
            expected = [many(seeds[d])[i] for d, i in zip(rows.domain.tolist(), numbers, strict=True)]
            assert names_of(data, rows.y) == expected
    assert data.truth is not None
    assert names_of(data, data.truth) == many(2) + many(3)


@pytest.mark.parametrize(("kept", "dropped"), [("source", "target"), ("target", "source")])
def test_one_side_is_enough(kept: str, dropped: str) -> None:
    data = divided(**{dropped: None})
    assert list(data.roles) == [kept]


def test_domains_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match="both empty"):
        divided(source=None, target=None)
    with pytest.raises(UserError, match="domain 's' is both source and target"):
        divided(source=["s", "t"], target="s")


def test_the_fingerprint_follows_pixels_and_labels() -> None:
    first = divided()
    assert divided().fingerprint == first.fingerprint
    changed = labelled("t", many(1))
    assert changed.array is not None
    changed.array[3, 0, 0, 0] += 1
    assert divided(Given(s=labelled("s", many(0)), t=changed)).fingerprint != first.fingerprint
    relabelled = Given(s=labelled("s", many(5)), t=labelled("t", many(1)))
    assert divided(relabelled).fingerprint != first.fingerprint


@pytest.mark.parametrize("cache", [True, False])
def test_folders_end_to_end(tmp_path: Path, cache: bool, counted: Counted) -> None:
    names = [f"{d}/{k}/{i}.png" for d in ("art", "photo") for k in ("cat", "dog") for i in range(10)]
    tree(tmp_path / "in", *names)

    def read() -> Prepared:
        options: dict[str, Any] = {"source": "art", "target": "photo", "resize": 6, "cache": cache}
        return FolderData(str(tmp_path / "in"), cache_dir=str(tmp_path / "out"), **options).prepare()

    data = read()
    assert data.info.classes == ("cat", "dog")
    assert ids(data, "target") == list(range(20, 40))
    assert sorted(ids(data, "source") + ids(data, "source_val", evaluation=True)) == list(range(20))
    assert len(counted.names) >= 40
    counted.names.clear()
    again = read()
    assert not counted.names
    assert again.fingerprint == data.fingerprint
    assert torch.equal(again.roles["source"].index, data.roles["source"].index)
    assert list((tmp_path / "out").rglob("*.npy")) if cache else not (tmp_path / "out").exists()


def test_corrupt_images_are_left_out_of_the_roles(tmp_path: Path) -> None:
    names = [f"{d}/{k}/{i}.png" for d in ("art", "photo") for k in ("cat", "dog") for i in range(5)]
    tree(tmp_path / "in", *names)
    (tmp_path / "in/photo/cat/2.png").write_bytes(b"no image")

    def read(on_corrupt: str) -> Prepared:
        options: dict[str, Any] = {"source": "art", "target": "photo", "resize": 6, "on_corrupt": on_corrupt}
        return FolderData(str(tmp_path / "in"), cache_dir=str(tmp_path / "out"), **options).prepare()

    for _ in range(2):
        with pytest.raises(DataError, match=r"photo.cat.2\.png"):
            read("error")
    for _ in range(2):
        data = read("skip")
        assert ids(data, "target") == [10, 11, *range(13, 20)]
        assert data.truth is not None
        assert names_of(data, data.truth) == ["cat"] * 4 + ["dog"] * 5


# Embedded data


def test_embedded_digits_are_disjoint_and_the_same_every_time() -> None:
    clean, photo = EmbeddedDigits().read("clean"), EmbeddedDigits().read("photo")
    assert not set(clean.names) & set(photo.names)
    assert len(set(clean.names)) + len(set(photo.names)) == 1797
    assert abs(len(clean) - len(photo)) <= 1
    for samples in (clean, photo):
        again = EmbeddedDigits().read(samples.domain)
        assert samples.array is not None
        assert samples.array.shape == (len(samples), 32, 32, 3)
        assert samples.array.dtype == np.uint8
        assert np.array_equal(again.array, samples.array)
        assert again.names == samples.names
        assert np.array_equal(again.labels, samples.labels)
        assert samples.classes == tuple("0123456789")
        assert np.bincount(samples.labels).min() > 60
        assert len(np.unique(samples.array.reshape(len(samples), -1), axis=0)) == len(samples)
    assert clean.array is not None
    assert photo.array is not None
    assert (clean.array[..., 0] == clean.array[..., 2]).all()  # grey
    assert (photo.array[..., 0] != photo.array[..., 2]).mean() > 0.5
    other = EmbeddedDigits(seed=1).read("photo")
    assert other.names != photo.names or not np.array_equal(other.array, photo.array)


def test_embedded_digits_carry_their_labels() -> None:
    from sklearn.datasets import load_digits

    digits, labels = load_digits(return_X_y=True)
    clean = EmbeddedDigits().read("clean")
    assert clean.array is not None
    for i in (0, 17, 500):
        number = int(clean.names[i].removeprefix("digit_"))
        assert clean.classes[clean.labels[i]] == str(labels[number])
        small = clean.array[i, :, :, 0].reshape(8, 4, 8, 4).mean((1, 3))
        assert np.corrcoef(small.flatten(), digits[number])[0, 1] > 0.95


@pytest.mark.parametrize(
    ("reader", "typed", "near"), [(EmbeddedDigits(), "foto", "photo"), (GaussianShift(), "targt", "target")]
)
def test_an_unknown_embedded_domain_names_the_nearest(reader: Any, typed: str, near: str) -> None:
    with pytest.raises(DataError, match=f"no domain '{typed}'; did you mean '{near}'"):
        reader.read(typed)


def test_gaussian_shift() -> None:
    reader = GaussianShift(source_size=4000, target_size=3000, angle=90, std=0.5)
    for domain, n, direction in (("source", 4000, (2, 2)), ("target", 3000, (-1, 1))):
        samples = reader.read(domain)
        assert len(samples) == n
        assert samples.array is not None
        assert samples.array.dtype == np.float32
        assert np.array_equal(reader.read(domain).array, samples.array)
        for name, sign in (("positive", 1), ("negative", -1)):
            centre = samples.array[samples.labels == samples.classes.index(name)].mean(0)
            assert np.abs(centre - sign * np.array(direction)).max() < 0.06
