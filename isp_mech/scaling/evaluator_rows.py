"""One item's results, from a row of the prize's evaluator or from a logged sample of lm-evaluation-harness.

Every function raises ``ValueError`` where a row cannot be what it says of the item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from isp_mech.scaling.group_rows import Row
from isp_mech.tasks import Item, Metric

TIE = 1e-6  # as in scoring: classes so near are equally likely
ROUNDED = 1e-4  # what a float32 evaluator may be off
COLUMNS: Mapping[Metric, tuple[str, ...]] = MappingProxyType(
    {
        "classification": ("loss", "correct"),
        "sequence_prob": ("loss",),
        "logodds": ("logodds_difference", "correct"),
        "absolute_logodds": ("logodds_difference", "correct"),
        "numeric": ("estimate",),
    }
)


def from_evaluator(cells: Mapping[str, str], item: Item, metric: Metric) -> Row:
    """A row of ``items``, or of ``values``, from one of the prize's evaluator; ``ValueError`` where it cannot be so."""
    correct = _verdict(cells["correct"]) if "correct" in COLUMNS[metric] else None
    if metric != "classification":
        value = _number(cells, COLUMNS[metric][0], low=0.0 if metric == "sequence_prob" else -math.inf)
        return {"value": value} | ({} if correct is None else {"correct": correct})
    loss = _number(cells, "loss", low=0.0)
    total = _number(cells, "total_logprob", high=ROUNDED) if "total_logprob" in cells else math.nan
    two = len(item.classes) == 2
    if correct and loss > math.log(len(item.classes)) + ROUNDED:
        raise ValueError(f"correct with a loss of {loss:g}, expected {math.log(len(item.classes)):.4f} or less")
    if two and not correct and loss < math.log(2) - ROUNDED:
        raise ValueError(f"not correct with a loss of {loss:g}, expected {math.log(2):.4f} or more of two classes")
    predicted = _predicted(cells.get("predicted", ""), item, bool(correct))
    other = math.log(-math.expm1(-loss)) if loss > 0 else -math.inf
    margin = -loss - other if two and math.isfinite(other) else math.nan
    return {
        "correct": correct, "predicted_index": predicted, "loss": loss, "total_logprob": min(total, 0.0),
        "margin": margin, "tie": bool(two and abs(margin) <= TIE),
    }  # fmt: skip


def _predicted(text: str, item: Item, correct: bool) -> int:
    if text:
        if text not in item.classes:
            raise ValueError(f"predicted {text!r}, expected one of {list(item.classes)!r}")
        if (item.classes.index(text) == item.answer) != correct:
            raise ValueError(f"predicted {text!r}, correct {int(correct)}: the answer is {item.classes[item.answer]!r}")
        return item.classes.index(text)
    if correct:
        return item.answer
    if len(item.classes) > 2:
        raise ValueError(f"not correct, of {len(item.classes)} classes: expected a column predicted")
    return 1 - item.answer


def _verdict(text: str) -> bool:
    if text.strip().lower() not in ("0", "1", "0.0", "1.0", "true", "false"):
        raise ValueError(f"correct {text!r}, expected 0 or 1")
    return text.strip().lower() in ("1", "1.0", "true")


def _number(cells: Mapping[str, str], name: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    try:
        value = float(cells[name])
    except ValueError:
        value = math.nan
    if not (low - ROUNDED <= value <= high and math.isfinite(value)):
        raise ValueError(f"{name} {cells[name]!r}, expected a number{f' of {low:g} or more' if low == 0 else ''}")
    return max(value, low)


def from_sample(row: Mapping[str, Any], item: Item, metric: Metric) -> Row:
    """A row of ``items`` (or ``values``) from what was logged; ``ValueError`` for another prompt or other classes."""
    doc = row.get("doc")
    prompt = doc.get("prompt") if isinstance(doc, dict) else None
    if isinstance(prompt, str) and prompt.strip() != item.prompt.strip():
        raise ValueError(f"another prompt than the task's item {item.id!r}: {prompt[-40:]!r}")
    logged = row.get("filtered_resps", row.get("resps"))
    try:
        logprobs = np.array([float(_first(one)) for one in logged or ()])
    except (TypeError, ValueError):
        raise ValueError("filtered_resps: expected a log-probability for every class") from None
    n = len(item.classes)
    if len(logprobs) not in (n, 2 * n) or not np.isfinite(logprobs).all():  # twice as many: with the unconditional ones
        raise ValueError(f"{len(logprobs)} log-probabilities, expected {n}, one for every class")
    logprobs = logprobs[:n]
    if metric == "sequence_prob":
        return {"value": -float(logprobs[0])}
    best = int(np.argmax(logprobs >= logprobs.max() - TIE))
    total, others = np.logaddexp.reduce(logprobs), np.delete(logprobs, item.answer)
    return {
        "correct": best == item.answer, "predicted_index": best, "loss": float(total - logprobs[item.answer]),
        "total_logprob": float(total), "margin": float(logprobs[item.answer] - others.max()),
        "tie": bool(np.sum(logprobs >= logprobs.max() - TIE) > 1),
    }  # fmt: skip


def _first(one: Any) -> Any:
    """The log-probability in what was logged of one class: ``[-1.5, false]``, in some versions in one more list."""
    while isinstance(one, list) and one:
        one = one[0]
    return one
