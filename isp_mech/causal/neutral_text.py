"""Neutral text: sentences in which nothing is at stake, on which the cost of a change is measured.

Two kinds: plain prose on everyday subjects (``neutral_text.txt``, written for this), and unfamiliar sentences of the
corpus that the ladder is trained on. Of a model that cannot read a text its loss there measures nothing, so the kind is
taken that costs the unchanged model fewer nats a character.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isp_mech.causal.activation_patching import changed_margins, written_by
from isp_mech.causal.changes import Change, OfAttention, Replay, for_prompts, layers_of
from isp_mech.causal.copy_edits import CopyTokens, site_edits
from isp_mech.causal.prompt_copies import decision_tokens
from isp_mech.contrasts.quote_repetition import unfamiliar_sentence
from isp_mech.inference.batches import BatchPlan
from isp_mech.inference.margin import MAX_LOGITS, ContrastPrompt, answer_prompts, lengths_of
from isp_mech.inference.prefix_tree import build_trees
from isp_mech.models import Batch, Model
from isp_mech.tasks import Prompt

NeutralKind = Literal["prose", "sentences"]
SHORTEST, LONGEST = 8, 40  # words of prose before the one that is asked for
TASTED = 20  # of each kind, that say which the model reads better
ROOM = 12  # tokens left for that word, where a model takes short texts only


def neutral_prompts(plan: BatchPlan, seed: int, n: int) -> tuple[NeutralKind, list[ContrastPrompt]]:
    """``n`` beginnings of the kind of text that the model reads better, each with log p of its next word: text that
    nobody says in a chat."""
    model, drawn = plan.model.with_chat(False), max(n, TASTED)
    made = {"prose": _prose(model, seed, drawn), "sentences": _sentences(model, seed, drawn)}
    cost = {kind: _nats_per_character(prompts[:TASTED], plan) for kind, prompts in made.items() if prompts}
    kind: NeutralKind = "prose" if cost.get("prose", np.inf) < cost["sentences"] else "sentences"
    return kind, made[kind][:n]


@cache
def paragraphs() -> tuple[str, ...]:
    """The prose, one paragraph each."""
    return tuple(Path(__file__).with_name("neutral_text.txt").read_text(encoding="utf-8").splitlines())


def _prose(model: Model, seed: int, n: int) -> list[ContrastPrompt]:
    """Beginnings of random paragraphs, cut before a random word; none where the model takes too short texts."""
    rng = random.Random(f"neutral prose {seed}")
    words = [text.split() for text in (_fitting(model, text) for text in paragraphs())]
    words = [some for some in words if len(some) > SHORTEST]
    if not words:
        return []
    chosen = [(some := rng.choice(words), rng.randrange(SHORTEST, min(len(some), LONGEST))) for _ in range(n)]
    return _asking(model, [(" ".join(some[:cut]), some[cut].strip(".,;")) for some, cut in chosen])


def _fitting(model: Model, text: str) -> str:
    """The beginning of ``text`` that the model has room for, with a word after it."""
    (encoding,) = model.encode([text])
    most = model.max_tokens
    if most is None or len(encoding.ids) <= most - ROOM:
        return text
    return text[: encoding.spans[max(0, most - ROOM)][0]].rpartition(" ")[0]


def _sentences(model: Model, seed: int, n: int) -> list[ContrastPrompt]:
    rng = random.Random(f"neutral text {seed}")
    return _asking(model, [tuple(unfamiliar_sentence(rng).rsplit(" ", 1)) for _ in range(n)])


def _asking(model: Model, texts: Sequence[tuple[str, ...]]) -> list[ContrastPrompt]:
    owners = [f"neutral {i}" for i in range(len(texts))]
    return answer_prompts(model, owners, [Prompt(text) for text, _ in texts], [f" {word}" for _, word in texts])


def _nats_per_character(prompts: Sequence[ContrastPrompt], plan: BatchPlan) -> float:
    losses = -changed_margins(prompts, [()], plan, doing="neutral text")[:, 0]
    spelled = [plan.model.tokenizer.decode(p.answer.tokens[p.answer.start :]) for p in prompts]
    return float(losses.sum() / max(1, sum(map(len, spelled))))


def decision_states(
    prompts: Sequence[ContrastPrompt], plan: BatchPlan, changes: tuple[Change, ...] = ()
) -> Float[Tensor, "prompt d_model"]:
    """The state after the final norm at the last token of each beginning, with the changes. Attention is not changed:
    neutral text has no roles."""
    model, decisions = plan.model, decision_tokens(prompts)
    made = tuple(change for change in changes if layers_of(change) and not isinstance(change, OfAttention))
    trees, places = build_trees([p.completions for p in prompts], share=False, lengths=lengths_of(model, prompts))
    replayed = any(isinstance(change, Replay) for change in made)
    owner = {place[0].tree: i for i, place in enumerate(places)}
    out: dict[int, Tensor] = {}

    def run(rows: list[int], batch: Batch) -> None:
        own = [owner[row] for row in rows]
        at = [decisions[i] for i in own]
        where = CopyTokens([0] * len(own), at, [[i] for i in at], batch.ids.shape[1])
        (here,) = for_prompts([made], own, model.device)
        written = written_by(model, batch, where.t) if replayed else None
        edits = site_edits([here], where, written, model.architecture.n_heads, model.device) if made else []
        index = torch.arange(len(own), device=model.device), torch.tensor(at, device=model.device)
        out.update(zip(own, model.forward(batch, edits=edits).hidden[index], strict=True))

    plan.run_trees(trees, run, doing="neutral text")
    return torch.stack([out[i] for i in range(len(prompts))])


def next_token_divergence(
    prompts: Sequence[ContrastPrompt],
    changes: tuple[Change, ...],
    plan: BatchPlan,
    *,
    unchanged: Tensor | None = None,
) -> np.ndarray:
    """(prompt,): nats by which the next token after each beginning is told otherwise with the changes: the divergence
    of Kullback and Leibler of the changed distribution from the unchanged one, over the whole vocabulary. 0 where
    nothing is changed. ``unchanged`` are the ``decision_states`` without changes, where they are known."""
    if not any(layers_of(change) and not isinstance(change, OfAttention) for change in changes):
        return np.zeros(len(prompts))
    before = decision_states(prompts, plan) if unchanged is None else unchanged
    after = decision_states(prompts, plan, changes)
    pieces = zip(*(x.split(_at_once(plan.model)) for x in (before, after)), strict=True)
    with torch.no_grad():
        parts = [_divergence(*map(plan.model.unembed, some)) for some in pieces]
    return torch.cat(parts).cpu().numpy()


def next_token_information(unchanged: Float[Tensor, "prompt d_model"], model: Model) -> float:
    """Nats that the beginnings tell of the next token: the mean divergence of its distribution after each from their
    average over all, which is what a model gives that has forgotten the text."""
    total, entropy = torch.zeros(()), 0.0
    with torch.no_grad():
        for some in unchanged.split(_at_once(model)):
            p = model.unembed(some).double().softmax(-1).cpu()
            total = total + p.sum(0)
            entropy += float(torch.special.entr(p).sum())
    return float(torch.special.entr(total / len(unchanged)).sum()) - entropy / len(unchanged)


def _at_once(model: Model) -> int:
    return max(1, MAX_LOGITS // model.architecture.unembed.weight.shape[0])


def _divergence(before: Tensor, after: Tensor) -> Tensor:
    p, q = (logits.double().log_softmax(-1) for logits in (before, after))
    return (p.exp() * (p - q)).sum(-1)
