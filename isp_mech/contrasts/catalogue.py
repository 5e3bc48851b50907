"""The tasks by their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from isp_mech.contrasts.heavier_object import TASK as HEAVIER_OBJECT
from isp_mech.contrasts.hindsight_neglect import TASK as HINDSIGHT_NEGLECT
from isp_mech.contrasts.into_the_unknown import TASK as INTO_THE_UNKNOWN
from isp_mech.contrasts.linear_expressions import TASK as LINEAR_EXPRESSIONS
from isp_mech.contrasts.memo_trap import TASK as MEMO_TRAP
from isp_mech.contrasts.modus_tollens import TASK as MODUS_TOLLENS
from isp_mech.contrasts.neqa import TASK as NEQA
from isp_mech.contrasts.pattern_matching_suppression import TASK as PATTERN_MATCHING_SUPPRESSION
from isp_mech.contrasts.prompt_injection import TASK as PROMPT_INJECTION
from isp_mech.contrasts.quote_repetition import TASK as QUOTE_REPETITION
from isp_mech.contrasts.redefine_math import TASK as REDEFINE_MATH
from isp_mech.contrasts.repetitive_algebra import TASK as REPETITIVE_ALGEBRA
from isp_mech.contrasts.resisting_correction import TASK as RESISTING_CORRECTION
from isp_mech.contrasts.sampling import ContrastTask
from isp_mech.contrasts.sig_figs import TASK as SIG_FIGS
from isp_mech.errors import InputError
from isp_mech.tasks import PairSet

TASKS = (
    NEQA,
    QUOTE_REPETITION,
    REDEFINE_MATH,
    HINDSIGHT_NEGLECT,
    HEAVIER_OBJECT,
    LINEAR_EXPRESSIONS,
    MEMO_TRAP,
    MODUS_TOLLENS,
    PATTERN_MATCHING_SUPPRESSION,
    RESISTING_CORRECTION,
    REPETITIVE_ALGEBRA,
    INTO_THE_UNKNOWN,
    SIG_FIGS,
    PROMPT_INJECTION,
)


def contrast_names() -> tuple[str, ...]:
    """The names that ``contrast`` knows; the first four are the prize's.

    >>> contrast_names()[:4]
    ('neqa', 'quote-repetition', 'redefine-math', 'hindsight-neglect')
    """
    return tuple(task.name for task in TASKS)


def contrast_variants(name: str) -> Mapping[str, str]:
    """``{variant: what differs}`` of the task ``name``, in one line each; ``InputError`` for an unknown name.

    >>> contrast_variants("heavier-object")["shots-1"]
    'one shot shown first'
    """
    return {variant: text for variant, text in _task(name).variants.items() if variant}


def task_lines() -> list[tuple[str, str]]:
    """``(name, what it asks)`` of every task, one line each, its variants indented under it as ``:variant``."""
    texts = [(task.name, variant, text) for task in TASKS for variant, text in task.variants.items()]
    return [(f"  :{variant}" if variant else name, text) for name, variant, text in texts]


def contrast(name: str, *, n: int = 300, seed: int = 0, source: str | Path | None = None, variant: str = "") -> PairSet:
    """``n`` distinct pairs of the task ``name``; the same for the same ``seed``, and the first of any larger ``n``.

    ``source`` is a file to draw from in place of the project's own list: quotations, facts, constants or objects.
    ``variant`` is one of ``contrast_variants(name)``: the same task with one thing changed, its pairs named
    ``name:variant``, and where that can be, pair by pair about the same thing. Raises ``InputError`` for an unknown
    name or variant, a bad file, or more pairs than there are, saying how many that is.

    >>> contrast("redefine-math", n=2)[0].factor, contrast("neqa", n=1, variant="twin").name
    ('definition', 'neqa:twin')
    """
    return _task(name).pairs(n=n, seed=seed, source=source, variant=variant)


def _task(name: str) -> ContrastTask:
    for task in TASKS:
        if task.name == name:
            return task
    raise InputError("contrast", [f"{name!r}: expected one of {', '.join(contrast_names())}"])
