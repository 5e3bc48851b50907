"""Two batches at once: while one waits, for Python or for memory, the other computes.

On a CPU a forward's products are shared out over all cores, but between them cores wait: for the slowest of them, and
for everything that one core does alone. Two streams of half the cores each wait less.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import torch

from isp_mech.models import Model, fast_paths, is_settled

# Runs a batch, and gives the steps that come next: the branches of a trunk, the halves of what did not fit.
Step = Callable[[], Iterator["Step"]]
STREAMS = 2


def run_steps(steps: Sequence[Iterator[Step]], model: Model) -> None:
    """Runs all steps, and those that they give, the newest first; a step is made only when it is taken.

    An error in one, or a stop from outside, lets what is under way end, runs nothing more, and is raised.
    """
    threads = torch.get_num_threads()
    queue = _Queue(list(reversed(steps)))
    on_cpu = torch.device(model.device).type == "cpu" and not is_settled(model.hf)
    if threads < STREAMS or not on_cpu or not fast_paths():
        queue.work()
    else:
        each = threads // STREAMS
        helpers = [threading.Thread(target=queue.work, args=(each,), daemon=True) for _ in range(STREAMS - 1)]
        for helper in helpers:
            helper.start()
        queue.work(threads - each * len(helpers))
        for helper in helpers:
            helper.join()
        torch.set_num_threads(threads)
    if queue.error is not None:
        raise queue.error


class _Queue:
    def __init__(self, todo: list[Iterator[Step]]) -> None:
        self.todo = todo
        self.running = 0
        self.error: BaseException | None = None
        self.changed = threading.Condition()

    def work(self, threads: int | None = None) -> None:
        """Runs steps until none is left and none is under way that may give more."""
        try:
            if threads is not None:
                torch.set_num_threads(threads)  # of the thread that this is called in
            while (step := self._take()) is not None:
                more = step()
                with self.changed:
                    self.running -= 1
                    self.todo.append(more)
                    self.changed.notify_all()
        except BaseException as error:
            with self.changed:
                self.error = self.error or error
                self.changed.notify_all()

    def _take(self) -> Step | None:
        with self.changed:
            while self.error is None:
                while self.todo:
                    step = next(self.todo[-1], None)
                    if step is not None:
                        self.running += 1
                        return step
                    self.todo.pop()
                if not self.running:
                    return None
                self.changed.wait()
            return None
