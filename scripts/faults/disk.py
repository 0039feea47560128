"""Fill the disk while a run writes its cache or its checkpoints; then make room, and go on.

    sudo python scripts/faults/disk.py        (Linux; it mounts a small file system of its own)

The run has to end with a sentence and a code that is not 0, and leave whole files only. With room again it has to end
as the run whose disk was never full, bit for bit. The file system is another than the temporary folder's, which moves
of files have to survive too. Exits with 1 if something of this is not so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runs import SETTINGS, different, ended, images, start

from tl_runner.files import check_archive

SIZE = 64 * 2**20


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path, leave: int = 0) -> Path:
    """Take what is left of a disk, but for some bytes."""
    filler, room = place / "filler", os.statvfs(place)
    with filler.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(1, room.f_bavail * room.f_frsize - leave))
    return filler


def check(problems: list[str], what: str, log: Path, code: int | None, folder: Path) -> None:
    """What has to be true of a run whose disk was full."""
    text = log.read_text()
    told = [line for line in text.splitlines() if "No space left on device" in line]
    print(f"{what}: ended with {code}: {(told or ['without a word'])[-1]}")
    if code in (0, None) or not told or "Traceback" in text:
        problems.append(f"{what}: expected a sentence and a code, got {code} and\n{text}")
    for file in folder.rglob("*"):
        if file.suffix == ".part" or file.name.startswith(".last"):
            problems.append(f"{what}: {file.name} was left behind")
        if file.suffix == ".ckpt":
            check_archive(file)


def main() -> None:
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.chdir(root)
        images(root / "data")

        def begin(cache: Path, folder: Path, log: str) -> int:
            return start(
                cache, *SETTINGS, f"data.root={root / 'data'}", f"hydra.run.dir={folder}", log=root / log
            )

        if ended(begin(root / "cache", root / "whole", "whole.log"), 600) != 0:
            sys.exit((root / "whole.log").read_text())
        with small_disk(root / "small") as disk:
            filler = fill(disk, leave=2**20)
            code = ended(begin(disk / "cache", root / "a", "cache.log"), 600)
            check(problems, "full while the cache is built", root / "cache.log", code, disk)
            filler.unlink()
            if ended(start(disk / "cache", "resume", str(root / "a")), 600) != 0 or different(
                root / "whole", root / "a"
            ):
                problems.append("with room for the cache the run does not end as the whole one")
        with small_disk(root / "small2") as disk:
            pid, first = (
                begin(root / "cache", disk / "b", "checkpoint.log"),
                disk / "b/checkpoints/adapt/last.ckpt",
            )
            while not first.exists():
                time.sleep(0.001)
            filler = fill(disk)
            check(
                problems, "full while checkpoints are written", root / "checkpoint.log", ended(pid, 600), disk
            )
            filler.unlink()
            if ended(start(root / "cache", "resume", str(disk / "b")), 600) != 0 or different(
                root / "whole", disk / "b"
            ):
                problems.append("with room for checkpoints the run does not end as the whole one")
    print(*(problems or ["as it should be"]), sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
