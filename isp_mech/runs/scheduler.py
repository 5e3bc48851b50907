"""Who computes the jobs, and which job goes to which worker: this process, several of this machine, or Ray's.

All of them run the same ``Worker`` on the same jobs and write the same bytes. Each keeps its model loaded and is given
that model's jobs as long as there are any. A worker that dies costs the job it was at, which another one does again.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, field
from typing import Protocol

from isp_mech.errors import InputError
from isp_mech.inference.progress import Advance, Progress, shows_bars, untold, work
from isp_mech.runs.jobs import Job
from isp_mech.runs.process_workers import process_starter
from isp_mech.runs.ray_workers import actor_starter
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.runs.worker import Outcome, Worker

MOST_LOST = 3  # workers that one job may take with it before it is given up
PAUSE = 0.2  # seconds between looks at jobs that another process is at


class RemoteWorker(Protocol):
    """A worker somewhere else: takes one job at a time. Its future raises ``BrokenExecutor`` where it died."""

    def is_ready(self) -> bool: ...

    def submit(self, job: Job) -> Future[Outcome]: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Workers:
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


def run_jobs(jobs: Iterable[Job], directory: RunDirectory, workers: Workers, *, progress: Progress = False) -> None:
    """Computes the jobs. One that fails does not keep the others from being done, but for those that need it; then
    all failures are one ``InputError``. A unit that cannot be written (``NotKept``) stops everything."""
    queue = JobQueue(by_model(jobs))
    here = Worker(directory, progress, trust_remote_code=workers.trust_remote_code)
    told = bool(progress) and not shows_bars()  # each job has its bar, where there are bars
    with work("all", len(queue.waiting), "job", shown=told) as queue.advance:
        if workers.ray is not None and queue.waiting:
            start = actor_starter(here, queue.waiting, workers.jobs, address=workers.ray or None, gpus=workers.gpus)
            hand_out(queue, start, workers.jobs)
        elif workers.jobs > 1 and queue.waiting:
            hand_out(queue, process_starter(here), min(workers.jobs, len(queue.waiting)))
        else:
            while (job := queue.next_for(0)) is not None:
                queue.settle(job, here.run(job))
    queue.report()


def hand_out(queue: JobQueue, start_worker: Callable[[int], RemoteWorker], n_workers: int) -> None:
    """Empties the queue with ``n_workers`` workers that ``start_worker(place)`` gives."""
    workers: dict[int, RemoteWorker] = {}
    at_work: dict[Future[Outcome], tuple[int, Job]] = {}
    try:
        while queue.waiting or at_work:
            for place in sorted(set(range(n_workers)) - {place for place, _ in at_work.values()}):
                if place not in workers and queue.waiting:
                    workers[place] = start_worker(place)
                if place in workers and workers[place].is_ready():
                    job = queue.next_for(place, [job for _, job in at_work.values()])
                    if job is not None:
                        at_work[workers[place].submit(job)] = place, job
            if not at_work:
                time.sleep(PAUSE)
            done, _ = concurrent.futures.wait(at_work, 5, concurrent.futures.FIRST_COMPLETED)
            queue.advance(0)
            for future in done:
                place, job = at_work.pop(future)
                try:
                    queue.settle(job, future.result())
                except BrokenExecutor:
                    queue.lose(job, place)
                    workers.pop(place).stop()
    finally:
        for worker in workers.values():
            worker.stop()


@dataclass
class JobQueue:
    """The jobs that are left, and what became of the others."""

    waiting: list[Job]
    failures: dict[str, InputError] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    loaded: dict[int, tuple[str, ...]] = field(default_factory=dict)
    busy: int = 0  # jobs in a row that another process is at
    advance: Advance = untold

    def __post_init__(self) -> None:
        self.unfinished = {job.files[0] for job in self.waiting}

    def next_for(self, place: int, at_work: Sequence[Job] = ()) -> Job | None:
        """The next job for the worker at ``place``: of the model it has loaded, else of one that no other has."""
        self.waiting = [job for job in self.waiting if job.needs is None or job.needs.files[0] not in self.failures]
        ready = [job for job in self.waiting if job.needs is None or job.needs.files[0] not in self.unfinished]
        others = {model for other, model in self.loaded.items() if other != place} | {job.model for job in at_work}
        own = [job for job in ready if job.model == self.loaded.get(place)]
        free = [job for job in ready if job.model not in others]
        chosen = next(iter([*own, *free, *ready]), None)
        if chosen is not None:
            self.waiting.remove(chosen)
            self.loaded[place] = chosen.model
        return chosen

    def settle(self, job: Job, outcome: Outcome) -> None:
        """Notes what became of a job; where another process is at all that are left, waits a moment."""
        self.busy = self.busy + 1 if outcome == "busy" else 0
        self.advance(0 if outcome == "busy" else 1)
        if isinstance(outcome, InputError):
            self.failures[job.files[0]] = outcome
        elif outcome == "done":
            self.unfinished.discard(job.files[0])
        else:
            self.waiting.append(job)
        if self.busy and self.busy >= len(self.waiting):
            self.busy = 0
            time.sleep(PAUSE)

    def lose(self, job: Job, place: int) -> None:
        """Notes that the worker at ``place`` died over a job: another one does it again, up to a number of times."""
        self.loaded.pop(place, None)
        self.lost[job.files[0]] = self.lost.get(job.files[0], 0) + 1
        if self.lost[job.files[0]] < MOST_LOST:
            self.waiting.insert(0, job)
        else:
            why = f"its worker died {MOST_LOST} times: killed, or out of memory (try a smaller batch size)"
            self.failures[job.files[0]] = InputError(job.name, [why])
            self.advance(1)

    def report(self) -> None:
        """Raises what failed."""
        errors = list(self.failures.values())
        if len(errors) == 1:
            raise errors[0]
        if errors:
            lines = [f"{error.subject}: {problem}" for error in errors for problem in error.problems]
            raise InputError(f"{len(errors)} jobs failed, the others are done", list(dict.fromkeys(lines)))


def by_model(jobs: Iterable[Job]) -> list[Job]:
    """In the order given, but for the jobs of one model, which follow the first of them."""
    grouped: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        grouped.setdefault(job.model, []).append(job)
    return [job for group in grouped.values() for job in group]
