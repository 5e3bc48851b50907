"""Scores: the probability of each given completion after its prompt, as the prize counts it.

classification: l_j is the sum of log-softmax at the tokens of completion j, in float32, without length
normalisation; the normalised log-probability is the log-softmax of l over the item's completions. ``loss`` is
minus that of the right one; ``correct`` says that the right one is the largest, ties to the lowest index.

sequence_prob: minus the log-probability of the one completion. logodds: with lo the difference of two classes'
log-probabilities after a prompt, lo(prompt) - lo(other_prompt), negated where the answer is the second class;
absolute_logodds is its size; ``correct`` is judged on other_prompt. numeric: see ``numeric.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from isp_mech.errors import InputError
from isp_mech.inference.batches import check_batch_size
from isp_mech.inference.contrast_prompts import run_of
from isp_mech.inference.tokenization import start_token
from isp_mech.models import Model, Models, in_float32, members
from isp_mech.scoring import metrics
from isp_mech.scoring.completion_logprobs import (
    LOGODDS,
    NOTHING_KNOWN,
    Case,
    ClassLogprobs,
    Reader,
    cases_of,
    class_logprobs,
)
from isp_mech.scoring.metrics import Scores, join
from isp_mech.scoring.numeric import estimates
from isp_mech.tables import Run, Setting, table
from isp_mech.tasks import PairSet, Task
from isp_mech.tracing.trace import trace_model

__all__ = ["Case", "ClassLogprobs", "Models", "Reader", "Scores", "cases_of", "class_logprobs", "join", "score"]

PRECISION_SAMPLE = 16  # prompts on which half precision is compared with float32
NAMED = 20  # items that a note names


def score(
    pairs_or_task: PairSet | Task,
    models: Models,
    *,
    rule: str = "strict",
    trace: bool = False,
    batch_size: int | str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Scores:
    """Tables ``scores``, ``items``, ``curve`` of every model, and more by what is scored (see ``Scores``).

    ``models`` is a Family, one Model, or a list of models, folders and hub ids. Log-probabilities are
    in nats. On the plain side of a pair the lure is the right completion, so ``correct`` there means
    that the lure is the likelier one; ``margin`` is answer less lure on every side. Intervals are 95 %
    bootstrap intervals over items, the same resamples for every model; they come from ``seed``.
    A model in half precision is compared with float32 on a few prompts, and its Run says how far they are
    apart. With ``trace``, for pairs and the rule strict, the forwards that score also trace: ``traces`` is what
    the function of that name gives. Raises ``InputError`` that lists the items to which ``rule`` does not apply.
    """
    check_batch_size(batch_size)
    if trace and (rule != "strict" or isinstance(pairs_or_task, Task)):
        raise InputError("trace", [f"rule {rule}, {pairs_or_task.name}: expected contrasting pairs and rule strict"])
    metric = pairs_or_task.metric if isinstance(pairs_or_task, Task) else "classification"
    cases = cases_of(pairs_or_task)
    reader = Reader(cases, rule, metric in LOGODDS)
    per_model = []
    for model in members(models):
        if metric == "numeric":
            assert isinstance(pairs_or_task, Task)
            per_model.append(_numeric(model, pairs_or_task, rule, seed, batch_size, progress))
            continue
        traces, known = None, NOTHING_KNOWN
        if trace and isinstance(pairs_or_task, PairSet):
            traces, known = trace_model(
                model, pairs_or_task, scored=True, batch_size=batch_size, seed=seed, progress=progress
            )
        found = class_logprobs(model, cases, known=known, reader=reader, batch_size=batch_size, progress=progress)
        settings, notes = _precision(model, cases, found, rule, metric)
        if found.plan.halvings:
            notes.append(f"{model.name}: memory ran out; batches were halved to {found.plan.tokens} tokens")
        made = _tables(model, pairs_or_task, metric, cases, found, rule, seed, settings, notes)
        per_model.append(replace(made, traces=traces))
    return join(per_model)


def _precision(
    model: Model, cases: Sequence[Case], found: ClassLogprobs, rule: str, metric: str
) -> tuple[dict[str, Setting], list[str]]:
    """How far a model in half precision is from itself in float32, on evenly spread prompts."""
    if model.dtype == "float32":
        return {}, []
    reference = in_float32(model)
    if reference is None:
        return {}, [f"{model.name}: {model.dtype}; its difference to float32 was not measured (no room, or quantised)"]
    chosen = np.unique(np.linspace(0, len(cases) - 1, min(PRECISION_SAMPLE, len(cases))).round().astype(int)).tolist()
    exact = class_logprobs(reference, [cases[i] for i in chosen], rule=rule, last_token=metric in LOGODDS).logprobs
    gaps = np.concatenate([np.abs(found.logprobs[i] - e) for i, e in zip(chosen, exact, strict=True)])
    same = sum(metrics.predicted(found.logprobs[i]) == metrics.predicted(e) for i, e in zip(chosen, exact, strict=True))
    settings: dict[str, Setting] = {
        "float32_sample": len(chosen),
        "float32_mean_difference": float(gaps.mean()),
        "float32_largest_difference": float(gaps.max()),
        "float32_same_prediction": same,
    }
    return settings, [
        f"{model.name}: {model.dtype} differs from float32 by {gaps.mean():.2g} nats on average and {gaps.max():.2g} "
        f"at most in a class's log-probability, on {len(chosen)} prompts; {same} of them have the same prediction"
    ]


def _run(
    model: Model,
    source: PairSet | Task,
    metric: str,
    rule: str,
    seed: int,
    settings: dict[str, Setting],
    notes: Sequence[str],
) -> Run:
    start = start_token(model)
    packing = (
        "trees after shared trunks"
        if model.accepts_custom_masks
        else "trees"
        if model.accepts_trees
        else "plain batches"
    )
    if not model.accepts_trees:
        notes = [*notes, f"{model.name}: its attention takes no mask of ours, so prompts ran as plain batches"]
    return run_of(
        model,
        task=source.name,
        method=f"{metric}, rule {rule}",
        seed=seed,
        settings={
            "rule": rule,
            "start_token": "none" if start is None else str(model.tokenizer.convert_ids_to_tokens(start)),
            "packing": packing,
            **settings,
        },
        notes=notes,
    )


def _tables(
    model: Model,
    source: PairSet | Task,
    metric: str,
    cases: Sequence[Case],
    found: ClassLogprobs,
    rule: str,
    seed: int,
    settings: dict[str, Setting],
    notes: list[str],
) -> Scores:
    head: dict[str, str | int] = {"model": model.name, "n_params": model.n_params, "task": source.name}
    judged = [(c, v) for c, v in zip(cases, found.logprobs, strict=True) if c.side != "prompt" and len(c.classes) > 1]
    told = [replace(c, side="item") if c.side == "other_prompt" else c for c, _ in judged]
    items = [metrics.judge(case, logprobs) for case, logprobs in judged]
    curve = list(metrics.curve_rows(head, told, items, metrics.baselines(source, told), seed))
    differing = list(dict.fromkeys(cases[d.case].name for d, _, _ in found.differences))
    if differing:
        names = ", ".join(differing[:NAMED]) + (", ..." if len(differing) > NAMED else "")
        notes = [*notes, f"{model.name}: rules strict and prize differ on {len(differing)} of {len(cases)}: {names}"]
    run = _run(model, source, metric, rule, seed, settings, [*metrics.doubts(model.name, curve), *notes])
    rows = [{**head, "item": c.item, "side": c.side, **i} for c, i in zip(told, items, strict=True)]
    made = Scores(
        table("scores", metrics.completion_rows(head, cases, found), run),
        table("items", rows, run),
        table("curve", curve, run),
        metrics.shares_table(head, cases, items, run, seed) if isinstance(source, PairSet) else None,
        rule_differences=table("rule_differences", metrics.difference_rows(head, cases, found, rule), run),
    )
    if metric == "classification":
        return made
    ids = list(dict.fromkeys(c.item for c in cases))
    numbers = _values(metric, cases, found.logprobs)
    values, value_curve = metrics.value_tables(head, metric, ids, numbers, None, run, seed)
    return replace(made, values=values, value_curve=value_curve)


def _values(metric: str, cases: Sequence[Case], logprobs: Sequence[np.ndarray]) -> np.ndarray:
    """The number that the metric gives each item; log-odds cases come as prompt, other_prompt, prompt, ..."""
    if metric == "sequence_prob":
        return np.array([-float(v[0]) for v in logprobs])
    odds = np.array([float(v[0] - v[1]) for v in logprobs])
    change = odds[0::2] - odds[1::2]
    if metric == "absolute_logodds":
        return np.abs(change)
    return np.where([c.answer == 1 for c in cases[0::2]], -change, change)


def _numeric(model: Model, task: Task, rule: str, seed: int, batch_size: int | str, progress: bool) -> Scores:
    numbers, n_parsed = estimates(model, task.items, rule=rule, seed=seed, batch_size=batch_size, progress=progress)
    head: dict[str, str | int] = {"model": model.name, "n_params": model.n_params, "task": task.name}
    notes = [f"{model.name}: {model.dtype}; its difference to float32 was not measured, since numbers are sampled"]
    run = _run(model, task, "numeric", rule, seed, {}, notes if model.dtype != "float32" else [])
    values, value_curve = metrics.value_tables(
        head, "numeric", [i.id for i in task.items], numbers, n_parsed, run, seed
    )
    scores, items, curve = (table(name, [], run) for name in ("scores", "items", "curve"))
    return Scores(scores, items, curve, values=values, value_curve=value_curve)
