"""Which effects are measured on all tokens of the completions, and which at the first token that differs alone.

There an effect is one of the difference of two logits; at later tokens it needs the softmax's constant, and with it the
whole vocabulary. Where that costs several times as much, the first is a screen for the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from isp_mech.inference.margin import ContrastPrompt, at_first_token
from isp_mech.models import Model
from isp_mech.stats import MATTERS, spearman

EXACT, FIRST_TOKEN = "exact", "first token"  # how an effect was measured
COSTLY = 4.0  # times that the whole margin costs beside the first token's, from which on places are screened
STRONG, MIN_STRONG = 0.03, 24  # places that are measured on all tokens: of the largest effect at the first, at least
SAMPLED = 0.1  # share of the other places that are, too

Measure = Callable[[Sequence[ContrastPrompt], Sequence[int]], np.ndarray]  # (kind, prompt, place) of the places asked


@dataclass(frozen=True)
class Screened:
    """Effects (kind, prompt, place), how that of each place was measured, and what the screen missed, in words."""

    effects: np.ndarray
    how: np.ndarray
    note: str


def is_costly(prompts: Sequence[ContrastPrompt], model: Model) -> bool:
    """Whether the whole margin costs several times what it costs at the first token that differs: where later tokens
    need the softmax's constant, over a vocabulary that is large beside the model's body."""
    later = np.mean([sum(max(0, len(c.tokens) - 1 - p.shared) for c in p.completions) for p in prompts])
    body = model.n_params / 2  # of the parameters, what a copy passes through on average
    vocabulary = model.architecture.unembed.weight.numel()
    return bool(later > 0 and (later * (body + vocabulary) + body) / body >= COSTLY and len(prompts) > 1)


def screened(
    measure: Measure, prompts: Sequence[ContrastPrompt], n_places: int, *, model: str, places: str, seed: int
) -> Screened:
    """Every place at the first token that differs; those that matter there, and a random tenth of the others, on the
    whole margin too. ``places`` is what the note calls them."""
    effects = measure([at_first_token(prompt) for prompt in prompts], range(n_places))
    size = np.abs(effects.mean(1)).max(0)
    strong = np.argsort(-size, kind="stable")[: max(MIN_STRONG, int((size >= STRONG * size.max()).sum()))]
    rest = np.setdiff1d(np.arange(n_places), strong)
    checked = np.random.default_rng(seed).permutation(rest)[: math.ceil(SAMPLED * len(rest))]
    chosen = np.sort(np.concatenate([strong, checked]))
    whole = measure(prompts, chosen.tolist())
    rho = spearman(effects[0][:, chosen].mean(0), whole[0].mean(0))
    of_rest = np.abs(whole.mean(1)).max(0)[np.isin(chosen, checked)]
    missed = int((of_rest > MATTERS * np.abs(whole.mean(1)).max()).sum())
    effects[:, :, chosen] = whole
    how = np.full(n_places, FIRST_TOKEN, dtype=object)
    how[chosen] = EXACT
    note = (
        f"{model}: all {n_places} {places} were measured at the first token at which the completions differ, "
        f"the {len(strong)} strongest and {len(checked)} of the other {len(rest)}, drawn at random, on all tokens too: "
        f"{missed} of those {len(checked)} have an effect over a tenth of the largest; rank correlation of the two "
        f"effects {rho:.2f}"
    )
    return Screened(effects, how, note)
