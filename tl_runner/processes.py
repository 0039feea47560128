"""The processes of a run: the first starts the others on this machine, or `torchrun` or `srun` started all of them.

The first composes the config, decides on the run's folder and writes. The others do what it calls on them to do.
"""

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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from . import ranks
from .environment import end_with_parent
from .errors import TrainingError, UserError, reason
from .search import register
from .trust import searched

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
GRACE = 30.0
"""Seconds in which a process that lost another one should notice by itself."""
ARRIVAL = 300.0
"""Seconds in which all processes should be there."""

Task = Callable[..., None]


@dataclass
class Group:
    """Processes that may train together, as one of them sees it.

    Attributes:
        store: what they tell each other by.
        rank: this one's number. count: of all. place: its number among those of its machine.
        started: the others, if this one started them.
        tasks: how many they have been through.
    """

    store: Store
    rank: int
    count: int
    place: int
    started: Sequence[BaseProcess] = ()
    tasks: int = 0

    @contextmanager
    def call(self, backend: str, target: Task, *args: object) -> Iterator[None]:
        """The first process: while it lasts, the others do what this one does."""
        self.store.set(f"task{self.tasks}", backend)
        with self._task(backend):
            ranks.from_first(lambda: ([*searched()], target, args))  # `searched`: for configs.
            yield

    def follow(self) -> None:
        """The others: do what the first one says, until it says no more.

        Raises:
            TrainingError: if another one fails.
        """
        while backend := self._called():
            with self._task(backend):
                try:
                    told: Any = ranks.from_first(lambda: None)
                    folders, target, args = told
                    register(folders)
                    target(*args)
                except BaseException as error:
                    why = "it has lost another one" if _lost(error) else _sentence(error)
                    self.store.set(f"failed{self.rank}", why)
                    raise

    def _called(self) -> str:
        while not (why := self._failed()):
            if self.store.check([f"task{self.tasks}"]):
                return str(self.store.get(f"task{self.tasks}").decode())
            if self.store.check(["over"]):
                return ""
            time.sleep(0.1)
        raise TrainingError(why)

    @contextmanager
    def _task(self, backend: str) -> Iterator[None]:
        done = threading.Event()
        threading.Thread(target=self._watch, args=(done,), daemon=True).start()
        try:
            if "nccl" in backend:
                torch.cuda.set_device(self.place % torch.cuda.device_count())
            self._all_here()
            store = PrefixStore(f"within{self.tasks}", self.store)
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.count)
            yield
            ranks.wait()
        except RuntimeError as error:
            if not _lost(error):
                raise
            deadline = time.monotonic() + 5
            while not (why := self._failed()) and time.monotonic() < deadline:
                time.sleep(0.1)
            why = why or f"one of {self.count} processes is gone; the last checkpoint is kept"
            raise TrainingError(why) from error
        finally:
            done.set()
            if dist.is_initialized():
                dist.destroy_process_group()
            self.tasks += 1

    def _all_here(self) -> None:
        self.store.set(f"here{self.tasks}.{self.rank}", "")
        deadline = time.monotonic() + ARRIVAL
        missing = [*range(self.count)]
        while missing := [r for r in missing if not self.store.check([f"here{self.tasks}.{r}"])]:
            late = f"process {missing[0] + 1} of {self.count} does not answer"
            if why := self._failed() or late * (time.monotonic() > deadline):
                raise TrainingError(why)
            time.sleep(0.05)

    def _failed(self) -> str:
        """Which other process has failed, and why, as far as one knows."""
        for rank, process in enumerate(self.started, 1):
            if process.exitcode and not self.store.check([f"failed{rank}"]):
                code = process.exitcode
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                return f"process {rank + 1} of {self.count} ended ({how}); the last checkpoint is kept"
        try:
            for rank in range(self.count):
                if rank != self.rank and self.store.check([f"failed{rank}"]):
                    why = self.store.get(f"failed{rank}").decode()
                    return f"process {rank + 1} of {self.count} failed: {why}"
        except RuntimeError:  # The store goes with who started it.
            return f"process 1 of {self.count} is gone; the last checkpoint is kept"
        return ""

    def _watch(self, done: threading.Event) -> None:
        """A GPU may wait forever for one that is gone."""
        while not done.wait(1.0):
            if (why := self._failed()) and not done.wait(GRACE):
                log.critical("%s", why)
                os._exit(1)


