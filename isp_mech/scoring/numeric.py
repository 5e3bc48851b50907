"""The prize's numeric metric: the mean of what a model says when it is asked for a number.

Ten samples at temperature 0.5, seven new tokens each, fewer where an end token comes; read without special tokens
and cut at the newline; commas, parentheses and final dots are stripped, and what then parses as a number is averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan
from isp_mech.inference.finite import check_finite
from isp_mech.inference.logprobs import MAX_LOGITS, groups_for, run_groups
from isp_mech.inference.prefix_tree import CompletionTokens
from isp_mech.inference.tokenization import PRIZE_LIMIT, Rule, encode_prompts
from isp_mech.models import Model
from isp_mech.tasks import Item

SAMPLES, NEW_TOKENS, TEMPERATURE = 10, 7, 0.5


@dataclass
class Sample:
    """One continuation under way: its prompt's tokens, a uniform number for each new token, the new tokens."""

    item: int
    prompt: tuple[int, ...]
    uniform: np.ndarray
    new: list[int] = field(default_factory=list)

    def next_token(self) -> CompletionTokens:
        """What is asked of the model: any token (here 0) after the prompt and what was sampled so far."""
        before = (*self.prompt, *self.new)
        return CompletionTokens((*before, 0), len(before))


@dataclass(frozen=True)
class Estimates:
    """Per item the mean of its samples that are numbers, and how many of the ten are."""

    numbers: np.ndarray
    n_parsed: np.ndarray


def estimates(items: Sequence[Item], plan: BatchPlan, *, rule: Rule = "strict", seed: int = 0) -> Estimates:
    """The estimates of all items.

    Random numbers belong to the item's place, the sample and the token, so that batches, packing and order of work
    change nothing. ``InputError`` lists the items none of whose samples is a number, or whose prompt is too long
    (by rule ``prize`` a prompt is cut at 1,023 tokens).
    """
    model = plan.model
    samples = _begin(model, items, rule, seed)
    for _ in range(NEW_TOKENS):
        going = [s for s in samples if not model.end_tokens & {*s.new} and "\n" not in _text(model, s)]
        if not going:
            break
        _sample_one_token(going, plan, [f"item {item.id}" for item in items])
    parsed: list[list[float]] = [[] for _ in items]
    texts: list[list[str]] = [[] for _ in items]
    for sample in samples:
        text = _text(model, sample).split("\n")[0]
        texts[sample.item].append(text)
        number = parse_number(text)
        parsed[sample.item] += [] if number is None else [number]
    problems = [
        f"item {item.id}: found {said[0]!r} and the like, expected a number in at least one of {SAMPLES} samples"
        for item, numbers, said in zip(items, parsed, texts, strict=True)
        if not numbers
    ]
    if problems:
        raise InputError(f"{model.name}, metric numeric", problems)
    return Estimates(np.array([np.mean(n) for n in parsed]), np.array([len(n) for n in parsed]))


def _begin(model: Model, items: Sequence[Item], rule: Rule, seed: int) -> list[Sample]:
    subject = f"{model.name}, metric numeric"
    encoded = encode_prompts(model, [i.prompt for i in items], [f"item {i.id}" for i in items], subject)
    prompts = [e.ids[:PRIZE_LIMIT] if rule == "prize" else e.ids for e in encoded]
    named = [(item.id, prompt) for item, prompt in zip(items, prompts, strict=True)]
    problems = [f"item {item}: {unfit}" for item, prompt in named if (unfit := _unfit(model, prompt))]
    if problems:
        raise InputError(subject, problems)
    return [
        Sample(i, prompt, uniform)
        for i, prompt in enumerate(prompts)
        for uniform in np.random.default_rng([seed, i]).random((SAMPLES, NEW_TOKENS))
    ]


def _unfit(model: Model, prompt: tuple[int, ...]) -> str:
    """What keeps numbers from being sampled after a prompt, or ""."""
    most = None if model.max_tokens is None else model.max_tokens - NEW_TOKENS + 1
    if most is not None and len(prompt) > most:
        return (
            f"{len(prompt)} tokens, expected at most {most}: the model takes {model.max_tokens}, {NEW_TOKENS} are new"
        )
    return model.unfit(prompt) if prompt else "no token in the prompt, expected at least one"


def _sample_one_token(samples: Sequence[Sample], plan: BatchPlan, ids: Sequence[str]) -> None:
    """Adds a token to every sample: the first one at which the summed probabilities pass the uniform number."""
    model = plan.model
    by_item: dict[int, list[int]] = {}
    for at, sample in enumerate(samples):
        by_item.setdefault(sample.item, []).append(at)
    numbers = [at for members in by_item.values() for at in members]
    asked = [[samples[at].next_token() for at in members] for members in by_item.values()]
    uniform = np.array([samples[at].uniform[len(samples[at].new)] for at in numbers])
    chosen, bad = np.zeros(len(numbers), dtype=np.int64), np.zeros(len(numbers), dtype=bool)

    def use(normed: Tensor, which: np.ndarray, tokens: np.ndarray, completions: np.ndarray) -> None:
        step = max(1, MAX_LOGITS // len(model.architecture.unembed.weight))
        for start in range(0, len(completions), step):
            here = completions[start : start + step]
            with torch.no_grad():
                logits = model.unembed(normed[torch.from_numpy(which[start : start + step]).to(normed.device)])
            passed = (logits.double() / TEMPERATURE).softmax(-1).cumsum(-1).cpu()
            bad[here] = ~passed[:, -1].isfinite().numpy()
            below = (passed < torch.from_numpy(uniform[here])[:, None]).sum(-1)
            chosen[here] = below.clamp(max=passed.shape[1] - 1).numpy()

    run_groups(groups_for(model, asked), plan, use)
    check_finite(np.where(bad, np.nan, 0.0), [ids[samples[at].item] for at in numbers], model.name)
    for at, token in zip(numbers, chosen.tolist(), strict=True):
        samples[at].new.append(token)


def _text(model: Model, sample: Sample) -> str:
    """What a sample says: without special tokens, and none of it behind an end token."""
    end = next((i for i, token in enumerate(sample.new) if token in model.end_tokens), len(sample.new))
    return str(model.tokenizer.decode(sample.new[:end], skip_special_tokens=True)) if end else ""


def parse_number(text: str) -> float | None:
    """The number that a continuation says, or None.

    >>> parse_number(" (1,200)."), parse_number(" about 3"), parse_number("-2.5"), parse_number("nan")
    (1200.0, None, -2.5, None)
    """
    bare = text.replace(",", "").strip().rstrip(".").strip("()").rstrip(".").strip()
    try:
        number = float(bare)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in bare else None
