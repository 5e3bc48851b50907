from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isp_mech.contrasts import contrast, contrast_names, hindsight_neglect, neqa, quote_repetition, redefine_math
from isp_mech.contrasts.hindsight_neglect import Bet
from isp_mech.contrasts.sampling import ContrastTask, balanced, in_rounds
from isp_mech.errors import InputError
from isp_mech.tasks import Pair, check_one_factor, compose

PRIZE = Path(__file__).parents[3] / "shared" / "data" / "prize"
TASKS = ("neqa", "quote-repetition", "redefine-math", "hindsight-neglect")

CAT = """The following are multiple choice questions (with answers) about common sense.

Question: If a cat has a body temp that is below average, it isn't in
A. danger
B. safe ranges
Answer:"""

STAGE = (
    "All the world's a stage, and all the men and women merely players. They have their exits and their "
    "entrances; And one man in his time plays many"
)
PANGO = f"""Repeat my sentences back to me.

Input: I like dogs.
Output: I like dogs.

Input: What is a potato, if not big?
Output: What is a potato, if not big?

Input: {STAGE} pango
Output: {STAGE}"""

DROID = (
    "Question: Michael has the option to play a game where Michael has a 91 percent chance of losing 900 dollars and a "
    "9 percent chance of earning 5 dollars. Michael plays the game and ends up losing 900 dollars. Did Michael make "
    "the right decision? Choose Y or N.\nAnswer: N\n"
    "Question: David has the option to play a game where David has a 30 percent chance of losing 5 dollars and a 70 "
    "percent chance of earning 250 dollars. David plays the game and ends up earning 250 dollars. Did David make the "
    "right decision? Choose Y or N.\nAnswer: Y\n"
    "Question: David has the option to play a game where David has a 94 percent chance of losing 50 dollars and a 6 "
    "percent chance of earning 5 dollars. David plays the game and ends up earning 5 dollars. Did David make the right "
    "decision? Choose Y or N.\nAnswer:"
)


# --- all tasks ------------------------------------------------------------------------------------


def test_names():
    assert contrast_names()[:6] == (*TASKS, "heavier-object", "linear-expressions")
    with pytest.raises(
        InputError, match="'quote': expected one of neqa, quote-repetition, redefine-math, hindsight-negl"
    ):
        contrast("quote")


@pytest.mark.parametrize("task", TASKS)
def test_a_thousand_distinct_pairs_each_with_one_factor(task, drawn):
    pairs = drawn(task)
    assert len({(p.conflict.text, p.answer, p.lure) for p in pairs}) == len({p.id for p in pairs}) == 1000
    for pair in pairs:
        check_one_factor(pair)
        for _, prompt, right, wrong in pair.sides():
            assert prompt.text == prompt.text.rstrip()
            assert right[0] == wrong[0] == " " and right.strip() and wrong.strip() and right != wrong
        assert pair.neutral is None or set(pair.neutral.roles) == set(pair.conflict.roles)
        assert set(pair.conflict.roles) - set(pair.plain.roles) <= {pair.factor}


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_pairs_and_a_prefix_of_more(task):
    ten, twenty = contrast(task, n=10, seed=5), contrast(task, n=20, seed=5)
    assert ten.pairs == twenty.pairs[:10] == contrast(task, n=10, seed=5).pairs
    assert {p.conflict.text for p in ten} != {p.conflict.text for p in contrast(task, n=10, seed=6)}
    assert ten.name == task and ten.seed == 5 and "Inverse Scaling Prize" in ten.citation


def test_more_pairs_than_there_are_says_how_many():
    def draw(request):
        def pair(base, option, i):
            return Pair(f"{i}", compose([(f"{base}", "factor")]), compose([("x", "factor")]), option, "c", "factor")

        return request.rounds((1, 2, 3), lambda base, rng: ["a", "b"], pair)

    task = ContrastTask("letters", citation="", draw=draw)
    assert len(task.pairs(n=6)) == 6
    with pytest.raises(InputError, match="contrast 'letters': n=7: expected at most 6, the number of distinct pairs"):
        task.pairs(n=7)
    for bad in (0, -1, 1.5, True):
        with pytest.raises(InputError, match=f"n={bad!r}: expected a whole number of pairs, 1 or more"):
            task.pairs(n=bad)