def _lost(error: BaseException) -> bool:
    """Whether this comes of another process that is no longer there."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else reason(error)


_attended: Group | None = None
"""The group that somebody else started."""


@contextmanager
def attend() -> Iterator[bool]:
    """Take part in the group that `torchrun` or `srun` has started this process for.

    Yields:
        Whether it is the first, which does what the user wants. For the others it is over then.

    Raises:
        UserError: if the group does not come about.
        TrainingError: if another process fails.
    """
    global _attended
    group = _attended = _arrive()
    if group.rank > 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # The first process is interrupted, and ends the others.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        logging.disable(logging.ERROR)  # The first process says it.
        try:
            group.follow()
        finally:
            with suppress(RuntimeError):  # The store goes with who started it.
                group.store.set(f"left{group.rank}", "")
        yield False
        return
    try:
        yield True
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            group.store.set("failed0", _sentence(error))
        raise
    finally:
        group.store.set("over", "")
        deadline, others = time.monotonic() + 5, [f"left{r}" for r in range(1, group.count)]
        while not group.store.check(others) and time.monotonic() < deadline:
            time.sleep(0.05)  # They read a store that may end with this process.
        _attended = None


def _arrive() -> Group:
    try:
        elastic = "WORLD_SIZE" in os.environ
        here = TorchElasticEnvironment() if elastic else SLURMEnvironment(auto_requeue=False)
        rank, count, place = here.global_rank(), here.world_size(), here.local_rank()
        os.environ |= {"MASTER_ADDR": here.main_address, "MASTER_PORT": str(here.main_port)}
        store, _, _ = next(rendezvous("env://", rank, count, timeout=timedelta(seconds=ARRIVAL)))
    except KeyError as error:
        raise UserError(f"of several processes, each needs {error.args[0]} in its environment") from error
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes of this run do not find each other ({reason(error)})") from error
    return Group(store, rank, count, place)


def check_count(count: int, device: torch.device) -> None:
    """Whether so many processes can train.

    Raises:
        UserError: if others have been started, or there are fewer GPUs.
    """
    if _attended is not None and _attended.count != count:
        raise UserError(
            f"trainer.devices={count}, and {_attended.count} processes were started for this run: set "
            f"trainer.devices={_attended.count}, the number on all machines together"
        )
    if _attended is None and device.type == "cuda" and count > torch.cuda.device_count():
        raise UserError(
            f"trainer.devices={count}: this machine has {torch.cuda.device_count()} CUDA devices; lower it, or "
            "set trainer.accelerator=cpu"
        )


@contextmanager
def together(count: int, device: torch.device, target: Task, *args: object) -> Iterator[None]:
    """While it lasts, this process is the first of a group; the others run `target(*args)` and do what it does.

    Args:
        count: of processes; see `check_count`. device: of the kind that they train on.
        target, args: pickled.

    Raises:
        TrainingError: if one of the others fails by itself.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if count == 1:
        yield
    elif _attended is not None:
        with _attended.call(backend, target, *args):
            yield
    else:
        with _started(count) as group, group.call(backend, target, *args):
            yield


@contextmanager
def _started(count: int) -> Iterator[Group]:
    """A group of processes on this machine. The others are new interpreters, which neither inherit a GPU nor compose
    a config, and share the cores of a CPU."""
    cores = torch.get_num_threads()
    store = TCPStore(HOST, 0, count, is_master=True, wait_for_workers=False)
    threads = max(1, cores // count)
    start = partial(multiprocessing.get_context("spawn").Process, target=_member, daemon=True)
    others = [start(args=(r, count, store.port, threads)) for r in range(1, count)]
    for process in others:
        process.start()
    torch.set_num_threads(threads)
    try:
        yield Group(store, 0, count, 0, others)
    finally:
        for process in others:  # Those that are done by now have nothing to lose.
            process.kill()
            process.join()
        torch.set_num_threads(cores)


def _member(rank: int, count: int, port: int, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The first process is interrupted, and ends the others.
    end_with_parent()
    logging.disable(logging.WARNING)  # The first process says it.
    torch.set_num_threads(threads)
    store = TCPStore(HOST, port, count, is_master=False, timeout=timedelta(seconds=60))
    try:
        Group(store, rank, count, rank).follow()
    except BaseException as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        sys.exit(1)
