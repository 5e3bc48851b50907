"""Restoring: which change of a model makes it follow the prompt again, and does it on pairs that did not choose it?

Each kind of intervention is searched over a small grid on one half of the pairs and judged on the other, both ways
round, against random changes of the same kind and size. A change is found by how many conflict prompts are right with
it, at a plain accuracy of at most 5 points less and a neutral loss of at most 0.1 nats a token more; of equally good
ones the smaller is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from isp_mech.causal.intervention_changes import Bound, Streams, observe_streams, of_stream, prompts_of
from isp_mech.causal.intervention_parts import ONWARD
from isp_mech.causal.intervention_values import Intervention, replacing, steer, with_array
from isp_mech.causal.locate import is_costly
from isp_mech.causal.neutral_text import neutral_prompts
from isp_mech.causal.prompt_copies import RunCache
from isp_mech.causal.random_changes import random_changes
from isp_mech.causal.replacements import SiteOutputs
from isp_mech.causal.restoration_search import (
    MOST_PARTS,
    NEUTRAL_COST,
    PLAIN_COST,
    SEARCHED,
    PairHalf,
    PromptSide,
    Search,
    Searched,
    answer_lengths,
    candidates,
    common_roles,
    loss_per_token,
    neutral_losses,
)
from isp_mech.causal.site_sets import halves
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, BatchSize, each_model
from isp_mech.inference.contrast_prompts import head_of, run_of
from isp_mech.inference.margin import ContrastPrompt, at_first_token
from isp_mech.models import ChatSetting, Models, free_bytes
from isp_mech.sites import DECISION
from isp_mech.stats import LEVEL, benjamini_hochberg, bootstrap_interval, sequential_random_p
from isp_mech.tables import Setting, Table, concat, table
from isp_mech.tables.columns import mean_columns
from isp_mech.tasks import PairSet

N_NEUTRAL = 60
CHUNKS = (25, 55, 120)  # random changes judged at a time
Row = dict[str, str | int | float | bool]


@dataclass(frozen=True)
class Restored:
    """The table ``restoration``, and each intervention that it names, with its vectors, by its text."""

    table: Table
    interventions: Mapping[str, Intervention]


def restoration(
    pairs: PairSet,
    models: Models,
    *,
    kinds: Sequence[Searched] = SEARCHED,
    n_random: int = 200,
    chat: ChatSetting | None = None,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Restored:
    """Per model, kind and half of the pairs: the intervention found on the other half, and what it does on this one.

    ``restored`` is the share of overridden pairs (plain right, conflict wrong) whose conflict prompt becomes right,
    ``broken`` the share of right answers, on either side, that become wrong. ``p`` counts the random changes at least
    as good by conflict accuracy, and by margin where accuracies are equal; drawn until ten of them are, or ``n_random``
    are drawn (Besag and Clifford 1991). ``q`` is over all kinds, halves and models. ``restoring``: see
    docs/interventions.md. ``chat`` is as in ``score``.
    ``InputError`` for an unknown kind, and for fewer than four pairs.
    """
    wrong = [f"kind {kind!r}: expected one of {', '.join(SEARCHED)}" for kind in kinds if kind not in SEARCHED]
    if not kinds or len(set(kinds)) < len(kinds):
        wrong.append(f"{list(kinds)}: expected one or more kinds, each once")
    if len(pairs) < 4:
        wrong.append(f"{len(pairs)} pairs: expected at least four, to choose on one half and judge on the other")
    if wrong or n_random < 1:
        raise InputError("restoration", wrong or [f"n_random {n_random}: expected at least one"])
    found: dict[str, Intervention] = {}
    parts = [
        _restore(pairs, plan, kinds, n_random, seed, found)
        for plan in each_model(models, batch_size, chat=chat, progress=progress)
    ]
    return Restored(join_restoration(parts), found)


def join_restoration(parts: Sequence[Table]) -> Table:
    """Several models' restoration as one: q is over all of them, and with it which interventions count as restoring."""
    joined = concat(list(parts))
    f = joined.frame
    q = benjamini_hochberg(f["p"].to_numpy(dtype=float))
    better = f["restored"].to_numpy(dtype=float) > f["restored_random"].to_numpy(dtype=float)
    cheap = (f["plain_after"] >= f["plain_before"] - PLAIN_COST - 1e-9) & (
        f["neutral_after"] <= f["neutral_before"] + NEUTRAL_COST
    )
    return replace(joined, frame=f.assign(q=q, restoring=(q <= LEVEL) & better & cheap.to_numpy(dtype=bool)))


