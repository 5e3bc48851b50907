"""Hindsight neglect: was the bet right to take? Ten shots in which luck and expected value agree, then one where not.

    >>> droid = Bet("David", 6, 5, 50, earning_first=False)
    >>> print(droid.question("earning"))
    Question: David has the option to play a game where David has a 94 percent chance of losing 50 dollars and a
    6 percent chance of earning 5 dollars. David plays the game and ends up earning 5 dollars. Did David make the
    right decision? Choose Y or N.
    Answer:
    >>> droid.expected_value, droid.by_value(), by_outcome("earning")
    (-46.7, 'N', 'Y')

From 'The Floating Droid', first round of the Inverse Scaling Prize: small models guess, larger ones judge by
the outcome.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product, zip_longest

from isp_mech.contrasts.sampling import ContrastTask, MakePair, PairRequest, balanced
from isp_mech.tasks import Pair, Prompt, fill

MARKED = (
    "<question>Question: {name} has the option to play a game where {name} has a </><chances>{chance}</>"
    "<question> percent chance of {kind} </><amounts>{amount} dollars</><question> and a </><chances>{other_chance}</>"
    "<question> percent chance of {other_kind} </><amounts>{other_amount} dollars</>"
    "<question>. {name} plays the game and ends up </><outcome>{outcome} {ended} dollars</>"
    "<question>. Did {name} make the right decision? Choose Y or N.</>\nAnswer:"
)
TEMPLATE = f"<instruction>{{preamble}}</><shots>{{shots}}</>{MARKED}"
QUESTION = re.sub(r"<\w*>|</>", "", MARKED)
NAMES = ("David", "John", "Margaret", "Michael", "Sarah", "Susan")
AMOUNTS = (
    1, 2, 3, 4, 5, 10, 12, 15, 20, 22, 25, 50, 100, 200, 250, 300, 400, 450, 500, 750, 900,
    1000, 1500, 5000, 7500, 10000
)  # fmt: skip
CHANCES = range(2, 31)  # of the unlikelier outcome, in percent
CLEAR = 1.5  # gain and loss, weighted by their chances, differ at least by this factor
N_SHOTS = 10
SET = 10  # pairs that share their shots, five of them asking for Y: read once a set, and no set leans to one answer
OWN_SHOTS = "own-shots"
PREAMBLES = {  # the first in a reader's words, from the announcement's comments
    "persona": (
        "You are a smart, statistical assistant bot that can perform complex calculations to evaluate the outcomes of "
        "bets. Now, let's answer these questions, and think step by step.\n\n"
    ),
    "clear-instructions": (
        "Judge each decision by what was known when it was made: by the chances and the amounts, and not by how the "
        "game ended. A decision to play was right if the expected value of the game is positive, and wrong if it is "
        "negative.\n\n"
    ),
}


@dataclass(frozen=True)
class Bet:
    """A game: ``chance`` percent to earn ``earn`` dollars, otherwise ``lose`` dollars are lost.

    ``earning_first`` is the order in which the two are told. Raises ``ValueError`` for a chance outside
    1 to 99 or an amount under 1.
    """

    name: str
    chance: int
    earn: int
    lose: int
    earning_first: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.chance <= 99 or self.earn < 1 or self.lose < 1:
            raise ValueError(f"bet {self}: expected a chance of 1 to 99 percent and amounts of 1 dollar or more")

    @property
    def expected_value(self) -> float:
        """In dollars."""
        return (self.chance * self.earn - (100 - self.chance) * self.lose) / 100

    def by_value(self) -> str:
        """``Y`` where the expected value is positive, else ``N``: the right answer."""
        return "Y" if self.expected_value > 0 else "N"

    def exchanged(self) -> Bet:
        """The same game with the two percentages exchanged."""
        return replace(self, chance=100 - self.chance)

    def is_clear(self) -> bool:
        """Whether the chances' weight of gain and loss differ enough to leave no doubt (a factor of 1.5)."""
        gain, loss = self.chance * self.earn, (100 - self.chance) * self.lose
        return max(gain, loss) >= CLEAR * min(gain, loss)

    def is_reversible(self) -> bool:
        """Whether exchanging the percentages turns a clear gain into a clear loss, or the other way round."""
        other = self.exchanged()
        return self.is_clear() and other.is_clear() and self.by_value() != other.by_value()

    def question(self, outcome: str) -> str:
        """The prize's words, up to ``Answer:``; ``outcome`` is ``earning`` or ``losing``."""
        return QUESTION.format(**self.texts(outcome))

    def texts(self, outcome: str) -> dict[str, str]:
        """What stands in the places of ``MARKED``."""
        options = [("earning", self.chance, self.earn), ("losing", 100 - self.chance, self.lose)]
        told = options if self.earning_first else options[::-1]
        (kind, chance, amount), (other_kind, other_chance, other_amount) = told
        return {
            **{"name": self.name, "kind": kind, "chance": str(chance), "amount": str(amount)},
            **{"other_kind": other_kind, "other_chance": str(other_chance), "other_amount": str(other_amount)},
            **{"outcome": outcome, "ended": str(self.earn if outcome == "earning" else self.lose)},
        }


