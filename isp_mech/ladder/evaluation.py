"""How a ladder model does on the four tasks in the course of its training: plain sums of log-probabilities.

Independent of the library's scorer, so that each can be held against the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import GPTNeoXForCausalLM

from isp_mech.contrasts import contrast
from isp_mech.contrasts.hindsight_neglect import OWN_SHOTS
from isp_mech.contrasts.neqa import facts, is_evaluation_fact
from isp_mech.tasks import PairSet

Encode = Callable[[str], list[int]]

TASKS = {"quote-repetition": 100, "neqa": 100, "redefine-math": 100, "hindsight-neglect": 30}
VARIANTS = {"hindsight-neglect": OWN_SHOTS}  # thirty pairs: as many shots as there can be
SEED = 11
ROWS, LONG_ROWS, LONG = 64, 12, 300  # prompts at a time, short ones and those of over ``LONG`` tokens


def evaluation_pairs(*, tasks: Mapping[str, int] = TASKS, seed: int = SEED) -> dict[str, PairSet]:
    """The pairs of every task. NeQA's are of the facts that no training may negate (see ``Recipe.negated``)."""
    found = {}
    for task, n in tasks.items():
        drawn = contrast(task, n=2 * n if task == "neqa" else n, seed=seed, variant=VARIANTS.get(task, ""))
        found[task] = held_out(drawn, n)
    return found


def held_out(pairs: PairSet, n: int) -> PairSet:
    """The first ``n`` of the pairs whose negated question no training may ask; all of them, for other tasks."""
    if pairs.name != "neqa":
        return pairs.take(range(min(n, len(pairs))))
    kept = {fact.plain_stem for fact in facts() if is_evaluation_fact(fact)}
    asked = [pair.plain.text.split("Question: ", 1)[1].split("\n", 1)[0] for pair in pairs]
    return pairs.take([i for i, stem in enumerate(asked) if stem in kept][:n])


@torch.no_grad()
def accuracies(model: GPTNeoXForCausalLM, pairs: PairSet, encode: Encode, device: str) -> dict[str, float]:
    """``{side: share of pairs whose right completion is likelier than the wrong one}``."""
    sides: list[str] = []  # of every completion, right and wrong in turn
    asked: dict[tuple[int, ...], list[tuple[int, int, list[int]]]] = {}  # after the same tokens, read once
    for pair in pairs:
        for side, prompt, right, wrong in pair.sides():
            start = encode(prompt.text)
            for end in map(encode, (right, wrong)):
                asked.setdefault((*start, *end[:-1]), []).append((len(sides), len(start) - 1, end))
                sides.append(side)
    scores, rows = np.zeros(len(sides)), sorted(asked, key=len)
    while rows:
        size = ROWS if len(rows[0]) < LONG else LONG_ROWS
        chunk, rows = rows[:size], rows[size:]
        padded = torch.zeros(len(chunk), len(chunk[-1]), dtype=torch.long)
        for k, tokens in enumerate(chunk):
            padded[k, : len(tokens)] = torch.tensor(tokens)
        hidden = model.gpt_neox(padded.to(device)).last_hidden_state
        for k, tokens in enumerate(chunk):
            for i, last, end in asked[tokens]:
                logprobs = model.lm_head(hidden[k, last : last + len(end)]).log_softmax(-1).cpu()
                scores[i] = logprobs[torch.arange(len(end)), torch.tensor(end)].sum()
    won: dict[str, list[bool]] = {}
    for i in range(0, len(sides), 2):
        won.setdefault(sides[i], []).append(bool(scores[i] > scores[i + 1]))
    return {side: float(np.mean(values)) for side, values in won.items()}


def evaluate(
    model: GPTNeoXForCausalLM, pairs: Mapping[str, PairSet], encode: Encode, device: str
) -> list[dict[str, Any]]:
    """One row per task and side: ``task side accuracy n``."""
    model.eval()
    rows = []
    for task, drawn in pairs.items():
        found = accuracies(model, drawn, encode, device)
        rows += [{"task": task, "side": side, "accuracy": value, "n": len(drawn)} for side, value in found.items()]
    model.train()
    return rows
