"""Workers that are actors of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isp_mech.runs.scheduler import Lost
from isp_mech.errors import InputError
from isp_mech.runs.jobs import Job
from isp_mech.runs.worker import Worker
from isp_mech.runs.run_directory import RunDirectory


@dataclass
class Actor:
    """A Ray actor with a worker in it."""

    handle: Any
    ready: Any

    def is_ready(self) -> bool:
        """Whether the cluster had room for it: until then it is given nothing."""
        import ray

        return bool(ray.wait([self.ready], timeout=0)[0])

    def submit(self, job: Job) -> Future[str]:
        import ray

        outer: Future[str] = Future()

        def pass_on(inner: Future[str]) -> None:
            error = inner.exception()
            if isinstance(error, ray.exceptions.RayTaskError):
                outer.set_exception(getattr(error, "cause", None) or error)
            elif isinstance(error, ray.exceptions.RayError):  # killed, its machine gone, out of memory
                outer.set_exception(Lost(str(error)))
            elif error is not None:
                outer.set_exception(error)
            else:
                outer.set_result(inner.result())

        self.handle.run.remote(job).future().add_done_callback(pass_on)
        return outer

    def dismiss(self) -> None:
        import ray

        ray.kill(self.handle)


def ray_actors(
    directory: RunDirectory,
    jobs: Sequence[Job],
    n_workers: int,
    *,
    address: str | None = None,
    gpus: float | None = None,
    trust_remote_code: bool = False,
) -> Callable[[int], Actor]:
    """``hire`` for ``finish_with``: actors of the Ray cluster at ``address``, or of one started on this machine.

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

    def hire(place: int) -> Actor:
        handle = ray.remote(**needs)(Worker).remote(directory, False, None, trust_remote_code)
        return Actor(handle, handle.__ray_ready__.remote())

    return hire


def _expect_room(needs: Mapping[str, Any], there: Mapping[str, float]) -> None:
    """``InputError`` where a worker can never be had: a cluster on one machine does not grow."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    short = [f"{needs[name]} {names[name]} for a worker: this machine has {there.get(names[name], 0):g}"
             for name in names if needs.get(name, 0) > there.get(names[name], 0)]  # fmt: skip
    if short:
        raise InputError("ray", short)


def _needs(jobs: Sequence[Job], gpus: float | None) -> dict[str, Any]:
    """What an actor asks Ray for."""
    settings = [job.settings for job in jobs]
    needs: dict[str, Any] = {"num_cpus": max((s.threads or 1 for s in settings), default=1), "max_restarts": 0}
    if gpus is not None or any(s.device.startswith("cuda") for s in settings):
        needs["num_gpus"] = 1 if gpus is None else gpus
    largest = max((_bytes_on_disk(job.size.path_or_id) for job in jobs), default=0)
    if largest:
        needs["memory"] = 2 * largest
    return needs


def _bytes_on_disk(path: str) -> int:
    folder = Path(path).expanduser()
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