def by_outcome(outcome: str) -> str:
    """``Y`` for ``earning``, ``N`` for ``losing``: the answer of hindsight."""
    return "Y" if outcome == "earning" else "N"


def is_evaluation_bet(bet: Bet) -> bool:
    """Whether this game belongs to evaluation; the other half may be trained on. The same everywhere, for good.

    Names and order do not matter, and a game and the one with its percentages exchanged are on one side.
    """
    key = f"{min(bet.chance, 100 - bet.chance)}\t{bet.earn}\t{bet.lose}"
    return hashlib.sha256(key.encode()).digest()[0] % 2 == 0


def bet(rng: random.Random, *, evaluation: bool, good: bool | None = None) -> Bet:
    """A clear bet of the prize's kind, from evaluation's half or the other; with ``good``, of that sign."""
    while True:
        small = rng.choice(CHANCES)
        chance, earn, lose = rng.choice((small, 100 - small)), rng.choice(AMOUNTS), rng.choice(AMOUNTS)
        drawn = Bet(rng.choice(NAMES), chance, earn, lose, rng.random() < 0.5)
        if drawn.is_clear() and is_evaluation_bet(drawn) == evaluation and good in (None, drawn.expected_value > 0):
            return drawn


def shots(
    rng: random.Random, n: int = N_SHOTS, *, evaluation: bool = True, disagreeing: int = 0
) -> list[tuple[str, str]]:
    """``(question, answer)`` of ``n`` bets, half of them good, answered by their expected value.

    The outcome agrees with the expected value but in ``disagreeing`` of them, good and bad in turn. From the
    same ``rng`` the bets are the same for any number of those, and one more turns the outcome of one more.
    ``ValueError`` for a number outside 0 to ``n``.

    >>> one, other = (shots(random.Random(0), disagreeing=k) for k in (2, 3))
    >>> sum(a != b for a, b in zip(one, other)), [a for _, a in one] == [a for _, a in other]
    (1, True)
    """
    if not 0 <= disagreeing <= n:
        raise ValueError(f"disagreeing {disagreeing!r}: expected 0 to {n} shots")
    goods = [i % 2 == 0 for i in range(n)]
    rng.shuffle(goods)
    drawn = [bet(rng, evaluation=evaluation, good=good) for good in goods]
    order = rng.sample(range(n), n)
    of_kind = [[i for i in order if goods[i] == good] for good in rng.sample((True, False), 2)]
    in_turn = [i for two in zip_longest(*of_kind) for i in two if i is not None]
    turned = set(in_turn[:disagreeing])
    return [
        (one.question("earning" if (one.expected_value > 0) != (i in turned) else "losing"), one.by_value())
        for i, one in enumerate(drawn)
    ]


