"""From log-probabilities to tables: rows per completion, per item, per side, per pair's kind, per difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isp_mech.scoring.completion_logprobs import Case, ClassLogprobs
from isp_mech.stats import bootstrap_interval
from isp_mech.tables import Run, Table, concat, table
from isp_mech.tasks import PairSet, Task
from isp_mech.tracing.trace import Traces, join_traces

LOW_COVERAGE = 1e-3
TIE = 1e-6
SHARES = {(True, True): "follows", (True, False): "overridden", (False, True): "contrary", (False, False): "lost"}
Head = Mapping[str, str | int]


@dataclass(frozen=True)
class Scores:
    """What scoring gives: a row per completion, per item, per side and model; for pairs, the four shares per
    model; for metrics with a number of their own, that number per item and its mean per model; and a row for
    every completion on which the rules ``strict`` and ``prize`` differ.

    ``items`` and ``curve`` are empty where nothing is right or wrong (sequence_prob, numeric). ``traces`` are
    there where they were asked for.
    """

    scores: Table
    items: Table
    curve: Table
    shares: Table | None = None
    values: Table | None = None
    value_curve: Table | None = None
    rule_differences: Table | None = None
    traces: Traces | None = None


def join(parts: Sequence[Scores]) -> Scores:
    """The scores of several models as one."""

    def joined(name: str) -> Table | None:
        found = [t for t in (getattr(part, name) for part in parts) if t is not None]
        return concat(found) if found else None

    traces = [part.traces for part in parts if part.traces is not None]
    return Scores(
        concat([p.scores for p in parts]),
        concat([p.items for p in parts]),
        concat([p.curve for p in parts]),
        shares=joined("shares"),
        values=joined("values"),
        value_curve=joined("value_curve"),
        rule_differences=joined("rule_differences"),
        traces=join_traces(traces) if traces else None,
    )


def completion_rows(head: Head, cases: Sequence[Case], found: ClassLogprobs) -> list[dict]:
    """Rows of ``scores``."""
    return [
        {
            **head,
            "item": case.item,
            "side": case.side,
            "class_index": j,
            "class_text": text,
            "logprob": logprobs[j],
            "normalised_logprob": normalised[j],
            "is_answer": j == case.right,
            "n_tokens": len(tokens[j]),
            "token_ids": spelt(tokens[j]),
        }
        for case, logprobs, tokens in zip(cases, found.logprobs, found.tokens, strict=True)
        for normalised in (logprobs - total(logprobs),)
        for j, text in enumerate(case.classes)
    ]


def total(logprobs: np.ndarray) -> float:
    """The log-probability of all completions together."""
    return np.logaddexp.reduce(logprobs)  # scipy's takes a hundred times as long for a handful


def spelt(tokens: Sequence[int]) -> str:
    """Token ids as one text, so that a table can hold them."""
    return " ".join(map(str, tokens))


def judge(case: Case, logprobs: np.ndarray) -> dict[str, float | int | bool]:
    """One item: which completion is the likeliest, and by how much."""
    best, together = predicted(logprobs), total(logprobs)
    lure = np.delete(logprobs, case.answer).max() if case.lure is None else logprobs[case.lure]
    return {
        "correct": best == case.right,
        "predicted_index": best,
        "loss": float(together - logprobs[case.right]),
        "total_logprob": float(together),
        "margin": float(logprobs[case.answer] - lure),
        "tie": bool(np.sum(logprobs >= logprobs.max() - TIE) > 1),
    }


def predicted(logprobs: np.ndarray) -> int:
    """The likeliest completion; of those equal up to rounding, the first."""
    return int(np.argmax(logprobs >= logprobs.max() - TIE))


def baselines(source: PairSet | Task, cases: Sequence[Case]) -> dict[str, float]:
    """Accuracy of guessing per side, mean of 1/k; NaN where completions are not equally likely a priori."""
    if not source.equally_likely:
        return {}
    sides: dict[str, list[float]] = {}
    for case in cases:
        sides.setdefault(case.side, []).append(1 / len(case.classes))
    return {side: float(np.mean(v)) for side, v in sides.items()}


def curve_rows(
    head: Head, cases: Sequence[Case], items: Sequence[dict], by_guessing: Mapping[str, float], seed: int
) -> Iterable[dict]:
    """Rows of ``curve``: one a side."""
    for side in dict.fromkeys(c.side for c in cases):
        here = [i for c, i in zip(cases, items, strict=True) if c.side == side]
        values = np.array([[i["correct"], i["loss"]] for i in here], dtype=float)
        lo, hi = bootstrap_interval(values, seed=seed)
        yield {
            **head,
            "side": side,
            "accuracy": values[:, 0].mean(),
            "accuracy_lo": lo[0],
            "accuracy_hi": hi[0],
            "loss": values[:, 1].mean(),
            "loss_lo": lo[1],
            "loss_hi": hi[1],
            "coverage": float(np.mean(np.exp([i["total_logprob"] for i in here]))),
            "ties": int(sum(i["tie"] for i in here)),
            "n": len(here),
            "baseline": by_guessing.get(side, np.nan),
        }


def doubts(name: str, curve: Sequence[dict]) -> list[str]:
    """Notes on low coverage and on ties, if there are any."""
    low = [r["side"] for r in curve if r["coverage"] < LOW_COVERAGE]
    ties = [f"{r['ties']} of {r['n']} on side {r['side']}" for r in curve if r["ties"]]
    notes = []
    if low:
        sides = ", ".join(low)
        notes.append(
            f"{name}: mean coverage under {LOW_COVERAGE:g} on side {sides}: the completions are hardly ever said"
        )
    if ties:
        notes.append(f"{name}: ties, {'; '.join(ties)}")
    return notes


def shares_table(head: Head, cases: Sequence[Case], items: Sequence[dict], run: Run, seed: int) -> Table:
    """The four shares of a model: what each pair shows on its plain and conflict prompts."""
    right = {(c.item, c.side): bool(i["correct"]) for c, i in zip(cases, items, strict=True)}
    ids = list(dict.fromkeys(c.item for c in cases))
    kinds = [SHARES[right[i, "plain"], right[i, "conflict"]] for i in ids]
    values = np.array([[kind == name for name in SHARES.values()] for kind in kinds], dtype=float)
    lo, hi = bootstrap_interval(values, seed=seed)
    row: dict = {**head, "n": len(ids)}
    for k, name in enumerate(SHARES.values()):
        row |= {name: values[:, k].mean(), f"{name}_lo": lo[k], f"{name}_hi": hi[k]}
    return table("shares", [row], run)


def value_tables(
    head: Head, metric: str, ids: Sequence[str], values: np.ndarray, n_parsed: np.ndarray | None, run: Run, seed: int
) -> tuple[Table, Table]:
    """``values`` and ``value_curve`` of a metric that gives each item a number."""
    lo, hi = bootstrap_interval(values, seed=seed)
    rows = [
        {**head, "item": item, "metric": metric, "value": value, "n_parsed": None if n_parsed is None else n_parsed[i]}
        for i, (item, value) in enumerate(zip(ids, values, strict=True))
    ]
    mean = {"value": float(values.mean()), "value_lo": lo, "value_hi": hi, "n": len(ids)}
    return table("values", rows, run), table("value_curve", [{**head, "metric": metric, **mean}], run)


def difference_rows(head: Head, cases: Sequence[Case], found: ClassLogprobs, rule: str) -> list[dict]:
    """Rows of ``rule_differences``, with the completion that each rule finds likeliest in the item."""
    by_case: dict[int, dict[str, np.ndarray]] = {}
    for differing in found.differences:
        case, index = differing.difference.case, differing.difference.index
        logprobs = by_case.setdefault(case, {name: found.logprobs[case].copy() for name in ("strict", "prize")})
        logprobs["strict"][index], logprobs["prize"][index] = differing.strict, differing.prize

    def best(case: int, name: str) -> int | None:
        logprobs = by_case[case][name]
        return None if np.isnan(logprobs).any() else predicted(logprobs)

    return [
        {
            **head,
            "item": cases[d.case].item,
            "side": cases[d.case].side,
            "class_index": d.index,
            "class_text": cases[d.case].classes[d.index],
            "strict_token_ids": spelt(d.strict.targets) if d.strict else "",
            "prize_token_ids": spelt(d.prize.targets) if d.prize else "",
            "strict_logprob": differing.strict,
            "prize_logprob": differing.prize,
            "strict_predicted": best(d.case, "strict"),
            "prize_predicted": best(d.case, "prize"),
            "reason": d.reason,
        }
        for differing in found.differences
        for d in (differing.difference,)
    ]
