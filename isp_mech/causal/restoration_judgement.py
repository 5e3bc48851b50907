"""What an intervention does on pairs that did not choose it: what it restores, what it costs, and against chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from isp_mech.causal.intervention_changes import Bound
from isp_mech.causal.intervention_parts import ONWARD
from isp_mech.causal.intervention_values import Intervention
from isp_mech.causal.neutral_text import next_token_divergence
from isp_mech.causal.random_changes import random_changes
from isp_mech.causal.restoration_search import (
    PairHalf,
    PromptSide,
    answer_lengths,
    loss_per_token,
    neutral_losses,
)
from isp_mech.sites import DECISION
from isp_mech.stats import bootstrap_interval, sequential_random_p
from isp_mech.tables.columns import mean_columns
from isp_mech.tasks import Pair

CHUNKS = (25, 55, 120)  # random changes judged at a time
Row = dict[str, str | int | float | bool]


def both_sides(made: Intervention, half: PairHalf) -> tuple[np.ndarray, np.ndarray]:
    """(pair, 2) of the conflict and of the plain prompts: the margin as it is, and with the intervention."""
    two = [Intervention(), made]
    return half.conflict.of(two), half.plain.of(two)


def judge(
    made: Intervention,
    fitted: Intervention,
    half: PairHalf,
    neutral: PromptSide,
    margins: Sequence[np.ndarray],
    *,
    n_random: int,
    seed: int,
) -> Row:
    """What the intervention does on the half: a row of the table ``restoration``, but for q and whether it restores.
    ``fitted`` is ``made`` with its vectors; ``margins`` are those of ``both_sides``."""
    two = [Intervention(), made]
    conflict, plain = margins
    right_conflict, right_plain = conflict > 0, plain < 0
    losses = neutral_losses(neutral, neutral.of(two))
    overridden = right_plain[:, 0] & ~right_conflict[:, 0]
    right = np.concatenate([right_conflict, right_plain])
    row: Row = {
        "intervention": str(fitted),
        "saved": fitted.to_json(),
        "n_sites": len({site for part in made.parts for site in part.sites}),
        "n_layers": len(_layers(made, half.conflict.bound.model.architecture.n_layers)),
        "n_tokens": tokens_touched(made, half.conflict.bound),
        "plain_tokens": tokens_touched(made, half.plain.bound),
        "needs": fitted.needs,
        "n": len(conflict),
        "n_overridden": int(overridden.sum()),
        "neutral_information": neutral.information,
        "q": np.nan,
        "restoring": False,
    }
    for name, values in (
        ("conflict_before", right_conflict[:, 0]),
        ("conflict_after", right_conflict[:, 1]),
        ("gain", right_conflict[:, 1].astype(float) - right_conflict[:, 0]),
        ("plain_before", right_plain[:, 0]),
        ("plain_after", right_plain[:, 1]),
        ("restored", right_conflict[overridden, 1]),
        ("broken", ~right[right[:, 0], 1]),
        ("neutral_kl", _divergence(made, neutral)),
    ):
        row |= _mean(name, values, seed)
    for name, loss in (("neutral_before", losses[:, 0]), ("neutral_after", losses[:, 1])):
        both = np.stack([loss, answer_lengths(neutral)], 1)
        lo, hi = bootstrap_interval(both, statistic=lambda x: x[:, :1].sum(0) / x[:, 1:].sum(0), seed=seed)
        ends = {f"{name}_lo": float(np.ravel(lo)[0]), f"{name}_hi": float(np.ravel(hi)[0])}
        row |= {name: loss_per_token(neutral, loss), **ends}
    few = overridden[: len(half.few.bound.prompts)]
    return row | _against_random(made, half.few, few, n_random, seed)


def _divergence(made: Intervention, neutral: PromptSide) -> np.ndarray:
    changes = neutral.bound.changes(made)
    return next_token_divergence(neutral.bound.prompts, changes, neutral.plan, unchanged=neutral.unchanged)


def same_answer(pairs: Sequence[Pair], margins: Sequence[np.ndarray]) -> float:
    """The largest share of these pairs' prompts, both sides', that are answered by one completion, or by the one that
    stands at one place among the classes, where the margins are those of the conflict and of the plain prompts: at most
    a half where all are right."""
    told = [pair.answer if m > 0 else pair.lure for side in margins for pair, m in zip(pairs, side, strict=True)]
    place = [
        pair.answer_index if m > 0 else 1 - pair.answer_index
        for side in margins
        for pair, m in zip(pairs, side, strict=True)
    ]
    return max(max(Counter(told).values()), max(Counter(place).values())) / len(told)


def _mean(name: str, values: np.ndarray, seed: int) -> Row:
    if not len(values):
        return {name: np.nan, f"{name}_lo": np.nan, f"{name}_hi": np.nan}
    return {key: float(v[0]) for key, v in mean_columns(name, values.astype(float)[:, None], seed).items()}


def _against_random(made: Intervention, side: PromptSide, overridden: np.ndarray, n_random: int, seed: int) -> Row:
    """The same, of the intervention and of random changes, on the first pairs of the half."""
    drawn = random_changes(made, side.bound, n_random, seed)
    own = _quality(side.of([made])[:, 0])
    restored: list[float] = []

    def at_least_as_good() -> Iterator[bool]:
        sizes, done = iter(CHUNKS), 0
        while done < len(drawn):
            some = drawn[done:][: next(sizes, CHUNKS[-1])]
            done += len(some)
            for margins in side.margins(some).T:
                restored.append(float((margins[overridden] > 0).mean()) if overridden.any() else np.nan)
                yield _quality(margins) >= own

    test = sequential_random_p(at_least_as_good(), n_max=len(drawn)) if drawn else None
    return {
        "restored_random": float(np.mean(restored)) if restored else np.nan,
        "n_random": test.drawn if test else 0,
        "p": test.p if test else 1.0,
    }


@dataclass(frozen=True, order=True)
class _Quality:
    """How good a change is on the conflict side: its accuracy, and its mean margin where accuracies are equal."""

    accuracy: float
    margin: float


def _quality(margins: np.ndarray) -> _Quality:
    return _Quality(float((margins > 0).mean()), float(margins.mean()))


def _layers(made: Intervention, n_layers: int) -> set[int]:
    of_attention = {
        layer for part in made.parts if part.role for layer in (range(n_layers) if part.layers is None else part.layers)
    }
    return of_attention | {site.layer for part in made.parts for site in part.sites}


def tokens_touched(made: Intervention, bound: Bound) -> float:
    """How many tokens of a prompt are changed, or are attended to otherwise, on average."""
    ats = {part.role or part.at for part in made.parts}
    counts = np.zeros(len(bound.prompts))
    for at in ats:
        counts += 1.0 if at in (DECISION, ONWARD) else np.array([len(mine) for mine in bound.tokens(at, early=True)])
    return float(counts.mean())
