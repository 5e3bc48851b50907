"""Resisting correction: repeat a sentence word for word, with the slip that stands in it.

    >>> pair = correction_pair("keys", Slip("The keys to the cabinet", "are", "is", " on the table"), shown="")
    >>> print(pair.conflict.text)
    Repeat my sentences word-for-word:
    <BLANKLINE>
    Input: The keys to the cabinet is on the table
    Output: The keys to the cabinet
    >>> pair.classes, pair.answer, pair.plain.spans("slip")
    ((' are', ' is'), ' is', ('are',))

From Joe Cavanagh, Andrew Gritsevskiy and Derik Kauffman, second round of the Inverse Scaling Prize: their
quote-repetition made anew. McKenzie et al. 2023 count it among the tasks of strong priors: larger models know better
how the sentence should read, and write that. As in the released file the correct word stands first in the classes.

A slip of spelling is a letter left out, doubled or exchanged with the next, inside a word of six letters or more, each
kind equally often; so over 1,000 pairs the slip is as often longer as it is shorter, and as often earlier in the
alphabet. A slip of grammar is one of those written for the sentence. Only one of the two completions is an
English word that fits there: that is the task, and the plain prompt the check on it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from isp_mech.contrasts.quote_repetition import N_SHOTS, one_begins_the_other
from isp_mech.contrasts.quote_repetition import shots as quote_shots
from isp_mech.contrasts.redefine_math import unknown_symbol
from isp_mech.contrasts.sampling import ContrastTask, MakePair, PairRequest
from isp_mech.contrasts.word_lists import EntryList, words
from isp_mech.tasks import Pair, Prompt, fill
from isp_mech.tasks.items import CITATIONS

TEMPLATE = (
    "<instruction>{instruction}</><shots>{shots}</>Input: <sentence_input>{before}</> <slip>{word}</>"
    "<sentence_input>{after}</>\nOutput: <sentence_output>{before}</>"
)
INSTRUCTION = "Repeat my sentences word-for-word:\n\n"
INSTRUCTIONS = {
    "back-to-me": "Repeat my sentences back to me:\n\n",
    "clear-instructions": "Repeat my sentences exactly as they are. Where there is a mistake in them, keep it:\n\n",
}
WITH_SLIPS = ("My brothre likes ice cream.", "Where is the the nearest post office?")
SHORTEST = 6  # letters of a word that is misspelt
LEADS = ("", "She told me that", "My aunt says that", "I heard that", "He wrote that", "They say that", "We know that")
KINDS = ("left out", "doubled", "exchanged")


@dataclass(frozen=True)
class Slip:
    """A sentence in pieces: what stands before a word, the word, what stands there in its place, and what after it."""

    before: str
    word: str
    slip: str
    after: str = ""


def _sentence(sentence: str) -> str:
    text = sentence.rstrip(".")
    if len(re.sub(r"\[[^\]]*\]", "x", text).split()) < 3:
        raise ValueError(f"sentence {sentence!r}, expected three words or more")
    marks = re.findall(r"[\[\]|]", text)
    marked = re.search(r"(?<=\S )\[([^][| ]+)\|([^][| ]+)\]", text)
    if marks and (len(marks) != 3 or marked is None):
        raise ValueError(f"sentence {sentence!r}: expected one slip, as in 'The keys [are|is] here', after a word")
    if marked and one_begins_the_other(marked[1], marked[2]):
        raise ValueError(
            f"sentence {sentence!r}: {marked[1]!r} and {marked[2]!r}, expected that neither begins the other"
        )
    return text


# the project's own sentences, written for it
SENTENCES = EntryList("sentences.tsv", _sentence, ("sentence",), once="sentence", or_lines=True)


def sentences(source: str | Path | None = None) -> tuple[str, ...]:
    """The project's sentences, or those of a TSV or CSV with the column ``sentence``; or one a line.

    A slip of grammar stands beside the right word: ``The keys [are|is] here``. Final stops are dropped. Raises
    ``InputError`` with every sentence of fewer than three words, or with more than one slip, and every one twice.
    """
    return SENTENCES.read(source)


def grammar_slips(sentence: str, leads: Sequence[str] = ("",)) -> list[Slip]:
    """The slip of grammar that stands in a sentence, if there is one: once after each of ``leads``.

    >>> grammar_slips("The keys [are|is] here", ["She said that"])
    [Slip(before='She said that the keys', word='are', slip='is', after=' here')]
    """
    match = re.fullmatch(r"(.*) \[(.+)\|(.+)\](.*)", sentence)
    if match is None:
        return []
    before, *rest = match.groups()
    later = before if before.startswith("I ") else before[0].lower() + before[1:]
    return [Slip(f"{lead} {later}" if lead else before, *rest) for lead in leads]


def misspelt(word: str, kind: str) -> list[str]:
    """``word`` with one of its inner letters ``left out``, ``doubled`` or ``exchanged`` with the next inner one.

    None of them begins the word or is begun by it, and none is another word (those of the list ``no-slip``).

    >>> misspelt("garden", "exchanged"), misspelt("letter", "doubled")
    (['graden', 'gadren', 'garedn'], ['leetter', 'letteer'])
    """
    made = []
    for i in range(1, len(word) - 1):
        a, b = word[i], word[i + 1]
        if kind == "left out":
            made.append(word[:i] + word[i + 1 :])
        elif kind == "doubled" and a != b and a != word[i - 1]:
            made.append(word[:i] + a + word[i:])
        elif kind == "exchanged" and a != b and i < len(word) - 2:
            made.append(word[:i] + b + a + word[i + 2 :])
    not_slips = words("no-slip")  # another word, or the same as it is spelt elsewhere
    return [slip for slip in dict.fromkeys(made) if slip not in not_slips and not one_begins_the_other(slip, word)]


def spelling_slips(sentence: str, kind: str) -> list[Slip]:
    """Every slip of spelling of one kind in a sentence: in its words of six small letters or more, not in the first."""
    text = re.sub(r"\[(.+)\|.+\]", r"\1", sentence)
    slips = []
    for match in re.finditer(r"(?<= )[a-z]+(?![\w'’-])", text):
        word = match[0]
        if len(word) >= SHORTEST and len(re.findall(rf"\b{word}\b", text)) == 1:
            before, after = text[: match.start() - 1], text[match.end() :]
            slips += [Slip(before, word, slip, after) for slip in misspelt(word, kind)]
    return slips


def correction_prompt(
    before: str, word: str, after: str = "", *, shown: str = "", instruction: str = INSTRUCTION
) -> Prompt:
    """The prize's prompt: ``before word after`` to be repeated, and ``before`` repeated already.

    Roles: ``instruction``, ``shots``, ``sentence_input``, ``slip`` (the factor: the slip, or the right word) and
    ``sentence_output``.
    """
    return fill(TEMPLATE, instruction=instruction, shots=shown, before=before, word=word, after=after)


def shots(n: int) -> str:
    """``n`` sentences without a slip, repeated: those of quote-repetition."""
    return quote_shots(n)


def correction_pair(
    id: str,
    slip: Slip,
    *,
    rng: random.Random | None = None,
    shown: str | None = None,
    instruction: str = INSTRUCTION,
) -> Pair:
    """One pair: the sentence with the slip, and the right sentence (the plain side).

    With ``rng`` the pair also has a neutral prompt: an invented word in the same place, against a slip of it; nobody
    knows how that word is spelt. ``ValueError`` where the slip or the word begins the other.
    """
    if one_begins_the_other(slip.slip, slip.word):
        raise ValueError(f"slip {slip.slip!r} of {slip.word!r}: one begins the other, expected that neither does")
    shown = shots(N_SHOTS) if shown is None else shown
    plain, conflict = (
        correction_prompt(slip.before, word, slip.after, shown=shown, instruction=instruction)
        for word in (slip.word, slip.slip)
    )
    pair = Pair(id, plain, conflict, f" {slip.slip}", f" {slip.word}", factor="slip", answer_index=1)
    if rng is None:
        return pair
    others: list[str] = []
    while not others:
        invented = unknown_symbol(rng)
        others = misspelt(invented, rng.choice(KINDS))
    neutral = correction_prompt(slip.before, invented, slip.after, shown=shown, instruction=instruction)
    return pair.with_neutral(neutral, f" {invented}", f" {rng.choice(others)}")


def draw(request: PairRequest) -> Iterator[MakePair]:
    """Pairs about the project's sentences, or about those of a file (see ``sentences``).

    There is no uniform baseline: a word and a slip of it are not equally likely a priori. A sentence comes again with
    another slip; one of grammar, where it has one, comes first.
    """
    variant, chosen = request.variant, sentences(request.source)
    shown = shots(request.number("shots-", N_SHOTS))
    if variant == "slips-shown":
        shown = "".join(f"Input: {sentence}\nOutput: {sentence}\n\n" for sentence in WITH_SLIPS)
    instruction = INSTRUCTIONS.get(variant, INSTRUCTION)
    drawn = {kind: 0 for kind in KINDS}  # how many slips of a kind so far

    def options(sentence: str, rng: random.Random) -> Iterator[Slip]:
        if variant == "grammar":
            yield from grammar_slips(sentence, rng.sample(LEADS, len(LEADS)))
        elif variant != "spelling":
            yield from grammar_slips(sentence)
        left = {kind: spelling_slips(sentence, kind) for kind in KINDS if variant != "grammar"}
        for slips in left.values():
            rng.shuffle(slips)
        while any(left.values()):
            kind = min((kind for kind in left if left[kind]), key=lambda kind: drawn[kind])
            drawn[kind] += 1
            yield left[kind].pop()

    def pair(_: str, slip: Slip, i: int) -> Pair:
        own = request.random(pair=i)
        return correction_pair(f"{request.task}-{i}", slip, rng=own, shown=shown, instruction=instruction)

    return request.rounds(chosen, options, pair)


TASK = ContrastTask("resisting-correction", citation=CITATIONS["resisting-correction"], draw=draw)
