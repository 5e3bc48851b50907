"""Restoring: which change of a model makes it follow the prompt again, and does it on pairs that did not choose it?

Each kind of intervention is searched over a small grid on one half of the pairs and judged on the other, both ways
round, against random changes of the same kind and size. A change is found by how many conflict prompts are right with
it, at a plain accuracy of at most 5 points less and a neutral loss of at most 0.1 nats a token more; of equally good
ones the smaller is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from isp_mech.causal.alignment_search import SwappedPrompts, trained_swaps
from isp_mech.causal.intervention_changes import Bound, Streams, observe_streams, of_stream, prompts_of
from isp_mech.causal.intervention_parts import ONWARD
from isp_mech.causal.intervention_values import Intervention, replacing, steer, with_array
from isp_mech.causal.neutral_text import neutral_prompts
from isp_mech.causal.prompt_copies import RunCache
from isp_mech.causal.replacements import SiteOutputs, observe_role
from isp_mech.causal.restoration_judgement import both_sides, judge, same_answer
from isp_mech.causal.restoration_search import (
    FEW,
    MOST_PARTS,
    PairHalf,
    PromptSide,
    Search,
    candidates,
    common_roles,
    loss_per_token,
    neutral_losses,
)
from isp_mech.causal.screening import is_costly
from isp_mech.causal.site_sets import halves
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, BatchSize, each_model
from isp_mech.inference.contrast_prompts import SIDES, head_of, placed_alone, run_of
from isp_mech.inference.margin import ContrastPrompt, at_first_token
from isp_mech.models import ChatSetting, Models, free_bytes
from isp_mech.scaling.restoring import NEUTRAL_COST, PLAIN_COST, join_restoration
from isp_mech.sites import DECISION, SEARCHED, Searched
from isp_mech.tables import Setting, Table, concat, table
from isp_mech.tasks import PairSet

N_NEUTRAL = 60


@dataclass(frozen=True)
class Restored:
    """The table ``restoration``, and each intervention that it names, with its vectors, by its text; ``pairs`` is the
    table ``restored_pairs``: both margins of every pair, as they are and with the intervention it did not choose."""

    table: Table
    interventions: Mapping[str, Intervention]
    pairs: Table


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
    return Restored(join_restoration([one for one, _ in parts]), found, concat([each for _, each in parts]))


@dataclass
class _Subject:
    """One model with its pairs, both sides' prompts (``quick`` ones are at the first token that differs where the whole
    margin is costly), and what recipes are made from; ``texts`` has the stream of the neutral ones. What was run of
    prompts is kept for both ways round."""

    plan: BatchPlan
    conflict: Sequence[ContrastPrompt]
    plain: Sequence[ContrastPrompt]
    quick_conflict: Sequence[ContrastPrompt]
    quick_plain: Sequence[ContrastPrompt]
    neutral: Sequence[ContrastPrompt]
    budget: int
    streams: Streams | None = None
    texts: SiteOutputs | None = None
    kept: dict[tuple[int, ...], tuple[RunCache, dict[str, list[list[int]]]]] = field(default_factory=dict)

    def half(self, index: Sequence[int], chosen: Sequence[int], n_few: int) -> PairHalf:
        """Both sides of some pairs, the first ``n_few`` also by themselves, with recipes made from the ``chosen``."""
        few, rest = (self.of_pairs("conflict", self.quick_conflict, i, chosen) for i in (index[:n_few], index[n_few:]))
        return PairHalf(
            self.of_pairs("conflict", self.conflict, index, chosen),
            self.of_pairs("plain", self.plain, index, chosen),
            self.of_pairs("conflict", self.quick_conflict, index, chosen),
            self.of_pairs("plain", self.quick_plain, index, chosen),
            few,
            rest,
        )

    def of_pairs(
        self,
        side: Literal["conflict", "plain"],
        prompts: Sequence[ContrastPrompt],
        index: Sequence[int],
        chosen: Sequence[int] = (),
    ) -> PromptSide:
        """Some pairs' prompts of one side, with the stream of both sides."""
        made = self.side([prompts[i] for i in index], chosen)
        if self.streams is not None:
            own, other = self.streams.own_and_other(side)
            made.bound.own, made.bound.other = own[list(index)], other[list(index)]
        return made

    def of_texts(self, index: Sequence[int], chosen: Sequence[int]) -> PromptSide:
        """Some neutral texts; the other prompt of each is the one before it."""
        made = self.side([self.neutral[i] for i in index], chosen)
        if self.texts is not None and self.texts.stream is not None:
            made.bound.own = self.texts.stream[list(index)]
            made.bound.other = made.bound.own.roll(1, 0)
        return made

    def side(self, prompts: Sequence[ContrastPrompt], chosen: Sequence[int]) -> PromptSide:
        new = RunCache(self.budget), dict[str, list[list[int]]]()
        cache, tokens = self.kept.setdefault(tuple(map(id, prompts)), new)  # the prompts live as long
        bound = Bound(self.plan.model, prompts, _tokens=tokens)
        if self.streams is not None and len(chosen):
            n = len(prompts)
            mean = self.streams.conflict.of(chosen, "cpu").map(
                lambda x: x.mean(0, keepdim=True).expand(n, *x.shape[1:])
            )
            bound.values["mean"] = SiteOutputs(mean.heads, mean.mlps)
            for name, difference in self.streams.differences(chosen).items():
                bound.values[name] = of_stream(difference, n)
        return PromptSide(bound, self.plan, cache)

    def to_swap(self, index: Sequence[int]) -> Iterator[SwappedPrompts]:
        """Both sides of some pairs, for a direction to be trained on."""
        assert self.streams is not None
        conflict, plain = (stream[list(index)] for stream in self.streams.own_and_other("conflict"))
        yield SwappedPrompts([self.conflict[i] for i in index], conflict, plain, 1.0)
        yield SwappedPrompts([self.plain[i] for i in index], plain, conflict, -1.0)