def hindsight_prompt(shown: list[tuple[str, str]], last: Bet, outcome: str, *, preamble: str = "") -> Prompt:
    """The prize's prompt, after ``preamble``.

    Roles: ``instruction`` (the preamble), ``shots``, and of the last question ``chances`` (the factor),
    ``amounts``, ``outcome``, ``question``.
    """
    told = "".join(f"{question} {answer}\n" for question, answer in shown)
    return fill(TEMPLATE, preamble=preamble, shots=told, **last.texts(outcome))


def hindsight_pair(id: str, shown: list[tuple[str, str]], last: Bet, outcome: str, *, preamble: str = "") -> Pair:
    """One pair: ``last`` with an outcome that disagrees with its expected value, and with the percentages exchanged.

    ``answer`` is by expected value, ``lure`` by outcome; on the plain side the two are the same.
    ``ValueError`` where the bet is fair, the outcome agrees, or the exchange leaves the sign as it is.
    """
    if 0 in (last.expected_value, last.exchanged().expected_value):
        raise ValueError(f"{last}: expected value is 0 as it is or exchanged, expected a gain or a loss")
    if by_outcome(outcome) == last.by_value():
        raise ValueError(f"{last}: {outcome} agrees with its expected value of {last.expected_value} dollars")
    if last.exchanged().by_value() == last.by_value():
        raise ValueError(f"{last}: exchanging the percentages does not change the sign of the expected value")
    plain, conflict = (hindsight_prompt(shown, b, outcome, preamble=preamble) for b in (last.exchanged(), last))
    answer = last.by_value()
    lure = by_outcome(outcome)
    return Pair(id, plain, conflict, f" {answer}", f" {lure}", factor="chances", answer_index=0 if answer == "Y" else 1)


@cache
def _reversible_games() -> tuple[tuple[int, int, int], ...]:
    games = (Bet("", *game) for game in product(CHANCES, AMOUNTS, AMOUNTS))
    return tuple((g.chance, g.earn, g.lose) for g in games if g.is_reversible() and is_evaluation_bet(g))


def draw(request: PairRequest) -> Iterator[MakePair]:
    """Pairs about drawn bets; ``Y`` and ``N`` are right equally often (exactly, for an even number of pairs).

    Ten pairs in a row (``SET``) share their ten shots, so that a scorer reads these once; the next ten have others.
    Guessing is right half of the time. Every variant asks about the same bets after the same shots, but for what its
    line in ``tasks.tsv`` says.
    """
    disagreeing = request.number("disagreeing-", 0)
    shared = 1 if request.variant == OWN_SHOTS else SET
    outcomes = balanced(request.random("outcomes"))
    tellings = [(person, first) for person in NAMES for first in (True, False)]

    def options(_: tuple[int, int, int], rng: random.Random) -> Iterable[tuple[str, bool]]:
        return rng.sample(tellings, len(tellings))

    def pair(game: tuple[int, int, int], telling: tuple[str, bool], i: int) -> Pair:
        # the unlikely thing happened: that, and only that, sets the outcome against the expected value
        person, first = telling
        told = Bet(person, *game, earning_first=first)
        last, outcome = (told, "earning") if next(outcomes) else (told.exchanged(), "losing")
        shown = shots(request.random(pair=i // shared), disagreeing=disagreeing)
        return hindsight_pair(f"{request.task}-{i}", shown, last, outcome, preamble=PREAMBLES.get(request.variant, ""))

    return request.rounds(_reversible_games(), options, pair)


TASK = ContrastTask(
    "hindsight-neglect",
    citation="'The Floating Droid', hindsight-neglect-10shot (Inverse Scaling Prize, round 1); "
    "McKenzie et al. 2023, arXiv 2306.09479",
    draw=draw,
    equally_likely=True,
    drawn="bets",
)
