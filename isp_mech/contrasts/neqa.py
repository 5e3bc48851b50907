"""NeQA: a question with two lettered options, and the same question negated.

    >>> pair = neqa_pair("cat", "If a cat has a body temp that is below average, it is[n't] in",
    ...                  answer="safe ranges", lure="danger", answer_index=1)
    >>> print(pair.conflict.text)
    The following are multiple choice questions (with answers) about common sense.
    <BLANKLINE>
    Question: If a cat has a body temp that is below average, it isn't in
    A. danger
    B. safe ranges
    Answer:
    >>> pair.classes, pair.answer, pair.conflict.spans("negation")
    ((' A', ' B'), ' B', ("n't",))

From Zhou and Zhang, first round of the Inverse Scaling Prize: smaller models guess, larger ones answer
as if the negation were not there.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any, Literal

from isp_mech.contrasts.sampling import ContrastTask, MakePair, PairRequest, balanced
from isp_mech.contrasts.word_lists import HERE, EntryList, read_table
from isp_mech.errors import InputError
from isp_mech.tasks import Pair, PairSet, Prompt, compose
from isp_mech.tasks.items import CITATIONS
from isp_mech.tasks.text_files import Row, json_rows, read_text

Pieces = list[tuple[str, str]]

INSTRUCTION = "The following are multiple choice questions (with answers) about common sense.\n\n"
LETTERS = (" A", " B")
NEGATIONS = re.compile(r"\b(not|never|no|none|nor|neither|cannot|nobody|nothing|without)\b|n't\b|n’t\b", re.IGNORECASE)
_WORDS = re.compile(r"\s*\w+?(?=n't\b|n’t\b)|\s*\w+|n't\b|n’t\b|\s*[^\w\s]|\s+")  # the pieces joined give the text back
_MARKED = re.compile(r"([^\[\]]*)\[([^\[\]]+)\]([^\[\]]*)")


@dataclass(frozen=True)
class Fact:
    """A true statement: ``stem`` with the place of its negation marked (``A robin is[ not] a kind of``), ``answer``.

    ``relation`` is what it has in common with facts whose answers are false of it. ``ValueError`` for a stem without
    one marked stretch.
    """

    relation: str
    stem: str
    answer: str

    def __post_init__(self) -> None:
        split_stem(self.stem)

    @property
    def plain_stem(self) -> str:
        before, _, after = split_stem(self.stem)
        return before + after


def split_stem(stem: str) -> tuple[str, str, str]:
    """``(before, inserted words, after)``; ``ValueError`` unless one stretch is marked with brackets.

    >>> split_stem("A robin is[ not] a kind of")
    ('A robin is', ' not', ' a kind of')
    """
    match = _MARKED.fullmatch(stem)
    if match is None or not (match[1] + match[3]).strip():
        raise ValueError(f"stem {stem!r}: expected one stretch in brackets, as in 'A robin is[ not] a kind of'")
    return match[1], match[2], match[3]


def _lonely_answers(rows: Sequence[Mapping[str, str]]) -> list[str]:
    answers: dict[str, dict[str, None]] = {}
    for row in rows:
        answers.setdefault(row["relation"], {})[row["answer"]] = None
    return [
        f"relation {relation!r}: expected two different answers, found {', '.join(of)}"
        for relation, of in sorted(answers.items())
        if len(of) < 2
    ]


# the project's own list: common knowledge, typed for it
FACTS = EntryList("facts.tsv", Fact, ("relation", "stem", "answer"), once="stem", whole=_lonely_answers)


def facts(source: str | Path | None = None) -> tuple[Fact, ...]:
    """The project's facts, or those of a TSV or CSV with the columns ``relation``, ``stem`` and ``answer``.

    Raises ``InputError`` with every bad stem, repeated stem, and relation with a single answer.
    """
    return FACTS.read(source)


@cache
def _not_opposed() -> frozenset[frozenset[str]]:
    """Answers of one relation that are no clear opposites: something could be both."""
    return frozenset(
        frozenset(row.fields.values()) for row in read_table(HERE / "not_opposed.tsv", ("answer", "other"))
    )


def is_evaluation_fact(fact: Fact) -> bool:
    """Whether the negated question about this fact is kept for evaluation; the other half may be trained on."""
    return hashlib.sha256(fact.plain_stem.encode()).digest()[0] % 2 == 0


def wrong_answers(all_facts: tuple[Fact, ...]) -> dict[Fact, tuple[str, ...]]:
    """For every fact the answers of its relation that are false of it, sorted."""
    of_relation: dict[str, set[str]] = {}
    for fact in all_facts:
        of_relation.setdefault(fact.relation, set()).add(fact.answer)

    def opposed(answer: str, others: set[str]) -> tuple[str, ...]:
        return tuple(sorted(o for o in others if o != answer and frozenset((o, answer)) not in _not_opposed()))

    return {fact: opposed(fact.answer, of_relation[fact.relation]) for fact in all_facts}


def neqa_pair(id: str, stem: str, *, answer: str, lure: str, answer_index: int) -> Pair:
    """One pair: ``answer`` is the option that is right once the marked words are in, ``lure`` without them.

    Roles: ``instruction``, ``question``, ``negation`` (the factor), ``answer_option``, ``lure_option``.
    """
    before, inserted, after = split_stem(stem)
    conflict = [(before, ""), (inserted, "negation"), (after, "")]
    return _pair(id, conflict, [(before + after, "")], answer, lure, answer_index)


def variant_pair(variant: str, id: str, stem: str, *, answer: str, lure: str, answer_index: int) -> Pair:
    """The pair of ``neqa_pair`` with its negation elsewhere, twice, or in a sentence without letters.

    ``answer`` is false of the stem's thing, ``lure`` true. The double negation asks for what is true again:
    there the two change places, and the plain prompt has the inner negation alone.

    >>> robin = {"stem": "A robin is[ not] a kind of", "answer": "fish", "lure": "bird", "answer_index": 0}
    >>> for variant in ("negation-before", "negation-after", "double-negation", "sentence"):
    ...     pair = variant_pair(variant, "robin", **robin)
    ...     print(pair.conflict.text.removeprefix(INSTRUCTION).replace("\\n", " / "), pair.answer, pair.lure)
    Question: The following is not true: A robin is a kind of / A. fish / B. bird / Answer: A  B
    Question: A robin is a kind of ... Which option is not right? / A. fish / B. bird / Answer: A  B
    Question: The following is not true: A robin is not a kind of / A. fish / B. bird / Answer: B  A
    A robin is not a kind of  fish  bird
    """
    before, inserted, after = split_stem(stem)
    if variant == "sentence":
        sides = ([(before, "question"), (text, "negation"), (after, "question")] for text in (inserted, ""))
        conflict, plain = map(compose, sides)
        return Pair(id, plain, conflict, f" {answer}", f" {lure}", factor="negation", answer_index=answer_index)
    if variant == "negation-after":
        first, last = f"{before}{after} ... Which option is", [(" right?", "")]
    elif variant in ("negation-before", "double-negation"):
        first, last = "The following is", [(f" true: {before}{after}", "")]
        if variant == "double-negation":
            last = [(f" true: {before}", ""), (inserted, "inner_negation"), (after, "")]
            answer, lure, answer_index = lure, answer, 1 - answer_index
    else:
        raise ValueError(f"variant {variant!r}: expected negation-before, negation-after, double-negation or sentence")
    return _pair(id, [(first, ""), (" not", "negation"), *last], [(first, ""), *last], answer, lure, answer_index)


def twin_pair(id: str, stem: str, twin_stem: str, *, answer: str, lure: str, answer_index: int) -> Pair:
    """Two questions without a negation and with the same options: ``answer`` is true of the twin's thing.

    >>> pair = twin_pair("robin", "A robin is[ not] a kind of", "A trout is[ not] a kind of", answer="fish",
    ...                  lure="bird", answer_index=0)
    >>> pair.conflict.spans("question"), pair.plain.spans("question"), pair.answer
    (('Question: ', 'A trout is a kind of'), ('Question: ', 'A robin is a kind of'), ' A')
    """
    conflict, plain = ([("".join(split_stem(s)[::2]), "")] for s in (twin_stem, stem))
    return _pair(id, conflict, plain, answer, lure, answer_index, factor="question")


def _pair(
    id: str, conflict: Pieces, plain: Pieces, answer: str, lure: str, index: int, *, factor: str = "negation"
) -> Pair:
    options = [(f"A. {answer}", "answer_option"), (f"B. {lure}", "lure_option")]
    if index == 1:
        options = [(f"A. {lure}", "lure_option"), (f"B. {answer}", "answer_option")]

    def prompt(stem: Pieces) -> Prompt:
        question = [("Question: ", "question"), *((text, role or "question") for text, role in stem)]
        end = [("\n", ""), options[0], ("\n", ""), options[1], ("\nAnswer:", "")]
        return compose([(INSTRUCTION, "instruction"), *question, *end])

    right, wrong = LETTERS[index], LETTERS[1 - index]
    return Pair(id, prompt(plain), prompt(conflict), right, wrong, factor=factor, answer_index=index)


def draw(request: PairRequest) -> Iterator[MakePair]:
    """Pairs about the project's facts, or about those of a file (see ``facts``).

    The letter of the answer is balanced exactly for an even number of pairs. Guessing is right half of the time, but
    for the variant ``sentence``, whose two words are not equally likely a priori. Every variant asks about
    the same facts with the same two options.
    """
    variant, chosen = request.variant, facts(request.source)
    wrong = wrong_answers(chosen)
    letters = balanced(request.random("letters"))

    def options(fact: Fact, rng: random.Random) -> Iterable[str]:
        return rng.sample(wrong[fact], len(wrong[fact]))

    def pair(fact: Fact, other: str, i: int) -> Pair:
        id, stem, lure, letter = f"{request.task}-{i}", fact.stem, fact.answer, next(letters)
        if variant == "twin":
            stems = [one.stem for one in chosen if (one.relation, one.answer) == (fact.relation, other)]
            twin = request.random("twin", i).choice(stems)
            return twin_pair(id, stem, twin, answer=other, lure=lure, answer_index=letter)
        if variant:
            return variant_pair(variant, id, stem, answer=other, lure=lure, answer_index=letter)
        return neqa_pair(id, stem, answer=other, lure=lure, answer_index=letter)

    return request.rounds(chosen, options, pair)


TASK = ContrastTask("neqa", citation=CITATIONS["neqa"], draw=draw, equally_likely=True, not_in=("sentence",))


def neqa_from_files(
    negated_path: str | Path, plain_path: str | Path, *, unmatched: Literal["error", "skip"] = "error"
) -> PairSet:
    """Pairs from two files of matched questions, row by row: JSONL with ``question``, ``choices``, ``answer``.

    The stretch in which the two questions differ is found by aligning their words and must hold a
    negation in the negated one; both rows have the same two choices and opposite answers. Rows that do
    not match are an ``InputError`` that lists all of them; with ``unmatched="skip"`` they are left out
    (a released file of such questions holds rows that were never negated). A malformed row is always
    an error.
    """
    if unmatched not in ("error", "skip"):
        raise InputError("unmatched", [f"{unmatched!r}: expected 'error' or 'skip'"])
    problems: list[str] = []
    negated, plain = (_questions(path, problems) for path in (negated_path, plain_path))
    if len(negated) != len(plain):
        problems.append(f"{len(negated)} rows, but {len(plain)} in {plain_path}: expected matched rows")
    if problems:
        raise InputError(str(negated_path), problems)
    built = []
    for (where, one), (_, other) in zip(negated, plain, strict=True):
        try:
            built.append(_matched(f"{TASK.name}-{where.removeprefix('line ')}", one, other))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if (problems and unmatched == "error") or not built:
        raise InputError(f"{negated_path} with {plain_path}", problems)
    return PairSet(TASK.name, tuple(built), citation=TASK.citation, equally_likely=True)


def _questions(path: str | Path, problems: list[str]) -> list[Row]:
    rows, wrong = json_rows(read_text(path))
    for where, row in rows:
        question, choices, answer = (row.get(key) for key in ("question", "choices", "answer"))
        if not isinstance(question, str) or not question.strip():
            wrong.append(f"{where}: question {question!r}, expected some text")
        if not isinstance(choices, list) or len(choices) != 2 or not all(isinstance(c, str) and c for c in choices):
            wrong.append(f"{where}: choices {choices!r}, expected two texts")
        if type(answer) is not int or answer not in (0, 1):
            wrong.append(f"{where}: answer {answer!r}, expected 0 or 1")
    problems += [f"{path}, {problem}" for problem in wrong]
    return rows


def _matched(id: str, negated: dict[str, Any], plain: dict[str, Any]) -> Pair:
    if negated["choices"] != plain["choices"]:
        raise ValueError(f"choices {negated['choices']} against {plain['choices']}, expected the same")
    if negated["answer"] == plain["answer"]:
        raise ValueError(f"answer {negated['answer']} in both rows, expected opposite answers")
    if len(set(negated["choices"])) == 1:
        raise ValueError(f"both choices are {negated['choices'][0]!r}, expected two different ones")
    conflict, other = align(negated["question"].strip(), plain["question"].strip())
    answer, index = negated["choices"][negated["answer"]], negated["answer"]
    return _pair(id, conflict, other, answer, negated["choices"][1 - index], index)


def align(negated: str, plain: str) -> tuple[Pieces, Pieces]:
    """Both questions in pieces ``(text, role)``, the words in which they differ as ``negation``.

    >>> align("adenine does not consist of", "adenine consists of")
    ([('adenine', ''), (' does not consist', 'negation'), (' of', '')],
     [('adenine', ''), (' consists', 'negation'), (' of', '')])

    Raises ``ValueError`` where they do not differ, differ in two places, or where the stretch of the
    negated question has no negation or more than five words.
    """
    one, other = _WORDS.findall(negated), _WORDS.findall(plain)
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    changes = [block for block in blocks if block[0] != "equal"]
    if not changes:
        raise ValueError(f"question {negated!r} is the same in both rows, expected a negation in one")
    _, i1, _, j1, _ = changes[0]
    _, _, i2, _, j2 = changes[-1]
    inserted, replaced = "".join(one[i1:i2]), "".join(other[j1:j2])
    difference = f"question differs in {inserted.strip()!r} against {replaced.strip()!r}"
    if (i1, i2) == (0, len(one)):
        raise ValueError(f"{difference}, expected some words in common")
    if NEGATIONS.search(inserted) is None or len(inserted.split()) > 5:
        raise ValueError(f"{difference}, expected a negation of five words or fewer in the first")
    if NEGATIONS.search(replaced):
        raise ValueError(f"{difference}, expected no negation in the second")
    return _pieces(one, i1, i2), _pieces(other, j1, j2)


def _pieces(words: list[str], start: int, stop: int) -> Pieces:
    texts = "".join(words[:start]), "".join(words[start:stop]), "".join(words[stop:])
    return [(text, role) for text, role in zip(texts, ("", "negation", ""), strict=True) if text]