def _restore(
    pairs: PairSet, plan: BatchPlan, kinds: Sequence[Searched], n_random: int, seed: int, found: dict[str, Intervention]
) -> tuple[Table, Table]:
    model, shape = plan.model, plan.model.architecture
    conflict, plain = prompts_of(pairs, "conflict", model), prompts_of(pairs, "plain", model)
    needed = [steer(0)] if set(kinds) & {"steer", "swap"} else [replacing("m0", "mean")] if "replace" in kinds else []
    later = any(len(c.tokens) > p.shared + 1 for p in conflict for c in p.completions)
    told, neutral = neutral_prompts(plan, seed, 2 * N_NEUTRAL)
    costly, at = is_costly(conflict, model), ONWARD if later else DECISION
    quick, quick_plain = ([at_first_token(p) for p in side] if costly else side for side in (conflict, plain))
    subject = _Subject(plan, conflict, plain, quick, quick_plain, neutral, free_bytes(model.device) // 32)
    followed, both_ways = np.zeros(len(pairs), dtype=bool), halves(len(pairs), seed)
    for half in both_ways:
        followed[half.choose] = subject.of_pairs("conflict", conflict, half.choose).margins([()])[:, 0] > 0
    subject.streams = streams = observe_streams(needed, pairs, plan, followed=followed)
    if "swap" in kinds:
        placed = placed_alone(model, neutral)
        subject.texts = observe_role(placed, [[prompt.shared - 1] for prompt in neutral], plan)
    roles, rows, by_pair = common_roles(pairs), [], []
    texts = [range(N_NEUTRAL), range(N_NEUTRAL, 2 * N_NEUTRAL)]
    for half, (to_choose, to_judge) in zip(both_ways, (texts, texts[::-1]), strict=True):
        choosing, judging = (subject.of_texts(some, half.choose) for some in (to_choose, to_judge))
        choose = subject.half(half.choose, half.choose, min(FEW, len(half.choose) // 2))
        held_out = subject.half(half.judge, half.choose, FEW)
        nothing = [Intervention()]
        floor = float((choose.quick_plain.of(nothing) < 0).mean()) - PLAIN_COST
        before = loss_per_token(choosing, neutral_losses(choosing, choosing.of(nothing))[:, 0])
        search = Search(choose, choosing, floor, before + NEUTRAL_COST / 2)  # other texts judge: half leaves room
        for kind in kinds:
            if kind in ("block", "reweight", "swap") and not model.accepts_custom_masks:
                continue
            if kind == "swap":
                singles = trained_swaps(subject.to_swap(half.choose[:FEW]), plan)
            else:
                singles = candidates(kind, roles, shape.n_layers, shape.n_heads, at)
            chosen = search.best(singles, {"block": 2, "reweight": 2, "steer": 1, "swap": 1}.get(kind, MOST_PARTS))
            fitted = chosen
            if streams is not None:
                fitted = fit(chosen, streams.conflict.of(half.choose, "cpu"), streams.differences(half.choose))
            found[str(fitted)] = fitted
            margins = both_sides(chosen, held_out)
            row = judge(chosen, fitted, held_out, judging, margins, n_random=n_random, seed=seed)
            same = same_answer([pairs[i] for i in half.judge], [of_side[:, 1] for of_side in margins])
            rows.append({"kind": kind, **row, "same_answer": same, "split": half.judged})
            by_pair += [
                {
                    "kind": kind,
                    "split": half.judged,
                    "pair": pairs[i].id,
                    "side": side,
                    "margin_before": a,
                    "margin_after": b,
                }
                for side, of_side in zip(SIDES, margins, strict=True)
                for i, (a, b) in zip(half.judge, of_side.tolist(), strict=True)
            ]
    settings: dict[str, Setting] = {
        "n_pairs": len(pairs),
        "n_random": n_random,
        "kinds": ", ".join(kinds),
        "neutral_text": told,
    }
    method = "restoration: interventions chosen on one half of the pairs, judged on the other"
    notes = plan.notes()
    if costly:
        notes.append(f"{model.name}: interventions are chosen and compared by the first token that differs")
    run = run_of(model, task=pairs.name, method=method, seed=seed, settings=settings, notes=notes)
    head = head_of(model, pairs.name)
    made = table("restored_pairs", [{**head, **row} for row in by_pair], run)
    return table("restoration", [{**head, **row} for row in rows], run), made


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
