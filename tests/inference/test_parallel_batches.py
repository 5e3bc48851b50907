"""Batches that run two at once: the same numbers, the same errors, and nothing after a stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from many_queries import queries, short_of_memory

from isp_mech.inference.batches import plan_batches
from isp_mech.inference.logprobs import completion_logprobs, groups_for
from isp_mech.inference.parallel_batches import Step, run_steps


@pytest.fixture(params=[1, 2, 3])
def threads(request) -> Iterator[int]:
    """How many threads torch has: with one, batches run one after the other."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def doing(*actions) -> Iterator[Step]:
    """A step for each action; a step gives what its action gives, or nothing more."""
    return iter([lambda action=action: action() or iter(()) for action in actions])


@pytest.mark.parametrize("shots", [0, 60])
@pytest.mark.parametrize("name", ["neox", "gemma2", "bloom"])
def test_two_at_once_give_every_bit_that_one_gives(make_model, name, shots):
    model, before = make_model(name), torch.get_num_threads()
    groups = groups_for(model, queries(16, shots, own=20))
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found += [completion_logprobs(groups, plan_batches(model, b)) for b in ("auto", 3)]
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[0], found[2]) and np.array_equal(found[1], found[3])


def test_two_run_at_once_where_there_are_two_threads(make_model, threads):
    meeting = threading.Barrier(2)
    seen = set()

    def meet(timeout: float) -> None:
        seen.add(threading.get_ident())
        meeting.wait(timeout)

    if threads == 1:
        with pytest.raises(threading.BrokenBarrierError):
            run_steps([doing(lambda: meet(0.05), lambda: meet(0.05))], make_model("neox"))
        assert len(seen) == 1
    else:
        run_steps([doing(lambda: meet(60), lambda: meet(60))], make_model("neox"))
        assert len(seen) == 2
    assert torch.get_num_threads() == threads


def test_what_a_step_gives_is_run_too_and_waited_for(make_model, threads):
    done = []

    def grow(n: int) -> Iterator[Step]:
        done.append(n)
        return doing(*[lambda: grow(n - 1)] * n)

    run_steps([doing(lambda: grow(4)), doing(lambda: grow(2))], make_model("neox"))
    counts = [done.count(n) for n in range(5)]
    assert counts == [24 + 2, 24 + 2, 12 + 1, 4, 1]


def test_with_one_thread_what_a_step_gives_comes_before_the_older_steps(make_model):
    before, done = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        trunk = doing(lambda: doing(lambda: done.append("branch")), lambda: done.append("next trunk"))
        run_steps([doing(lambda: done.append("whole")), trunk], make_model("neox"))
    finally:
        torch.set_num_threads(before)
    assert done == ["whole", "branch", "next trunk"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_or_a_stop_is_raised_and_ends_all(make_model, threads, error):
    done = []

    def fail() -> None:
        raise error

    steps = [lambda: done.append(0)] * 5 + [fail] + [lambda: done.append(1)] * 1000
    with pytest.raises(type(error)):
        run_steps([doing(*steps)], make_model("neox"))
    assert done.count(0) == 5 and done.count(1) < 1000
    if threads == 1:
        assert done.count(1) == 0
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("shots", [0, 60])
def test_memory_that_runs_out_loses_nothing(make_model, monkeypatch, threads, shots):
    model = make_model("neox")
    groups, plan = groups_for(model, queries(40, shots, own=30)), plan_batches(model)
    want = completion_logprobs(groups, plan_batches(model))
    short_of_memory(monkeypatch, 75)  # of trees, one at a time of one prefix
    found = completion_logprobs(groups, plan)
    assert np.abs(found - want).max() < 1e-4 and plan.halvings > 0


def test_a_model_that_is_not_ours_to_move_runs_one_batch_at_a_time(make_model, monkeypatch, threads):
    model = make_model("neox")
    monkeypatch.setattr(model.hf, "hf_device_map", {"": "cpu"}, raising=False)
    seen = set()
    run_steps([doing(*[lambda: seen.add(threading.get_ident())] * 20)], model)
    assert seen == {threading.get_ident()}