@dataclass
class _Subject:
    """One model with its pairs, both sides' prompts, and what recipes are made from."""

    pairs: PairSet
    plan: BatchPlan
    conflict: Sequence[ContrastPrompt]
    plain: Sequence[ContrastPrompt]
    neutral: Sequence[ContrastPrompt]
    streams: Streams | None
    costly: bool
    at: str
    budget: int = field(default=0)

    def half(self, index: Sequence[int], chosen: Sequence[int]) -> PairHalf:
        """Both sides of some pairs, with recipes made from the ``chosen`` ones."""
        whole = [self.side([prompts[i] for i in index], chosen) for prompts in (self.conflict, self.plain)]
        if not self.costly:
            return PairHalf(whole[0], whole[1], whole[0], whole[1])
        quick = [self.side([at_first_token(p[i]) for i in index], chosen) for p in (self.conflict, self.plain)]
        return PairHalf(whole[0], whole[1], quick[0], quick[1])

    def side(self, prompts: Sequence[ContrastPrompt], chosen: Sequence[int]) -> PromptSide:
        bound = Bound(self.plan.model, prompts)
        if self.streams is not None:
            n = len(prompts)
            mean = self.streams.conflict.of(chosen, "cpu").map(
                lambda x: x.mean(0, keepdim=True).expand(n, *x.shape[1:])
            )
            bound.values["mean"] = SiteOutputs(mean.heads, mean.mlps)
            for name, difference in self.streams.differences(chosen).items():
                bound.values[name] = of_stream(difference, n)
        return PromptSide(bound, self.plan, RunCache(self.budget))


def _restore(
    pairs: PairSet, plan: BatchPlan, kinds: Sequence[Searched], n_random: int, seed: int, found: dict[str, Intervention]
) -> Table:
    model, shape = plan.model, plan.model.architecture
    conflict, plain = prompts_of(pairs, "conflict", model), prompts_of(pairs, "plain", model)
    needed = [steer(0)] if set(kinds) & {"steer"} else [replacing("m0", "mean")] if "replace" in kinds else []
    later = any(len(c.tokens) > p.shared + 1 for p in conflict for c in p.completions)
    subject = _Subject(
        pairs,
        plan,
        conflict,
        plain,
        neutral_prompts(model, seed, N_NEUTRAL),
        observe_streams(needed, pairs, plan),
        is_costly(conflict, model),
        ONWARD if later else DECISION,
        free_bytes(model.device) // 32,
    )
    roles, rows = common_roles(pairs), []
    for half in halves(len(pairs), seed):
        neutral = subject.side(subject.neutral, half.choose)
        choose, judge = subject.half(half.choose, half.choose), subject.half(half.judge, half.choose)
        nothing = [Intervention()]
        floor = float((choose.quick_plain.of(nothing) < 0).mean()) - PLAIN_COST
        before = loss_per_token(neutral, neutral_losses(neutral, neutral.of(nothing))[:, 0])
        search = Search(choose, neutral, floor, before + NEUTRAL_COST)
        for kind in kinds:
            if kind in ("block", "reweight") and not model.accepts_custom_masks:
                continue
            most = {"block": 2, "reweight": 2, "steer": 1}.get(kind, MOST_PARTS)
            chosen = search.best(candidates(kind, roles, shape.n_layers, shape.n_heads, subject.at), most)
            fitted = chosen
            if subject.streams is not None:
                outputs, means = (
                    subject.streams.conflict.of(half.choose, "cpu"),
                    subject.streams.differences(half.choose),
                )
                fitted = fit(chosen, outputs, means)
            found[str(fitted)] = fitted
            rows.append({"kind": kind, **_judge(chosen, fitted, judge, neutral, n_random, seed), "split": half.judged})
    settings: dict[str, Setting] = {"n_pairs": len(pairs), "n_random": n_random, "kinds": ", ".join(kinds)}
    method = "restoration: interventions chosen on one half of the pairs, judged on the other"
    notes = plan.notes()
    if subject.costly:
        notes.append(f"{model.name}: interventions are chosen and compared by the first token that differs")
    run = run_of(model, task=pairs.name, method=method, seed=seed, settings=settings, notes=notes)
    return table("restoration", [{**head_of(model, pairs.name), **row} for row in rows], run)


