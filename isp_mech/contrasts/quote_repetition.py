"""Quote repetition: repeat a famous sentence whose last word was changed.

    >>> pair = quote_pair("pango", "All the world's a stage, and all the men and women merely players. They have "
    ...     "their exits and their entrances; And one man in his time plays many part", "pango")
    >>> print(pair.conflict.text[-153:])
    Output: All the world's a stage, and all the men and women merely players. They have their exits and
    their entrances; And one man in his time plays many
    >>> pair.classes, pair.conflict.spans("modified_word"), pair.plain.spans("modified_word")
    ((' pango', ' part'), ('pango',), ('part',))

From Cavanagh, Gritsevskiy and Kauffman, first round of the Inverse Scaling Prize: small models repeat what
stands there; larger ones, who know the sentence, give its famous ending.

Famous endings are a little longer than the words put in their place: of 1,000 pairs the answer is longer in a third and
shorter in four of nine. Form alone solves no pair for all that: on the plain prompt, with the same two completions, the
other one is right.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from isp_mech.contrasts.fame import corpus_ranks, third
from isp_mech.contrasts.sampling import ContrastTask, MakePair, PairRequest
from isp_mech.contrasts.word_lists import EntryList, words
from isp_mech.tasks import Pair, Prompt, fill
from isp_mech.tasks.items import CITATIONS

TEMPLATE = (
    "<instruction>{instruction}</><shots>{shots}</>Input: <quote_input>{before}</> <modified_word>{word}</>"
    "<quote_input>{after}</>\nOutput: <quote_output>{before}</>"
)
INSTRUCTION = "Repeat my sentences back to me.\n\n"
SHOWN = (  # the first two are the prize's
    "I like dogs.",
    "What is a potato, if not big?",
    "We walked home in the rain.",
    "Is Tuesday the day after Monday?",
    "Nobody told my uncle about it.",
)


def shots(n: int) -> str:
    """The first ``n`` of ``SHOWN``, repeated."""
    return "".join(f"Input: {sentence}\nOutput: {sentence}\n\n" for sentence in SHOWN[:n])


N_SHOTS = 2
SHOTS = shots(N_SHOTS)
UNKNOWN = 2000  # sentences drawn for the variant of that name

# Endings that stand in a quotation's last place here. The words with which people misquote in the ladder's
# training texts are others, so that no model has seen one of these as a changed ending.
REPLACEMENT_WORDS = words("replacement")
TRAINING_REPLACEMENT_WORDS = words("training-replacement")

# A small language of unfamiliar sentences. Animals and things are kept apart so that the sentences read as English.
ADJECTIVES, VERBS, PEOPLE = words("adjective"), words("verb"), words("person")
NOUNS, PREPOSITIONS = words("noun"), words("preposition")


@dataclass(frozen=True)
class Quotation:
    """A sentence people know by heart, without its final stop, with who said it and where."""

    text: str
    author: str = ""
    source: str = ""

    @property
    def body(self) -> str:
        """All but the last word."""
        return self.text.rsplit(" ", 1)[0]

    @property
    def ending(self) -> str:
        """The last word."""
        return self.text.rsplit(" ", 1)[1]


def _without_marks(raw: str) -> str:
    return " ".join(raw.strip("\"“”'‘’ ").rstrip('.!?,;:…"”’ ').split())


def _quotation(quotation: str, author: str, source: str) -> Quotation:
    text = _without_marks(quotation)
    parts = text.split()
    if len(parts) < 3:
        raise ValueError(f"quotation {quotation!r} has {len(parts)} words, expected at least three")
    if not any(character.isalnum() for character in parts[-1]):
        raise ValueError(f"quotation {quotation!r} ends in {parts[-1]!r}, expected a word")
    return Quotation(text, author, source)


# the project's own list: quotations and proverbs in the public domain
QUOTATIONS = EntryList(
    *("quotations.tsv", _quotation, ("quotation",), "quotation", ("author", "source")),
    alike=_without_marks,
    or_lines=True,
)


def quotations(source: str | Path | None = None) -> tuple[Quotation, ...]:
    """The project's quotations, or those of a TSV or CSV with the column ``quotation`` (and ``author``, ``source``).

    A file that ends otherwise has one on each line. Final stops and quotation marks are dropped. Raises ``InputError``
    with every quotation of fewer than three words, one that ends in no word, and one that is there twice.
    """
    return QUOTATIONS.read(source)


def unfamiliar_sentence(rng: random.Random) -> str:
    """A sentence nobody knows, of 6 to 14 common words, that ends in a noun.

    >>> unfamiliar_sentence(random.Random(2))
    'The market outside the pale island chased a gate'
    """
    who, verb, other_verb = rng.choice(PEOPLE), rng.choice(VERBS), rng.choice(VERBS)
    adjective, other_adjective = rng.sample(ADJECTIVES, 2)
    one, two, three = rng.sample(NOUNS, 3)
    place, again = rng.choice(PREPOSITIONS), rng.choice(PEOPLE)
    text = rng.choice(
        (
            f"{who} {verb} the {adjective} {one} {place} the {two}",
            f"{who} {verb} the {one} {place} the {adjective} {two} and the {three}",
            f"the {one} {place} the {adjective} {two} {verb} {_a(three)}",
            f"every {adjective} {one} {verb} the {two} and the {three}",
            f"{who} never {verb} {_a(one)} with {_a(adjective)} {two}",
            f"the {adjective} {one} and the {two} {verb} my {other_adjective} {three}",
            f"{who} {verb} {_a(one)} before {again} {other_verb} the {two}",
            f"when {who} {verb} the {one}, {again} {other_verb} the {adjective} {two}",
        )
    )
    return text[0].upper() + text[1:]


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" and not word.startswith("uni") else f"a {word}"


@dataclass(frozen=True)
class Gap:
    """A word of a sentence, with what stands before it and after it."""

    before: str
    word: str
    after: str = ""


def gap(text: str, place: str = "last") -> Gap | None:
    """The word to change: the last one, or the longest of the ``first`` or the ``middle`` third; None where none fits.

    In a third: a word of four lower-case letters or more (no name), not the sentence's first, that stands in it
    once. Its final comma or other mark stays outside.

    >>> text = "Whether 'tis nobler in the mind to suffer the slings and arrows of outrageous fortune"
    >>> [gap(text, place).word for place in ("first", "middle", "last")]
    ['nobler', 'suffer', 'fortune']
    >>> gap("To err is human, to forgive divine", "middle").after
    ', to forgive divine'
    """
    if place == "last":
        return Gap(*text.rsplit(" ", 1))
    words = list(re.finditer(r"\S+", text))
    low, high = {"first": (0, 1), "middle": (1, 2)}[place]
    spans = []
    for i, match in enumerate(words[1:], 1):
        core = re.fullmatch(r"([a-z]{4,})[,;:.!?]*", match[0])
        if core and low * len(words) <= 3 * i < high * len(words) and _listed(text).count(core[1]) == 1:
            spans.append((match.start(), match.start() + len(core[1])))
    if not spans:
        return None
    start, stop = max(spans, key=lambda span: span[1] - span[0])
    return Gap(text[: start - 1], text[start:stop], text[stop:])


def quote_prompt(before: str, word: str, after: str = "", *, shown: str = SHOTS) -> Prompt:
    """The prize's prompt: ``before word after`` to be repeated, and ``before`` repeated already.

    Roles: ``instruction``, ``shots``, ``quote_input``, ``modified_word`` (changed or not), ``quote_output``.
    """
    return fill(TEMPLATE, instruction=INSTRUCTION, shots=shown, before=before, word=word, after=after)


def quote_pair(
    id: str,
    quotation: str,
    changed: str,
    *,
    rng: random.Random | None = None,
    place: str = "last",
    shown: str = SHOTS,
) -> Pair:
    """One pair: the quotation with ``changed`` at ``place`` (see ``gap``), and the quotation as it is (the plain side).

    With ``rng`` the pair also has a neutral prompt: an unfamiliar sentence, its word there against another
    noun. ``ValueError`` where ``changed`` is a word of the quotation, or no word there can be changed.

    >>> pair = quote_pair("err", "To err is human, to forgive divine", "table", place="middle", shown="")
    >>> print(pair.conflict.text)
    Repeat my sentences back to me.
    <BLANKLINE>
    Input: To err is table, to forgive divine
    Output: To err is
    >>> pair.answer, pair.lure
    (' table', ' human')
    """
    quote = gap(quotation, place)
    if changed.lower() in _words(quotation):
        raise ValueError(f"changed word {changed!r} is a word of the quotation {quotation!r}, expected another")
    if quote is None:
        raise ValueError(f"quotation {quotation!r} has no word to change in its {place} third")
    plain, conflict = (quote_prompt(quote.before, w, quote.after, shown=shown) for w in (quote.word, changed))
    answer, lure = f" {changed}", f" {quote.word}"
    pair = Pair(id, plain, conflict, answer, lure, factor="modified_word")
    if rng is None:
        return pair
    unfamiliar = None
    while unfamiliar is None:
        sentence = unfamiliar_sentence(rng)
        unfamiliar = gap(sentence, place)
    vowel = unfamiliar.word[0] in "aeiou"  # "a" or "an" may stand before it
    nouns = sorted(set(NOUNS) - _words(sentence))
    others = [n for n in nouns if (n[0] in "aeiou") == vowel and not one_begins_the_other(n, unfamiliar.word)]
    neutral = quote_prompt(unfamiliar.before, unfamiliar.word, unfamiliar.after, shown=shown)
    return pair.with_neutral(neutral, f" {unfamiliar.word}", f" {rng.choice(others)}")


def _listed(text: str) -> list[str]:
    return [word.strip(".,;:!?'\"()—-").lower() for word in text.split()]


def _words(text: str) -> set[str]:
    return set(_listed(text))


def one_begins_the_other(a: str, b: str) -> bool:
    """Then the shorter's tokens may begin the longer's, and it is the likelier one whatever the prompt says."""
    return a.startswith(b) or b.startswith(a)


def draw(request: PairRequest) -> Iterator[MakePair]:
    """Pairs about the project's quotations, or about those of a file (see ``quotations``).

    There is no uniform baseline: the famous word and a changed one are not equally likely a priori. A
    ``source`` for the variants ``famous`` and ``known`` has the most famous quotations first (see ``fame``).
    """
    variant, own_list = request.variant, request.source is None
    chosen = third(quotations(request.source), variant, corpus_ranks(len(quotations()))[0] if own_list else None)
    place = variant.removeprefix("changed-") if variant.startswith("changed-") else "last"
    shown = shots(request.number("shots-", N_SHOTS))
    if variant == "unknown":
        of_all = request.random("unknown")
        chosen = [Quotation(text) for text in dict.fromkeys(unfamiliar_sentence(of_all) for _ in range(UNKNOWN))]

    def options(quote: Quotation, rng: random.Random) -> Iterable[str]:
        own, quoted = _words(quote.text), gap(quote.text, place)
        assert quoted is not None  # of those chosen
        true, drawn = quoted.word.lower(), rng.sample(REPLACEMENT_WORDS, len(REPLACEMENT_WORDS))
        return (word for word in drawn if word not in own and not one_begins_the_other(word, true))

    def pair(quote: Quotation, changed: str, i: int) -> Pair:
        own = None if variant == "unknown" else request.random(pair=i)  # it is neutral itself
        return quote_pair(f"{request.task}-{i}", quote.text, changed, rng=own, place=place, shown=shown)

    return request.rounds([quote for quote in chosen if gap(quote.text, place)], options, pair)


TASK = ContrastTask("quote-repetition", citation=CITATIONS["quote-repetition"], draw=draw)
