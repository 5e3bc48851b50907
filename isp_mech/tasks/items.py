"""``Item`` and ``Task``: what is asked, and which completion is right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

Metric = Literal["classification", "sequence_prob", "logodds", "absolute_logodds", "numeric"]
METRICS: tuple[Metric, ...] = get_args(Metric)
RESERVED = ("prompt", "other_prompt", "classes", "answer_index")
_LETTER = re.compile(r"\(?([a-z])[.):]?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_OPPOSITES = ({"y", "n"}, {"yes", "no"}, {"true", "false"})
_CITATIONS = Path(__file__).parent / "citations.tsv"
CITATIONS: Mapping[str, str] = MappingProxyType(
    dict(line.split("\t") for line in _CITATIONS.read_text(encoding="utf-8").splitlines()[1:])
)


@dataclass(frozen=True)
class Needs:
    """What a metric needs: the fields of a row in a file, and how many classes its item has."""

    fields: tuple[str, ...]
    fewest: int = 2
    most: int | None = 2  # None: any number

    def count_problem(self, n_classes: int) -> str:
        """How many classes are expected instead of ``n_classes``; "" where that many are."""
        if self.most is None:
            return f"expected at least {self.fewest}" if n_classes < self.fewest else ""
        if self.fewest <= n_classes <= self.most:
            return ""
        return f"expected exactly {self.most}" if self.most else "expected none"


_TWO_PROMPTS = Needs(("prompt", "other_prompt", "classes", "answer_index"))
NEEDS: Mapping[Metric, Needs] = MappingProxyType(
    {
        "classification": Needs(("prompt", "classes", "answer_index"), most=None),
        "sequence_prob": Needs(("prompt", "completion"), fewest=1, most=1),
        "logodds": _TWO_PROMPTS,
        "absolute_logodds": _TWO_PROMPTS,
        "numeric": Needs(("prompt",), fewest=0, most=0),
    }
)


def is_text(value: object) -> bool:
    """Whether a value is a text that UTF-8 can carry (JSON lets half of a surrogate pair through)."""
    return isinstance(value, str) and not _SURROGATE.search(value)


@dataclass(frozen=True)
class Item:
    """One question: a prompt, the completions to compare, and the index of the right one.

    ``sequence_prob`` items have one class, the completion; ``numeric`` items have none (``answer`` is
    0). ``extra`` holds the row's other fields with their types, in order. ``fields`` and
    ``classes_text`` remember how the row was written, so that a file is written back as it was; they
    are no part of what makes items equal. Raises ``ValueError`` for an empty id or prompt, empty or
    repeated classes, a text that UTF-8 cannot carry, or an answer out of range.
    """

    id: str
    prompt: str
    classes: tuple[str, ...]
    answer: int = 0
    other_prompt: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = field(default=(), compare=False, repr=False)
    classes_text: str | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        texts = (self.id, self.prompt, self.other_prompt or "", *self.classes)
        if not all(is_text(text) for text in texts):
            raise ValueError(f"item {self.id!r}: expected texts that UTF-8 can carry")
        for name, text in (("id", self.id), ("prompt", self.prompt), ("other_prompt", self.other_prompt)):
            if text is not None and not text.strip():
                raise ValueError(f"item {self.id!r}: {name} {text!r}: expected some text")
        if not all(self.classes) or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"item {self.id!r}: classes {self.classes!r}: expected different, non-empty texts")
        if not 0 <= self.answer < max(len(self.classes), 1):
            raise ValueError(f"item {self.id!r}: answer {self.answer!r}: expected 0 to {max(len(self.classes), 1) - 1}")
        clash = [name for name in RESERVED if name in self.extra]
        if clash:
            raise ValueError(f"item {self.id!r}: extra fields may not be called {', '.join(clash)}")
        object.__setattr__(self, "extra", MappingProxyType(dict(self.extra)))

    def __reduce__(self) -> tuple[type[Item], tuple[object, ...]]:
        """For worker processes: a mappingproxy does not pickle."""
        return Item, tuple(dict(self.extra) if f.name == "extra" else getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True)
class Task:
    """A name and its items, with the prize's metric they are made for.

    ``equally_likely`` says that guessing has a meaning: each class is a priori as likely as the others
    (A/B, Y/N), and only then is a uniform baseline drawn. Left out, it is inferred: true when every
    item's classes are such labels. Raises ``ValueError`` for no items, repeated ids, an unknown metric,
    or items that do not fit it.
    """

    name: str
    items: tuple[Item, ...]
    metric: Metric = "classification"
    citation: str = ""
    equally_likely: bool | None = None
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        if self.metric not in METRICS:
            raise ValueError(f"task {self.name!r}: metric {self.metric!r}: expected one of {', '.join(METRICS)}")
        if not self.items:
            raise ValueError(f"task {self.name!r}: expected at least one item")
        if len({item.id for item in self.items}) < len(self.items):
            raise ValueError(f"task {self.name!r}: ids are repeated")
        for item in self.items:
            complaint = misfit(self.metric, item)
            if complaint:
                raise ValueError(f"task {self.name!r}: item {item.id!r}: {complaint}")
        if self.equally_likely is None:
            object.__setattr__(self, "equally_likely", all(are_labels(item.classes) for item in self.items))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]

    def take(self, indices: Iterable[int]) -> Task:
        """The items at ``indices``, under the same name."""
        return replace(self, items=tuple(self.items[i] for i in indices))


def misfit(metric: Metric, item: Item) -> str:
    """What keeps an item from being scored by ``metric``, or "".

    >>> misfit("logodds", Item("0", "p", (" A", " B"), 0))
    "metric 'logodds': expected other_prompt"
    """
    wanted = NEEDS[metric].count_problem(len(item.classes))
    if wanted:
        return f"metric {metric!r}: found {len(item.classes)} classes, {wanted}"
    if metric == "sequence_prob" and "completion" in item.extra:
        return "metric 'sequence_prob': the completion is the item's class, not an extra field"
    if "other_prompt" in NEEDS[metric].fields and item.other_prompt is None:
        return f"metric {metric!r}: expected other_prompt"
    return ""


def are_labels(classes: tuple[str, ...]) -> bool:
    """Whether the classes are labels of options, none of them more likely before the question is read.

    >>> are_labels((" A", " B")), are_labels((" N", " Y")), are_labels((" 4", " 3")), are_labels((" egg", " a"))
    (True, True, False, False)
    """
    texts = {text.strip().lower() for text in classes}
    if len(texts) < 2 or len(texts) < len(classes):
        return False
    if texts in _OPPOSITES:
        return True
    letters = {match[1] for match in map(_LETTER.fullmatch, texts) if match}
    return letters == set("abcdefghijklmnopqrstuvwxyz"[: len(texts)]) and len(letters) == len(texts)
