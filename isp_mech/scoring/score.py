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
from dataclasses import dataclass, replace

import numpy as np

from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, BatchSize, each_model, plan_batches
from isp_mech.inference.contrast_prompts import head_of, run_of
from isp_mech.inference.tokenization import Rule
from isp_mech.models import ChatSetting, Model, Models, in_float32
from isp_mech.scoring import metrics
from isp_mech.scoring.changed_logprobs import ChangedForward, changed_logprobs
from isp_mech.scoring.completion_logprobs import (
    LOGODDS,
    NOTHING_KNOWN,
    Case,
    ClassLogprobs,
    Reader,
    cases_of,
    logprobs_of,
)
from isp_mech.scoring.metrics import Scores
from isp_mech.scoring.numeric import estimates
from isp_mech.sites import Tokens
from isp_mech.tables import Run, Setting, table
from isp_mech.tasks import PairSet, Task
from isp_mech.tracing.trace import cannot_trace, trace_model

PRECISION_SAMPLE = 16  # prompts on which half precision is compared with float32
NAMED = 20  # items that a note names


def score(
    pairs_or_task: PairSet | Task,
    models: Models,
    *,
    rule: Rule = "strict",
    trace: bool = False,
    tokens: Tokens = "first",
    intervention: ChangedForward | None = None,
    chat: ChatSetting | None = None,
    batch_size: BatchSize = "auto",
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
    the function of that name gives for ``tokens``, None where no model can be traced. With ``chat`` prompts go into
    each model's own chat template (a text: with that system text); left out, models stay as they were loaded. With
    an ``intervention`` (``im.causal``) every forward is changed by it. Raises ``InputError`` that lists the items to
    which ``rule`` does not apply.
    """
    if intervention is not None and (trace or rule != "strict" or _is_numeric(pairs_or_task)):
        expected = "expected rule strict, no trace, and a task whose completions are given"
        raise InputError("intervention", [f"rule {rule}, trace {trace}, {pairs_or_task.name}: {expected}"])
    if trace and (rule != "strict" or isinstance(pairs_or_task, Task)):
        raise InputError("trace", [f"rule {rule}, {pairs_or_task.name}: expected contrasting pairs and rule strict"])
    plans = each_model(models, batch_size, chat=chat, progress=progress)
    if isinstance(pairs_or_task, Task) and _is_numeric(pairs_or_task):
        return metrics.join([_numeric(pairs_or_task, plan, rule, seed) for plan in plans])
    metric = pairs_or_task.metric if isinstance(pairs_or_task, Task) else "classification"
    asked = _Asked(pairs_or_task, metric, Reader(cases_of(pairs_or_task), rule, metric in LOGODDS), seed, intervention)
    return metrics.join([_score_model(asked, plan, tokens if trace else None) for plan in plans])


def _is_numeric(pairs_or_task: PairSet | Task) -> bool:
    return isinstance(pairs_or_task, Task) and pairs_or_task.metric == "numeric"


@dataclass(frozen=True)
class _Asked:
    """What every model is asked, and by which metric it is judged."""

    source: PairSet | Task
    metric: str
    reader: Reader
    seed: int
    intervention: ChangedForward | None = None

    @property
    def cases(self) -> Sequence[Case]:
        return self.reader.cases


def _score_model(asked: _Asked, plan: BatchPlan, tokens: Tokens | None) -> Scores:
    if asked.intervention is not None:
        changed = changed_logprobs(asked.reader, asked.source, plan, asked.intervention)
        return _tables(asked, plan, changed, _Precision({"intervention": str(asked.intervention)}, []))
    traces, known = None, NOTHING_KNOWN
    if tokens is not None and isinstance(asked.source, PairSet) and not cannot_trace(plan.model):
        traced = trace_model(asked.source, plan, tokens=tokens, scored=True, seed=asked.seed)
        traces, known = traced.traces, traced.logprobs
    measured = logprobs_of(asked.reader, plan, known)
    return replace(_tables(asked, plan, measured, _precision(asked, plan.model, measured)), traces=traces)


@dataclass(frozen=True)
class _Precision:
    """How far a model in half precision is from itself in float32, on a few prompts: for its Run."""

    settings: dict[str, Setting]
    notes: list[str]


def _precision(asked: _Asked, model: Model, measured: ClassLogprobs) -> _Precision:
    """On evenly spread prompts."""
    if model.dtype == "float32":
        return _Precision({}, [])
    reference = in_float32(model)
    if reference is None:
        why = "its difference to float32 was not measured (no room, or quantised)"
        return _Precision({}, [f"{model.name}: {model.dtype}; {why}"])
    n = len(asked.cases)
    chosen = np.unique(np.linspace(0, n - 1, min(PRECISION_SAMPLE, n)).round().astype(int)).tolist()
    reader = Reader([asked.cases[i] for i in chosen], asked.reader.rule, asked.reader.last_token)
    exact = logprobs_of(reader, plan_batches(replace(reference, chat=model.chat))).logprobs
    ours = [measured.logprobs[i] for i in chosen]
    gaps = np.concatenate([np.abs(a - b) for a, b in zip(ours, exact, strict=True)])
    same = sum(metrics.predicted(a) == metrics.predicted(b) for a, b in zip(ours, exact, strict=True))
    settings: dict[str, Setting] = {
        "float32_sample": len(chosen),
        "float32_mean_difference": float(gaps.mean()),
        "float32_largest_difference": float(gaps.max()),
        "float32_same_prediction": same,
    }
    note = (
        f"{model.name}: {model.dtype} differs from float32 by {gaps.mean():.2g} nats on average and {gaps.max():.2g} "
        f"at most in a class's log-probability, on {len(chosen)} prompts; {same} of them have the same prediction"
    )
    return _Precision(settings, [note])


def _run(
    model: Model, task: str, metric: str, rule: Rule, seed: int, settings: dict[str, Setting], notes: Sequence[str]
) -> Run:
    packing = (
        "trees after shared trunks" if model.uses_prefix_caches else "trees" if model.shares_trees else "plain batches"
    )
    if not model.accepts_trees:
        notes = [*notes, f"{model.name}: its attention does not accept custom masks, so prompts ran as plain batches"]
    return run_of(
        model,
        task=task,
        method=f"{metric}, rule {rule}",
        seed=seed,
        settings={
            "rule": rule,
            "start_token": _start_token(model),
            "packing": packing,
            **settings,
        },
        notes=notes,
    )


def _start_token(model: Model) -> str:
    if model.chat is not None:
        return "the chat template's"
    return " ".join(map(model.spelling, model.start_tokens)) or "none"


def _tables(asked: _Asked, plan: BatchPlan, measured: ClassLogprobs, precision: _Precision) -> Scores:
    model, cases, rule = plan.model, asked.cases, asked.reader.rule
    head = head_of(model, asked.source.name)
    judged = [
        (case, values)
        for case, values in zip(cases, measured.logprobs, strict=True)
        if case.side != "prompt" and len(case.classes) > 1
    ]
    shown = [replace(case, side="item") if case.side == "other_prompt" else case for case, _ in judged]
    items = [metrics.judge(case, values) for case, values in judged]
    curve = list(metrics.curve_rows(head, shown, items, metrics.baselines(asked.source, shown), asked.seed))
    notes = [*metrics.doubts(model.name, curve), *precision.notes, *plan.notes()]
    differing = list(dict.fromkeys(cases[d.difference.case].name for d in measured.differences))
    if differing:
        names = ", ".join(differing[:NAMED]) + (", ..." if len(differing) > NAMED else "")
        notes.append(f"{model.name}: rules strict and prize differ on {len(differing)} of {len(cases)}: {names}")
    run = _run(model, asked.source.name, asked.metric, rule, asked.seed, precision.settings, notes)
    rows = [{**head, "item": c.item, "side": c.side, **i} for c, i in zip(shown, items, strict=True)]
    made = Scores(
        table("scores", metrics.completion_rows(head, cases, measured), run),
        table("items", rows, run),
        table("curve", curve, run),
        metrics.shares_table(head, cases, items, run, asked.seed) if isinstance(asked.source, PairSet) else None,
        rule_differences=table("rule_differences", metrics.difference_rows(head, cases, measured, rule), run),
    )
    if asked.metric == "classification":
        return made
    ids = list(dict.fromkeys(case.item for case in cases))
    numbers = _values(asked.metric, cases, measured.logprobs)
    values, value_curve = metrics.value_tables(head, asked.metric, ids, numbers, None, run, asked.seed)
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


def _numeric(task: Task, plan: BatchPlan, rule: Rule, seed: int) -> Scores:
    model = plan.model
    sampled = estimates(task.items, plan, rule=rule, seed=seed)
    notes = plan.notes()
    if model.dtype != "float32":
        why = "its difference to float32 was not measured, since numbers are sampled"
        notes.append(f"{model.name}: {model.dtype}; {why}")
    run = _run(model, task.name, "numeric", rule, seed, {}, notes)
    values, value_curve = metrics.value_tables(
        head_of(model, task.name), "numeric", [i.id for i in task.items], sampled.numbers, sampled.n_parsed, run, seed
    )
    scores, items, curve = (table(name, [], run) for name in ("scores", "items", "curve"))
    return Scores(scores, items, curve, values=values, value_curve=value_curve)
