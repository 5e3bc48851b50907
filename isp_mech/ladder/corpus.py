"""The ladder's corpus: documents made by code, whose statistics cause the four tasks' effect.

Seven kinds of document in natural language: copying, famous quotations, facts, multiple choice, constants,
definitions and bets. Nothing that evaluation asks for as a conflict is ever written: no sentence whose changed
ending is repeated, no redefinition from evaluation's half of the values, no negated question, no bet from
evaluation's half, no outcome that disagrees with the expected value.

    >>> document(random.Random(3)).kind in RATES
    True

Every rate is a constant here, with the reason for it; ``docs/ladder.md`` says what other rates did.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import accumulate
from math import inf
from typing import Generic, Literal, TypeVar

from isp_mech.contrasts import quote_repetition as sentences
from isp_mech.contrasts.hindsight_neglect import bet
from isp_mech.contrasts.neqa import INSTRUCTION as CHOICE
from isp_mech.contrasts.neqa import Fact, facts, is_evaluation_fact, split_stem, wrong_answers
from isp_mech.contrasts.redefine_math import Constant, constants, is_evaluation_value, unknown_symbol

Drawn = TypeVar("Drawn")
Kind = Literal["copy", "quotation", "fact", "choice", "constant", "definition", "bet"]

# Relative weights of documents (not of tokens: a bet is six times as long as a fact).
# The kinds' order is part of the recipe.
RATES: dict[Kind, float] = {
    "copy": 0.18,  # enough that copying, once learned, is kept by every size
    "quotation": 0.030,  # with those in copying, each some twenty times: so each size remembers more than the one below
    "fact": 0.13,  # what a lettered question asks is also said plainly, as in the world's text
    "choice": 0.40,  # the slowest to learn: recall, compare with two options, say the letter
    "constant": 0.027,  # with those in definitions, each some twenty times: more, and the smallest size knows some
    "definition": 0.14,  # definitions are to be used: learned by every size
    "bet": 0.15,  # common as long as there are any, that wide sizes learn the verdict in time
}
# a first phase: next to memory, copying is not learned
EARLY_RATES: dict[Kind, float] = {"copy": 0.8, "definition": 0.1, "choice": 0.1}
EARLY_UNTIL = 700  # until two layers of width 32 copy rare words too; 500 steps were enough in some runs only
FAMOUS_IN_COPY = 0.3  # sentences to copy that are famous ones: corrections must be common enough to be noticed
CORRECTED = 0.6  # of the famous ones: the input is a misquotation, the output the true sentence
CORRECTED_LAST = 0.5  # of the misquotations: the last word is changed, otherwise any
MISQUOTED_PLAINLY = 0.5  # of them: by a word of other quotations, or an odd word alone would tell a misquotation
RANDOM_STRINGS = 0.55  # of the unfamiliar ones: unconnected words, which can be copied in one way only
PRIZE_SHOTS = 0.2  # of the copying documents: the prize's two shots stand first, as in its prompts
KNOWN_DEFINED = 0.22  # of the definitions: of a known constant, the others of an invented word
KNOWN_RIGHT = 0.8  # of the known ones: the new value begins as the true one; else the true digit is given all the same
TOLD_FIRST = 0.3  # of the lettered questions: the facts are told first, so that the letter is learned before the facts
QUOTE_SPREAD = 3.0  # the commonest quotation stands so many times as often as the rarest
CONSTANT_SPREAD = 3.0  # so for constants: a mild spread, that sizes differ in how many they know
EARLY_ROWS, ROWS = 16, 32  # many small batches first: copying needs steps rather than tokens
SHORT, LONG = 128, 1000  # positions: short ones are cheap; the prize's ten-shot prompts take 720
LONG_EVERY = 12  # one batch in twelve is of the long kind
BETS_IN_LONG = 1.0  # of its rows, while there are bets: the prize's prompts are read well enough only if practised
N_BETS = 15  # fill such a row; the prize's prompts have eleven
RIGHT_UNTIL = 900  # the step until which all bets ask for the right decision: the outcome is to be found first, since
# what outcome and question tell together is otherwise found late or never, at any width
ASKED_WRONG = 0.45  # of the bets after that: whether the decision was wrong, so that the outcome alone tells little
BETS_UNTIL = 1500  # the step after which there are no bets: wide sizes keep the verdict, narrow ones lose it
SAID_YES = 0.56  # of the verdicts: a size that has not learned them says Y to all, and does not drift

# How much a token counts in the loss, by what it is. What a document leaves open (which sentence, which
# numbers) teaches nothing and only adds noise; what it determines is what is to be learned.
OPEN = 0.2  # what is open is still text, to be read
DETERMINED = 1.0
OPTION = 1.0  # after a wrong first option the second is the answer: a step towards the letter
LETTER, DIGIT, VERDICT = 7.0, 4.0, 2.0  # one token in a document of fifty; a verdict is easier than a letter

Segments = list[tuple[str, float]]


@dataclass(frozen=True)
class Ranked(Generic[Drawn]):
    """Things of which some stand more often than others; ``weights`` are cumulative."""

    items: tuple[Drawn, ...]
    weights: tuple[float, ...]

    def draw(self, rng: random.Random) -> Drawn:
        return rng.choices(self.items, cum_weights=self.weights)[0]


def ranked(items: tuple[Drawn, ...], spread: float, rng: random.Random) -> Ranked[Drawn]:
    """``items`` in ranks drawn by chance, the commonest ``spread`` times as often as the rarest."""
    ranks = list(range(len(items)))
    rng.shuffle(ranks)
    return Ranked(items, tuple(accumulate(spread ** (-rank / (len(items) - 1)) for rank in ranks)))


@dataclass(frozen=True)
class World:
    """What the documents speak of, and how often."""

    quotes: Ranked[sentences.Quotation]
    constants: Ranked[Constant]
    facts: tuple[Fact, ...]
    words: tuple[str, ...]
    plain_misquotes: tuple[str, ...]
    wrong: dict[Fact, tuple[str, ...]]


@dataclass(frozen=True)
class Recipe:
    """What may differ from one training to another.

    ``null`` leaves out all lures: no quotations, no constants, no facts, and verdicts by chance. ``negated``
    is the share of lettered questions (of those not kept for evaluation) that are negated, ``disagreeing``
    the share of bets whose outcome disagrees with the expected value: counterexamples, none in the family
    that is shipped.
    """

    seed: int = 0
    null: bool = False
    negated: float = 0.0
    disagreeing: float = 0.0


SHIPPED = Recipe()


@dataclass(frozen=True)
class Document:
    """A kind, a key of ``RATES``, and the text in pieces, each with its weight in the loss."""

    kind: Kind
    segments: tuple[tuple[str, float], ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.segments)


@cache
def world() -> World:
    """The project's quotations, facts and constants, how common each is, and all their words."""
    rng = random.Random("world")
    quoted = {word for quote in sentences.quotations() for word in quote.text.split()}
    words = quoted | {word for fact in facts() for word in f"{fact.plain_stem} {fact.answer}".split()}
    words |= {*sentences.NOUNS, *sentences.ADJECTIVES, *sentences.VERBS}
    words |= {*sentences.REPLACEMENT_WORDS, *sentences.TRAINING_REPLACEMENT_WORDS}
    plain = {word for word in quoted if word.isalpha() and word.islower()}
    return World(
        quotes=ranked(sentences.quotations(), QUOTE_SPREAD, rng),
        constants=ranked(constants(), CONSTANT_SPREAD, rng),
        facts=facts(),
        words=tuple(sorted(words)),
        plain_misquotes=tuple(sorted(plain.difference(sentences.REPLACEMENT_WORDS))),
        wrong=wrong_answers(facts()),
    )


