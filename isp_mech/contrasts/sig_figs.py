"""Sig figs: round a number to significant digits, where the other option is rounded to as many decimal places.

    >>> pair = round_pair("length", "27.31846", 3, answer_index=1)
    >>> print(pair.conflict.text)
    Please round 27.31846 to 3 significant digits.
    A. 27.318
    B. 27.3
    Answer:
    >>> pair.classes, pair.answer, pair.conflict.spans("rule"), pair.plain.spans("rule")
    ((' A', ' B'), ' B', ('significant digits',), ('decimal places',))

From Gabriel Recchia, second round of the Inverse Scaling Prize. McKenzie et al. 2023 count it among the tasks with an
easier task beside the real one: rounding to decimal places is the commoner thing. Their example is an integer, which
the lure gives trailing zeros. The released file has 720 bytes an item, more than one such question: the variants
``shots-2``, ``shots-5`` and ``shots-10`` show solved ones first.

Rounded to significant digits, a number above 1 has fewer decimals than the lure, one below 0.1 has more. Half of the
numbers are of each kind, so that neither option is longer, larger or earlier in the alphabet more often than the other;
the letter of the answer is balanced. In the variants ``large`` and ``small``, of one kind each, length gives it away.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from isp_mech.contrasts.sampling import ContrastTask, MakePair, PairRequest, balanced
from isp_mech.contrasts.word_lists import EntryList
from isp_mech.tasks import Pair, Prompt, fill
from isp_mech.tasks.items import CITATIONS

Kind = Literal["large", "small"]
SIGNIFICANT, DECIMAL = "significant digits", "decimal places"
QUESTION = (
    "<instruction>{instruction}</><shots>{shots}</><question>Please round </><number>{number}</>"
    "<question> to {count} </><rule>{rule}</><question>.</>"
)
OPTIONS = (  # by the place of the answer; the third is for the variant without letters
    "\n<answer_option>A. {answer}</>\n<lure_option>B. {lure}</>\nAnswer:",
    "\n<lure_option>A. {lure}</>\n<answer_option>B. {answer}</>\nAnswer:",
    "\nAnswer:",
)
LETTERS = (" A", " B")
CLEAR = (
    "Significant digits are counted from the first digit that is not zero. Decimal places are counted from the decimal "
    "point.\n\n"
)
COUNTS = range(2, 6)  # to how many digits
SET = 10  # pairs that share their shots
KINDS: tuple[Kind, ...] = ("large", "small")
_NUMBER = re.compile(r"(0|[1-9]\d*)(\.\d+)?")


def to_significant(number: str, count: int) -> str:
    """The number rounded to ``count`` significant digits, as one writes it.

    >>> [to_significant(number, 3) for number in ("27.31846", "0.0041599", "86412", "9.9961")]
    ['27.3', '0.00416', '86400', '10.0']
    """
    value = Decimal(number)
    place = value.adjusted() - count + 1
    rounded = value.quantize(Decimal(1).scaleb(place), ROUND_HALF_UP)
    if rounded.adjusted() > value.adjusted():  # 9.996 became 10.00, one digit too many
        rounded = rounded.quantize(Decimal(1).scaleb(place + 1), ROUND_HALF_UP)
    return f"{rounded:f}" if place < 0 else f"{int(rounded)}"


def to_decimals(number: str, count: int) -> str:
    """The number rounded to ``count`` decimal places.

    >>> [to_decimals(number, 3) for number in ("27.31846", "0.0041599", "864")]
    ['27.318', '0.004', '864.000']
    """
    return f"{Decimal(number).quantize(Decimal(1).scaleb(-count), ROUND_HALF_UP):f}"


def is_clear(number: str, count: int, *, lettered: bool = True) -> bool:
    """Whether the two rules give two numbers that nobody can doubt: no tie, and not rounded to nothing.

    Not ``lettered``: also that neither text begins the other, as 27 does 27.32.

    >>> is_clear("27.386", 2), is_clear("27.385", 2), is_clear("0.0041599", 2), is_clear("27.386", 3, lettered=False)
    (True, False, False, True)
    """
    answer, lure = to_significant(number, count), to_decimals(number, count)
    if not lettered and (answer.startswith(lure) or lure.startswith(answer)):
        return False
    return answer != lure and Decimal(lure) != 0 and number[-1] not in "05"


def _number(number: str) -> str:
    if not _NUMBER.fullmatch(number) or not any(is_clear(number, count) for count in COUNTS):
        raise ValueError(f"number {number!r}, expected one such as 27.386 or 864 that ends in neither 0 nor 5")
    return number


# only ever read from a user's file: the project's own numbers are drawn
NUMBERS = EntryList("", _number, ("number",), "number", or_lines=True)


def drawn_number(rng: random.Random, kind: Kind, count: int) -> str:
    """A number that ``is_clear`` for ``count``: above 1, every third an integer, or below 0.1.

    >>> [drawn_number(random.Random(seed), kind, 3) for kind in KINDS for seed in (0, 1)]
    ['7.0948', '2.24463', '0.007098', '0.0022443']
    """
    while True:
        end = rng.choice("12346789")
        digits = f"{rng.randrange(1, 10)}{''.join(rng.choices('0123456789', k=9))}"
        whole = rng.randrange(1, 4)
        if kind == "small":
            zeros = rng.randrange(1, count)
            drawn = f"0.{'0' * zeros}{digits[: count + rng.randrange(3)]}{end}"
        elif rng.randrange(3) == 0:
            drawn = f"{digits[: count + rng.randrange(2) - 1]}{end}"
        else:
            drawn = f"{digits[:whole]}.{digits[whole : whole + count + rng.randrange(2)]}{end}"
        if is_clear(drawn, count):
            return drawn


def round_prompt(
    number: str,
    count: int,
    rule: str,
    *,
    answer: str,
    lure: str,
    answer_index: int | None,
    instruction: str = "",
    shots: str = "",
) -> Prompt:
    """The prize's prompt; without letters where ``answer_index`` is None.

    Roles: ``instruction``, ``shots``, ``question``, ``number``, ``rule`` (the factor), and with letters
    ``answer_option`` and ``lure_option``.
    """
    template = QUESTION + OPTIONS[2 if answer_index is None else answer_index]
    texts = {"number": number, "count": str(count), "rule": rule, "answer": answer, "lure": lure}
    return fill(template, instruction=instruction, shots=shots, **texts)


def round_pair(
    id: str,
    number: str,
    count: int,
    *,
    answer_index: int,
    lettered: bool = True,
    instruction: str = "",
    shots: str = "",
    rng: random.Random | None = None,
) -> Pair:
    """One pair: ``number`` to be rounded to ``count`` significant digits, or (the plain side) decimal places.

    With ``rng`` the pair has a neutral prompt: the same question, in which the wrong option is off by one in its last
    digit. ``ValueError`` where the two rules do not give two clear numbers (see ``is_clear``).
    """
    if not is_clear(number, count, lettered=lettered):
        raise ValueError(
            f"number {number!r} to {count} digits: expected two different numbers by the two rules, no tie"
        )
    answer, lure = to_significant(number, count), to_decimals(number, count)
    index = answer_index if lettered else None

    def prompt(rule: str, wrong: str) -> Prompt:
        return round_prompt(
            *(number, count, rule), answer=answer, lure=wrong, answer_index=index, instruction=instruction, shots=shots
        )

    right, wrong = (LETTERS[answer_index], LETTERS[1 - answer_index]) if lettered else (f" {answer}", f" {lure}")
    pair = Pair(id, prompt(DECIMAL, lure), prompt(SIGNIFICANT, lure), right, wrong, "rule", answer_index=answer_index)
    if rng is None:
        return pair
    other = off_by_one(answer, count, rng)
    return pair.with_neutral(prompt(SIGNIFICANT, other), pair.answer, pair.lure if lettered else f" {other}")


def off_by_one(answer: str, count: int, rng: random.Random) -> str:
    """``answer``, which has ``count`` significant digits, with one more or less in the last of them.

    >>> [off_by_one(answer, 3, random.Random(0)) for answer in ("27.3", "86400", "0.00416")]
    ['27.2', '86300', '0.00415']
    """
    unit = Decimal(1).scaleb(Decimal(answer).adjusted() - count + 1)
    return f"{Decimal(answer) + rng.choice((unit, -unit)):f}"


def solved(rng: random.Random, n: int) -> str:
    """``n`` questions about significant digits with their answers; A and B in turn, of both kinds in turn."""
    told = []
    letters = balanced(rng)
    for i in range(n):
        count = rng.choice(COUNTS)
        number, index = drawn_number(rng, KINDS[i % 2], count), next(letters)
        texts = {"answer": to_significant(number, count), "lure": to_decimals(number, count)}
        shot = round_prompt(number, count, SIGNIFICANT, **texts, answer_index=index)
        told.append(f"{shot.text}{LETTERS[index]}\n\n")
    return "".join(told)


def draw(request: PairRequest) -> Iterator[MakePair]:
    """Pairs about drawn numbers, or about those of a file with one on each line (or a column ``number``).

    The letter of the answer is balanced exactly for an even number of pairs, and guessing is right half of the time,
    but for the variant ``value``, which has no letters. Ten pairs in a row share their shots, where there are any.
    """
    variant, lettered = request.variant, request.variant != "value"
    n_shots = request.number("shots-", 0)
    letters = balanced(request.random("letters"))
    instruction = CLEAR if variant == "clear-instructions" else ""
    bases: Sequence[str] = KINDS if request.source is None else NUMBERS.read(request.source)

    def options(base: str, rng: random.Random) -> Iterator[tuple[str, int]]:
        if base not in KINDS:
            yield from ((base, count) for count in COUNTS if is_clear(base, count, lettered=lettered))
            return
        before = set()
        # without letters, rounding up sets the two apart: of a large number the answer is the later one, then
        earlier = balanced(rng) if lettered else itertools.repeat(int(base == "small"))
        wanted = next(earlier)
        while True:
            count = rng.choice(COUNTS)
            drawn = drawn_number(rng, base, count), count
            fits = (to_significant(*drawn) < to_decimals(*drawn)) == wanted and is_clear(*drawn, lettered=lettered)
            if fits and drawn not in before:
                before.add(drawn)
                wanted = next(earlier)
                yield drawn

    def pair(_: str, drawn: tuple[str, int], i: int) -> Pair:
        told = solved(request.random("shots", i // SET), n_shots)
        return round_pair(
            *(f"{request.task}-{i}", *drawn),
            answer_index=next(letters),
            lettered=lettered,
            instruction=instruction,
            shots=told,
            rng=request.random(pair=i),
        )

    chosen = [variant] if variant in KINDS and request.source is None else bases
    return request.rounds(chosen, options, pair)


TASK = ContrastTask("sig-figs", citation=CITATIONS["sig-figs"], draw=draw, equally_likely=True, not_in=("value",))
