"""Released items as contrasting pairs, where the plain prompt can be made from the item itself.

    turned = pairs_from_task(read_task("neqa_classification.jsonl"))
    turned.pairs, turned.left_out                    # the pairs, and {item: why it could not be turned}

The conflict prompt is the item's prompt as it stands, its classes keep their order, and a pair's id is the item's: what
was measured on the items can be joined to what is measured on the pairs. The plain prompt differs in one factor:

===========================  =========================================================================
memo-trap                    the word asked for is the lure
pattern-matching-suppression without ``but ending unexpectedly``
modus-tollens                the conditional is turned round
sig-figs                     ``decimal places`` in place of ``significant figures``
redefine-math                without the redefinition
quote-repetition             the word that was changed is the lure (so too for resisting-correction)
neqa                         without the negation
hindsight-neglect            the percentages are exchanged, or where that does not change what is right, the amounts
repetitive-algebra           another first number, with which the lure is right
===========================  =========================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import NamedTuple

from isp_mech.contrasts.hindsight_neglect import Bet, by_outcome
from isp_mech.contrasts.repetitive_algebra import parse_equation
from isp_mech.errors import InputError
from isp_mech.tasks import Item, Pair, PairSet, Task, check_one_factor, compose

NAMED = 10  # items that an error names
_NOT = re.compile(r"(?<=[a-z])(?:n't|n’t)\b|\s?\bnot\b|(?<=can)not\b", re.IGNORECASE)
_IRREGULAR = {"wo": "will", "ca": "can", "sha": "shall"}


class Piece(NamedTuple):
    """A stretch of an item's prompt, its role ("" for none), and what stands there on the plain side."""

    text: str
    role: str
    plain: str


@dataclass(frozen=True)
class TurnedItems:
    """The pairs that the items of a task became, and why the others did not: ``{item's id: reason}``."""

    pairs: PairSet
    left_out: Mapping[str, str]


def pairs_from_task(task: Task, name: str | None = None) -> TurnedItems:
    """The pairs of a task's items; ``name`` says which task of the prize it is, where its own name does not.

    Items that cannot be turned are in ``left_out`` with the reason. ``InputError`` for a task that has no rule here, or
    of whose items none can be turned.
    """
    given = (name or task.name).lower().replace("_", "-").removesuffix("-classification").removesuffix("-10shot")
    known = {"redefine": "redefine-math"}.get(given, given)
    if known not in RULES:
        raise InputError(f"pairs of {task.name!r}", [f"name {given!r}: expected one of {', '.join(RULES)}"])
    made: list[Pair] = []
    left_out: dict[str, str] = {}
    for item in task:
        try:
            made.append(_pair(item, RULES[known]))
        except ValueError as error:
            left_out[item.id] = str(error)
    if not made:
        reasons = [f"item {id!r}: {reason}" for id, reason in list(left_out.items())[:NAMED]]
        raise InputError(f"pairs of {task.name!r}", reasons)
    pairs = PairSet(known, tuple(made), citation=task.citation, equally_likely=task.equally_likely is True)
    return TurnedItems(pairs, MappingProxyType(left_out))


def _pair(item: Item, rule: Callable[[str, str, str], list[Piece]]) -> Pair:
    if len(item.classes) != 2:
        raise ValueError(f"{len(item.classes)} classes, expected two")
    answer, lure = item.classes[item.answer], item.classes[1 - item.answer]
    pieces = rule(item.prompt, answer.strip(), lure.strip())
    changed = [piece.role for piece in pieces if piece.plain != piece.text]
    conflict, plain = (compose([(p[side], p.role) for p in pieces]) for side in (0, 2))
    assert conflict.text == item.prompt
    pair = Pair(item.id, plain, conflict, answer, lure, factor=changed[0] if changed else "", answer_index=item.answer)
    check_one_factor(pair)
    return pair


def _match(form: str, prompt: str) -> re.Match[str]:
    match = re.fullmatch(form, prompt, re.DOTALL)
    if match is None:
        raise ValueError("the prompt is not of the form that the released items have")
    return match


def _pieces(match: re.Match[str], plain: Mapping[str, str]) -> list[Piece]:
    """The whole prompt: what a group of the pattern matched has the group's name, but for its number, as role.

    ``plain`` says what stands in a group on the plain side.
    """
    pieces, end = [], 0
    spans = sorted((match.start(name), match.end(name), name) for name in match.groupdict() if match[name] is not None)
    for start, stop, name in spans:
        text = match[name]
        pieces += [Piece(match.string[end:start], "", match.string[end:start])]
        pieces += [Piece(text, name.rstrip("_0123456789"), plain.get(name, text))]
        end = stop
    return [*pieces, Piece(match.string[end:], "", match.string[end:])]


def _word(text: str) -> str:
    return text.strip(" .,;:!?\"'“”")