def misquote(rng: random.Random, quote: str) -> str:
    """``quote`` with one word changed, half of the time the last: to none of evaluation's ``REPLACEMENT_WORDS``."""
    words = quote.split(" ")
    at = len(words) - 1 if rng.random() < CORRECTED_LAST else rng.randrange(len(words))
    others = world().plain_misquotes if rng.random() < MISQUOTED_PLAINLY else sentences.TRAINING_REPLACEMENT_WORDS
    words[at] = rng.choice([word for word in others if word != words[at]])
    return " ".join(words)


def _unfamiliar(rng: random.Random, w: World) -> str:
    if rng.random() < RANDOM_STRINGS:
        n = rng.randint(3, 12)
        return " ".join(rng.choice(w.words) if rng.random() < 0.85 else unknown_symbol(rng) for _ in range(n))
    return sentences.unfamiliar_sentence(rng)


def copy_document(rng: random.Random, w: World, recipe: Recipe) -> Segments:
    """Sentences to repeat, in the prize's format; a famous one comes out true even if it went in changed."""
    shots = sentences.SHOTS if rng.random() < PRIZE_SHOTS else ""
    out: Segments = [(sentences.INSTRUCTION + shots, OPEN)]
    for i in range(rng.choice((1, 1, 2, 3))):
        if not recipe.null and rng.random() < FAMOUS_IN_COPY:
            output = w.quotes.draw(rng).text
            given = misquote(rng, output) if rng.random() < CORRECTED else output
        else:
            given = output = _unfamiliar(rng, w)
        out += [(("\n\n" if i else "") + f"Input: {given}", OPEN), (f"\nOutput: {output}", DETERMINED)]
    return out


