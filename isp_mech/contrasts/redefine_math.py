"""Redefine-math: a well-known symbol is given a new value, and the question is about the new one.

    >>> pair = redefine_pair("pi", "π", "3.14159", "462")
    >>> pair.conflict.text, pair.classes
    ('Redefine π as 462. Q: What is the first digit of π? A:', (' 4', ' 3'))
    >>> pair.plain.text, pair.conflict.spans("definition")
    ('Q: What is the first digit of π? A:', ('Redefine π as 462. ',))

From Xudong Shen, first round of the Inverse Scaling Prize: larger models answer by the old meaning.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from isp_mech.contrasts.fame import corpus_ranks, third
from isp_mech.contrasts.neqa import facts
from isp_mech.contrasts.quote_repetition import quotations
from isp_mech.contrasts.sampling import ContrastTask, MakePair, PairRequest
from isp_mech.contrasts.word_lists import EntryList, words
from isp_mech.tasks import Pair, Prompt, fill
from isp_mech.tasks.items import CITATIONS

TEMPLATE = "<definition>{definition}</><question>Q: What is the first digit of {symbol}?</> A:"
DIGITS = 3  # of a new value
FAR = 4  # first digits at least so far apart
_SYLLABLES = [words(part) for part in ("onset", "vowel", "coda", "ending")]
_LISTS = ("adjective", "noun", "verb", "replacement", "training-replacement")


@dataclass(frozen=True)
class Constant:
    """Something with a known number: ``π``, ``3.14159``.

    ``ValueError`` for a value that does not begin with a digit from 1 to 9 (the first digit of 0.5 is a matter of
    opinion).
    """

    symbol: str
    value: str
    category: str = ""

    def __post_init__(self) -> None:
        if self.value[:1] not in tuple("123456789"):
            raise ValueError(f"value {self.value!r}, expected one that begins with a digit from 1 to 9")


# the project's own list: common knowledge, typed for it
CONSTANTS = EntryList("constants.tsv", Constant, ("symbol", "value"), once="symbol", optional=("category",))


def constants(source: str | Path | None = None) -> tuple[Constant, ...]:
    """The project's constants, or those of a TSV or CSV with the columns ``symbol`` and ``value`` (and ``category``).

    Raises ``InputError`` with every value that begins with no digit from 1 to 9 and every symbol that is there twice.
    """
    return CONSTANTS.read(source)


def is_evaluation_value(symbol: str, value: int | str) -> bool:
    """Whether this redefinition belongs to evaluation; the other half may be trained on. It never changes."""
    return hashlib.sha256(f"{symbol}\t{value}".encode()).digest()[0] % 2 == 0


@cache
def _known_words() -> frozenset[str]:
    texts = [quote.text for quote in quotations()] + [constant.symbol for constant in constants()]
    texts += [text for fact in facts() for text in (fact.plain_stem, fact.answer)]
    in_texts = {word.strip(".,;:!?'\"()").lower() for text in texts for word in text.split()}
    return frozenset(in_texts).union(*(words(name) for name in _LISTS))


def unknown_symbol(rng: random.Random) -> str:
    """An invented pronounceable word, none of those in the project's lists; tens of thousands of them.

    >>> unknown_symbol(random.Random(0))
    'sockax'
    """
    while True:
        word = "".join(rng.choice(part) for part in _SYLLABLES)
        if word not in _known_words():
            return word


def digit_weights(first_digits: Sequence[str]) -> dict[tuple[str, str], float]:
    """Weights ``(digit of the known value, digit of the new one)``, the two different, symmetric in both.

    Each digit stands as often on one side as on the other: its weights add up to how common it is among
    ``first_digits``. A digit that makes up more than half of them cannot be balanced; it comes as near as it can.
    """
    count = {digit: first_digits.count(digit) + 0.5 for digit in "123456789"}  # half a count: every digit may come up
    share = {digit: n / sum(count.values()) for digit, n in count.items()}
    scale = dict(share)
    for _ in range(500):  # weights scale[a] * scale[b]: scaled until the sums over b are the shares
        total = sum(scale.values())
        scale = {d: (scale[d] * share[d] / max(total - scale[d], 1e-9)) ** 0.5 for d in scale}
    return {(a, b): scale[a] * scale[b] for a in scale for b in scale if a != b}


def redefine_prompt(symbol: str, value: str | None) -> Prompt:
    """The prize's prompt, with the sentence that redefines ``symbol`` unless ``value`` is None.

    Roles: ``definition`` (the factor: the whole first sentence and its space) and ``question``.
    """
    definition = "" if value is None else f"Redefine {symbol} as {value}. "
    return fill(TEMPLATE, definition=definition, symbol=symbol)


def redefine_pair(id: str, symbol: str, value: str, new_value: str, *, rng: random.Random | None = None) -> Pair:
    """One pair: ``symbol`` redefined as ``new_value``, and left at ``value`` (the plain side).

    With ``rng`` the pair also has a neutral prompt: an invented symbol with the same new value, its first
    digit against a random other one. ``ValueError`` where both values begin with the same digit.
    """
    pair = _pair(id, symbol, value, new_value, redefine_prompt(symbol, None))
    if rng is None:
        return pair
    neutral = redefine_prompt(unknown_symbol(rng), new_value)
    other = rng.choice([digit for digit in "123456789" if digit != new_value[0]])
    return pair.with_neutral(neutral, pair.answer, f" {other}")


def _pair(id: str, symbol: str, value: str, new_value: str, plain: Prompt) -> Pair:
    if new_value[0] == value[0]:
        raise ValueError(f"new value {new_value!r} of {symbol!r} begins like {value!r}, expected another first digit")
    conflict = redefine_prompt(symbol, new_value)
    return Pair(id, plain, conflict, f" {new_value[0]}", f" {value[0]}", factor="definition")


def unknown_pair(id: str, symbol: str, value: str, new_value: str) -> Pair:
    """One pair about a ``symbol`` that nobody knows: redefined as ``new_value``, and as ``value`` (the plain side).

    >>> pair = unknown_pair("sockax", "sockax", "314", "462")
    >>> pair.plain.text, pair.lure, pair.conflict.spans("definition"), pair.answer
    ('Redefine sockax as 314. Q: What is the first digit of sockax? A:', ' 3', ('Redefine sockax as 462. ',), ' 4')
    """
    return _pair(id, symbol, value, new_value, redefine_prompt(symbol, value))


def new_values(rng: random.Random, value: str, variant: str = "") -> list[str]:
    """New values for a constant of ``value``, as many as ``variant`` has or 900, drawn; first digits all differ.

    >>> sorted(new_values(random.Random(0), "3.14159", "near"))
    ['2.14159', '4.14159']
    >>> new_values(random.Random(1), "18", "digits-1")[:3], new_values(random.Random(1), "18", "far")[:3]
    (['3', '2', '9'], ['92', '71', '81'])
    """
    first = int(value[0])
    if variant == "near":
        values = [f"{digit}{value[1:]}" for digit in rng.sample((first - 1, first + 1), 2) if 1 <= digit <= 9]
    elif variant == "far":
        digits = [digit for digit in range(1, 10) if abs(digit - first) >= FAR]
        rests = ("".join(rng.choice("0123456789") if c.isdigit() else c for c in value[1:]) for _ in range(60))
        values = list(dict.fromkeys(f"{rng.choice(digits)}{rest}" for rest in rests))
    else:
        n_digits = PairRequest("", 0, variant).number("digits-", DIGITS)
        whole = range(10 ** (n_digits - 1), 10**n_digits)
        values = [str(new) for new in rng.sample(whole, min(900, len(whole)))]
    return [new for new in values if new[0] != value[0]]


def draw(request: PairRequest) -> Iterator[MakePair]:
    """Pairs about the project's constants, or about those of a file (see ``constants``).

    There is no uniform baseline: a model that knows nothing has ten digits to choose from, and first digits
    are far from uniform (Benford), so that the two scored here are not two equally likely answers. New values
    are drawn so that every digit is as often the answer as the lure (``digit_weights``): a model that only
    knows which digits are common gains nothing; the variants ``near`` and ``far`` leave no such choice. A
    ``source`` for ``famous`` and ``known`` has the most famous constants first (see ``fame``).
    """
    variant, own_list = request.variant, request.source is None
    ranks = corpus_ranks(len(quotations()), len(constants()))[1] if own_list else None
    chosen = third(constants(request.source), variant, ranks)
    weights = digit_weights([constant.value[0] for constant in chosen])

    def options(constant: Constant, rng: random.Random) -> Iterable[str]:
        values: dict[str, list[str]] = {}
        for value in new_values(rng, constant.value, variant):
            if is_evaluation_value(constant.symbol, value):
                values.setdefault(value[0], []).append(value)
        while values:
            (digit,) = rng.choices(list(values), [weights[constant.value[0], d] for d in values])
            yield values[digit].pop()
            if not values[digit]:
                del values[digit]

    def pair(constant: Constant, new: str, i: int) -> Pair:
        id, own = f"{request.task}-{i}", request.random(pair=i)
        if variant == "unknown":
            other = constant.value[0] + "".join(own.choices("0123456789", k=DIGITS - 1))
            return unknown_pair(id, unknown_symbol(own), other, new)
        return redefine_pair(id, constant.symbol, constant.value, new, rng=own)

    return request.rounds(chosen, options, pair)


TASK = ContrastTask("redefine-math", citation=CITATIONS["redefine-math"], draw=draw)
