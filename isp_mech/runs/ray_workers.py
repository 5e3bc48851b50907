"""Workers that are actors of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isp_mech.errors import InputError, NotKept
from isp_mech.families import is_file
from isp_mech.runs.jobs import Job
from isp_mech.runs.worker import Outcome, Worker

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle


@dataclass(frozen=True)
class Answer:
    """What an actor says of a job: its outcome, or what stops the whole run (raised, it would end the actor alone)."""

    outcome: Outcome = "busy"
    stop: BaseException | None = None


@dataclass
class RayWorker:
    """A Ray actor with a worker in it."""

    handle: ActorHandle
    ready: ObjectRef

    def is_ready(self) -> bool:
        """Whether the cluster had room for it: until then it is given nothing."""
        import ray

        return bool(ray.wait([self.ready], timeout=0)[0])

    def submit(self, job: Job) -> Future[Outcome]:
        import ray

        answered: Future[Outcome] = Future()

        def pass_on(inner: Future[Answer]) -> None:
            error = inner.exception()
            answer = inner.result() if error is None else Answer(stop=error)
            if answer.stop is None:
                answered.set_result(answer.outcome)
            elif error is None or isinstance(error, ray.exceptions.RayTaskError):
                answered.set_exception(answer.stop)
            else:  # killed, its machine gone, out of memory
                answered.set_exception(BrokenExecutor(str(error)))

        self.handle.submit.remote(job).future().add_done_callback(pass_on)
        return answered

    def stop(self) -> None:
        import ray

        ray.kill(self.handle)


class _Actor:
    """What runs in the cluster."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def submit(self, job: Job) -> Answer:
        try:
            return Answer(self.worker.run(job))
        except (NotKept, KeyboardInterrupt, SystemExit) as stop:
            return Answer(stop=stop)


def actor_starter(
    worker: Worker, jobs: Sequence[Job], n_workers: int, *, address: str | None = None, gpus: float | None = None
) -> Callable[[int], RayWorker]:
    """Starts actors with a worker like this one in the Ray cluster at ``address``, or in one started on this machine.

    An actor asks for as many CPUs as a job has threads, for ``gpus`` (one, where the jobs' device is a GPU), and for
    memory that holds the largest model twice. The run directory has to be one that every machine reaches.
    """
    try:
        import ray
    except ImportError:
        raise InputError("ray", ["is not installed: pip install 'isp-mech[ray]'"]) from None
    needs = _needs(jobs, gpus)
    if not ray.is_initialized():
        quiet = {"log_to_driver": False, "include_dashboard": False, "configure_logging": False}
        here = {} if address else {"num_cpus": max(os.cpu_count() or 1, n_workers * needs["num_cpus"]), **quiet}
        try:
            ray.init(address=address, **here)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError("ray", [f"no cluster at {address!r}: {str(error).splitlines()[0]}"]) from None
        if not address:
            _expect_room(needs, ray.cluster_resources())

    def start_worker(place: int) -> RayWorker:
        handle = ray.remote(**needs, max_restarts=0)(_Actor).remote(worker)
        return RayWorker(handle, handle.__ray_ready__.remote())

    return start_worker


def _expect_room(needs: Mapping[str, float], there: Mapping[str, float]) -> None:
    """``InputError`` where a worker can never be had: a cluster on one machine does not grow."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    short = [f"{needs[name]} {names[name]} for a worker: this machine has {there.get(names[name], 0):g}"
             for name in names if needs.get(name, 0) > there.get(names[name], 0)]  # fmt: skip
    if short:
        raise InputError("ray", short)


def _needs(jobs: Sequence[Job], gpus: float | None) -> dict[str, float]:
    """What an actor asks Ray for."""
    settings = [job.settings for job in jobs]
    needs: dict[str, float] = {"num_cpus": max((s.threads or 1 for s in settings), default=1)}
    if gpus is not None or any(s.device.startswith("cuda") for s in settings):
        needs["num_gpus"] = 1 if gpus is None else gpus
    largest = max((_bytes_on_disk(job.size.path_or_id) for job in jobs), default=0)
    return {**needs, "memory": 2 * largest} if largest else needs


def _bytes_on_disk(path: str) -> int:
    place = Path(path).expanduser()
    if is_file(place):
        return 8 * place.stat().st_size  # of 4-bit weights, as float32
    return sum(file.stat().st_size for file in place.glob("*.safetensors")) if place.is_dir() else 0
