"""A two-layer GPT-2 made by hand in which one head does induction and one copies from everywhere.

The stream holds, each beside its negative so that a LayerNorm's centring leaves it alone, a code of the token, waves
that tell the position, the code of the token before (written by head a0.h0, which attends one back), and what is
written on the output, which the unembedding reads as a token's code. Head a1.h0 attends to tokens whose token before
is the one that stands here, and writes their code on the output; a1.h1 attends to all tokens evenly and does so too.
Head a0.h1 and both MLPs write nothing.
"""

from __future__ import annotations

import torch
import transformers
from small_models import VOCABULARY

from isp_mech.models import Model, wrap_model
from isp_mech.tasks import Pair, PairSet, compose

WIDTH, D_HEAD, CODE = 128, 64, 16
TOKEN, WAVES, BEFORE, OUT = ((0, 16), (32, 8), (48, 16), (80, 16))  # first coordinate and how many; negatives follow
FREQUENCIES = torch.tensor([1.0, 0.3, 0.1, 0.03])
SHARP = 40.0


def place(part: tuple[int, int]) -> torch.Tensor:
    """(size, width): rows that put numbers on a part of the stream, and their negatives after it."""
    first, size = part
    rows = torch.zeros(size, WIDTH)
    rows[:, first : first + size] = torch.eye(size)
    rows[:, first + size : first + 2 * size] = -torch.eye(size)
    return rows


def inducing(tokenizer, *, sign: float = 1.0, name: str = "inducing") -> Model:
    """The model of the docstring; with ``sign`` -1 the head of induction writes against what it attends to."""
    hf = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64, tie_word_embeddings=False
        )
    )
    codes = token_codes(tokenizer)
    angles = torch.arange(64)[:, None] * FREQUENCIES
    with torch.no_grad():
        for parameter_name, parameter in hf.named_parameters():
            parameter.fill_(1.0 if "ln_" in parameter_name and parameter_name.endswith("weight") else 0.0)
        hf.transformer.wte.weight.copy_(codes @ place(TOKEN))
        hf.transformer.wpe.weight.copy_(torch.cat([angles.cos(), angles.sin()], 1) @ place(WAVES))
        hf.lm_head.weight.copy_(4 * codes @ place(OUT))
        cos, sin = FREQUENCIES.cos().diag(), FREQUENCIES.sin().diag()
        one_back = torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])  # of waves, as (in, out)
        first, second = hf.transformer.h
        wire(first.attn, 0, query=place(WAVES).T @ one_back, key=place(WAVES).T, writes=place(BEFORE), gain=0.15)
        wire(second.attn, 0, query=place(TOKEN).T, key=place(BEFORE).T, writes=place(OUT), gain=0.5 * sign)
        wire(second.attn, 1, query=None, key=None, writes=place(OUT), gain=0.2)
    return wrap_model(hf, tokenizer, name=name)


def token_codes(tokenizer) -> torch.Tensor:
    """(vocab, CODE), rows of norm 1: random, but that those of 0, 1 and m are as near to x's as to y's."""
    codes = torch.randn(VOCABULARY, CODE, generator=torch.Generator().manual_seed(0)).sign()
    half = CODE // 2
    for letter in "xy01m":
        (token,) = tokenizer(letter).input_ids
        codes[token, :half] = {"x": torch.ones(half), "y": -torch.ones(half)}.get(letter, torch.tensor([1.0, -1.0] * 4))
        codes[token, half:] = codes[0, half:] if letter in "xy" else codes[token, half:]
    return codes / CODE**0.5


def wire(attention, head: int, *, query, key, writes, gain: float) -> None:
    """One head that attends where ``query`` fits ``key`` (width, size), or evenly, and writes tokens' codes."""
    into, at = attention.c_attn.weight, D_HEAD * head
    if query is not None:
        into[:, at : at + query.shape[1]] = SHARP**0.5 * query
        into[:, WIDTH + at : WIDTH + at + key.shape[1]] = SHARP**0.5 * key
    into[:, 2 * WIDTH + at : 2 * WIDTH + at + CODE] = place(TOKEN).T
    attention.c_proj.weight[at : at + CODE] = gain * writes


def repeating_pairs(n: int) -> PairSet:
    """Prompts such as "00mx11m", which x should follow; in the plain ones y stood in its place."""
    made = []
    for i in range(n):
        answer, lure = ("x", "y") if i % 2 else ("y", "x")
        sides = [
            compose([("0" * (1 + i % 5), ""), ("m", ""), (letter, "definition"), ("1" * (1 + i // 5), ""), ("m", "")])
            for letter in (lure, answer)
        ]
        made.append(Pair(f"p{i}", *sides, answer, lure, "definition"))
    return PairSet("repeating", tuple(made))
