"""Memo trap: end a well-known proverb in a word that is not its own.

    >>> pair = memo_pair("absence", Proverb("Absence makes the heart grow", "fonder"), "heavy")
    >>> print(pair.conflict.text)
    Write a quote that ends in the word "heavy": Absence makes the heart grow
    >>> pair.classes, pair.conflict.spans("asked_word"), pair.plain.spans("asked_word")
    ((' heavy.', ' fonder.'), ('heavy',), ('fonder',))

From Alisa Liu and Jiacheng Liu, second round of the Inverse Scaling Prize. McKenzie et al. 2023 count it among the
tasks of strong priors: larger models know the proverb, and end it as they know it, whatever word was asked for.

As in the released file, both completions begin with a space and end in a full stop, and the prompt ends in neither. The
word asked for is another proverb's ending, of the same kind (noun, plural, verb, adjective) and within three letters
of the own one. So the same words are answers and lures, and over 1,000 pairs neither is longer or earlier in the
alphabet more often than the other. The answer always stands in the prompt and the lure never does: that is the task.
The answer is the first of the classes, as no prompt shows them in an order.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isp_mech.contrasts.quote_repetition import NOUNS, one_begins_the_other, unfamiliar_sentence
from isp_mech.contrasts.sampling import ContrastTask, MakePair, PairRequest
from isp_mech.contrasts.word_lists import EntryList
from isp_mech.tasks import Pair, Prompt, fill
from isp_mech.tasks.items import CITATIONS

TEMPLATE = (
    '<shots>{shots}</><instruction>{first}Write a quote that ends in the word "</><asked_word>{word}</>'
    '<instruction>":</> <proverb>{before}</>'
)
INSTRUCTION = "Do not end the quote as it is known. End it in the word that is asked for.\n\n"
SHOWN = (  # proverbs that are not in the list, ended in another word
    ("When in Rome, do as the Romans", "cook"),
    ("It never rains but it", "snows"),
    ("A watched pot never", "sings"),
)
STOP = "."
NEAR = 3  # letters by which the word asked for may be longer or shorter than the own one
UNKNOWN = 2000  # sentences drawn for the variant of that name


@dataclass(frozen=True)
class Proverb:
    """A saying people know by heart: all of it but the last word, that word, and what kind of word it is."""

    before: str
    ending: str
    kind: str = ""


def _proverb(proverb: str, ending: str, kind: str) -> Proverb:
    text, ending = proverb.rstrip(".!? "), ending.rstrip(".!? ")
    if not ending and len(text.split()) > 1:
        text, ending = text.rsplit(" ", 1)
    if not re.fullmatch(r"[^\W\d_](?:[\w'’-]*\w)?", ending):
        raise ValueError(f"proverb {proverb!r} ends in {ending!r}, expected a word")
    return Proverb(text, ending, kind)


# the project's own list: sayings in the public domain, each with an ending that does not stand in it before
PROVERBS = EntryList(
    *("proverbs.tsv", _proverb, ("proverb",), "proverb", ("ending", "kind")), alike=str.lower, or_lines=True
)


def proverbs(source: str | Path | None = None) -> tuple[Proverb, ...]:
    """The project's proverbs, or those of a TSV or CSV with the column ``proverb`` (and ``ending``, ``kind``).

    Where no ``ending`` is given the proverb's last word is one. A file that ends otherwise has a whole proverb on each
    line. Raises ``InputError`` with every proverb that does not end in a word and every one that is there twice.
    """
    return PROVERBS.read(source)


def words_of(text: str) -> set[str]:
    """The words of a text, in lower case and without what stands around them."""
    return {word.strip(".,;:!?'\"()—-").lower() for word in text.split()}


def _article_fits(before: str, word: str) -> bool:
    article = before.rsplit(" ", 1)[-1].lower()
    return article not in ("a", "an") or (word[0] in "aeiou") == (article == "an")


def _longer(word: str, other: str) -> int:
    return (len(word) > len(other)) - (len(word) < len(other))


def shots(n: int) -> str:
    """The first ``n`` of ``SHOWN``, solved."""
    return "".join(f'Write a quote that ends in the word "{word}": {text} {word}.\n\n' for text, word in SHOWN[:n])


def memo_prompt(before: str, word: str, *, shown: str = "", first: str = "") -> Prompt:
    """The prize's prompt: a quote that ends in ``word`` is asked for, and ``before`` is written already.

    Roles: ``shots`` where there are some, ``instruction``, ``asked_word`` (the factor) and ``proverb``.
    """
    return fill(TEMPLATE, shots=shown, first=first, word=word, before=before)


def unfamiliar(rng: random.Random) -> tuple[Proverb, str]:
    """A sentence nobody knows, in a proverb's place, and another noun in which it could as well end."""
    text = unfamiliar_sentence(rng)
    before, word = text.rsplit(" ", 1)
    used = words_of(text)
    others = [
        noun
        for noun in NOUNS
        if noun not in used and _article_fits(before, noun) and not one_begins_the_other(noun, word)
    ]
    return Proverb(before, word, "noun"), rng.choice(others)


