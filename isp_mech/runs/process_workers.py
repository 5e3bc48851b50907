"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Literal

from isp_mech.runs.jobs import Job
from isp_mech.runs.worker import Outcome, Worker

_worker: Worker | None = None  # of a worker process


@dataclass
class ProcessWorker:
    """A process of this machine with a worker in it."""

    pool: ProcessPoolExecutor

    def is_ready(self) -> bool:
        return True

    def submit(self, job: Job) -> Future[Outcome]:
        try:
            return self.pool.submit(_run, job)
        except BrokenProcessPool as error:  # killed while it had nothing to do
            lost: Future[Outcome] = Future()
            lost.set_exception(error)
            return lost

    def stop(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in list((getattr(self.pool, "_processes", None) or {}).values()):
            process.terminate()


def process_starter(worker: Worker, method: Literal["spawn", "fork"] = "spawn") -> Callable[[int], ProcessWorker]:
    """Starts processes with a worker like this one, which share nothing with this process but the run directory.

    (With ``fork`` they are copies of this process: quicker, and safe only while it runs no other thread.)
    """
    context = multiprocessing.get_context(method)

    def start_worker(place: int) -> ProcessWorker:
        told = replace(worker, place=place), os.getpid()
        return ProcessWorker(ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=told))

    return start_worker


def _begin(worker: Worker, parent: int) -> None:
    """Keeps the process's worker, and ends the process soon after its parent is gone, however that ended."""
    global _worker
    _worker = worker

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run(job: Job) -> Outcome:
    assert _worker is not None
    return _worker.run(job)
