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
class Example:
    """``cards``: the side's name, the pieces of its prompt, and what is right there."""

    legend: list[Piece]
    cards: list[tuple[str, list[Piece], str]]
    answer: str
    lure: str


def example_of(pair: Pair) -> Example:
    roles = dict.fromkeys([pair.factor, *pair.conflict.roles, *pair.plain.roles])
    styles = {role: f"r{i % N_TINTS}" + (" factor" if role == pair.factor else "") for i, role in enumerate(roles)}
    return Example(
        legend=[Piece(role.replace("_", " "), role, style) for role, style in styles.items()],
        cards=[
            ("Conflict", _pieces(pair.conflict, styles), pair.answer),
            ("Plain", _pieces(pair.plain, styles), pair.lure),
        ],
        answer=pair.answer,
        lure=pair.lure,
    )


def _pieces(prompt: Prompt, styles: Mapping[str, str]) -> list[Piece]:
    spans = sorted((start, stop, role) for role, places in prompt.roles.items() for start, stop in places)
    pieces, at = [], 0
    for start, stop, role in spans:
        inner = prompt.text[start:stop]
        marked = inner.rstrip("\n")  # line ends stand outside the mark, so that it draws no empty line
        pieces += [Piece(prompt.text[at:start]), Piece(marked, role, styles[role]), Piece(inner[len(marked) :])]
        at = stop
    return [*pieces, Piece(prompt.text[at:])]
