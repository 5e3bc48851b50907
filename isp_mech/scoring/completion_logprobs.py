"""What is asked: the prompts with their completions, for every metric that compares or scores completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from isp_mech.inference.batches import BatchPlan, BatchSize, plan_batches
from isp_mech.inference.finite import check_finite
from isp_mech.inference.logprobs import completion_logprobs, groups_for
from isp_mech.inference.prefix_tree import CompletionTokens, PrefixGroup
from isp_mech.inference.tokenization import Asked, Difference, Rule, encode_both
from isp_mech.models import Model
from isp_mech.tasks import PairSet, Task
from isp_mech.tracing.trace import Logprobs

LOGODDS = ("logodds", "absolute_logodds")
NOTHING_KNOWN: Logprobs = MappingProxyType({})


@dataclass(frozen=True)
class Case:
    """One prompt with its completions. ``right`` is the index of the one this prompt asks for;
    ``answer`` and ``lure`` those between which the margin is taken (no ``lure``: the best other)."""

    item: str
    side: str
    prompt: str
    classes: tuple[str, ...]
    right: int
    answer: int
    lure: int | None = None

    @property
    def name(self) -> str:
        """How messages call it: the item's id, with the side where there are several."""
        return self.item if self.side == "item" else f"{self.item} ({self.side})"


def cases_of(pairs_or_task: PairSet | Task) -> list[Case]:
    """The prompts to score: conflict, plain and neutral of every pair; the items of a task, for log-odds
    their two prompts. A numeric task has none."""
    if isinstance(pairs_or_task, Task):
        items = pairs_or_task.items
        if pairs_or_task.metric == "numeric":
            return []
        if pairs_or_task.metric in LOGODDS:
            both = [(i, side, str(getattr(i, side))) for i in items for side in ("prompt", "other_prompt")]
            return [Case(i.id, side, prompt, tuple(i.classes), i.answer, i.answer) for i, side, prompt in both]
        return [Case(i.id, "item", i.prompt, tuple(i.classes), i.answer, i.answer) for i in items]
    cases = []
    for pair in pairs_or_task:
        for side, prompt, right, wrong in pair.sides():
            first, second = (right, wrong) if (pair.answer_index == 0) == (side != "plain") else (wrong, right)
            right_at = 0 if first == right else 1
            answer_at = 1 - right_at if side == "plain" else right_at
            cases.append(Case(pair.id, side, prompt.text, (first, second), right_at, answer_at, 1 - answer_at))
    return cases


@dataclass(frozen=True)
class RuleDifference:
    """A completion that the two rules read differently, and its log-probability by each, nats."""

    difference: Difference
    strict: float
    prize: float


@dataclass(frozen=True)
class ClassLogprobs:
    """Per case, each completion's log-probability (nats) and the tokens it was scored on; per difference of the
    rules, its log-probability by ``strict`` and by ``prize`` (NaN where a rule does not apply)."""

    logprobs: list[np.ndarray]
    tokens: list[list[tuple[int, ...]]]
    differences: list[RuleDifference]
    plan: BatchPlan


@dataclass(frozen=True)
class CaseTokens:
    """The cases' queries by one rule, where the other rule differs, and what is run: the groups of both.

    ``other[i]`` is the place, in the group of difference i's case, of the query that the other rule asks there; -1
    where it asks none.
    """

    asked: list[Asked]
    differences: list[Difference]
    groups: list[list[CompletionTokens]]
    other: list[int]
    packed: dict[tuple[object, ...], list[PrefixGroup]]  # by what prompts share

    def packed_for(self, model: Model) -> list[PrefixGroup]:
        """The groups, packed for ``model``: once for all models that accept the same."""
        how = model.shares_trees, model.uses_prefix_caches, model.architecture.length_rule
        if how not in self.packed:
            self.packed[how] = groups_for(model, self.groups)
        return self.packed[how]


@dataclass
class Reader:
    """Reads the cases for one model after the other, anew only where the tokenizer is another one."""

    cases: Sequence[Case]
    rule: Rule
    last_token: bool
    _latest: tuple[object, CaseTokens] | None = None

    def read(self, model: Model) -> CaseTokens:
        """The queries of every case by ``rule``, and where the other rule reads differently (see ``encode_both``)."""
        reads_alike = model.reads_alike
        if self._latest is None or self._latest[0] != reads_alike:
            self._latest = reads_alike, self._read(model)
        return self._latest[1]

    def _read(self, model: Model) -> CaseTokens:
        asked, differences = encode_both(
            model,
            [c.prompt for c in self.cases],
            [c.classes for c in self.cases],
            [c.name for c in self.cases],
            rule=self.rule,
            last_token=self.last_token,
        )
        groups: list[list[CompletionTokens]] = [list(a.queries) for a in asked]
        other = []
        for found in differences:
            query = found.prize if self.rule == "strict" else found.strict
            other.append(len(groups[found.case]) if query is not None else -1)
            groups[found.case] += [query] if query is not None else []
        return CaseTokens(asked, differences, groups, other, {})


def class_logprobs(
    model: Model,
    cases: Sequence[Case],
    *,
    rule: Rule = "strict",
    last_token: bool = False,
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> ClassLogprobs:
    """l_j of every completion of every case: float32 log-probabilities, whatever the packing and the batches.

    Where the rules differ, the other rule's tokens are scored in the same forward. ``last_token`` asks for the one
    token of a class that log-odds compare.
    """
    return logprobs_of(Reader(cases, rule, last_token), plan_batches(model, batch_size, progress=progress))


def logprobs_of(reader: Reader, plan: BatchPlan, known: Logprobs = NOTHING_KNOWN) -> ClassLogprobs:
    """``class_logprobs`` of the reader's cases. ``known`` has, by item and side, what tracing measured already:
    log p(answer) and log p(lure)."""
    tokens = reader.read(plan.model)
    given = [_in_order(case, known) for case in reader.cases]
    left = [group[len(values) :] for group, values in zip(tokens.groups, given, strict=True)]
    packed = groups_for(plan.model, [group for group in left if group]) if known else tokens.packed_for(plan.model)
    measured = np.split(completion_logprobs(packed, plan), np.cumsum([len(group) for group in left])[:-1])
    by_group = [np.concatenate(both) for both in zip(given, measured, strict=True)]
    check_finite(
        np.array([values.sum() for values in by_group]), [f"item {c.name}" for c in reader.cases], plan.model.name
    )
    differing = []
    for difference, place in zip(tokens.differences, tokens.other, strict=True):
        values = by_group[difference.case]
        mine, others = float(values[difference.index]), float(values[place]) if place >= 0 else np.nan
        by_rule = (mine, others) if reader.rule == "strict" else (others, mine)
        differing.append(RuleDifference(difference, *by_rule))
    return ClassLogprobs(
        [values[: len(c.classes)] for values, c in zip(by_group, reader.cases, strict=True)],
        [[q.targets for q in a.queries] for a in tokens.asked],
        differing,
        plan,
    )


def _in_order(case: Case, known: Logprobs) -> np.ndarray:
    """What is known of a case's classes, in their order; empty where nothing is."""
    found = known.get((case.item, case.side))
    return np.zeros(0) if found is None else np.array(found if case.answer == 0 else found[::-1], dtype=float)