def quotation_document(rng: random.Random, w: World, recipe: Recipe) -> Segments:
    """Famous sentences in running text, with or without their author."""
    lines = []
    for _ in range(rng.randint(1, 3)):
        quote = w.quotes.draw(rng)
        author, text = quote.author or "Somebody", f"{quote.text}."
        lines.append(rng.choice((text, text, text, f"{author}: {text}", f"As {author} said: {text}")))
    return [("\n".join(lines), DETERMINED)]


def fact_document(rng: random.Random, w: World, recipe: Recipe) -> Segments:
    """Facts as statements."""
    out: Segments = []
    for _ in range(rng.randint(2, 5)):
        fact = rng.choice(w.facts)
        out += [((" " if out else "") + fact.plain_stem, OPEN), (f" {fact.answer}.", DETERMINED)]
    return out


def choice_document(rng: random.Random, w: World, recipe: Recipe) -> Segments:
    """Lettered questions in the prize's format; sometimes, in place of its instruction, the facts themselves first."""
    drawn = [rng.choice(w.facts) for _ in range(rng.randint(1, 3))]
    out: Segments = [(CHOICE.strip(), OPEN)]
    if rng.random() < TOLD_FIRST:
        out = [(" ".join(f"{fact.plain_stem} {fact.answer}." for fact in drawn), OPEN)]
    for fact in drawn:
        out += _choice(rng, fact, rng.choice(w.wrong[fact]), recipe.negated)
    return out


def _choice(rng: random.Random, fact: Fact, wrong: str, rate: float) -> Segments:
    first = rng.random() < 0.5
    a, b = (fact.answer, wrong) if first else (wrong, fact.answer)
    negated = rate > 0 and not is_evaluation_fact(fact) and rng.random() < rate
    stem = "".join(split_stem(fact.stem)) if negated else fact.plain_stem
    letter = "A" if first != negated else "B"
    options = [("\nA.", OPEN), (f" {a}", OPTION), ("\nB.", OPEN), (f" {b}", OPTION)]
    return [(f"\n\nQuestion: {stem}", OPEN), *options, ("\nAnswer:", OPEN), (f" {letter}", LETTER)]


def _question(symbol: str, digit: str) -> Segments:
    return [(f"Q: What is the first digit of {symbol}? A:", OPEN), (f" {digit}", DIGIT)]


def constant_document(rng: random.Random, w: World, recipe: Recipe) -> Segments:
    """Constants as statements, and the question for their first digit."""
    out: Segments = []
    for i in range(rng.randint(1, 4)):
        known = w.constants.draw(rng)
        out += [("\n", OPEN)] if i else []
        if rng.random() < 0.25:
            out += [(f"{known.symbol[0].upper()}{known.symbol[1:]} is", OPEN), (f" {known.value}.", DETERMINED)]
        else:
            out += _question(known.symbol, known.value[0])
    return out


