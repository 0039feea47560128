"""Starting the other processes of a run, on this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from . import ranks
from .errors import TrainingError, UserError, reason

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
GRACE = 30.0
"""Seconds in which a process that lost another one should notice by itself."""


@contextmanager
def together(count: int, device: torch.device, target: Callable[..., None], *args: Any) -> Iterator[None]:
    """While it lasts, this process is the first of a group; the others run `target(*args)` and do what it does.

    They are new interpreters, which neither inherit a GPU nor compose a config, and share the cores of a CPU.

    Args:
        count: of processes. device: of the kind that they train on.
        target, args: pickled.

    Raises:
        TrainingError: if one of the others fails by itself.
    """
    if count == 1:
        yield
        return
    cores = torch.get_num_threads()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = TCPStore(HOST, 0, count, is_master=True, wait_for_workers=False)
    settings = (count, store.port, backend, max(1, cores // count))
    start = multiprocessing.get_context("spawn").Process
    others = [start(target=_member, args=(r, *settings, target, args), daemon=True) for r in range(1, count)]
    for process in others:
        process.start()
    done = threading.Event()
    try:
        _await(others, store)
        torch.set_num_threads(settings[-1])
        dist.init_process_group(backend, store=store, rank=0, world_size=count)
        threading.Thread(target=_watch, args=(others, store, done), daemon=True).start()
        yield
        ranks.wait()
    except RuntimeError as error:
        deadline = time.monotonic() + 5
        while not (why := _failed(others, store)) and time.monotonic() < deadline:
            time.sleep(0.1)
        raise (TrainingError(why) if why else error) from error
    finally:
        done.set()
        for process in others:  # Those that are done by now have nothing to lose.
            process.kill()
            process.join()
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(cores)


def _await(others: Sequence[BaseProcess], store: TCPStore) -> None:
    while not all(store.check([f"here{rank}"]) for rank in range(1, len(others) + 1)):
        if why := _failed(others, store):
            raise TrainingError(why)
        time.sleep(0.05)


def _failed(others: Sequence[BaseProcess], store: TCPStore) -> str:
    for rank, process in enumerate(others, 1):
        if store.check([f"failed{rank}"]):
            return f"process {rank + 1} of {len(others) + 1} failed: {store.get(f'failed{rank}').decode()}"
        if process.exitcode:
            how = f"signal {-process.exitcode}" if process.exitcode < 0 else f"exit code {process.exitcode}"
            return f"process {rank + 1} of {len(others) + 1} ended ({how}); the last checkpoint is kept"
    return ""


def _watch(others: Sequence[BaseProcess], store: TCPStore, done: threading.Event) -> None:
    """A GPU may wait forever for one that is gone."""
    while not done.wait(1.0):
        if (why := _failed(others, store)) and not done.wait(GRACE):
            log.error("%s", why)
            os._exit(1)


def _member(
    rank: int, count: int, port: int, backend: str, threads: int, target: Callable[..., None], args: Any
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The first process is interrupted, and ends the others.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable(logging.WARNING)  # The first process says it.
    torch.set_num_threads(threads)
    store = TCPStore(HOST, port, count, is_master=False, timeout=timedelta(seconds=60))
    try:
        store.set(f"here{rank}", "")
        dist.init_process_group(backend, store=store, rank=rank, world_size=count)
        target(*args)
        ranks.wait()
    except BaseException as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        store.set(f"failed{rank}", str(error) if isinstance(error, UserError) else reason(error))
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
