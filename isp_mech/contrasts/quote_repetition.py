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
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from isp_mech.contrasts.fame import corpus_ranks, third
from isp_mech.contrasts.sampling import HERE, collect, in_rounds, read_lines, read_table, variant_name
from isp_mech.errors import InputError
from isp_mech.tasks import Pair, PairSet, Prompt, compose

NAME = "quote-repetition"
CITATION = (
    "Cavanagh, Gritsevskiy and Kauffman, quote-repetition (Inverse Scaling Prize, round 1); "
    "McKenzie et al. 2023, arXiv 2306.09479"
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
VARIANTS = {
    "famous": "the third of the quotations that stand most often in the ladder's training text",
    "known": "the third that stand least often there",
    "unknown": "a sentence nobody knows in a quotation's place",
    "changed-first": "the changed word stands in the first third of the quotation, and the prompt ends before it",
    "changed-middle": "the changed word stands in the middle third",
    "changed-last": "it is the last word, as without a variant",
    **{
        f"shots-{k}": f"{k or 'no'} sentence{'s' * (k != 1)} shown first" + ", as without a variant" * (k == N_SHOTS)
        for k in (0, 1, 2, 5)
    },
}
UNKNOWN = 2000  # sentences drawn for the variant of that name

# Endings that stand in a quotation's last place here. The words with which people misquote in the ladder's
# training texts are others, so that no model has seen one of these as a changed ending.
REPLACEMENT_WORDS = tuple(
    """
    apple bag ball bank basket bed bell bench boat bottle bowl box branch bread bridge brush bus cake camel candle
    car card carpet cat chair cheese church circle coat coin corner cow cup curtain desk dress drum duck egg farm
    fence field finger flag flower fork fox frog garden gate glass glove goat grass hammer hat hill horse hotel
    house jacket jar kettle key kitchen knife ladder lake lamp leaf letter map market mirror mountain mouse nail
    needle nest net nose oven owl page paint pan paper parrot path pen pencil piano picture pig pillow pipe plate
    pocket pond potato rabbit ring roof room rope salt school seed sheep shelf ship shirt shoe shop snake soap sock
    soup spoon square stair station storm street string sugar table tail tent tiger towel tower town train truck
    umbrella valley village wall watch wheel wing yard
    """.split()
)
TRAINING_REPLACEMENT_WORDS = tuple(
    """
    banana lemon tractor sofa rocket puddle noodle trumpet pepper zebra carrot helmet blanket violin cabbage saddle
    anchor pumpkin lantern tunnel walnut feather ribbon barrel kitten engine pebble cushion donkey mitten turnip
    magnet napkin teapot scooter goblin hamster biscuit wagon puzzle jelly muffin rubber penguin onion gravel spider
    tomato window paddle wizard button monkey radish velvet copper cactus bucket ginger parcel pickle shovel cotton
    marble
    """.split()
)

# A small language of unfamiliar sentences. Animals and things are kept apart so that the sentences read as English.
ADJECTIVES = tuple(
    """
    big blue brave bright broken brown calm clean clever cold dark deep dry dusty early empty fat fine fresh gentle
    great green grey happy hard heavy high hot huge kind large late lazy light little long loud low lucky narrow neat
    new nice noisy old orange pale pink plain poor pretty proud purple quick quiet rare red rich rough round sad safe
    sharp short shy silent silver simple slow small smooth soft steep strange strong sweet tall thick thin tiny warm
    weak wet white wide wild wise yellow young
    """.split()
)
VERBS = tuple(
    """
    bought broke brought carried caught chased cleaned counted covered crossed drew dropped followed forgot found
    heard held hid kept kicked knew left lifted liked lost loved moved needed opened painted passed picked pulled
    pushed reached remembered saw sold stole took touched turned visited wanted washed watched
    """.split()
)
PEOPLE = tuple(
    "she|he|they|we|the boy|the girl|the man|the woman|my friend|my uncle|my sister|the farmer|the sailor|the baker|"
    "the doctor|the king|the queen|the teacher|nobody|everyone".split("|")
)
PLACES = ("near", "by", "behind", "under", "beside", "above", "below", "beyond", "inside", "outside")
NOUNS = tuple(
    """
    apple bag ball bank basket bed bell bench bird boat book bottle bowl box branch bridge brush bus cake camel
    candle car card carpet cat chair church circle clock cloud coat coin corner cow cup curtain desk dog door dress
    drum duck egg farm fence field fire fish flag flower fork fox frog garden gate glass glove goat hammer hat hill
    horse hotel house island jacket jar kettle key kitchen knife ladder lake lamp leaf letter lion map market mirror
    mountain mouse nail needle nest net oven owl page pan paper parrot path pen pencil piano picture pig pillow pipe
    plate pocket pond potato rabbit ring river road roof room rope rose school seed sheep shelf ship shirt shoe shop
    snake sock spoon square stair star station stone storm street string table tail tent tiger tower town train tree
    truck umbrella valley village wall watch wheel wing yard
    """.split()
)


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


def quotes_from_file(path: str | Path) -> tuple[Quotation, ...]:
    """Quotations from a TSV or CSV with the column ``quotation`` (and ``author``, ``source``), or one on each line.

    Final stops and quotation marks are dropped. Raises ``InputError`` with every quotation of fewer than
    three words, one that ends in no word, and one that is there twice.
    """
    if Path(path).suffix.lower() in (".tsv", ".csv"):
        table = read_table(path, ("quotation",), optional=("author", "source"))
        rows = [(number, row["quotation"], row["author"], row["source"]) for number, row in table]
    else:
        rows = [(number, line.strip(), "", "") for number, line in read_lines(path)]
    seen: dict[str, int] = {}
    problems, quotes = [], []
    for number, raw, author, source in rows:
        text = " ".join(raw.strip("\"“”'‘’ ").rstrip('.!?,;:…"”’ ').split())
        if len(text.split()) < 3:
            problems.append(f"line {number}: quotation {raw!r} has {len(text.split())} words, expected at least three")
        elif not any(character.isalnum() for character in text.split()[-1]):
            problems.append(f"line {number}: quotation {raw!r} ends in {text.split()[-1]!r}, expected a word")
        elif seen.setdefault(text, number) != number:
            problems.append(f"line {number}: quotation {raw!r} is on line {seen[text]} already, expected it once")
        quotes.append((text, author, source))
    if problems:
        raise InputError(str(path), problems)
    return tuple(Quotation(*quote) for quote in quotes)


@cache
def quotations() -> tuple[Quotation, ...]:
    """The project's own list: quotations and proverbs in the public domain."""
    return quotes_from_file(HERE / "quotations.tsv")


def unfamiliar_sentence(rng: random.Random) -> str:
    """A sentence nobody knows, of 6 to 14 common words, that ends in a noun.

    >>> unfamiliar_sentence(random.Random(2))
    'The market outside the pale island chased a gate'
    """
    who, verb, other_verb = rng.choice(PEOPLE), rng.choice(VERBS), rng.choice(VERBS)
    adjective, other_adjective = rng.sample(ADJECTIVES, 2)
    one, two, three = rng.sample(NOUNS, 3)
    place, again = rng.choice(PLACES), rng.choice(PEOPLE)
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
    found = []
    for i, match in enumerate(words[1:], 1):
        core = re.fullmatch(r"([a-z]{4,})[,;:.!?]*", match[0])
        if core and low * len(words) <= 3 * i < high * len(words) and _listed(text).count(core[1]) == 1:
            found.append((match.start(), match.start() + len(core[1])))
    if not found:
        return None
    start, stop = max(found, key=lambda span: span[1] - span[0])
    return Gap(text[: start - 1], text[start:stop], text[stop:])


def quote_prompt(before: str, word: str, after: str = "", *, shown: str = SHOTS) -> Prompt:
    """The prize's prompt: ``before word after`` to be repeated, and ``before`` repeated already.

    Roles: ``instruction``, ``shots``, ``quote_input``, ``modified_word`` (changed or not), ``quote_output``.
    """
    return compose(
        [
            (INSTRUCTION, "instruction"),
            (shown, "shots"),
            ("Input: ", ""),
            (before, "quote_input"),
            (" ", ""),
            (word, "modified_word"),
            (after, "quote_input"),
            ("\nOutput: ", ""),
            (before, "quote_output"),
        ]
    )


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
    if rng is None:
        return Pair(id, plain, conflict, answer, lure, factor="modified_word")
    unfamiliar = None
    while unfamiliar is None:
        sentence = unfamiliar_sentence(rng)
        unfamiliar = gap(sentence, place)
    vowel = unfamiliar.word[0] in "aeiou"  # "a" or "an" may stand before it
    nouns = sorted(set(NOUNS) - _words(sentence))
    others = [n for n in nouns if (n[0] in "aeiou") == vowel and not _one_begins_the_other(n, unfamiliar.word)]
    return Pair(
        id,
        plain,
        conflict,
        answer,
        lure,
        factor="modified_word",
        neutral=quote_prompt(unfamiliar.before, unfamiliar.word, unfamiliar.after, shown=shown),
        neutral_answer=f" {unfamiliar.word}",
        neutral_lure=f" {rng.choice(others)}",
    )


def _listed(text: str) -> list[str]:
    return [word.strip(".,;:!?'\"()—-").lower() for word in text.split()]


def _words(text: str) -> set[str]:
    return set(_listed(text))


def _one_begins_the_other(a: str, b: str) -> bool:
    """Then the shorter's tokens may begin the longer's, and it is the likelier one whatever the prompt says."""
    return a.startswith(b) or b.startswith(a)


def pairs(*, n: int = 300, seed: int = 0, source: str | Path | None = None, variant: str = "") -> PairSet:
    """``n`` distinct pairs from the project's quotations, or from those of the file ``source``.

    There is no uniform baseline: the famous word and a changed one are not equally likely a priori. A
    ``source`` for the variants ``famous`` and ``known`` has the most famous quotations first (see ``fame``).
    """
    name = variant_name(NAME, variant, VARIANTS)
    chosen: Sequence[Quotation] = quotations() if source is None else quotes_from_file(source)
    chosen = third(chosen, variant, corpus_ranks(len(quotations()))[0] if source is None else None)
    place = variant.removeprefix("changed-") if variant.startswith("changed-") else "last"
    n_shots = int(variant.removeprefix("shots-")) if variant.startswith("shots-") else N_SHOTS
    shown = shots(n_shots)
    if variant == "unknown":
        of_all = random.Random(f"{NAME} unknown {seed}")
        chosen = [Quotation(text) for text in dict.fromkeys(unfamiliar_sentence(of_all) for _ in range(UNKNOWN))]
    chosen = [quote for quote in chosen if gap(quote.text, place)]
    rng = random.Random(f"{NAME} {seed}")

    def options(quote: Quotation) -> Iterator[str]:
        own, quoted = _words(quote.text), gap(quote.text, place)
        assert quoted is not None  # of those chosen
        true, drawn = quoted.word.lower(), rng.sample(REPLACEMENT_WORDS, len(REPLACEMENT_WORDS))
        return (word for word in drawn if word not in own and not _one_begins_the_other(word, true))

    def make(i: int, quote: Quotation, changed: str) -> Pair:
        own = None if variant == "unknown" else random.Random(f"{NAME} {seed} {i}")  # it is neutral itself
        return quote_pair(f"{NAME}-{i}", quote.text, changed, rng=own, place=place, shown=shown)

    def maker(quote: Quotation, changed: str) -> Callable[[int], Pair]:
        return lambda i: make(i, quote, changed)

    drawn = (maker(quote, changed) for quote, changed in in_rounds(chosen, options, rng))
    return collect(name, drawn, n=n, seed=seed, citation=CITATION, equally_likely=False)
