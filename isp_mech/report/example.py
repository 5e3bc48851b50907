"""One pair as the page shows it: both prompts with their roles marked, the answer and the lure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from isp_mech.tasks import Pair, Prompt

N_TINTS = 6  # .r0 to .r5 in page.css


@dataclass(frozen=True)
class Piece:
    """A piece of a prompt; ``style`` is the class of its mark, empty where it has no role."""

    text: str
    role: str = ""
    style: str = ""


@dataclass(frozen=True)
class Card:
    """One prompt of a pair, and what is right there."""

    side: str
    pieces: list[Piece]
    right: str


def legend_of(pair: Pair) -> list[Piece]:
    """The roles of a pair's prompts, each in its tint, first the one in which they differ."""
    roles = dict.fromkeys([pair.factor, *pair.conflict.roles, *pair.plain.roles])
    return [Piece(role.replace("_", " "), role, f"r{i % N_TINTS}" + " factor" * (role == pair.factor))
            for i, role in enumerate(roles)]  # fmt: skip


def cards_of(pair: Pair) -> list[Card]:
    """Both prompts of a pair."""
    styles = {piece.role: piece.style for piece in legend_of(pair)}
    return [Card("Conflict", _pieces(pair.conflict, styles), pair.answer),
            Card("Plain", _pieces(pair.plain, styles), pair.lure)]  # fmt: skip


def _pieces(prompt: Prompt, styles: Mapping[str, str]) -> list[Piece]:
    spans = sorted((start, stop, role) for role, places in prompt.roles.items() for start, stop in places)
    pieces, at = [], 0
    for start, stop, role in spans:
        inner = prompt.text[start:stop]
        marked = inner.rstrip("\n")  # line ends stand outside the mark, so that it draws no empty line
        pieces += [Piece(prompt.text[at:start]), Piece(marked, role, styles[role]), Piece(inner[len(marked) :])]
        at = stop
    return [*pieces, Piece(prompt.text[at:])]
