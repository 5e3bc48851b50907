"""Tasks as contrasting pairs, one file for each: four of the prize's first round, two that readers asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from isp_mech.contrasts import (
    heavier_object,
    hindsight_neglect,
    linear_expressions,
    neqa,
    quote_repetition,
    redefine_math,
)
from isp_mech.errors import InputError
from isp_mech.tasks import PairSet

_TASKS = (neqa, quote_repetition, redefine_math, hindsight_neglect, heavier_object, linear_expressions)


def contrast_names() -> tuple[str, ...]:
    """The names that ``contrast`` knows; the first four are the prize's.

    >>> contrast_names()
    ('neqa', 'quote-repetition', 'redefine-math', 'hindsight-neglect', 'heavier-object', 'linear-expressions')
    """
    return tuple(task.NAME for task in _TASKS)


def contrast_variants(name: str) -> Mapping[str, str]:
    """``{variant: what differs}`` of the task ``name``, in one line each; ``InputError`` for an unknown name.

    >>> contrast_variants("heavier-object")["shots-1"]
    'one shot shown first'
    """
    return next((dict(task.VARIANTS) for task in _TASKS if task.NAME == name), None) or _unknown(name)


def task_lines() -> list[tuple[str, str]]:
    """``(name, what it asks)`` of every task, one line each, its variants indented under it as ``:variant``."""
    lines = []
    for task in _TASKS:
        lines.append((task.NAME, (task.__doc__ or "").split("\n")[0].split(": ", 1)[1]))
        lines += [(f"  :{variant}", text) for variant, text in task.VARIANTS.items()]
    return lines


def contrast(name: str, *, n: int = 300, seed: int = 0, source: str | Path | None = None, variant: str = "") -> PairSet:
    """``n`` distinct pairs of the task ``name``; the same for the same ``seed``, and the first of any larger ``n``.

    ``source`` is a file to draw from in place of the project's own list: quotations, facts, constants or
    objects (see each task's ``*_from_file``). ``variant`` is one of ``contrast_variants(name)``: the same task
    with one thing changed, its pairs named ``name:variant``, and where that can be, pair by pair about the
    same thing. Raises ``InputError`` for an unknown name or variant, a bad file, or more pairs than
    there are, saying how many that is.

    >>> contrast("redefine-math", n=2)[0].factor, contrast("neqa", n=1, variant="twin").name
    ('definition', 'neqa:twin')
    """
    for task in _TASKS:
        if task.NAME == name:
            return task.pairs(n=n, seed=seed, source=source, variant=variant)
    return _unknown(name)


def _unknown(name: str) -> NoReturn:
    raise InputError("contrast", [f"{name!r}: expected one of {', '.join(contrast_names())}"])