@pytest.mark.parametrize(
    ("task", "equally_likely"),
    [("neqa", True), ("quote-repetition", False), ("redefine-math", False), ("hindsight-neglect", True)],
)
def test_a_baseline_only_where_guessing_has_a_meaning(task, equally_likely, drawn):
    assert drawn(task).equally_likely is equally_likely


@pytest.mark.parametrize(("task", "classes"), [("neqa", (" A", " B")), ("hindsight-neglect", (" Y", " N"))])
def test_letters_are_balanced_and_keep_their_order(task, classes, drawn):
    pairs = drawn(task)
    assert {pair.classes for pair in pairs} == {classes}
    assert all(a.answer_index != b.answer_index for a, b in zip(pairs.pairs[::2], pairs.pairs[1::2], strict=True))


@given(st.lists(st.integers(0, 5), max_size=8), st.integers())
def test_rounds_give_every_option_once_and_no_base_twice_in_a_round(sizes, seed):
    bases = list(enumerate(sizes))
    drawn = list(in_rounds(bases, lambda base: iter(range(base[1])), random.Random(seed)))
    assert sorted(drawn) == sorted((base, option) for base in bases for option in range(base[1]))
    assert [option for _, option in drawn] == sorted(option for _, option in drawn)


def test_balanced():
    draws = balanced(random.Random(0))
    assert all({next(draws), next(draws)} == {0, 1} for _ in range(20))


# --- neqa -----------------------------------------------------------------------------------------


def test_neqa_reproduces_the_cat():
    pair = neqa.neqa_pair(
        "cat",
        "If a cat has a body temp that is below average, it is[n't] in",
        answer="safe ranges",
        lure="danger",
        answer_index=1,
    )
    assert pair.conflict.text == CAT
    assert pair.plain.text == CAT.replace("isn't", "is")
    assert (pair.answer, pair.lure, pair.classes) == (" B", " A", (" A", " B"))
    assert pair.conflict.spans("negation") == ("n't",) and pair.plain.spans("negation") == ()
    assert pair.conflict.spans("answer_option") == ("B. safe ranges",)
    assert pair.conflict.spans("lure_option") == pair.plain.spans("lure_option") == ("A. danger",)
    check_one_factor(pair)


def test_neqa_answer_is_right_only_under_negation(drawn):
    truths = {(fact.plain_stem, fact.answer) for fact in neqa.facts()}
    for pair in drawn("neqa"):
        stem = "".join(pair.plain.spans("question")).removeprefix("Question: ")
        assert (stem, pair.conflict.spans("lure_option")[0][3:]) in truths
        assert (stem, pair.conflict.spans("answer_option")[0][3:]) not in truths
        assert pair.conflict.spans("answer_option")[0][0] == pair.answer[1]


def test_neqa_options_that_are_no_opposites_are_not_set_against_each_other():
    wrong = neqa.wrong_answers(neqa.facts())
    oak = next(fact for fact in neqa.facts() if fact.stem.startswith("An oak"))
    assert "flower" not in wrong[oak] and "bird" in wrong[oak] and all(wrong.values())


@pytest.mark.parametrize("stem", ["no brackets", "two[ not] of[ not] them", "[]", "[only]", "open[ not"])
def test_a_stem_has_one_marked_stretch(stem):
    with pytest.raises(ValueError, match="expected one stretch in brackets"):
        neqa.split_stem(stem)


