"""How far long work is, on stderr: a bar on a terminal; elsewhere, as in a log, one line a minute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeVar

from tqdm import tqdm

from isp_mech.errors import visible

Advance = Callable[[int], None]  # told how much more is done, from any thread
Progress = bool | Literal["steps"]  # whether it is shown; "steps": every step has a line, wherever stderr leads
T = TypeVar("T")


def untold(n: int) -> None:
    """Where nothing is shown."""


@dataclass
class Work:
    """Something under way: ``done`` of ``total``."""

    what: str
    total: int
    unit: str
    began: float
    done: int = 0

    def told(self, now: float) -> str:
        """What, how far, how long yet: as if the rest went as fast as what is done.

        >>> Work("small: locate", 300, "prompt", began=0, done=100).told(now=120)
        'small: locate: 100 of 300 prompts, 0:02:00 so far, about 0:04:00 left'
        """
        taken = now - self.began
        left = f", about {_clock_time(taken / self.done * (self.total - self.done))} left" if self.done else ""
        return f"{self.what}: {self.done} of {self.total} {self.unit}s, {_clock_time(taken)} so far{left}"


def _clock_time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@dataclass
class Lines:
    """Tells of all that is under way in one line, the whole before its parts, at most once in ``every`` seconds."""

    every: float = 60.0
    clock: Callable[[], float] = time.monotonic
    under_way: list[Work] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.said = self.clock()

    @contextmanager
    def work(self, what: str, total: int, unit: str) -> Iterator[Advance]:
        work = Work(what, total, unit, self.clock())

        def advance(n: int) -> None:
            with self.lock:
                work.done += n
                now = self.clock()
                self.say("; ".join(each.told(now) for each in self.under_way))

        with self.lock:
            if not self.under_way:
                self.said = work.began  # the first minute of this work, however long the process has run
            self.under_way.append(work)
        try:
            yield advance
        finally:
            with self.lock:
                self.under_way.remove(work)

    def say(self, text: str) -> None:
        """One line, unless one was said a short while ago."""
        with self.lock:
            now = self.clock()
            if now - self.said >= self.every:
                self.said = now
                print(visible(text), file=sys.stderr, flush=True)


LINES = Lines()  # of this process


def shows_bars() -> bool:
    """Whether stderr can show a bar: a terminal, or a notebook's cell."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def work(what: str, total: int, unit: str, *, shown: bool) -> Iterator[Advance]:
    """Shows how far work of ``total`` units is, as it is told by what this gives; nothing unless ``shown``."""
    if not shown or shows_bars():
        with tqdm(total=total, desc=what, unit=unit, disable=not shown, leave=False) as bar:

            def advance(n: int) -> None:
                with bar.get_lock():
                    bar.update(n)

            yield advance
    else:
        with LINES.work(what, total, unit) as told:
            yield told


def counted(items: Iterable[T], what: str, total: int, unit: str, *, shown: bool) -> Iterator[T]:
    """The ``items``, and how many of them are done."""
    with work(what, total, unit, shown=shown) as advance:
        for item in items:
            yield item
            advance(1)


def say(text: str, *, always: bool = False) -> None:
    """One line on what begins: on a terminal, or ``always``; elsewhere where nothing was said for a while."""
    if always or shows_bars():
        print(visible(text), file=sys.stderr, flush=True)
    else:
        LINES.say(text)
