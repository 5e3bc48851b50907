"""Contrasting pairs: two prompts that differ in one factor, and the two completions between them.

>>> pair = Pair("p0", Prompt("Q: What is the first digit of π? A:"),
...             Prompt("Redefine π as 462. Q: What is the first digit of π? A:", {"definition": ((0, 19),)}),
...             answer=" 4", lure=" 3", factor="definition")
>>> pair.conflict.text[slice(*pair.conflict.roles["definition"][0])]
'Redefine π as 462. '
>>> check_one_factor(pair)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Literal, NamedTuple

Spans = tuple[tuple[int, int], ...]
Side = Literal["conflict", "plain", "neutral"]


@dataclass(frozen=True)
class Prompt:
    """A text and its named roles: role -> character spans ``(start, stop)``, half open, non-empty.

    Spans of all roles together are disjoint: a character has one role at most (the rest is
    ``other``). Raises ``ValueError`` for an empty text, a span out of range, or an overlap.
    """

    text: str
    roles: Mapping[str, Spans] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("prompt: expected some text, found none")
        roles = {name: tuple((int(a), int(b)) for a, b in spans) for name, spans in self.roles.items()}
        end, before = 0, ""
        for start, stop, name in sorted((a, b, name) for name, spans in roles.items() for a, b in spans):
            if not 0 <= start < stop <= len(self.text):
                raise ValueError(
                    f"role {name!r}: span ({start}, {stop}) is not inside a text of {len(self.text)} characters"
                )
            if start < end:
                raise ValueError(f"roles {before!r} and {name!r} overlap at character {start}")
            end, before = stop, name
        object.__setattr__(self, "roles", MappingProxyType(roles))

    def __reduce__(self) -> tuple[type[Prompt], tuple[object, ...]]:
        """For worker processes: a mappingproxy does not pickle."""
        return Prompt, (self.text, dict(self.roles))

    def spans(self, role: str) -> tuple[str, ...]:
        """The pieces of text that carry ``role`` (none where the prompt has no such role)."""
        return tuple(self.text[a:b] for a, b in self.roles.get(role, ()))


class PairSide(NamedTuple):
    """One side of a pair: its prompt, and the completions that are right and wrong there."""

    side: Side
    prompt: Prompt
    right: str
    wrong: str


@dataclass(frozen=True)
class Pair:
    """Two prompts that differ in the one ``factor`` (a role's name), with what each of them asks for.

    ``answer`` is the completion the conflict prompt asks for; ``lure`` is the one that memory or a
    surface cue suggests, and the right one after the plain prompt. ``neutral``, where there is one,
    asks for ``neutral_answer`` against ``neutral_lure`` where no lure exists (an unknown sentence).
    ``answer_index`` is the answer's place in ``classes``, so that the order of an item is kept.
    """

    id: str
    plain: Prompt
    conflict: Prompt
    answer: str
    lure: str
    factor: str
    neutral: Prompt | None = None
    neutral_answer: str | None = None
    neutral_lure: str | None = None
    answer_index: int = 0

    def __post_init__(self) -> None:
        if not self.answer or not self.lure or self.answer == self.lure:
            raise ValueError(
                f"pair {self.id!r}: answer {self.answer!r} and lure {self.lure!r} must be two different texts"
            )
        if self.plain.text == self.conflict.text:
            raise ValueError(f"pair {self.id!r}: plain and conflict prompt are the same")
        given = {self.neutral is not None, bool(self.neutral_answer), bool(self.neutral_lure)}
        if len(given) != 1:
            raise ValueError(f"pair {self.id!r}: a neutral prompt comes with neutral_answer and neutral_lure")
        if self.neutral is not None and self.neutral_answer == self.neutral_lure:
            raise ValueError(f"pair {self.id!r}: neutral_answer and neutral_lure are the same")
        if self.answer_index not in (0, 1):
            raise ValueError(f"pair {self.id!r}: answer_index {self.answer_index!r}: expected 0 or 1")

    @property
    def classes(self) -> tuple[str, str]:
        """Both completions in the order of the prize's item."""
        return (self.answer, self.lure) if self.answer_index == 0 else (self.lure, self.answer)

    def sides(self) -> Iterator[PairSide]:
        """Every side there is: conflict, plain, neutral.

        ``right`` is the completion this side asks for: the answer on conflict, the lure on plain.
        """
        yield PairSide("conflict", self.conflict, self.answer, self.lure)
        yield PairSide("plain", self.plain, self.lure, self.answer)
        if self.neutral is not None and self.neutral_answer and self.neutral_lure:
            yield PairSide("neutral", self.neutral, self.neutral_answer, self.neutral_lure)

    def with_neutral(self, neutral: Prompt, answer: str, lure: str) -> Pair:
        """The same pair with a neutral side: after ``neutral`` it is ``answer`` that is right, against ``lure``."""
        return replace(self, neutral=neutral, neutral_answer=answer, neutral_lure=lure)


@dataclass(frozen=True)
class PairSet:
    """A task's pairs, with its name, its citation, and whether guessing has a meaning there.

    ``equally_likely`` says that each completion is a priori as likely as the other (A/B, Y/N): only
    then is a uniform baseline drawn. Raises ``ValueError`` for no pairs or repeated ids.
    """

    name: str
    pairs: tuple[Pair, ...]
    citation: str = ""
    equally_likely: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError(f"pairs of {self.name!r}: expected at least one")
        if len({pair.id for pair in self.pairs}) < len(self.pairs):
            raise ValueError(f"pairs of {self.name!r}: ids are repeated")

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]

    def take(self, indices: Iterable[int]) -> PairSet:
        """The pairs at ``indices``, under the same name."""
        return replace(self, pairs=tuple(self.pairs[i] for i in indices))


