"""Verifying: does replacing a set of sites give the prompt back, on pairs that did not choose it?

Any set of sites can be judged. Where sites are to be chosen, they are chosen on one half of the pairs
and judged on the other, both ways round, against random sets of the same size matched by kind and
layer; the cost is told on plain prompts and on neutral text.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isp_mech.causal.activation_patching import check_sets, replaced_margins
from isp_mech.causal.faithfulness import effects_by_pair, halves
from isp_mech.causal.replacements import Outputs, observe, replacement_outputs
from isp_mech.contrasts.quote_repetition import unfamiliar_sentence
from isp_mech.errors import InputError
from isp_mech.inference.batches import check_batch_size
from isp_mech.inference.contrast_prompts import Prepared, prepare, run_of
from isp_mech.inference.margin import ContrastPrompt, answer_prompts
from isp_mech.models import Model, Models, members
from isp_mech.scaling.summaries import join_verification
from isp_mech.sites import REPLACEMENTS, Site, all_sites
from isp_mech.stats import LEVEL, benjamini_hochberg, random_set_p, sign_flip_p
from isp_mech.tables import Table, table
from isp_mech.tasks import PairSet, Prompt

PLAIN_COST = 0.05  # plain accuracy that choosing may give up, as a share
N_NEUTRAL = 60
N_COST = 20  # random sets whose cost on plain prompts and neutral text is told
RANDOM = "random"

SiteSets = Table | Mapping[str, Iterable[Site]] | Iterable[Site]


def verify(
    sites: Any,
    pairs: PairSet,
    models: Models,
    *,
    replacement: str = "mean",
    share: float = 0.1,
    n_random: int = 200,
    batch_size: int | str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Table:
    """Table ``verification``: per model and half of the pairs, the conflict side before and after.

    ``sites`` is what ``locate`` gave, or an ``effects`` Table: then at most ``share`` of a model's sites
    are chosen on one half and judged on the other, both ways round (``split`` names the half judged).
    Or it is a set of ``Site``, or a mapping from model names to sets, judged on all pairs. Chosen are
    the sites that push most towards the lure, significantly so (Benjamini-Hochberg on that half); how
    many of them, is what gives the best conflict accuracy there at a plain accuracy of at most 5 points
    less. The random sets' mean stands in a row of its own, ``sites`` = "random" (its cost on plain prompts and
    neutral text is the mean of the first twenty sets). ``p_random`` counts the
    random sets at least as good by accuracy, and by margin where accuracies are equal.
    """
    check_batch_size(batch_size)
    if replacement not in REPLACEMENTS:
        raise InputError("replacement", [f"{replacement!r}: expected one of {', '.join(REPLACEMENTS)}"])
    if not 0 < share <= 1 or n_random < 1:
        raise InputError(
            "verify",
            [f"share {share!r}, n_random {n_random!r}: expected a share over 0 and up to 1, and at least one set"],
        )
    chosen = getattr(sites, "effects", sites)
    settings = Settings(replacement, share, n_random, batch_size, seed, progress)
    return join_verification([_verify_model(model, chosen, pairs, settings) for model in members(models)])


@dataclass(frozen=True)
class Settings:
    """The options of ``verify``."""

    replacement: str
    share: float
    n_random: int
    batch_size: int | str
    seed: int
    progress: bool


@dataclass(frozen=True)
class Side:
    """Forks of one side with the stand-in of every site, in the pairs' order."""

    forks: Sequence[ContrastPrompt]
    stand_in: Outputs

    def take(self, index: Sequence[int]) -> Side:
        return Side([self.forks[i] for i in index], self.stand_in.of(index, "cpu"))


@dataclass(frozen=True)
class Bench:
    """A model with the three kinds of prompts on which sets of sites are judged."""

    model: Model
    conflict: Side
    plain: Side
    neutral: Side
    settings: Settings

    def margins(self, side: Side, sets: Sequence[frozenset[Site]]) -> np.ndarray:
        """(pair, set): margins with each set replaced; for neutral text, log p of the answer."""
        s = self.settings
        return replaced_margins(
            self.model, side.forks, side.stand_in, sets, batch_size=s.batch_size, progress=s.progress
        )


def _verify_model(model: Model, chosen: SiteSets, pairs: PairSet, settings: Settings) -> Table:
    bench = _bench(model, pairs, settings)
    rows = []
    for split, pick, judge in _splits(chosen, model, pairs, settings):
        sites = _choose(chosen, bench, pairs, pick)
        rows += _judge(bench, sites, split, judge)
    run = run_of(
        model,
        task=pairs.name,
        method="verify: sites replaced together, against matched random sets",
        seed=settings.seed,
        settings={
            "replacement": settings.replacement,
            "share": settings.share,
            "n_random": settings.n_random,
            "n_pairs": len(pairs),
        },
    )
    head = {"model": model.name, "n_params": model.n_params, "task": pairs.name, "replacement": settings.replacement}
    return table("verification", [{**head, **row} for row in rows], run)


