"""How famous: the order in which the ladder's training text draws the project's quotations and constants.

The commonest stands three times as often as the rarest, and chance gave the ranks: on the ladder fame is
what its corpus says, and nothing in a sentence itself. Models that read other texts know other
things by heart: for them give a ``source`` of your own, the most famous rows first.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

Row = TypeVar("Row")


@cache
def corpus_ranks(*lengths: int) -> tuple[tuple[int, ...], ...]:
    """The rank of every row of the project's lists in the ladder's corpus, 0 for the commonest.

    ``lengths`` are those of the lists in the corpus's order: quotations, then constants.

    >>> sorted(corpus_ranks(5)[0])
    [0, 1, 2, 3, 4]
    """
    rng = random.Random("world")
    shuffled = []
    for length in lengths:
        ranks = list(range(length))
        rng.shuffle(ranks)
        shuffled.append(tuple(ranks))
    return tuple(shuffled)


def third(rows: Sequence[Row], variant: str, ranks: Sequence[int] | None) -> Sequence[Row]:
    """The most famous third of the rows for ``famous``, the least famous for ``known``, all for any other.

    ``ranks`` are as in ``corpus_ranks``; None: the rows themselves stand most famous first.

    >>> third("abcdef", "famous", None), third("abcdef", "known", (0, 1, 2, 5, 4, 3))
    (['a', 'b'], ['d', 'e'])
    """
    if variant not in ("famous", "known"):
        return rows
    order = range(len(rows)) if ranks is None else ranks
    n = -(-len(rows) // 3)
    wanted = range(n) if variant == "famous" else range(len(rows) - n, len(rows))
    return [row for row, rank in zip(rows, order, strict=True) if rank in wanted]
