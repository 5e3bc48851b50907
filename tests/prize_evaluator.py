"""A second implementation of both scoring rules, written from their definitions: a plain transformers model, one
text at a time, nothing shared, nothing packed. It knows a token's place by spelling the tokens out, not by offsets."""

from __future__ import annotations

import math

import torch

BYTE_OF = {}  # how byte-level tokenizers spell bytes


def _spelling() -> dict[str, int]:
    if not BYTE_OF:
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        odd = [b for b in range(256) if b not in plain]
        BYTE_OF.update({chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(odd)})
    return BYTE_OF


def token_bytes(tokenizer, token: int) -> bytes:
    if token in tokenizer.all_special_ids:
        return b""
    return bytes(_spelling()[c] for c in tokenizer.convert_ids_to_tokens(token))


def strict_targets(tokenizer, prompt: str, completion: str) -> tuple[list[int], int] | None:
    """All tokens of the joint text and where the completion's begin; None where a token straddles the boundary."""
    ids = tokenizer(prompt + completion).input_ids
    boundary, read = len(prompt.encode()), 0
    for i, token in enumerate(ids):
        if read == boundary and token_bytes(tokenizer, token):
            return ids, i
        read += len(token_bytes(tokenizer, token))
        if read > boundary:
            return None
    raise AssertionError("the completion has no token")


def prize_targets(tokenizer, prompt: str, completion: str) -> tuple[list[int], int]:
    ids = tokenizer(prompt + completion, truncation=True, max_length=1023).input_ids
    alone = tokenizer(completion).input_ids
    n = len(alone) - (1 if alone[0] in tokenizer.all_special_ids else 0)
    return ids, len(ids) - n


def logprob(model, ids: list[int], start: int) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    total = 0.0
    for i in range(start, len(ids)):
        row = logits[i - 1]
        top = float(row.max())
        total += float(row[ids[i]]) - top - math.log(float((row - top).exp().sum()))
    return total