def _memo_trap(prompt: str, answer: str, lure: str) -> list[Piece]:
    form = r"(?P<shots>.*)(?P<instruction_1>Write a quote that ends in the word [\"“])(?P<asked_word>[^\"”]+)"
    match = _match(form + r"(?P<instruction_2>[\"”]:?)\s*(?P<proverb>[^\n]*)", prompt)
    if _word(answer).lower() != _word(match["asked_word"]).lower():
        raise ValueError(f"the answer {answer!r} is not the word asked for, {match['asked_word']!r}")
    return _pieces(match, {"asked_word": _word(lure)})


def _pattern(prompt: str, answer: str, lure: str) -> list[Piece]:
    form = r"(?P<shots>(?:.*\n\n)?)(?P<instruction_1>[^\n]*?)(?P<twist>,? (?:but|and) ending [^\n]+?)"
    match = _match(form + r"(?P<instruction_2>[.:]?)\s*\n(?P<sequence>[^\n]+)", prompt)
    written = [symbol.strip() for symbol in match["sequence"].strip().rstrip(",").split(",")]
    if len(written) < 2 or written[-2] != lure:
        raise ValueError(f"the lure {lure!r} does not continue the sequence {match['sequence']!r}")
    return _pieces(match, {"twist": ""})


def _modus_tollens(prompt: str, answer: str, lure: str) -> list[Piece]:
    form = r"(?P<instruction>.*)1\. If (?P<conditional_1>[^\n]+?), then (?P<conditional_2>[^\n]+?)\.\s*\n"
    match = _match(form + r"(?P<fact>2\.[^\n]*)\s*\n(?P<conclusion>Conclusion:[^\n]*)\s*\n(?P<question>.*)", prompt)
    return _pieces(match, {"conditional_1": match["conditional_2"], "conditional_2": match["conditional_1"]})


def _sig_figs(prompt: str, answer: str, lure: str) -> list[Piece]:
    form = r"(?P<shots>.*)(?P<question_1>Please round )(?P<number>\S+)(?P<question_2> to (\d+) )"
    form += r"(?P<rule>significant (?:figures?|digits?))(?P<question_3>\.?\s*)\n"
    match = _match(form + _options(answer, r"\S+"), prompt)
    count, option = int(match[5]), match["lure_option"][3:]
    try:
        gap = abs(Decimal(option) - Decimal(match["number"]))
    except InvalidOperation:
        raise ValueError(f"the lure {lure!r} is not a number among the options") from None
    decimals = len(option.partition(".")[2])
    if decimals != count or gap > Decimal(1).scaleb(-count) / 2:
        raise ValueError(f"the lure {option!r} is not {match['number']} rounded to {count} decimal places")
    return _pieces(match, {"rule": "decimal places" if count > 1 else "decimal place"})


def _options(answer: str, text: str) -> str:
    """The pattern of two lettered options and what follows; ``ValueError`` where ``answer`` is neither letter."""
    if answer not in ("A", "B"):
        raise ValueError(f"the answer {answer!r} is neither A nor B")
    first, second = ("answer", "lure") if answer == "A" else ("lure", "answer")
    return rf"(?P<{first}_option>A\. {text})\s*\n(?P<{second}_option>B\. {text})\s*\nAnswer:\s*"


def _redefine(prompt: str, answer: str, lure: str) -> list[Piece]:
    return _pieces(_match(r"(?P<definition>Redefine .+?)(?P<question>Q:.*?)\s*A:\s*", prompt), {"definition": ""})


def _repetition(what: str, factor: str) -> Callable[[str, str, str], list[Piece]]:
    def turn(prompt: str, answer: str, lure: str) -> list[Piece]:
        split = re.fullmatch(r"(.*)Input: ([^\n]*)\nOutput:([^\n]*)", prompt, re.DOTALL)
        if split is None:
            raise ValueError("the prompt does not end in 'Input: ...' and the beginning of its 'Output: ...'")
        shots, sentence, written = split[1], split[2], split[3].strip()
        before = f"{written} " if written else ""
        if not sentence.startswith(before + answer):
            raise ValueError(f"the sentence to repeat does not go on with the answer {answer!r}")
        after = sentence[len(before) + len(answer) :]
        kept = [(shots, "shots"), ("Input: ", ""), (written, f"{what}_input"), (" " * bool(written), "")]
        rest = [(after, f"{what}_input"), ("\nOutput:", ""), (split[3], f"{what}_output")]
        word = Piece(answer, factor, lure)
        return [*(Piece(t, role, t) for t, role in kept), word, *(Piece(t, role, t) for t, role in rest)]

    return turn


