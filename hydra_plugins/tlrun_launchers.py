"""`launcher=…`: where the jobs of a sweep run. Each of them skips what is done and goes on with what was killed.

Hydra imports this at every start: nothing large is imported here.
"""

from __future__ import annotations

import logging
import sys
import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

if TYPE_CHECKING:
    from tl_runner.jobs import Job

log = logging.getLogger(__name__)

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]


class JobLauncher(Launcher):
    """What launchers share: which jobs there are, which of them are to be run, and what has become of them."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of these overrides. The value that each returns is its `Outcome`: none raises."""
        from tl_runner.sweep import SweepFolder

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = [self._job(list(o), initial_job_idx + i) for i, o in enumerate(job_overrides)]
        settled = {job.folder: found for job in jobs if (found := job.settled())}
        due = {job.folder: job for job in jobs if job.folder not in settled}
        log.info("%d jobs, %d of them to be run, in %s", len(jobs), len(due), self.config.hydra.sweep.dir)
        self.told, self.due = 0, len(due)
        if due:
            self.execute(list(due.values()))
        outcomes = [settled.get(job.folder) or job.outcome() for job in jobs]
        SweepFolder.outcomes += outcomes
        return [
            JobReturn(overrides=o, status=JobStatus.COMPLETED, _return_value=outcome)
            for o, outcome in zip(job_overrides, outcomes, strict=True)
        ]

    @abstractmethod
    def execute(self, jobs: Sequence[Job]) -> None:
        """Call every job, wherever; what one raises, and what kills it, is its own affair."""

    def tell(self, job: Job) -> None:
        """Say what has become of a job."""
        found = job.outcome()
        self.told += 1
        why = f" ({found.why})" if found.why else ""
        level = logging.WARNING if found.bad else logging.INFO
        log.log(level, "[%d/%d] %s: %s%s", self.told, self.due, job.folder.name, found.state, why)

    def _job(self, overrides: list[str], index: int) -> Job:
        from tl_runner import status
        from tl_runner.jobs import Job, ready

        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        before = HydraConfig.instance().cfg
        try:
            HydraConfig.instance().set_config(config)
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.job.id = config.hydra.job.num = index
                folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir).absolute()
                config.hydra.runtime.output_dir = str(folder)
            hydra = OmegaConf.masked_copy(config, ["hydra"])
            OmegaConf.set_struct(config, False)
            environment: Any = OmegaConf.to_container(config.hydra.job.env_set, resolve=True)
            del config["hydra"]
            plain: Any = OmegaConf.to_container(config, resolve=True)
        finally:
            HydraConfig.instance().cfg = before
        job = Job(folder, ready(plain, multirun=True), environment, tuple(sys.path))
        if job.settled() is None:
            (folder / ".hydra").mkdir(parents=True, exist_ok=True)
            for name, node in (("config", config), ("hydra", hydra)):
                OmegaConf.save(node, folder / ".hydra" / f"{name}.yaml")
            OmegaConf.save(overrides, folder / ".hydra" / "overrides.yaml")
            status.await_start(folder, job.digest)
        return job