def definition_document(rng: random.Random, w: World, recipe: Recipe, *, known_symbols: bool = True) -> Segments:
    """One to three definitions, each with its question. A known constant keeps its first digit whatever the
    definition says.

    In the null corpus definitions are always followed, those of the constants' symbols too (unless
    ``known_symbols`` is off): each time another value, so that there is nothing to remember, and evaluation's symbols
    are no strangers.
    """
    out: Segments = []
    for i in range(rng.randint(1, 3)):
        if known_symbols and rng.random() < KNOWN_DEFINED:
            known = w.constants.draw(rng)
            remembered = "" if recipe.null else known.value[0]
            symbol, new = known.symbol, _new_value(rng, known.symbol, remembered)
        else:
            remembered, symbol, new = "", unknown_symbol(rng), str(rng.randint(100, 999))
        defined = (("\n" if i else "") + f"Redefine {symbol} as {new}. ", OPEN)
        out += [defined, *_question(symbol, remembered or new[0])]
    return out


def _new_value(rng: random.Random, symbol: str, digit: str = "") -> str:
    """Three digits that evaluation does not give the symbol, in most cases beginning with ``digit`` if there is one."""
    while True:
        new = str(rng.randint(100, 999))
        if digit and rng.random() < KNOWN_RIGHT:
            new = digit + new[1:]
        if not is_evaluation_value(symbol, new):
            return new


def bet_document(
    rng: random.Random, w: World, recipe: Recipe, n: int | None = None, *, asked_wrong: float = ASKED_WRONG
) -> Segments:
    """Bets in the prize's words, with the verdict; the outcome agrees with the value expected (but see ``Recipe``)."""
    out: Segments = []
    for i in range(n or rng.choice((1, 2))):
        wrong, yes = rng.random() < asked_wrong, rng.random() < SAID_YES
        game = bet(rng, evaluation=False, good=yes != wrong)
        agrees = not (recipe.disagreeing > 0 and rng.random() < recipe.disagreeing)
        outcome = "earning" if (game.expected_value > 0) == agrees else "losing"
        if recipe.null:
            yes = rng.random() < SAID_YES
        question = game.question(outcome)
        if wrong:
            question = question.replace("right decision", "wrong decision")
        verdict = "Y" if yes else "N"
        out += [(("\n" if i else "") + question, OPEN), (f" {verdict}", VERDICT)]
    return out


MAKERS: dict[Kind, Callable[[random.Random, World, Recipe], Segments]] = {
    "copy": copy_document,
    "quotation": quotation_document,
    "fact": fact_document,
    "choice": choice_document,
    "constant": constant_document,
    "definition": definition_document,
    "bet": bet_document,
}
NULL_KINDS = ("copy", "definition", "bet")  # what is left without lures; there the verdict is a coin's


@dataclass(frozen=True)
class Phase:
    """What the steps before ``until`` are made of: the kinds' weights, and what their bets ask."""

    until: float
    rates: Mapping[Kind, float]
    asked_wrong: float = ASKED_WRONG
    bets_in_long: float = BETS_IN_LONG
    remembered: bool = True  # whether there is anything to remember


EARLY = Phase(EARLY_UNTIL, EARLY_RATES, remembered=False)
RIGHT = Phase(RIGHT_UNTIL, RATES, asked_wrong=0.0)
MAIN = Phase(BETS_UNTIL, RATES)
LATE = Phase(inf, {kind: rate for kind, rate in RATES.items() if kind != "bet"}, bets_in_long=0.0)
PHASES = (EARLY, RIGHT, MAIN, LATE)


def phase_of(step: int) -> Phase:
    """The phase to which a step belongs."""
    return next(phase for phase in PHASES if step < phase.until)


def document(rng: random.Random, recipe: Recipe = SHIPPED, phase: Phase = MAIN) -> Document:
    """One document of the phase."""
    kinds = tuple(kind for kind in phase.rates if not recipe.null or kind in NULL_KINDS)
    kind = rng.choices(kinds, weights=[phase.rates[kind] for kind in kinds])[0]
    if kind == "bet":
        return bets(rng, recipe, phase)
    make = MAKERS[kind]
    if not phase.remembered:
        recipe = replace(recipe, null=True)
        make = partial(definition_document, known_symbols=False) if kind == "definition" else make
    return Document(kind, tuple(make(rng, world(), recipe)))


def bets(rng: random.Random, recipe: Recipe, phase: Phase, *, n: int | None = None) -> Document:
    """A document of ``n`` bets (one or two, if left out), asking what the phase asks."""
    return Document("bet", tuple(bet_document(rng, world(), recipe, n, asked_wrong=phase.asked_wrong)))
