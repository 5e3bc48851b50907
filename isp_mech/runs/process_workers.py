"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from isp_mech.runs.jobs import Job
from isp_mech.runs.worker import Worker
from isp_mech.runs.run_directory import RunDirectory

_worker: Worker | None = None  # of a worker process


@dataclass
class Process:
    """A process of this machine with a worker in it."""

    pool: ProcessPoolExecutor

    def is_ready(self) -> bool:
        return True

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
