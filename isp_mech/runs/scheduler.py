"""Which job goes to which worker, and what becomes of each."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Protocol

from isp_mech.errors import InputError, NotKept
from isp_mech.runs.jobs import Job
from isp_mech.runs.worker import BUSY, DONE, Worker

LOST, FAILED = "lost", "failed"
LOST_MOST = 3  # workers that one job may take with it before it is given up
PAUSE = 0.2  # seconds between looks at jobs that another process is at
FAILURES = (InputError, RuntimeError, MemoryError)  # of one job; whatever else comes up stops everything


class Hired(Protocol):
    """A worker somewhere: takes one job at a time."""

    def is_ready(self) -> bool: ...

    def submit(self, job: Job) -> Future[str]: ...

    def dismiss(self) -> None: ...


class Lost(Exception):
    """A worker died."""


def finish_here(jobs: Iterable[Job], worker: Worker) -> None:
    """Computes the jobs in this process, those of one model together.

    A job that fails does not keep the others from being done; all failures are told at the end. A unit that cannot
    be written stops everything.
    """
    failures: dict[str, BaseException] = {}
    waiting = _by_model(jobs)
    while waiting:
        busy = []
        for job in waiting:
            try:
                if not _hopeless(job, failures) and worker.run(job) == BUSY:
                    busy.append(job)
            except NotKept:
                raise
            except FAILURES as error:
                failures[job.files[0]] = _named(job, error)
        if busy:
            time.sleep(PAUSE)
        waiting = busy
    _raise(failures)


def finish_with(jobs: Iterable[Job], hire: Callable[[int], Hired], n_workers: int) -> None:
    """Computes the jobs with ``n_workers`` workers that ``hire(place)`` gives; otherwise as ``finish_here``."""
    desk = _Desk(_by_model(jobs))
    crew: dict[int, Hired] = {}
    at_work: dict[Future[str], tuple[int, Job]] = {}
    try:
        while desk.waiting or at_work:
            for place in sorted(set(range(n_workers)) - {place for place, _ in at_work.values()}):
                if place not in crew and desk.waiting:
                    crew[place] = hire(place)
                if place in crew and crew[place].is_ready():
                    job = desk.next_for(place, [job for _, job in at_work.values()])
                    if job is not None:
                        at_work[crew[place].submit(job)] = place, job
            if not at_work:
                time.sleep(PAUSE)
            done, _ = concurrent.futures.wait(at_work, 5, concurrent.futures.FIRST_COMPLETED)
            for future in done:
                place, job = at_work.pop(future)
                outcome = desk.settle(job, future)
                if outcome == LOST:
                    crew.pop(place).dismiss()
                    desk.loaded.pop(place, None)
                elif outcome == BUSY:
                    time.sleep(PAUSE)
    finally:
        for worker in crew.values():
            worker.dismiss()
    _raise(desk.failures)


@dataclass
class _Desk:
    """Which job goes to which worker next, and what became of each."""

    waiting: list[Job]
    failures: dict[str, BaseException] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    loaded: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unfinished = {job.files[0] for job in self.waiting}

    def next_for(self, place: int, at_work: Sequence[Job]) -> Job | None:
        """The next job for the worker at ``place``: of the model it has loaded, else of one that no other has."""
        for job in [job for job in self.waiting if _hopeless(job, self.failures)]:
            self.waiting.remove(job)
        ready = [job for job in self.waiting if job.needs is None or job.needs.files[0] not in self.unfinished]
        others = {model for other, model in self.loaded.items() if other != place}
        others |= {job.model for job in at_work}
        own = [job for job in ready if job.model == self.loaded.get(place)]
        free = [job for job in ready if job.model not in others]
        chosen = next(iter([*own, *free, *ready]), None)
        if chosen is not None:
            self.waiting.remove(chosen)
            self.loaded[place] = chosen.model
        return chosen

    def settle(self, job: Job, future: Future[str]) -> str:
        """Notes what became of a job: done, busy elsewhere, failed, or lost with its worker."""
        try:
            result = future.result()
        except (BrokenProcessPool, Lost):
            self.lost[job.files[0]] = self.lost.get(job.files[0], 0) + 1
            if self.lost[job.files[0]] < LOST_MOST:
                self.waiting.insert(0, job)
            else:
                why = f"its worker died {LOST_MOST} times: killed, or out of memory (try a smaller batch size)"
                self.failures[job.files[0]] = InputError(job.name, [why])
            return LOST
        except NotKept:
            raise
        except FAILURES as error:
            self.failures[job.files[0]] = _named(job, error)
            return FAILED
        if result == DONE:
            self.unfinished.discard(job.files[0])
        else:
            self.waiting.append(job)
        return result


def _by_model(jobs: Iterable[Job]) -> list[Job]:
    """In the order given, but for the jobs of one model, which follow the first of them."""
    grouped: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        grouped.setdefault(job.model, []).append(job)
    return [job for group in grouped.values() for job in group]


def _hopeless(job: Job, failures: dict[str, BaseException]) -> bool:
    """Whether the job needs one that failed."""
    return job.needs is not None and job.needs.files[0] in failures


def _named(job: Job, error: BaseException) -> BaseException:
    if isinstance(error, InputError):
        return error
    return InputError(job.name, [f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"])


def _raise(failures: dict[str, BaseException]) -> None:
    errors = list(failures.values())
    if len(errors) == 1:
        raise errors[0]
    if errors:
        lines = [f"{e.subject}: {p}" for e in errors if isinstance(e, InputError) for p in e.problems]
        raise InputError(f"{len(errors)} jobs failed, the others are done", list(dict.fromkeys(lines)))
