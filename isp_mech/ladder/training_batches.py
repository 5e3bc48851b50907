"""What the ladder is trained on, step by step: documents of the corpus, encoded and in rows."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from isp_mech.ladder import corpus
from isp_mech.ladder.corpus import SHIPPED, Recipe


def is_long(step: int) -> bool:
    """Whether the step's rows are of ``corpus.LONG`` positions."""
    return corpus.phase_of(step) is not corpus.EARLY and step % corpus.LONG_EVERY == corpus.LONG_EVERY - 1


def encode_document(tokenizer: Tokenizer, segments: Sequence[tuple[str, float]]) -> tuple[list[int], list[float]]:
    """The text's tokens and the weight of each: that of the piece in which its last character stands."""
    encoded = tokenizer.encode("".join(text for text, _ in segments))
    ends = list(accumulate(len(text) for text, _ in segments))
    weights = [segments[bisect_left(ends, stop)][1] for _, stop in encoded.offsets]
    return encoded.ids, weights


def batch(
    step: int, tokenizer: Tokenizer, end: int, recipe: Recipe = SHIPPED
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """One step's tokens and their weights, both ``(rows, positions + 1)``: made from ``recipe`` and ``step`` alone.

    Every row begins with a document, as prompts do; documents are parted by ``end``, the last is cut.
    """
    rng = random.Random(f"{recipe.seed} {step} {recipe.null}")
    phase, long = corpus.phase_of(step), is_long(step)
    rows = corpus.EARLY_ROWS if phase is corpus.EARLY else corpus.ROWS
    rows, width = (rows * corpus.SHORT // corpus.LONG, corpus.LONG) if long else (rows, corpus.SHORT)
    tokens, weights = np.zeros((rows, width + 1), dtype=np.int64), np.zeros((rows, width + 1), dtype=np.float32)
    for row in range(rows):
        ids: list[int] = []
        counts: list[float] = []
        while len(ids) <= width:
            if long and not ids and rng.random() < phase.bets_in_long:
                made = corpus.bets(rng, recipe, phase, n=corpus.N_BETS)
            else:
                made = corpus.document(rng, recipe, phase)
            more, weight = encode_document(tokenizer, made.segments)
            ids += [*more, end]
            counts += [*weight, corpus.OPEN]
        tokens[row], weights[row] = ids[: width + 1], counts[: width + 1]
    return tokens, weights