def _bench(model: Model, pairs: PairSet, settings: Settings) -> Bench:
    conflict, plain = prepare(model, pairs, ("conflict",)), prepare(model, pairs, ("plain",))

    def look(prepared: Prepared) -> Outputs:
        return observe(model, prepared, batch_size=settings.batch_size, progress=settings.progress).outputs

    on_conflict = look(conflict)
    on_plain = look(plain) if settings.replacement == "plain" else None
    stand_in = replacement_outputs(settings.replacement, on_conflict, plain=on_plain, seed=settings.seed)
    neutral = _neutral_forks(model, pairs, settings.seed)
    everywhere = stand_in.map(lambda x: x.mean(0, keepdim=True).expand(len(neutral), *x.shape[1:]))
    return Bench(
        model, Side(conflict.forks, stand_in), Side(plain.forks, stand_in), Side(neutral, everywhere), settings
    )


def _neutral_forks(model: Model, pairs: PairSet, seed: int) -> list[ContrastPrompt]:
    """log p of the last word of unfamiliar sentences: text in which nothing is at stake."""
    rng = random.Random(f"neutral text {seed}")
    texts = [unfamiliar_sentence(rng).rsplit(" ", 1) for _ in range(N_NEUTRAL)]
    return answer_prompts(
        model, [f"neutral {i}" for i in range(N_NEUTRAL)], [Prompt(t) for t, _ in texts], [f" {w}" for _, w in texts]
    )


def _splits(
    chosen: SiteSets, model: Model, pairs: PairSet, settings: Settings
) -> list[tuple[str, list[int], list[int]]]:
    everything = list(range(len(pairs)))
    if not isinstance(chosen, Table):
        return [("all", everything, everything)]
    if len(pairs) < 4:
        raise InputError(
            pairs.name,
            [f"{len(pairs)} pairs: expected at least four, to choose sites on one half and judge on the other"],
        )
    return halves(len(pairs), settings.seed)


def _choose(chosen: SiteSets, bench: Bench, pairs: PairSet, pick: Sequence[int]) -> tuple[Site, ...]:
    model = bench.model
    if isinstance(chosen, Table):
        settings = bench.settings
        values = effects_by_pair(chosen, model, pairs.take(pick), settings.replacement)
        sites = all_sites(model.architecture.n_layers, model.architecture.n_heads)
        return _best_prefix(bench, ranked_sites(values, sites, settings.share, settings.seed), pick)
    given = chosen.get(model.name, ()) if isinstance(chosen, Mapping) else chosen
    found = tuple(sorted(set(given), key=lambda s: (s.layer, s.kind, s.head or 0)))
    check_sets([frozenset(found)], model)
    return found


def ranked_sites(values: np.ndarray, sites: Sequence[Site], share: float, seed: int) -> tuple[Site, ...]:
    """Sites that push towards the lure by their effects (pair, site), significantly, strongest first, at most
    ``share`` of all."""
    mean = values.mean(0)
    significant = benjamini_hochberg(sign_flip_p(values, seed=seed)) <= LEVEL
    most = max(1, int(share * len(sites)))
    order = [i for i in np.argsort(mean, kind="stable") if mean[i] < 0 and significant[i]][:most]
    return tuple(sites[i] for i in order)


def _best_prefix(bench: Bench, ranked: Sequence[Site], pick: Sequence[int]) -> tuple[Site, ...]:
    if not ranked:
        return ()
    prefixes = [frozenset(ranked[:k]) for k in range(len(ranked) + 1)]
    conflict = bench.margins(bench.conflict.take(pick), prefixes)
    plain = bench.margins(bench.plain.take(pick), prefixes)
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


def _judge(bench: Bench, sites: tuple[Site, ...], split: str, judge: Sequence[int]) -> list[dict]:
    s = bench.settings
    drawn = matched_sets(sites, bench.model, s.n_random, s.seed) if sites else []
    sets = [frozenset(), frozenset(sites), *drawn]
    conflict = bench.margins(bench.conflict.take(judge), sets)
    few = sets[: 2 + N_COST]
    plain = bench.margins(bench.plain.take(judge), few)
    neutral = bench.margins(bench.neutral, few)
    lengths = np.array([len(f.answer.targets) for f in bench.neutral.forks])
    accuracy, margin, kept = (conflict > 0).mean(0), conflict.mean(0), (plain < 0).mean(0)
    loss = -neutral.sum(0) / lengths.sum()
    before = {
        "split": split,
        "n_random": len(drawn),
        "accuracy_before": accuracy[0],
        "margin_before": margin[0],
        "plain_before": kept[0],
        "neutral_loss_before": loss[0],
        "gap_closed": np.nan,
    }

    def after(name: str, index: Any, p: float) -> dict:
        return {
            **before,
            "sites": name,
            "n_sites": len(sites),
            "accuracy_after": np.mean(accuracy[index]),
            "margin_after": np.mean(margin[index]),
            "plain_after": np.mean(kept[index]),
            "neutral_loss_after": np.mean(loss[index]),
            "p_random": p,
        }

    rows = [after(" ".join(map(str, sites)), 1, _p(accuracy, margin) if drawn else np.nan)]
    return rows + ([after(RANDOM, slice(2, None), np.nan)] if drawn else [])


def _p(accuracy: np.ndarray, margin: np.ndarray) -> float:
    """p of set 1 among sets 2 and on: by accuracy, and by margin where accuracies are equal."""
    order = pd.MultiIndex.from_arrays([accuracy[1:], margin[1:]]).to_frame().rank(method="dense").to_numpy()
    rank = order[:, 0] * (len(order) + 1) + order[:, 1]
    return random_set_p(rank[0], rank[1:])
