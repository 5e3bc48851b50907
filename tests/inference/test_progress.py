"""How far long work is, where stderr is no terminal: at most one line a minute, by a clock that the test moves."""

from __future__ import annotations

import io
import sys
import threading

import pytest
from small_models import byte_tokenizer, make_hf

from isp_mech.inference import progress
from isp_mech.inference.batches import plan_batches
from isp_mech.models import wrap_model


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "LINES", progress.Lines(clock=clock))
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    return clock


def test_a_line_a_minute_says_what_how_far_and_how_long_yet(clock, capsys):
    with progress.work("small: locate", 40, "prompt", shown=True) as advance:
        for _ in range(40):
            clock.now += 6
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "small: locate: 10 of 40 prompts, 0:01:00 so far, about 0:03:00 left",
        "small: locate: 20 of 40 prompts, 0:02:00 so far, about 0:02:00 left",
        "small: locate: 30 of 40 prompts, 0:03:00 so far, about 0:01:00 left",
        "small: locate: 40 of 40 prompts, 0:04:00 so far, about 0:00:00 left",
    ]


def test_short_pieces_of_long_work_share_the_minute(clock, capsys):
    """Twelve jobs of 20 s each: a line every third, which tells the whole and the part."""
    with progress.work("all", 12, "job", shown=True) as done:
        for job in range(12):
            with progress.work(f"m{job}", 2, "prompt", shown=True) as advance:
                clock.now += 20
                advance(1)
            done(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == (
        "all: 2 of 12 jobs, 0:01:00 so far, about 0:05:00 left; m2: 1 of 2 prompts, 0:00:20 so far, about 0:00:20 left"
    )
    assert not progress.LINES.under_way


def test_the_minute_begins_with_the_work_not_with_the_process(clock, capsys):
    clock.now += 6000
    with progress.work("m", 9, "prompt", shown=True) as advance:
        clock.now += 59
        advance(1)
        assert capsys.readouterr().err == ""
        clock.now += 1
        advance(1)
    assert capsys.readouterr().err.startswith("m: 2 of 9 prompts, 0:01:00 so far")


def test_nothing_in_the_first_minute_nor_unless_asked(clock, capsys):
    with progress.work("m", 9, "prompt", shown=True) as advance:
        clock.now += 59
        advance(9)
    with progress.work("m", 9, "prompt", shown=False) as advance:
        clock.now += 600
        advance(9)
    assert capsys.readouterr().err == ""
    progress.say("m: loading")  # nothing was said for long
    progress.say("m: locate")
    progress.say("m: verify", always=True)
    assert capsys.readouterr().err == "m: loading\nm: verify\n"


def test_work_that_fails_is_under_way_no_more(clock):
    with pytest.raises(KeyError), progress.work("m", 2, "prompt", shown=True):
        raise KeyError
    assert not progress.LINES.under_way


def test_counting_from_several_threads_loses_nothing(clock, capsys):
    with progress.work("m", 4000, "prompt", shown=True) as advance:
        threads = [threading.Thread(target=lambda: [advance(1) for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clock.now += 60
        advance(0)
    assert capsys.readouterr().err.startswith("m: 4000 of 4000 prompts")


def test_batches_and_counted_steps_are_told(clock, capsys):
    plan = plan_batches(wrap_model(make_hf("neox"), byte_tokenizer(), name="tiny"), 2, progress=True)

    def run(some):
        clock.now += 45

    plan.run(range(6), run, take=lambda left: (2, 3), doing="patch")
    assert capsys.readouterr().err == "tiny: patch: 4 of 6 prompts, 0:01:30 so far, about 0:00:45 left\n"
    assert [*progress.counted("ab", "lens", 2, "step", shown=True)] == ["a", "b"]


def test_a_terminal_and_a_notebook_have_a_bar(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.work("m", 3, "prompt", shown=True) as advance:
        advance(3)
    assert "m:" in sys.stderr.getvalue() and "\r" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not progress.shows_bars()
    monkeypatch.setitem(sys.modules, "ipykernel", io)
    assert progress.shows_bars()