def check_one_factor(pair: Pair) -> None:
    """Proves that plain and conflict are the same text once the spans of ``pair.factor`` are cut out.

    Raises ``ValueError`` that names the pair and shows the first character at which the texts differ otherwise, or
    that neither prompt has the factor at all.
    """
    if pair.factor not in pair.plain.roles and pair.factor not in pair.conflict.roles:
        raise ValueError(f"pair {pair.id!r}: neither prompt has a role {pair.factor!r}")
    plain, conflict = (_without(prompt, pair.factor) for prompt in (pair.plain, pair.conflict))
    if plain != conflict:
        at = len(os.path.commonprefix([plain, conflict]))
        raise ValueError(
            f"pair {pair.id!r}: apart from {pair.factor!r} the prompts differ at character {at}: "
            f"plain has {plain[at : at + 30]!r}, conflict has {conflict[at : at + 30]!r}"
        )


def _without(prompt: Prompt, role: str) -> str:
    text = prompt.text
    for start, stop in sorted(prompt.roles.get(role, ()), reverse=True):
        text = text[:start] + text[stop:]
    return text


def compose(parts: Sequence[tuple[str, str]]) -> Prompt:
    """A prompt from ``(text, role)`` pieces in order; an empty role means none, an empty text is skipped.

    >>> compose([("It is", ""), (" not", "negation"), (" so.", "")])
    Prompt(text='It is not so.', roles=mappingproxy({'negation': ((5, 9),)}))
    """
    text = ""
    roles: dict[str, list[tuple[int, int]]] = {}
    for piece, role in parts:
        if piece and role:
            roles.setdefault(role, []).append((len(text), len(text) + len(piece)))
        text += piece
    return Prompt(text, {name: tuple(spans) for name, spans in roles.items()})


@cache
def _pieces(template: str) -> tuple[tuple[str, str], ...]:
    """``(text, role)`` of every piece of a template, in order."""
    before, *marked = re.split(r"<(\w+)>(.*?)</>", template, flags=re.DOTALL)
    of_roles = zip(marked[::3], marked[1::3], marked[2::3], strict=True)
    return ((before, ""), *(piece for role, text, after in of_roles for piece in ((text, role), (after, ""))))


def fill(template: str, **texts: str) -> Prompt:
    """A prompt from a template: ``{name}`` stands for a text, and what stands in ``<role>...</>`` has that role.

    >>> fill("It is<negation>{inserted}</> so.", inserted=" not")
    Prompt(text='It is not so.', roles=mappingproxy({'negation': ((5, 9),)}))
    """
    return compose([(piece.format(**texts), role) for piece, role in _pieces(template)])
