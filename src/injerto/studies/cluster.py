"""Rows of a comparison on a Ray cluster, several at a time; one is started on this machine where there is none."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError
from injerto.basics.progress import note, silent
from injerto.compute.machine import machine
from injerto.studies.grid import Planned
from injerto.studies.records import do_run

RETRIES = 3
"""How often a run is given to another worker when its own was lost."""
PASSED_ON = ("INJERTO_", "HF_", "OMP_")
"""Beginnings of the environment variables that workers are to have as well."""


def check_cluster(engine: str, budget: Any) -> None:
    """Refuse an engine that is not there, or one that cannot keep a budget.

    Args:
        engine: As the user gave it.
        budget: Of the comparison, if any.

    Raises:
        InjertoError: Where it does not do.
    """
    if engine not in ("local", "ray"):
        raise InjertoError(f"unknown --engine '{engine}'; use local or ray")
    if engine == "local":
        return
    if budget is not None:
        raise InjertoError("--engine ray does all rows at once, and --budget drops some in between: give one of them")
    try:
        import ray  # noqa: F401
    except ImportError:
        raise InjertoError("--engine ray: Ray is not installed; pip install 'injerto[ray]'") from None


def run_all(missing: Sequence[Planned], runs: Path) -> Iterator[tuple[Planned, float]]:
    """Do runs on the cluster of ``RAY_ADDRESS``, or on one of this machine's cores.

    A run whose worker is lost goes on elsewhere from its last checkpoint. The folder of the runs, the data and the
    cache must be on a disk that all workers see.

    Args:
        missing: What is to be done.
        runs: Folder of their folders.

    Yields:
        Each run and the seconds it took, as they end; whether it is finished or failed stands in its folder.
    """
    import ray

    with _cluster(ray):
        waiting = {}
        for one in missing:
            needs = {"num_cpus": one.recipe.threads or 1, "num_gpus": int(machine().device == "cuda")}
            task = ray.remote(_work).options(max_retries=RETRIES, **needs)
            waiting[task.remote(one, runs.absolute(), Path.cwd())] = one
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            one = waiting.pop(done)
            try:
                seconds = ray.get(done)
            except ray.exceptions.RayError as error:
                raise InjertoError(
                    f"{one.label} seed {one.seed}: its worker was lost {RETRIES + 1} times ({type(error).__name__}); "
                    "repeat the command to go on"
                ) from None
            yield one, seconds


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    mine = not ray.is_initialized()
    if mine:
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        given = os.environ.get("RAY_ADDRESS")
        here = {} if given else {"num_cpus": os.cpu_count(), "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="error", runtime_env={"env_vars": passed}, **here)
        cores = int(ray.cluster_resources().get("CPU", 0))
        note(f"Ray: {cores} cores, {given or 'started on this machine'}")
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


def _work(one: Planned, runs: Path, place: Path) -> float:
    """One run, on a worker; paths are those of the process that asked for it."""
    begun = time.monotonic()
    os.chdir(place)
    with silent():
        do_run(one, runs)
    return time.monotonic() - begun