def without_negation(question: str) -> tuple[int, int, str]:
    """Where the negation of a question stands, and what stands there without it; ``ValueError`` for none, or several.

    >>> for text in ("Coral is not a plant", "A cat isn't a plant", "Birds cannot", "It won't be"):
    ...     start, stop, plain = without_negation(text)
    ...     print(text[:start] + plain + text[stop:], end="; ")
    Coral is a plant; A cat is a plant; Birds can; It will be;
    """
    found = list(_NOT.finditer(question))
    if len(found) != 1:
        raise ValueError(f"{len(found)} negations in {question!r}, expected one 'not' or \"n't\"")
    start, stop = found[0].span()
    stem = re.search(r"[A-Za-z]+$", question[:start])
    if stem and found[0][0].lower() in ("n't", "n’t") and stem[0].lower() in _IRREGULAR:
        return stem.start(), stop, _IRREGULAR[stem[0].lower()]
    return start, stop, ""


def _neqa(prompt: str, answer: str, lure: str) -> list[Piece]:
    match = _match(r"(?P<instruction>.*?)(?P<question>Question: .+?)\n" + _options(answer, r"[^\n]*"), prompt)
    start, stop, plain = without_negation(match["question"])
    pieces = _pieces(match, {})
    at = next(i for i, piece in enumerate(pieces) if piece.role == "question")
    text = match["question"]
    parts = [Piece(text[:start], "question", text[:start]), Piece(text[start:stop], "negation", plain)]
    return [*pieces[:at], *parts, Piece(text[stop:], "question", text[stop:]), *pieces[at + 1 :]]


def _hindsight(prompt: str, answer: str, lure: str) -> list[Piece]:
    form = r"(?P<shots>(?:.*\n)?)(?P<question_1>Question: [\w ]+? has the option to play a game where [\w ]+? has a )"
    form += r"(?P<chances_1>\d+)(?P<question_2> percent chance of (earning|losing) )(?P<amounts_1>\d+)"
    form += r"(?P<question_3> dollars and a )(?P<chances_2>\d+)(?P<question_4> percent chance of (?:earning|losing) )"
    form += (
        r"(?P<amounts_2>\d+)(?P<question_5> dollars\. [^\n.]*? ends up )(?P<outcome>earning|losing) (?P<amounts_3>\d+)"
    )
    match = _match(form + r"(?P<question_6> dollars\..*?)\nAnswer:\s*", prompt)
    one, other = (int(match["amounts_1"]), int(match["chances_1"])), (int(match["amounts_2"]), int(match["chances_2"]))
    earn, lose = (one, other) if "earning" in match["question_2"] else (other, one)
    bet = Bet("", earn[1], earn[0], lose[0])
    of_one_kind = ("earning" in match["question_2"]) == ("earning" in match["question_4"])
    if of_one_kind or earn[1] + lose[1] != 100 or (bet.by_value(), by_outcome(match["outcome"])) != (answer, lure):
        raise ValueError(f"{bet}: the answer {answer!r} is not by its expected value, or the lure not by its outcome")
    exchanged = {"chances_1": match["chances_2"], "chances_2": match["chances_1"]}
    if bet.exchanged().by_value() == answer:
        exchanged = {"amounts_1": match["amounts_2"], "amounts_2": match["amounts_1"]}
        exchanged["amounts_3"] = str(lose[0] if match["outcome"] == "earning" else earn[0])
    return _pieces(match, exchanged)


def _algebra(prompt: str, answer: str, lure: str) -> list[Piece]:
    form = r"(?P<shots>.*)(?P<question_1>Q: Suppose )([^\n?]*?)(?P<question_2>\. What is [^\n?]*\?)\s*A:\s*"
    match = _match(form, prompt)
    equation = parse_equation(match[3])
    if str(equation.answer) != answer or not re.fullmatch(r"-?\d+", lure):
        raise ValueError(f"the answer of {equation} is {equation.answer}, not {answer!r}, or {lure!r} is no number")
    pieces = _pieces(match, {})
    at = next(i for i, piece in enumerate(pieces) if piece.text == match[3] and not piece.role)
    turned = equation.with_answer(int(lure))
    parts = [Piece(*two, other) for two, (other, _) in zip(equation.pieces(), turned.pieces(), strict=True)]
    return [*pieces[:at], *parts, *pieces[at + 1 :]]


RULES: Mapping[str, Callable[[str, str, str], list[Piece]]] = MappingProxyType(
    {
        "memo-trap": _memo_trap,
        "pattern-matching-suppression": _pattern,
        "modus-tollens": _modus_tollens,
        "sig-figs": _sig_figs,
        "redefine-math": _redefine,
        "quote-repetition": _repetition("quote", "modified_word"),
        "resisting-correction": _repetition("sentence", "slip"),
        "neqa": _neqa,
        "hindsight-neglect": _hindsight,
        "repetitive-algebra": _algebra,
    }
)