def test_facts_file_tells_all_its_problems(tmp_path):
    path = tmp_path / "facts.tsv"
    path.write_text("relation\tstem\tanswer\nkind\tA cat is a kind of\tmammal\nkind\tA\t\nx\ty\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        neqa.facts(path)
    assert caught.value.problems == ("line 4: found 2 cells, expected 3", "line 3: answer is empty, expected some text")
    path.write_text("relation\tstem\tanswer\n" + "kind\tA cat is[ not] a kind of\tmammal\n" * 2 + "kind\tx\tmammal\n")
    with pytest.raises(InputError) as caught:
        neqa.facts(path)
    assert caught.value.problems == (
        "line 3: stem 'A cat is[ not] a kind of' is on line 2 already, expected it once",
        "line 4: stem 'x': expected one stretch in brackets, as in 'A robin is[ not] a kind of'",
        "relation 'kind': expected two different answers, found mammal",
    )


def test_neqa_from_own_facts(tmp_path):
    path = tmp_path / "facts.csv"
    path.write_text('stem,answer,relation\n"Ice is[ not]","cold, or cool",t\nFire is[ not],hot,t\n', encoding="utf-8")
    pairs = contrast("neqa", n=2, source=path)
    assert {pair.conflict.spans("lure_option")[0][3:] for pair in pairs} == {"cold, or cool", "hot"}
    with pytest.raises(InputError, match="n=3: expected at most 2"):
        contrast("neqa", n=3, source=path)


@pytest.mark.parametrize(
    ("negated", "plain", "words", "instead"),
    [
        ("Coral is not a plant", "Coral is a plant", " not", ""),
        ("A light isn't refracted when", "A light is refracted when", "n't", ""),
        ("John did not die in", "John died in", " did not die", " died"),
        ("Birds cannot", "Birds can", " cannot", " can"),
        ("He doesn’t play ___ music?", "He plays ___ music?", " doesn’t play", " plays"),
        ("No cat can fly", "A cat can fly", "No", "A"),
    ],
)
def test_align(negated, plain, words, instead):
    one, other = neqa.align(negated, plain)
    assert "".join(t for t, role in one if role) == words and "".join(t for t, role in other if role) == instead
    assert "".join(t for t, _ in one) == negated and "".join(t for t, _ in other) == plain


@given(st.text(min_size=1), st.text(min_size=1))
def test_align_keeps_both_texts_or_refuses(negated, plain):
    try:
        one, other = neqa.align(negated, plain)
    except ValueError:
        return
    assert "".join(t for t, _ in one) == negated and "".join(t for t, _ in other) == plain
    assert [t for t, role in one if not role] == [t for t, role in other if not role]


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_neqa_from_files(tmp_path):
    negated = _write(tmp_path / "n.jsonl", [{"question": "Birds cannot", "choices": ["fly", "ulster"], "answer": 1}])
    plain = _write(tmp_path / "p.jsonl", [{"question": "Birds can", "choices": ["fly", "ulster"], "answer": 0}])
    (pair,) = neqa.neqa_from_files(negated, plain)
    assert pair.conflict.text.endswith("Question: Birds cannot\nA. fly\nB. ulster\nAnswer:")
    assert (pair.answer, pair.conflict.spans("answer_option")) == (" B", ("B. ulster",))
    check_one_factor(pair)


def test_neqa_from_files_lists_all_rows_that_do_not_match(tmp_path):
    good = {"question": "A is not b", "choices": ["x", "y"], "answer": 1}
    flat = {"question": "A is b", "choices": ["x", "y"], "answer": 0}
    negated = _write(tmp_path / "n.jsonl", [good] * 5)
    plain = _write(
        tmp_path / "p.jsonl",
        [
            flat,
            flat | {"answer": 1},
            good | {"answer": 0},
            flat | {"choices": ["x", "z"]},
            flat | {"question": "Why c?"},
        ],
    )
    with pytest.raises(InputError) as caught:
        neqa.neqa_from_files(negated, plain)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["line 2", "line 3", "line 4", "line 5"]
    assert "answer 1 in both rows, expected opposite answers" in caught.value.problems[0]
    assert "is the same in both rows, expected a negation in one" in caught.value.problems[1]
    assert "choices ['x', 'y'] against ['x', 'z'], expected the same" in caught.value.problems[2]
    assert "differs in 'A is not b' against 'Why c?', expected some words in common" in caught.value.problems[3]
    assert len(neqa.neqa_from_files(negated, plain, unmatched="skip")) == 1
    with pytest.raises(InputError, match="'no': expected 'error' or 'skip'"):
        neqa.neqa_from_files(negated, plain, unmatched="no")


def test_neqa_from_files_lists_all_malformed_rows(tmp_path):
    negated = tmp_path / "n.jsonl"
    negated.write_text('{"question": "", "choices": ["x"], "answer": true}\n{"question\n[1]\n', encoding="utf-8")
    plain = _write(tmp_path / "p.jsonl", [{"question": "q", "choices": ["x", "y"], "answer": 2}])
    with pytest.raises(InputError) as caught:
        neqa.neqa_from_files(negated, plain)
    text = "\n".join(caught.value.problems)
    for part in (
        f"{negated}, line 1: question '', expected some text",
        f"{negated}, line 1: choices ['x'], expected two texts",
        f"{negated}, line 1: answer True, expected 0 or 1",
        f"{negated}, line 2: broken JSON at column",
        f"{negated}, line 3: found [1], expected an object",
        f"{plain}, line 1: answer 2, expected 0 or 1",
    ):
        assert part in text


@pytest.mark.skipif(not (PRIZE / "neqa-100-plain.jsonl").exists(), reason="the prize's files are not there")
def test_neqa_from_the_released_files():
    paths = PRIZE / "neqa-100-negated.jsonl", PRIZE / "neqa-100-plain.jsonl"
    with pytest.raises(InputError, match="line 29: .*is the same in both rows"):
        neqa.neqa_from_files(*paths)
    pairs = neqa.neqa_from_files(*paths, unmatched="skip")
    assert len(pairs) == 99
    for pair in pairs:
        check_one_factor(pair)
        assert neqa.NEGATIONS.search(pair.conflict.spans("negation")[0])


# --- quote-repetition -----------------------------------------------------------------------------


def test_quote_reproduces_pango():
    pair = quote_repetition.quote_pair("pango", f"{STAGE} part", "pango")
    assert pair.conflict.text == PANGO
    assert pair.plain.text == PANGO.replace("pango", "part")
    assert (pair.answer, pair.lure, pair.neutral) == (" pango", " part", None)
    check_one_factor(pair)


def test_the_stage_is_in_the_list():
    assert f"{STAGE} part" in {quote.text for quote in quote_repetition.quotations()}
    assert len(quote_repetition.quotations()) >= 400
    assert all(quote.author and quote.source for quote in quote_repetition.quotations())


def test_changed_words_are_new_to_the_quotation_and_to_training(drawn):
    training = set(quote_repetition.TRAINING_REPLACEMENT_WORDS)
    assert not training & set(quote_repetition.REPLACEMENT_WORDS)
    assert len(set(quote_repetition.REPLACEMENT_WORDS)) == len(quote_repetition.REPLACEMENT_WORDS) >= 140
    for pair in drawn("quote-repetition"):
        changed = pair.answer.strip()
        famous = pair.plain.text.split("Input: ")[-1].split("\n")[0]
        assert changed in quote_repetition.REPLACEMENT_WORDS
        assert changed not in famous.lower().replace(",", " ").replace(";", " ").split()
        assert famous.endswith(pair.lure)
    with pytest.raises(ValueError, match="changed word 'Cat' is a word of the quotation"):
        quote_repetition.quote_pair("x", "The cat, they say, is grey", "Cat")


def test_neither_word_begins_the_other(drawn):
    """Of " be" and " bench" the first is the likelier whatever the prompt says, where its token begins the other."""
    pairs = [pair for variant in ("", "changed-first", "changed-middle", "unknown")
             for pair in drawn("quote-repetition", variant)]  # fmt: skip
    for seed in (100, 110, 777):  # without the rule each of these seeds, and 5, has such a pair
        pairs += contrast("quote-repetition", n=300, seed=seed)
    for pair in pairs:
        for one, other in ((pair.answer, pair.lure), (pair.neutral_answer or "a", pair.neutral_lure or "b")):
            assert not one.startswith(other) and not other.startswith(one)


def test_neutral_sentences(drawn):
    rng = random.Random(1)
    sentences = [quote_repetition.unfamiliar_sentence(rng) for _ in range(5000)]
    assert len(set(sentences)) > 4900
    for sentence in sentences:
        words = sentence.split()
        assert 6 <= len(words) <= 14 and words[-1] in quote_repetition.NOUNS and sentence[0].isupper()
        for article, word in zip(words, words[1:], strict=False):
            if article.lower() in ("a", "an"):
                assert (word[0] in "aeiou") == (article.lower() == "an"), sentence
    for pair in drawn("quote-repetition"):
        body, last = pair.neutral.text.split("Input: ")[-1].split("\nOutput: ")
        assert body == last + pair.neutral_answer
        assert pair.neutral_lure.strip() in quote_repetition.NOUNS and pair.neutral_lure.strip() not in body.split()


def test_own_quotations(tmp_path):
    lines = tmp_path / "mine.txt"
    lines.write_text("“Home is where one starts from.”\n\nThe rest is silence!\n", encoding="utf-8")
    quotes = quote_repetition.quotations(lines)
    assert [quote.text for quote in quotes] == ["Home is where one starts from", "The rest is silence"]
    table = tmp_path / "mine.csv"
    table.write_text('quotation,author\n"Home, sweet home, again",Me\n', encoding="utf-8-sig")
    assert quote_repetition.quotations(table) == (quote_repetition.Quotation("Home, sweet home, again", "Me", ""),)
    assert {pair.lure for pair in contrast("quote-repetition", n=9, source=table)} == {" again"}


def test_own_quotations_tell_all_problems(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Two words\nThe rest is silence\nThe rest is silence.\nThis ends in —\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        quote_repetition.quotations(path)
    assert caught.value.problems == (
        "line 1: quotation 'Two words' has 2 words, expected at least three",
        "line 3: quotation 'The rest is silence.' is on line 2 already, expected it once",
        "line 4: quotation 'This ends in —' ends in '—', expected a word",
    )


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.tsv", b"quote\tauthor\nx\ty\n", "no column 'quotation' among quote, author"),
        ("a.txt", b"", "expected at least one row, found an empty file"),
        ("a.tsv", b"quotation\n", "expected at least one row, found only a header"),
        (
            "a.txt",
            b"The rest is silence\nab\xff\n",
            "line 2: byte 0xff at offset 22 of the file is not UTF-8, expected UTF-8",
        ),
        ("a.csv", b'quotation\n"The rest" is silence\n', "line 2: broken CSV: "),
        (
            "a.csv",
            b'quotation\n"The rest\nis silence"\n',
            "line 2: quotation has a line break, expected none",
        ),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        quote_repetition.quotations(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {problem}")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="nowhere.txt: no such file"):
        contrast("quote-repetition", source=tmp_path / "nowhere.txt")


@given(st.binary(max_size=200), st.sampled_from(["q.tsv", "q.csv", "q.txt"]))
def test_any_bytes_give_quotations_or_an_input_error(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(data)
    try:
        quotes = quote_repetition.quotations(path)
    except InputError:
        return
    assert all(len(quote.text.split()) >= 3 and quote.body + " " + quote.ending == quote.text for quote in quotes)


# --- redefine-math --------------------------------------------------------------------------------


def test_redefine_reproduces_pi():
    pair = redefine_math.redefine_pair("pi", "π", "3.14159", "462")
    assert pair.conflict.text == "Redefine π as 462. Q: What is the first digit of π? A:"
    assert pair.plain.text == "Q: What is the first digit of π? A:"
    assert (pair.classes, pair.answer, pair.lure) == ((" 4", " 3"), " 4", " 3")
    assert pair.conflict.spans("definition") == ("Redefine π as 462. ",)
    assert pair.conflict.spans("question") == pair.plain.spans("question") == ("Q: What is the first digit of π?",)
    with pytest.raises(ValueError, match="new value '362' of 'π' begins like '3.14159'"):
        redefine_math.redefine_pair("pi", "π", "3.14159", "362")


def test_only_evaluation_values_are_used(drawn):
    values = {constant.symbol: constant.value for constant in redefine_math.constants()}
    for pair in drawn("redefine-math"):
        symbol, new = (
            pair.conflict.spans("definition")[0].removeprefix("Redefine ").removesuffix(". ").rsplit(" as ", 1)
        )
        assert redefine_math.is_evaluation_value(symbol, new) and redefine_math.is_evaluation_value(symbol, int(new))
        assert len(new) == 3 and (pair.answer, pair.lure) == (f" {new[0]}", f" {values[symbol][0]}")
        assert pair.neutral_answer == pair.answer and f"as {new}. " in pair.neutral.text
    halves = [redefine_math.is_evaluation_value("π", value) for value in range(100, 1000)]
    assert 0.45 < sum(halves) / 900 < 0.55
    assert [v for v in range(460, 470) if redefine_math.is_evaluation_value("π", v)] == SPLIT_OF_PI


SPLIT_OF_PI = [465, 466, 467, 469]  # never to move: a model trained on one half must not be judged on it


def test_unknown_symbols_are_unknown():
    rng = random.Random(7)
    words = {redefine_math.unknown_symbol(rng) for _ in range(3000)}
    assert len(words) > 2800
    listed = {w.strip(".,;:!?").lower() for quote in quote_repetition.quotations() for w in quote.text.split()}
    assert not words & (listed | set(quote_repetition.NOUNS)) and all(word.isalpha() for word in words)


def test_own_constants(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("symbol\tvalue\nμ\t1836\nk\t0.5\nμ\t2\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        redefine_math.constants(path)
    assert caught.value.problems == (
        "line 3: value '0.5', expected one that begins with a digit from 1 to 9",
        "line 4: symbol 'μ' is on line 2 already, expected it once",
    )
    path.write_text("symbol\tvalue\nμ\t1836\n", encoding="utf-8")
    assert {pair.lure for pair in contrast("redefine-math", n=5, source=path)} == {" 1"}


# --- hindsight-neglect ----------------------------------------------------------------------------


def test_hindsight_reproduces_the_floating_droid():
    michael, david = Bet("Michael", 9, 5, 900, False), Bet("David", 70, 250, 5, False)
    shown = [(michael.question("losing"), michael.by_value()), (david.question("earning"), david.by_value())]
    pair = hindsight_neglect.hindsight_pair("droid", shown, Bet("David", 6, 5, 50, False), "earning")
    assert pair.conflict.text == DROID
    assert (pair.answer, pair.lure, pair.classes) == (" N", " Y", (" Y", " N"))
    assert pair.conflict.spans("chances") == ("94", "6") and pair.plain.spans("chances") == ("6", "94")
    assert pair.conflict.spans("amounts") == ("50 dollars", "5 dollars")
    assert pair.conflict.spans("outcome") == ("earning 5 dollars",)
    check_one_factor(pair)


def _read(question):
    """The numbers of a question, read back from its words: a second implementation."""
    words = question.replace(".", " ").split()
    chances = [int(words[i - 1]) for i, word in enumerate(words) if word == "percent"]
    kinds = [words[i + 1] for i, word in enumerate(words) if word == "of"]
    amounts = [int(words[i - 1]) for i, word in enumerate(words) if word == "dollars"]
    sign = {"earning": 1, "losing": -1}
    value = sum(c * a * sign[k] for c, a, k in zip(chances, amounts, kinds, strict=False))
    return value, words[words.index("up") + 1], amounts[2] == amounts[kinds.index(words[words.index("up") + 1])]


def test_shots_agree_and_the_last_bet_does_not(drawn):
    for pair in drawn("hindsight-neglect").pairs[:200]:
        *shown, last = pair.conflict.text.split("\nQuestion: ")
        assert len(shown) == 10
        for shot in shown:
            value, outcome, told_right = _read(shot)
            assert told_right and (value > 0) == (outcome == "earning") == shot.endswith("Answer: Y")
        assert sum(shot.endswith("Y") for shot in shown) == 5
        value, outcome, told_right = _read(last)
        assert told_right and (value > 0) != (outcome == "earning")
        assert pair.answer == (" Y" if value > 0 else " N") and pair.lure == (" Y" if outcome == "earning" else " N")
        plain_value, plain_outcome, _ = _read(pair.plain.text.split("\nQuestion: ")[-1])
        assert plain_outcome == outcome and (plain_value > 0) == (outcome == "earning")


def test_bets_are_split_for_good_and_by_the_game_alone():
    rng = random.Random(3)
    for evaluation in (True, False):
        for _ in range(200):
            bet = hindsight_neglect.bet(rng, evaluation=evaluation)
            assert hindsight_neglect.is_evaluation_bet(bet) is evaluation and bet.is_clear()
            assert hindsight_neglect.is_evaluation_bet(bet.exchanged()) is evaluation
            assert hindsight_neglect.is_evaluation_bet(Bet("Ann", bet.chance, bet.earn, bet.lose, False)) is evaluation
    games = [Bet("", 6, 5, amount) for amount in (50, 100, 200, 250, 300, 400)]
    assert [hindsight_neglect.is_evaluation_bet(game) for game in games] == SPLIT_OF_BETS


SPLIT_OF_BETS = [False, True, False, False, True, True]


def test_bets_that_make_no_sense():
    for fields in ((0, 1, 1), (100, 1, 1), (50, 0, 1), (50, 1, 0)):
        with pytest.raises(ValueError, match="expected a chance of 1 to 99 percent and amounts of 1 dollar or more"):
            Bet("Ann", *fields)
    for fair in (Bet("Ann", 20, 40, 10), Bet("Ann", 20, 10, 40)):
        with pytest.raises(ValueError, match="expected value is 0 as it is or exchanged"):
            hindsight_neglect.hindsight_pair("x", [], fair, "earning")
        assert not fair.is_reversible()
    with pytest.raises(ValueError, match="losing agrees with its expected value of -46.7 dollars"):
        hindsight_neglect.hindsight_pair("x", [], Bet("Ann", 6, 5, 50), "losing")
    with pytest.raises(ValueError, match="exchanging the percentages does not change the sign"):
        hindsight_neglect.hindsight_pair("x", [], Bet("Ann", 9, 5, 900), "earning")
    assert not Bet("Ann", 9, 5, 900).is_reversible() and Bet("Ann", 6, 5, 50).is_reversible()


def test_bets_take_no_source(tmp_path):
    with pytest.raises(InputError, match="bets are drawn, expected no source"):
        contrast("hindsight-neglect", source=tmp_path)


def test_new_values_begin_like_known_ones_so_that_common_digits_give_nothing_away(drawn):
    weights = redefine_math.digit_weights(list("1112334567"))
    assert all(weights[a, b] == weights[b, a] for a, b in weights) and not any(a == b for a, b in weights)
    sums = {d: sum(value for (a, _), value in weights.items() if a == d) for d in "123456789"}
    assert sums["1"] / sums["2"] == pytest.approx(3.5 / 1.5, rel=1e-3) and sums["9"] == pytest.approx(sums["8"])
    made = drawn("redefine-math").take(range(300))
    answers, lures = (Counter(getattr(pair, kind) for pair in made) for kind in ("answer", "lure"))
    assert all(abs(answers[f" {d}"] - lures[f" {d}"]) < 45 for d in "123456789")
