"""Who computes the jobs: this process, several processes of this machine, or Ray.

All of them run the same ``Worker`` on the same jobs and write the same bytes. With several workers each keeps its
model loaded and is given that model's jobs as long as there are any; a worker that dies costs the job it was at,
which another one does again.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from isp_mech.errors import InputError
from isp_mech.jobs import Job
from isp_mech.measuring import BUSY, DONE, Worker
from isp_mech.runs import RunDirectory

LOST, FAILED = "lost", "failed"
LOST_MOST = 3  # workers that one job may take with it before it is given up
PAUSE = 0.2  # seconds between looks at jobs that another process is at
FAILURES = (InputError, RuntimeError, MemoryError)  # of one job; whatever else comes up stops everything


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
                hire = ray_actors(directory, jobs, address=self.ray or None, gpus=self.gpus, **trusted)
                finish_with(jobs, hire, self.jobs)
            elif self.jobs > 1:
                finish_with(jobs, processes(directory, progress=progress, **trusted), min(self.jobs, len(jobs)))
            else:
                finish_here(jobs, here)

        return compute


class Hired(Protocol):
    """A worker somewhere: takes one job at a time."""

    def submit(self, job: Job) -> Future[str]: ...

    def dismiss(self) -> None: ...


class Lost(Exception):
    """A worker died."""


def finish_here(jobs: Iterable[Job], worker: Worker) -> None:
    """Computes the jobs in this process, those of one model together.

    A job that fails does not keep the others from being done; all failures are told at the end.
    """
    failures: dict[str, BaseException] = {}
    waiting = _by_model(jobs)
    while waiting:
        busy = []
        for job in waiting:
            try:
                if not _hopeless(job, failures) and worker.run(job) == BUSY:
                    busy.append(job)
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
                job = desk.next_for(place, [job for _, job in at_work.values()])
                if job is None:
                    continue
                if place not in crew:
                    crew[place] = hire(place)
                at_work[crew[place].submit(job)] = place, job
            done, _ = concurrent.futures.wait(at_work, return_when=concurrent.futures.FIRST_COMPLETED)
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


# --- processes of this machine ------------------------------------------------------------------------

_worker: Worker | None = None  # of a worker process


@dataclass
class Process:
    """A process of this machine with a worker in it."""

    pool: ProcessPoolExecutor

    def submit(self, job: Job) -> Future[str]:
        try:
            return self.pool.submit(_work, job)
        except BrokenProcessPool as error:  # killed while it had nothing to do
            lost: Future[str] = Future()
            lost.set_exception(error)
            return lost

    def dismiss(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in list((getattr(self.pool, "_processes", None) or {}).values()):
            process.terminate()


def processes(
    directory: RunDirectory, *, progress: bool = False, trust_remote_code: bool = False
) -> Callable[[int], Process]:
    """``hire`` for ``finish_with``: new processes, that share nothing with this one but the run directory."""

    def hire(place: int) -> Process:
        worker = Worker(directory, progress, place, trust_remote_code)
        context = multiprocessing.get_context("spawn")
        return Process(ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(worker, os.getpid())))

    return hire


def _begin(worker: Worker, parent: int) -> None:
    global _worker
    _worker = worker
    _end_with(parent)


def _end_with(parent: int) -> None:
    """Lets this process end soon after its parent is gone, however that ended."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(job: Job) -> str:
    assert _worker is not None
    return _worker.run(job)


# --- Ray ----------------------------------------------------------------------------------------------


@dataclass
class Actor:
    """A Ray actor with a worker in it."""

    handle: Any

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
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError("ray", [f"no cluster at {address!r}: {str(error).splitlines()[0]}"]) from None
    needs = _needs(jobs, gpus)

    def hire(place: int) -> Actor:
        remote = ray.remote(**needs)(Worker)
        return Actor(remote.remote(directory, False, None, trust_remote_code))

    return hire


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
