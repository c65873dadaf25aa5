"""Carries out a table's runs as Ray tasks, on one machine's cores or on a cluster whose machines share a folder: a task
reads and writes checkpoints there as its command does, so one whose worker died continues anywhere from its last epoch."""

import contextlib
import io
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unlearning.core.errors import Diverged, RunFailed, Terminated, UserError
from unlearning.core.provenance import ROOT
from unlearning.core.words import first_line, say
from unlearning.experiments.plan import command
from unlearning.experiments.request import Run
from unlearning.experiments.running import carry_out, say_left_out
from unlearning.experiments.stages import dependencies, stages

RETRIES = 5  # times that a run is begun again after its worker has died


def library() -> Any:
    """Ray. Raises UserError where it isn't installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of runs without a GPU
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs Ray: pip install -r requirements-dev.txt, or pip install ray") from None
    return ray


def run_all(
    runs: Sequence[Run], address: str, cores: int, device: str, quiet: bool = False, diverging: bool = False
) -> list[Path]:
    """Run what is missing and return the checkpoints' paths, in order; a run begins when those that it reads are done.

    address: of the cluster, "" for this machine. cores: threads of each run. An error of one stops all and is raised,
    unless it is that it diverges, where `diverging` leaves such out.
    """
    with _connected(address, cores) as ray:
        gpus = int(device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0)
        if not quiet:
            say(f"{len(runs)} runs by Ray, cores {cores} and GPUs {gpus} each; a run's lines are printed when it has ended")
        task = ray.remote(in_worker).options(num_cpus=cores, num_gpus=gpus, max_retries=RETRIES)
        needed, started = dependencies(runs), dict[int, Any]()
        for place in (place for stage in stages(runs, needed) for place in stage):
            started[place] = task.remote(runs[place], os.getcwd(), quiet, *(started[first] for first in needed[place]))
        return _collected(ray, started, runs, quiet, diverging)


def in_worker(run: Run, folder: str, quiet: bool, *first: Any) -> tuple[Path, str]:
    """(checkpoint, what was said) of a run, in a worker. folder: the driver's own. first: what Ray waits for."""
    said = io.StringIO()
    os.chdir(folder)
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO() if quiet else said):
        return carry_out(run, None)[0], said.getvalue()


def _collected(ray: Any, started: dict[int, Any], runs: Sequence[Run], quiet: bool, diverging: bool) -> list[Path]:
    """The runs' paths, waited for. started: what Ray calls each run, by its position."""
    places, waiting, paths = {ref: place for place, ref in started.items()}, [*started.values()], {}
    while waiting:
        (ref, *_), waiting = ray.wait(waiting)
        try:
            paths[places[ref]], said = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if not (diverging and isinstance(error.cause, Diverged)):
                raise error.cause from error
            say_left_out(runs[places[ref]], error.cause)
            continue
        except ray.exceptions.RayError as error:
            why = f"its worker died {RETRIES + 1} times, or can't be reached: {first_line(error)}"
            raise RunFailed(f"{command(*runs[places[ref]])}: {why}; the same command continues") from None
        if said or not quiet:
            say(f"done: {len(paths)} of {len(runs)} runs\n{said}".rstrip())
    return [paths[place] for place in sorted(paths)]


@contextlib.contextmanager
def _connected(address: str, cores: int) -> Iterator[Any]:
    """Ray, until the context ends, and what still runs with it. Raises UserError where no cluster or machine serves."""
    ray, before = library(), {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    found = {"OMP_NUM_THREADS": str(cores), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    how = {} if address else {"num_cpus": os.cpu_count(), "include_dashboard": False, "object_store_memory": 10**8}
    try:
        ray.init(address or "local", runtime_env={"env_vars": found}, log_to_driver=False, logging_level="error", **how)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"--ray {address}: no cluster can be reached there: {first_line(error)}") from None
    told = list[int]()

    def stop(number: int, _: object) -> None:
        told.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its background jobs ignore
        signal.raise_signal(signal.SIGINT)  # Ray would make a KeyboardInterrupt of what is raised while it waits

    signal.signal(signal.SIGTERM, stop)
    try:
        if cores > max(machine["Resources"].get("CPU", 0) for machine in ray.nodes() if machine["Alive"]):
            raise UserError(f"--cores {cores}: no machine has so many")
        yield ray
    except KeyboardInterrupt:
        raise (Terminated if told else KeyboardInterrupt) from None
    finally:
        ray.shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)
