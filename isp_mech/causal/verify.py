"""Verifying: does replacing a set of sites restore prompt-following, on pairs that did not choose it?

Any set of sites can be judged. Where sites are to be chosen, they are chosen on one half of the pairs
and judged on the other, both ways round, against random sets of the same size matched by kind and
layer; the cost is measured on plain prompts and on neutral text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from isp_mech.causal.activation_patching import patched_margins
from isp_mech.causal.locate import Sites
from isp_mech.causal.neutral_text import neutral_prompts
from isp_mech.causal.prompt_copies import RunCache
from isp_mech.causal.replacements import SiteOutputs, check_replacements, observe_conflict
from isp_mech.causal.restoration import restoration
from isp_mech.causal.screening import is_costly
from isp_mech.causal.site_sets import Half, effects_by_pair, halves, sites_for
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, BatchSize, each_model
from isp_mech.inference.contrast_prompts import head_of, place_prompts, run_of
from isp_mech.inference.margin import ContrastPrompt, at_first_token
from isp_mech.models import ChatSetting, Model, Models, free_bytes
from isp_mech.scaling.restoring import PLAIN_COST
from isp_mech.scaling.summaries import join_verification
from isp_mech.sites import SEARCHED, Replacement, Searched, Site, all_sites
from isp_mech.stats import LEVEL, benjamini_hochberg, sequential_random_p, sign_flip_p
from isp_mech.tables import Table, table
from isp_mech.tables.site_tables import AnySites
from isp_mech.tasks import PairSet

N_NEUTRAL = 60
N_COST = 20  # random sets whose cost on plain prompts and neutral text is measured
CHUNKS = (25, 55, 120)  # random sets judged at a time, the prompts running once each time; the last one is repeated
RANDOM = "random"
QUICK = (
    "sets are chosen and compared with random ones by the first token at which the completions differ; accuracy and "
    "margin of the chosen set, before and after, are of all tokens"
)


def verify(
    sites: AnySites,
    pairs: PairSet,
    models: Models,
    *,
    replacement: Replacement | Sequence[Replacement] = "mean",
    interventions: Literal["replace", "all"] | Sequence[Searched] = "replace",
    share: float = 0.1,
    n_random: int = 200,
    chat: ChatSetting | None = None,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Table:
    """Table ``verification``: per model and half of the pairs, the conflict side before and after.

    ``sites`` is what ``locate`` gave, or an ``effects`` Table: then at most ``share`` of a model's sites
    are chosen on one half and judged on the other, both ways round (``split`` names the half judged).
    Or it is a set of ``Site``, or a mapping from model names to sets, judged on all pairs. Chosen are
    the sites that push most towards the lure, significantly so (Benjamini-Hochberg on that half); how
    many of them, is what gives the best conflict accuracy there at a plain accuracy of at most 5 points
    less. Of several replacements each is chosen and judged by itself, in rows of its own. The random sets' mean
    stands in a row of its own, ``sites`` = "random" (its cost on plain prompts and neutral text is the mean of the
    first twenty sets). ``p_random`` counts the random sets at least as good by accuracy, and by margin where
    accuracies are equal. Random sets are drawn until ten of them are at least as good, or ``n_random`` are drawn
    (Besag and Clifford 1991): ``n_random`` in the table says how many. ``chat`` is as in ``score``; neutral text stays
    plain text.

    With other ``interventions``, all kinds or some of them, it is the table ``restoration`` of the function of that
    name: each kind is searched by itself, and neither ``sites`` nor ``replacement`` and ``share`` matter.
    """
    if interventions != "replace":
        searched = SEARCHED if interventions == "all" else interventions
        if isinstance(searched, str):
            raise InputError("verify", [f"interventions {searched!r}: expected replace, all, or a list of kinds"])
        restored = restoration(
            pairs,
            models,
            kinds=searched,
            n_random=n_random,
            chat=chat,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        return restored.table
    kinds = (replacement,) if isinstance(replacement, str) else tuple(replacement)
    check_replacements(kinds)
    if not 0 < share <= 1 or n_random < 1:
        raise InputError(
            "verify",
            [f"share {share!r}, n_random {n_random!r}: expected a share over 0 and up to 1, and at least one set"],
        )
    asked = _Asked(sites, pairs, kinds, share, n_random, seed)
    plans = each_model(models, batch_size, chat=chat, progress=progress)
    return join_verification([_verify_model(asked, plan) for plan in plans])


@dataclass(frozen=True)
class _Asked:
    """What is asked of every model; ``kinds`` are the replacements."""

    sites: AnySites
    pairs: PairSet
    kinds: Sequence[Replacement]
    share: float
    n_random: int
    seed: int

    @property
    def effects(self) -> Table | None:
        """The effects that sites are chosen by, None where they are given."""
        if isinstance(self.sites, Sites):
            return self.sites.effects
        return self.sites if isinstance(self.sites, Table) and self.sites.name == "effects" else None


@dataclass(frozen=True)
class _Side:
    """Prompts of one kind with the replacement of every site, in the pairs' order."""

    prompts: Sequence[ContrastPrompt]
    values: SiteOutputs
    plan: BatchPlan
    cache: RunCache
    parts: dict[tuple[int, ...], _Side] = field(default_factory=dict)

    def at_first_token(self) -> _Side:
        """The same prompts, their margins at the first token at which the completions differ."""
        return replace(
            self, prompts=[at_first_token(p) for p in self.prompts], cache=RunCache(self.cache.budget), parts={}
        )

    def take(self, index: Sequence[int]) -> _Side:
        """Some of the prompts: the same part each time, which keeps what it ran."""
        key = tuple(index)
        if key not in self.parts:
            cache = RunCache(self.cache.budget // 2)
            self.parts[key] = _Side([self.prompts[i] for i in index], self.values.of(index, "cpu"), self.plan, cache)
        return self.parts[key]

    def margins(self, sets: Sequence[frozenset[Site]]) -> np.ndarray:
        """(pair, set): margins with each set replaced; for neutral text, log p of the answer."""
        return patched_margins(self.prompts, self.values, sets, self.plan, cache=self.cache)


@dataclass(frozen=True)
class _Sides:
    """The three kinds of prompts on which sets of sites are judged."""

    model: Model
    conflict: _Side
    plain: _Side
    neutral: _Side
    quick_conflict: _Side  # at the first token that differs, where the whole margin is costly: for comparisons alone
    quick_plain: _Side


def _verify_model(asked: _Asked, plan: BatchPlan) -> Table:
    model, pairs = plan.model, asked.pairs
    conflict = observe_conflict(pairs, plan, asked.kinds, seed=asked.seed)
    plain = place_prompts(model, pairs, ("plain",)).prompts
    told, neutral = neutral_prompts(plan, asked.seed, N_NEUTRAL)
    costly = is_costly(conflict.prompts, model)
    rows: list[Row] = []
    for kind, values in conflict.replacements.items():
        everywhere = values.map(lambda x: x.mean(0, keepdim=True).expand(len(neutral), *x.shape[1:]))
        kept = free_bytes(model.device) // 16
        whole = [_Side(prompts, values, plan, RunCache(kept)) for prompts in (conflict.prompts, plain)]
        quick = [side.at_first_token() for side in whole] if costly else whole
        on_neutral = _Side(neutral, everywhere, plan, RunCache(kept))
        sides = _Sides(model, whole[0], whole[1], on_neutral, quick[0], quick[1])
        for half in _splits(asked):
            chosen = _choose(asked, sides, kind, half.choose)
            rows += [{"replacement": kind, "split": half.judged, **row} for row in _judge(asked, sides, chosen, half)]
    run = run_of(
        model,
        task=pairs.name,
        method="verify: sites replaced together, against matched random sets",
        seed=asked.seed,
        settings={
            "replacement": ", ".join(asked.kinds),
            "share": asked.share,
            "n_random": asked.n_random,
            "n_pairs": len(pairs),
            "neutral_text": told,
        },
        notes=[*plan.notes(), *([f"{model.name}: {QUICK}"] if costly else [])],
    )
    return table("verification", [{**head_of(model, pairs.name), **row} for row in rows], run)


def _splits(asked: _Asked) -> list[Half]:
    everything = list(range(len(asked.pairs)))
    if asked.effects is None:
        return [Half("all", everything, everything)]
    if len(everything) < 4:
        expected = "expected at least four, to choose sites on one half and judge on the other"
        raise InputError(asked.pairs.name, [f"{len(everything)} pairs: {expected}"])
    return halves(len(everything), asked.seed)


def _choose(asked: _Asked, sides: _Sides, kind: str, choose: Sequence[int]) -> tuple[Site, ...]:
    if asked.effects is None:
        return sites_for(asked.sites, sides.model)
    shape = sides.model.architecture
    values = effects_by_pair(asked.effects, sides.model, asked.pairs.take(choose), kind, exact=True)
    ranked = ranked_sites(values, all_sites(shape.n_layers, shape.n_heads), asked.share, asked.seed)
    return _best_prefix(sides, ranked, choose)


def ranked_sites(values: np.ndarray, sites: Sequence[Site], share: float, seed: int) -> tuple[Site, ...]:
    """Sites that push towards the lure by their effects (pair, site; NaN where not measured), significantly,
    strongest first, at most ``share`` of all."""
    mean = values.mean(0)
    measured = ~np.isnan(mean)
    p = np.full(len(mean), np.nan)
    p[measured] = sign_flip_p(values[:, measured], seed=seed)
    significant = benjamini_hochberg(p) <= LEVEL
    most = max(1, int(share * len(sites)))
    order = [i for i in np.argsort(mean, kind="stable") if mean[i] < 0 and significant[i]][:most]
    return tuple(sites[i] for i in order)


def _best_prefix(sides: _Sides, ranked: Sequence[Site], choose: Sequence[int]) -> tuple[Site, ...]:
    if not ranked:
        return ()
    prefixes = [frozenset(ranked[:k]) for k in range(len(ranked) + 1)]
    conflict = sides.quick_conflict.take(choose).margins(prefixes)
    plain = sides.quick_plain.take(choose).margins(prefixes)
    accuracy, kept = (conflict > 0).mean(0), (plain < 0).mean(0)
    allowed = [k for k in range(1, len(prefixes)) if kept[k] >= kept[0] - PLAIN_COST]
    if not allowed:
        return ()
    best = max(allowed, key=lambda k: (accuracy[k], conflict[:, k].mean()))
    return tuple(ranked[:best])


def matched_sets(sites: Sequence[Site], model: Model, n: int, seed: int) -> list[frozenset[Site]]:
    """Random sets of the same size: for each head another draw from its layer's heads, for each MLP one
    from all MLPs (a layer has no other). Never the set itself; fewer than ``n`` are distinct where the
    model has no more."""
    rng = np.random.default_rng(seed)
    target = frozenset(sites)
    layers, heads = model.architecture.n_layers, model.architecture.n_heads
    per_layer = {layer: sum(s.kind == "head" and s.layer == layer for s in sites) for layer in range(layers)}
    n_mlps = sum(s.kind == "mlp" for s in sites)
    out: list[frozenset[Site]] = []
    for _ in range(50 * n):
        drawn = {
            Site(layer, "head", int(h))
            for layer, k in per_layer.items()
            if k
            for h in rng.choice(heads, k, replace=False)
        }
        drawn |= {Site(int(layer), "mlp") for layer in rng.choice(layers, n_mlps, replace=False)}
        if drawn != target:
            out.append(frozenset(drawn))
        if len(out) == n:
            break
    return out


Row = Mapping[str, str | int | float]


@dataclass(frozen=True, order=True)
class _Quality:
    """How good a set is on the conflict side: its accuracy, and its mean margin where accuracies are equal."""

    accuracy: float
    margin: float


def _qualities(side: _Side, sets: Sequence[frozenset[Site]]) -> list[_Quality]:
    margins = side.margins(sets)
    return [_Quality(float((m > 0).mean()), float(m.mean())) for m in margins.T]


def _judge(asked: _Asked, sides: _Sides, sites: tuple[Site, ...], half: Half) -> list[Row]:
    conflict = sides.quick_conflict.take(half.judge)
    drawn = matched_sets(sites, sides.model, asked.n_random, asked.seed) if sites else []
    set_itself, *seen = _qualities(conflict, [frozenset(sites), *drawn[: CHUNKS[0]]])

    def at_least_as_good() -> Iterator[bool]:
        yield from (quality >= set_itself for quality in list(seen))
        sizes = iter(CHUNKS[1:])
        while len(seen) < len(drawn):
            more = _qualities(conflict, drawn[len(seen) :][: next(sizes, CHUNKS[-1])])
            seen.extend(more)
            yield from (quality >= set_itself for quality in more)

    test = sequential_random_p(at_least_as_good(), n_max=len(drawn)) if drawn else None
    seen = seen[: test.drawn] if test else []
    few = [frozenset(), frozenset(sites), *drawn[: min(N_COST, len(seen))]]
    before, after = _qualities(sides.conflict.take(half.judge), few[:2])
    plain, quick_plain = sides.plain.take(half.judge), sides.quick_plain.take(half.judge)
    kept = (np.concatenate([plain.margins(few[:2]), quick_plain.margins(few[2:])], 1) < 0).mean(0)
    lengths = sum(len(prompt.answer.targets) for prompt in sides.neutral.prompts)
    loss = -sides.neutral.margins(few).sum(0) / lengths

    def row(name: str, quality: _Quality, index: int | slice, p: float) -> Row:
        return {
            "n_random": len(seen),
            "accuracy_before": before.accuracy,
            "margin_before": before.margin,
            "plain_before": kept[0],
            "neutral_loss_before": loss[0],
            "gap_closed": np.nan,
            "sites": name,
            "n_sites": len(sites),
            "accuracy_after": quality.accuracy,
            "margin_after": quality.margin,
            "plain_after": np.mean(kept[index]),
            "neutral_loss_after": np.mean(loss[index]),
            "p_random": p,
        }

    rows = [row(" ".join(map(str, sites)), after, 1, test.p if test else np.nan)]
    if test:
        mean = _Quality(float(np.mean([q.accuracy for q in seen])), float(np.mean([q.margin for q in seen])))
        rows.append(row(RANDOM, mean, slice(2, None), np.nan))
    return rows
