"""Sentences, numbers and lists as people write them. The sentences are in ``sentences.tsv``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path


@cache
def texts(file: str) -> dict[str, tuple[str, ...]]:
    """The rows of a ``.tsv`` file beside this one, by their first column."""
    lines = Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines()[1:]
    return {name: tuple(rest) for name, *rest in (line.split("\t") for line in lines)}


def say(name: str, **values: object) -> str:
    """The sentence of this name in ``sentences.tsv``, with ``values`` in its places.

    >>> say("sites missing", who="the 27k model")
    'No site is significant in the 27k model.'
    """
    return texts("sentences.tsv")[name][0].format(**values)


def percent(share: float) -> str:
    """A share as a percentage, one decimal only where it would otherwise read as none or all.

    >>> percent(0.714), percent(0.004), percent(0.0), percent(0.998)
    ('71 %', '0.4 %', '0 %', '99.8 %')
    """
    value = 100 * share
    near_an_end = 0 < value < 0.5 or 99.5 <= value < 100
    return f"{value:.1f} %" if near_an_end and 0.05 <= value < 99.95 else f"{value:.0f} %"


def interval(low: float, high: float) -> str:
    """Both ends of a 95 % interval of a share in brackets, with a space before; nothing where there is none.

    >>> interval(0.101, 0.18), interval(float("nan"), 0.2)
    (' (95 % interval 10 to 18 %)', '')
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f" (95 % interval {percent(low).removesuffix(' %')} to {percent(high)})"


def nats(value: float) -> str:
    """A signed margin or effect; three decimals for small ones, no sign where nothing is left.

    >>> nats(-1.384), nats(0.25), nats(-0.0312), nats(-0.0001)
    ('−1.38 nats', '+0.25 nats', '−0.031 nats', '0.000 nats')
    """
    shown = f"{value:+.2f}" if abs(value) >= 0.095 else f"{value:+.3f}"
    return f"{shown if float(shown) else shown[1:]} nats".replace("-", "−")


def listed(parts: Sequence[str]) -> str:
    """
    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def counted(n: int, one: str, many: str | None = None) -> str:
    """
    >>> counted(1, "site"), counted(3, "site"), counted(0, "site")
    ('1 site', '3 sites', 'no site')
    """
    return f"{n} {one}" if n == 1 else f"no {one}" if n == 0 else f"{n} {many or one + 's'}"


def sentence(text: str) -> str:
    """The text with a capital first letter.

    >>> sentence("the 27k model is lost.")
    'The 27k model is lost.'
    """
    return text[:1].upper() + text[1:]