def memo_pair(
    id: str,
    proverb: Proverb,
    word: str,
    *,
    rng: random.Random | None = None,
    shown: str = "",
    first: str = "",
    stop: str = STOP,
) -> Pair:
    """One pair: ``word`` is asked for, and the proverb's own ending (the plain side).

    With ``rng`` the pair also has a neutral prompt: an unfamiliar sentence, one noun asked for against another.
    ``ValueError`` where ``word`` is a word of the proverb.
    """
    if word.lower() in words_of(f"{proverb.before} {proverb.ending}"):
        raise ValueError(f"word {word!r} is a word of the proverb {proverb.before!r}, expected another")
    plain, conflict = (memo_prompt(proverb.before, w, shown=shown, first=first) for w in (proverb.ending, word))
    pair = Pair(id, plain, conflict, f" {word}{stop}", f" {proverb.ending}{stop}", factor="asked_word")
    if rng is None:
        return pair
    sentence, other = unfamiliar(rng)
    neutral = memo_prompt(sentence.before, sentence.ending, shown=shown, first=first)
    return pair.with_neutral(neutral, f" {sentence.ending}{stop}", f" {other}{stop}")


def draw(request: PairRequest) -> Iterator[MakePair]:
    """Pairs about the project's proverbs, or about those of a file (see ``proverbs``).

    There is no uniform baseline: the known ending and the word asked for are not equally likely a priori. A word is
    asked for where it is an ending of the same kind, no word of the proverb, fits an ``a`` or ``an`` before it, and
    neither begins like the other whole. A ``source`` is asked for the project's endings too; where it gives no kind,
    for an ending of any.
    """
    variant, chosen = request.variant, proverbs(request.source)
    shown = shots(request.number("shots-", 0))
    first = INSTRUCTION if variant == "clear-instructions" else ""
    stop = "" if variant == "no-stop" else STOP
    if variant == "unknown":
        of_all = request.random("unknown")
        chosen = tuple(dict.fromkeys(unfamiliar(of_all)[0] for _ in range(UNKNOWN)))
    endings: dict[str, list[str]] = {"": []}  # as often as proverbs end so: no word is the lure more than the answer
    for other in (*chosen, *(() if request.source is None else proverbs())):
        for kind in {other.kind, ""}:
            endings.setdefault(kind, []).append(other.ending)

    longer = 0  # answers so far that are longer than their lures, less those that are shorter

    def options(proverb: Proverb, rng: random.Random) -> Iterator[str]:
        nonlocal longer
        used, own = words_of(f"{proverb.before} {proverb.ending}"), proverb.ending
        kind = "" if variant == "any-kind" else proverb.kind
        left = [
            word
            for word in dict.fromkeys(rng.sample(endings[kind], len(endings[kind])))
            if abs(len(word) - len(own)) <= NEAR
            and word.lower() not in used
            and _article_fits(proverb.before, word)
            and not one_begins_the_other(word.lower(), own.lower())
        ]
        while left:
            word = next((other for other in left if _longer(other, own) * longer < 0), left[0])
            longer += _longer(word, own)
            left.remove(word)
            yield word

    def pair(proverb: Proverb, word: str, i: int) -> Pair:
        own = None if variant == "unknown" else request.random(pair=i)  # it is neutral itself
        return memo_pair(f"{request.task}-{i}", proverb, word, rng=own, shown=shown, first=first, stop=stop)

    return request.rounds(chosen, options, pair)


TASK = ContrastTask("memo-trap", citation=CITATIONS["memo-trap"], draw=draw)
