"""Prompts cut into what the model was given, token by token, and each head's attention to every one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from isp_mech.errors import visible
from isp_mech.tasks import Prompt

Piece = list[str | int]  # text, role, place among the weights (-1: none) and, of a token outside the prompt, a 1


@dataclass(frozen=True)
class CutPrompt:
    """A prompt's ``pieces`` in order, the role of each place (the one that holds most of its characters, the earlier of
    two that hold the same; empty for none), and ``weights`` (head, place): the last position's attention, 0..1."""

    pieces: list[Piece]
    roles: list[str]
    weights: np.ndarray


def cut_prompt(prompt: Prompt, rows: pd.DataFrame, heads: pd.MultiIndex) -> CutPrompt:
    """One prompt by the rows that ``token_attention`` has of it. Tokens that share a character, as the bytes of an
    emoji do, are one place; ``heads`` are the model's (layer, head)."""
    tokens = rows.drop_duplicates("token").sort_values("token")
    places: list[tuple[int, int, str]] = []
    place_of: dict[int, int] = {}
    for token, start, stop, text in tokens[["token", "start", "stop", "text"]].itertuples(index=False):
        before = places[-1] if places else (0, 0, "")
        if start < stop and start < before[1] and before[0] < before[1]:
            places[-1] = (before[0], max(stop, before[1]), "")
        else:
            places.append((start, stop, text))
        place_of[token] = len(places) - 1
    weights = np.zeros((len(heads), len(places)))
    at = heads.get_indexer(pd.MultiIndex.from_frame(rows[["layer", "head"]]))
    np.add.at(weights, (at, rows["token"].map(place_of).to_numpy(int)), rows["weight"].to_numpy(float))
    roles = {i: visible(role) for role, spans in prompt.roles.items() for a, b in spans for i in range(a, b)}
    counts = [Counter(roles.get(i, "") for i in range(start, stop)) for start, stop, _ in places]
    most = [count.most_common(1)[0][0] if count else "" for count in counts]
    return CutPrompt(list(_pieces(prompt, places, roles)), most, weights)


def _pieces(prompt: Prompt, places: Sequence[tuple[int, int, str]], roles: Mapping[int, str]) -> Iterator[Piece]:
    at = 0
    for number, (start, stop, text) in enumerate(places):
        if start == stop:
            yield [visible(text, keep="\n\t"), "", number, 1]
        else:
            yield from _of_span(prompt.text, at, start, roles, -1)
            yield from _of_span(prompt.text, start, stop, roles, number)
            at = stop
    yield from _of_span(prompt.text, at, len(prompt.text), roles, -1)


def _of_span(text: str, start: int, stop: int, roles: Mapping[int, str], place: int) -> Iterator[Piece]:
    """The characters from ``start`` to ``stop``, cut where a role begins or ends."""
    cuts = [i for i in range(start + 1, stop) if roles.get(i) != roles.get(i - 1)]
    for a, b in zip([start, *cuts], [*cuts, stop], strict=True):
        if a < b:
            yield [visible(text[a:b], keep="\n\t"), roles.get(a, ""), place]