def _judge(
    made: Intervention, fitted: Intervention, half: PairHalf, neutral: PromptSide, n_random: int, seed: int
) -> Row:
    """What the intervention does on the half that did not choose it."""
    two = [Intervention(), made]
    conflict, plain = half.conflict.of(two), half.plain.of(two)
    right_conflict, right_plain = conflict > 0, plain < 0
    losses = neutral_losses(neutral, neutral.of(two))
    overridden = right_plain[:, 0] & ~right_conflict[:, 0]
    right = np.concatenate([right_conflict, right_plain])
    row: Row = {
        "intervention": str(fitted),
        "n_sites": len({site for part in made.parts for site in part.sites}),
        "n_layers": len(_layers(made, half.conflict.bound.model.architecture.n_layers)),
        "n_tokens": _n_tokens(made, half.conflict.bound),
        "needs": fitted.needs,
        "n": len(conflict),
        "n_overridden": int(overridden.sum()),
        "q": np.nan,
        "restoring": False,
    }
    for name, values in (
        ("conflict_before", right_conflict[:, 0]),
        ("conflict_after", right_conflict[:, 1]),
        ("plain_before", right_plain[:, 0]),
        ("plain_after", right_plain[:, 1]),
        ("restored", right_conflict[overridden, 1]),
        ("broken", ~right[right[:, 0], 1]),
    ):
        row |= _mean(name, values, seed)
    for name, loss in (("neutral_before", losses[:, 0]), ("neutral_after", losses[:, 1])):
        both = np.stack([loss, answer_lengths(neutral)], 1)
        lo, hi = bootstrap_interval(both, statistic=lambda x: x[:, :1].sum(0) / x[:, 1:].sum(0), seed=seed)
        ends = {f"{name}_lo": float(np.ravel(lo)[0]), f"{name}_hi": float(np.ravel(hi)[0])}
        row |= {name: loss_per_token(neutral, loss), **ends}
    return row | _against_random(made, half, overridden, n_random, seed)


def _mean(name: str, values: np.ndarray, seed: int) -> Row:
    if not len(values):
        return {name: np.nan, f"{name}_lo": np.nan, f"{name}_hi": np.nan}
    return {key: float(v[0]) for key, v in mean_columns(name, values.astype(float)[:, None], seed).items()}


def _against_random(made: Intervention, half: PairHalf, overridden: np.ndarray, n_random: int, seed: int) -> Row:
    side = half.quick_conflict
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


def _quality(margins: np.ndarray) -> tuple[float, float]:
    return float((margins > 0).mean()), float(margins.mean())


def _layers(made: Intervention, n_layers: int) -> set[int]:
    of_attention = {
        layer for part in made.parts if part.role for layer in (range(n_layers) if part.layers is None else part.layers)
    }
    return of_attention | {site.layer for part in made.parts for site in part.sites}


def _n_tokens(made: Intervention, bound: Bound) -> float:
    """How many tokens of a prompt are changed, or are attended to otherwise, on average."""
    ats = {part.role or part.at for part in made.parts}
    counts = np.zeros(len(bound.prompts))
    for at in ats:
        counts += 1.0 if at in (DECISION, ONWARD) else np.array([len(mine) for mine in bound.tokens(at, early=True)])
    return float(counts.mean())


def fit(intervention: Intervention, conflict: SiteOutputs, differences: Mapping[str, Tensor]) -> Intervention:
    """The intervention with its recipes made into vectors: the means of ``conflict`` outputs, and ``differences`` of
    the residual stream (layer, d_model)."""
    out = Intervention()
    for part in intervention.parts:
        alone = Intervention((part,), intervention.arrays)
        if part.source == "mean":
            means = {
                str(s): (conflict.mlps[:, s.layer] if s.head is None else conflict.heads[:, s.layer, s.head]).mean(0)
                for s in part.sites
            }
            alone = with_array(alone, {name: values.numpy() for name, values in means.items()})
        elif part.source in differences:
            site = part.sites[0]
            alone = with_array(alone, {str(site): differences[part.source][site.layer].numpy()})
        out = out + alone
    return out
