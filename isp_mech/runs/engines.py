"""Who computes the jobs: this process, several processes of this machine, or Ray.

All of them run the same ``Worker`` on the same jobs and write the same bytes. With several workers each keeps its
model loaded and is given that model's jobs as long as there are any; a worker that dies costs the job it was at,
which another one does again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isp_mech.runs.ray_workers import ray_actors
from isp_mech.runs.scheduler import finish_here, finish_with
from isp_mech.runs.process_workers import processes
from isp_mech.errors import InputError
from isp_mech.runs.jobs import Job
from isp_mech.runs.worker import Worker
from isp_mech.runs.run_directory import RunDirectory


@dataclass(frozen=True)
class Engine:
    """Who computes: this process, ``jobs`` processes of this machine, or ``jobs`` workers of a Ray cluster.

    ``ray`` is the cluster's address, "" for one started on this machine, None for no Ray; ``gpus`` is what each of its
    workers has. Code that comes with a checkpoint runs only if ``trust_remote_code``.
    """

    jobs: int = 1
    ray: str | None = None
    gpus: float | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise InputError("jobs", [f"{self.jobs}: expected 1 worker or more"])

    def start(self, directory: RunDirectory, *, progress: bool = False) -> Callable[[Sequence[Job]], None]:
        """A function that computes the jobs it is given."""
        here = Worker(directory, progress, trust_remote_code=self.trust_remote_code)
        trusted = {"trust_remote_code": self.trust_remote_code}

        def compute(jobs: Sequence[Job]) -> None:
            if not jobs:
                return
            if self.ray is not None:
                hire = ray_actors(directory, jobs, self.jobs, address=self.ray or None, gpus=self.gpus, **trusted)
                finish_with(jobs, hire, self.jobs)
            elif self.jobs > 1:
                finish_with(jobs, processes(directory, progress=progress, **trusted), min(self.jobs, len(jobs)))
            else:
                finish_here(jobs, here)

        return compute
