"""Names in any script: fonts that have their glyphs are looked for; where there is none, a name is a number.

A figure that says names by number carries what the numbers stand for, and the report shows it beside the figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager, get_font

FAMILIES = ["DejaVu Sans"]  # the fonts of every figure; each has what those before it lack
_NO_LETTERS = ("Last Resort", "STIX", "cm", "DejaVu")  # boxes, mathematics, and what is there already
_NAMES: ContextVar[dict[str, str] | None] = ContextVar("names by number", default=None)


@contextmanager
def names_by_number() -> Iterator[dict[str, str]]:
    """Within it names without glyphs are numbered, from 1: the names by their numbers as they are written."""
    around = _NAMES.get()
    names = {} if around is None else around
    token = _NAMES.set(names)
    try:
        yield names
    finally:
        _NAMES.reset(token)


def written(name: str, shortened: str) -> str:
    """How a figure writes a name: as ``shortened``, or as its number where no font has the name's glyphs."""
    numbers = _NAMES.get()
    if numbers is None or has_glyphs(name):
        return shortened
    for number, numbered in numbers.items():
        if numbered == name:
            return number
    number = f"[{len(numbers) + 1}]"
    numbers[number] = name
    return number


def has_glyphs(text: str) -> bool:
    """Whether the figures' fonts have every character; a font that has what they lack becomes one of them."""
    missing = {ord(c) for c in text if not c.isspace()}
    for family in FAMILIES:
        missing -= _characters(findfont(FontProperties(family=family)))
    more = _family_with(frozenset(missing)) if missing else None
    if more is not None:
        FAMILIES.append(more)
    return not missing or more is not None


@cache
def _family_with(characters: frozenset[int]) -> str | None:
    return next((font.name for font in _fonts() if characters <= _characters(font.fname)), None)


def _fonts() -> list[FontEntry]:
    """Upright fonts of normal weight, those first that a PDF can hold and that are made for all scripts."""
    upright = [font for font in fontManager.ttflist if font.style == "normal" and not font.name.startswith(_NO_LETTERS)]
    return sorted(
        upright,
        key=lambda font: (
            Path(font.fname).suffix.lower() == ".otf",
            abs(_weight(font) - 400),
            not font.name.startswith("Noto Sans"),
            font.name,
        ),
    )


def _weight(font: FontEntry) -> int:
    return font.weight if isinstance(font.weight, int) else 400


@cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