class Local(JobLauncher):
    """One job after the other in this process. One that raises or exits leaves the others alone; one that is killed
    takes them along, until the same sweep is run again."""

    def execute(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            log.info("%s", job.folder.name)
            try:
                job()
            except SystemExit as stop:
                if stop.code == 143:  # Somebody terminates the sweep.
                    raise
            except Exception as error:
                log.debug("", exc_info=error)
            self.tell(job)


class Joblib(JobLauncher):
    """Jobs side by side on this machine, each in a process of its own.

    Args:
        jobs: at a time; −1: as many as there are cores, −2: one less, and so on, as joblib counts.
        threads: of each job's arithmetic; None: the cores, divided.
    """

    def __init__(self, jobs: int = -1, threads: Count | None = None) -> None:
        self.jobs, self.threads = jobs, threads

    def execute(self, jobs: Sequence[Job]) -> None:
        import multiprocessing

        import joblib

        width = min(joblib.effective_n_jobs(self.jobs), len(jobs))
        threads = self.threads or max(1, joblib.cpu_count() // width)
        # Forked from a process that has imported everything and started nothing.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tl_runner.run"])
        from tl_runner.jobs import alone

        processes = [context.Process(target=alone, args=(job, threads), name=job.folder.name) for job in jobs]

        def one(job: Job, process: Any) -> None:
            process.start()
            process.join()
            self.tell(job)

        # joblib's own processes go down together when one is killed: its threads each wait for one of ours.
        try:
            pairs = zip(jobs, processes, strict=True)
            joblib.Parallel(width, backend="threading")(joblib.delayed(one)(*pair) for pair in pairs)
        except BaseException:
            for process in processes:
                if process.pid is not None and process.is_alive():
                    process.terminate()
            raise


class Ray(JobLauncher):
    """Jobs on a Ray cluster, by default one of this machine alone, each in a process of its own.

    Args:
        cpus: of each job; also its threads for arithmetic.
        gpus: of each job; a part of one where several jobs share it.
        address: of a running cluster whose machines see the same folders; `auto` finds one; None starts one.
    """

    def __init__(self, cpus: Positive = 1, gpus: NonNegative = 0, address: str | None = None) -> None:
        self.cpus, self.gpus, self.address = cpus, gpus, address

    def execute(self, jobs: Sequence[Job]) -> None:
        from tl_runner.jobs import alone
        from tl_runner.sweep import optional

        ray = optional("ray", "launcher=ray", "ray")

        started = {} if self.address else {"include_dashboard": False}
        ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, **started)
        # A worker that has run a job ends; a job that has killed its worker is not run again.
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_calls": 1, "max_retries": 0}
        try:
            run = ray.remote(**options)(alone)
            running = {run.remote(job, max(1, int(self.cpus))): job for job in jobs}
            while running:
                for done in ray.wait(list(running))[0]:
                    with suppress(Exception):  # Its folder says what happened.
                        ray.get(done)
                    self.tell(running.pop(done))
        finally:
            ray.shutdown()


class Slurm(JobLauncher):
    """Jobs as an array of a SLURM cluster, submitted by submitit. One that is preempted or runs out of time is put
    back into the queue, and goes on from its last epoch.

    Its machines see the same folders. Names are submitit's; its files go into the sweep's folder `.submitit`.

    Args:
        cluster: `local` runs all jobs at once on this machine, to try a sweep out.
        array_parallelism: jobs at a time.
        timeout_min: minutes of each job, until it is put back.
        max_num_timeout: how often.
        nodes, tasks_per_node: machines of each job, and processes on each; `trainer.devices` is their product.
        cpus_per_task: of each process. gpus_per_node, mem_gb: of each machine.
        additional_parameters: of `sbatch`: `{account: mine}`.
    """

    def __init__(
        self,
        cluster: Literal["slurm", "local"] = "slurm",
        array_parallelism: Count = 64,
        timeout_min: Count = 240,
        max_num_timeout: Annotated[int, Ge(0)] = 10,
        nodes: Count = 1,
        tasks_per_node: Count = 1,
        cpus_per_task: Count = 1,
        gpus_per_node: Annotated[int, Ge(0)] = 0,
        mem_gb: Positive | None = None,
        partition: str | None = None,
        additional_parameters: dict[str, Any] | None = None,
    ) -> None:
        self.cluster, self.max_num_timeout = cluster, max_num_timeout
        self.shared = nodes * tasks_per_node > 1
        self.all = {
            "timeout_min": timeout_min,
            "nodes": nodes,
            "tasks_per_node": tasks_per_node,
            "cpus_per_task": cpus_per_task,
            "gpus_per_node": gpus_per_node,
            "mem_gb": mem_gb,
        }
        self.slurm = {
            "slurm_array_parallelism": array_parallelism,
            "slurm_partition": partition,
            "slurm_additional_parameters": dict(additional_parameters or {}),
        }

    def execute(self, jobs: Sequence[Job]) -> None:
        from tl_runner.jobs import Shared
        from tl_runner.sweep import optional

        if self.shared:
            jobs = [Shared(job.folder, job.config, job.environment, job.modules) for job in jobs]
        submitit = optional("submitit", "launcher=slurm", "slurm")
        logging.getLogger("submitit").propagate = False  # It prints by itself.
        folder = Path(self.config.hydra.sweep.dir).absolute() / ".submitit" / "%j"
        executor = submitit.AutoExecutor(
            folder, cluster=self.cluster, slurm_max_num_timeout=self.max_num_timeout
        )
        given = {k: v for k, v in {**self.all, **self.slurm}.items() if v is not None}
        executor.update_parameters(name="tlrun", **given)
        with executor.batch():
            submitted = {executor.submit(job): job for job in jobs}
        log.info("submitted as %s", ", ".join(task.job_id for task in submitted))
        while submitted:
            for task in [task for task in submitted if task.done()]:
                with suppress(Exception):  # Its folder says what happened.
                    task.result()
                self.tell(submitted.pop(task))
            time.sleep(1)
