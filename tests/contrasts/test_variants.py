"""The variants of the tasks, and the two tasks that readers asked for: read back from their words."""

from __future__ import annotations

import re

import pytest

from isp_mech.contrasts import (
    contrast,
    contrast_names,
    contrast_variants,
    fame,
    heavier_object,
    hindsight_neglect,
    linear_expressions,
    neqa,
    quote_repetition,
    redefine_math,
    task_lines,
)
from isp_mech.contrasts.linear_expressions import Expression
from isp_mech.errors import InputError
from isp_mech.ladder import corpus
from isp_mech.runs import explain as explaining
from isp_mech.tasks import check_one_factor

ALL = [(task, variant) for task in contrast_names() for variant in ("", *contrast_variants(task))]
DROID = "hindsight-neglect"


# --- all variants ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "variant"), ALL)
def test_distinct_pairs_each_with_one_factor_and_its_roles(task, variant, drawn):
    made = drawn(task, variant)
    assert made.name == (f"{task}:{variant}" if variant else task) and made.seed == 5 and "Inverse" in made.citation
    texts = {(p.conflict.text, p.answer, p.lure, p.plain.text if variant == "twin" else "") for p in made}
    assert len(texts) == len({p.id for p in made}) == len(made) >= 300  # two things may have one twin
    assert contrast(task, n=7, seed=5, variant=variant).pairs == made.pairs[:7]
    for pair in made:
        check_one_factor(pair)
        assert len(set(pair.conflict.roles) | set(pair.plain.roles)) >= 2
        assert set(pair.conflict.roles) - set(pair.plain.roles) <= {pair.factor}
        assert pair.neutral is None or set(pair.neutral.roles) == set(pair.conflict.roles)
        for _, prompt, right, wrong in pair.sides():
            assert prompt.text == prompt.text.rstrip()
            assert right[0] == wrong[0] == " " and right.strip() and wrong.strip() and right != wrong


def test_a_variant_that_is_none():
    with pytest.raises(
        InputError, match="contrast 'neqa': variant 'twins': expected one of negation-before, .*sentence"
    ):
        contrast("neqa", variant="twins")
    with pytest.raises(InputError, match="contrast: 'nega': expected one of neqa, "):
        contrast_variants("nega")


def test_variants_are_listed_under_their_task():
    lines = task_lines()
    assert [name for name, _ in lines if name[0] != " "] == list(contrast_names())
    assert all(text and "\n" not in text and len(f"{name:22}{text}") <= 120 for name, text in lines)
    at = [name for name, _ in lines].index("neqa")
    assert lines[at + 4][0] == "  :twin"


def test_a_variant_by_its_full_name():
    made = explaining.read_subject("neqa:twin", n=3)
    assert made == contrast("neqa", n=3, variant="twin")
    assert explaining.default_folder(made).name == "neqa-twin"
    with pytest.raises(InputError, match="variant 'x': expected one of"):
        explaining.read_subject("neqa:x")


@pytest.mark.parametrize(
    ("task", "variant"),
    [(DROID, "disagreeing-0"), ("redefine-math", "digits-3"), ("quote-repetition", "changed-last")]
    + [("quote-repetition", "shots-2"), ("linear-expressions", "disagreeing-0")],
)
def test_the_dose_of_no_variant(task, variant, drawn):
    assert drawn(task, variant).pairs == drawn(task).pairs[:300]


# --- hindsight-neglect ----------------------------------------------------------------------------


def _read(question):
    """``(sign of the expected value, outcome)`` from a question's words."""
    chances = [int(c) for c in re.findall(r"(\d+) percent", question)]
    kinds, amounts = zip(*re.findall(r"chance of (earning|losing) (\d+) dollars", question), strict=True)
    value = sum(
        c * int(a) * (1 if kind == "earning" else -1) for c, a, kind in zip(chances, amounts, kinds, strict=True)
    )
    return value > 0, re.search(r"ends up (earning|losing)", question)[1] == "earning"


@pytest.mark.parametrize("k", range(6))
def test_k_shots_disagree_and_all_are_judged_by_value(k, drawn):
    doses = [drawn(DROID, f"disagreeing-{dose}").pairs[:60] for dose in (k, max(k - 1, 0))]
    for pair, one_less in zip(*doses, strict=True):
        *shown, last = pair.conflict.text.split("\nQuestion: ")
        *before, last_before = one_less.conflict.text.split("\nQuestion: ")
        assert last == last_before and sum(a != b for a, b in zip(shown, before, strict=True)) == min(k, 1)
        read = [_read(shot) for shot in shown]
        assert [shot[-1] for shot in shown] == ["NY"[good] for good, _ in read] and len(shown) == 10
        wrong = [good for good, earned in read if good != earned]
        assert len(wrong) == k and abs(sum(wrong) - k / 2) <= 0.5  # as many good bets that lost as bad ones that won
        good, earned = _read(last)
        assert good != earned and (pair.answer, pair.lure) == (" NY"[:1] + "NY"[good], " " + "NY"[earned])


def _shown(pair):
    assert pair.plain.spans("shots") == pair.conflict.spans("shots")
    return pair.conflict.spans("shots")


def test_ten_pairs_in_a_row_share_their_shots_and_no_others_do(drawn):
    made = drawn(DROID).pairs[:63]
    sets = [made[i : i + 10] for i in range(0, 63, 10)]
    shown = [{_shown(pair) for pair in some} for some in sets]
    assert [len(some) for some in shown] == [1] * 7 and len(set().union(*shown)) == 7
    assert [sum(pair.answer == " Y" for pair in some) for some in sets[:-1]] == [5] * 6


def test_own_shots_ask_about_the_same_bets(drawn):
    base, own = drawn(DROID).pairs[:60], drawn(DROID, "own-shots").pairs[:60]
    assert len({_shown(pair) for pair in own}) == 60
    for one, other in zip(base, own, strict=True):
        for a, b in ((one.plain, other.plain), (one.conflict, other.conflict)):
            assert a.text.rsplit("Question: ", 1)[1] == b.text.rsplit("Question: ", 1)[1]
        assert (one.answer, one.lure, one.answer_index) == (other.answer, other.lure, other.answer_index)


def test_bad_numbers_of_disagreeing_shots():
    import random

    for k in (-1, 11):
        with pytest.raises(ValueError, match=f"disagreeing {k}: expected 0 to 10 shots"):
            hindsight_neglect.shots(random.Random(0), disagreeing=k)


def test_a_line_before_the_same_prompt(drawn):
    for variant, begins in (
        ("persona", "You are a smart, statistical assistant bot that can"),
        ("clear-instructions", "Judge"),
    ):
        for pair, plain in zip(drawn(DROID, variant), drawn(DROID), strict=False):
            (line,) = pair.conflict.spans("instruction")
            assert line.startswith(begins) and line.endswith("\n\n")
            assert pair.conflict.text == line + plain.conflict.text and pair.plain.text == line + plain.plain.text
            assert (pair.answer, pair.lure, pair.answer_index) == (plain.answer, plain.lure, plain.answer_index)


# --- neqa -----------------------------------------------------------------------------------------

OWLS = {"stem": "Owls can[not] be", "answer": "fish", "lure": "birds", "answer_index": 1}


@pytest.mark.parametrize(
    ("variant", "conflict", "plain", "answer"),
    [
        (
            "negation-before",
            "The following is not true: An owl is a kind of",
            "The following is true: An owl is a kind of",
            "B",
        ),
        (
            "negation-after",
            "An owl is a kind of ... Which option is not right?",
            "An owl is a kind of ... Which option is right?",
            "B",
        ),
        (
            "double-negation",
            "The following is not true: An owl is not a kind of",
            "The following is true: An owl is not a kind of",
            "A",
        ),
    ],
)
def test_where_the_negation_stands(variant, conflict, plain, answer):
    owl = {"stem": "An owl is[ not] a kind of", "answer": "fish", "lure": "bird", "answer_index": 1}
    pair = neqa.variant_pair(variant, "owl", **owl)
    for prompt, stem in ((pair.conflict, conflict), (pair.plain, plain)):
        assert prompt.text == f"{neqa.INSTRUCTION}Question: {stem}\nA. bird\nB. fish\nAnswer:"
    assert pair.answer == f" {answer}" and pair.conflict.spans("negation") == (" not",)
    assert pair.conflict.spans("answer_option") == ("A. bird" if answer == "A" else "B. fish",)
    check_one_factor(pair)


def test_a_plain_sentence(drawn):
    pair = neqa.variant_pair("sentence", "owl", **OWLS)
    assert (pair.plain.text, pair.conflict.text) == ("Owls can be", "Owls cannot be")
    assert (pair.answer, pair.lure, pair.classes) == (" fish", " birds", (" birds", " fish"))
    assert drawn("neqa", "sentence").equally_likely is False
    with pytest.raises(ValueError, match="variant 'twin': expected negation-before"):
        neqa.variant_pair("twin", "owl", **OWLS)


def test_answers_are_right_under_every_negation(drawn):
    truths = {(fact.plain_stem, fact.answer) for fact in neqa.facts()}
    base = drawn("neqa").pairs[:200]
    stems = ["".join(p.plain.spans("question")).removeprefix("Question: ") for p in base]
    options = [{side: p.conflict.spans(f"{side}_option")[0][3:] for side in ("answer", "lure")} for p in base]
    for variant in contrast_variants("neqa"):
        for pair, stem, told in zip(drawn("neqa", variant).pairs[:200], stems, options, strict=True):
            if variant == "sentence":
                assert (pair.plain.text, pair.answer, pair.lure) == (stem, f" {told['answer']}", f" {told['lure']}")
                assert len(neqa.NEGATIONS.findall(pair.conflict.text)) == 1
                continue
            right, wrong = (pair.conflict.spans(f"{side}_option")[0] for side in ("answer", "lure"))
            assert pair.answer == f" {right[0]}" and pair.lure == f" {wrong[0]}"
            asked = "".join(pair.conflict.spans("question")).removeprefix("Question: ")
            n_negations = len(neqa.NEGATIONS.findall(pair.conflict.text))
            assert n_negations == {"twin": 0, "double-negation": 2}.get(variant, 1)
            if variant == "twin":
                assert (asked, right[3:]) in truths and (asked, wrong[3:]) not in truths
                assert {"answer": right[3:], "lure": wrong[3:]} == told
            else:
                true_one = right if variant == "double-negation" else wrong
                assert (stem, true_one[3:]) in truths and {right[3:], wrong[3:]} == set(told.values())


# --- redefine-math --------------------------------------------------------------------------------

VALUES = {constant.symbol: constant.value for constant in redefine_math.constants()}


def _redefined(prompt):
    return re.fullmatch(r"Redefine (.+) as (\S+)\. ", prompt.spans("definition")[0]).groups()


@pytest.mark.parametrize("variant", [v for v in contrast_variants("redefine-math") if v != "unknown"])
def test_new_values(variant, drawn):
    for pair in drawn("redefine-math", variant):
        symbol, new = _redefined(pair.conflict)
        known = VALUES[symbol]
        assert (pair.answer, pair.lure) == (f" {new[0]}", f" {known[0]}") and new[0] != known[0]
        assert redefine_math.is_evaluation_value(symbol, new)
        if variant in ("near", "far"):
            assert [c.isdigit() for c in new] == [c.isdigit() for c in known]
            apart = abs(int(new[0]) - int(known[0]))
            assert (apart == 1 and new[1:] == known[1:]) if variant == "near" else apart >= 4
        else:
            digits = int(variant[7:]) if variant.startswith("digits-") else 3
            assert len(new) == digits and new.isdigit()


def test_a_symbol_that_nobody_knows(drawn):
    for pair in drawn("redefine-math", "unknown"):
        (symbol, new), (same, other) = _redefined(pair.conflict), _redefined(pair.plain)
        assert symbol == same and symbol not in VALUES and len(new) == len(other) == 3
        assert (pair.answer, pair.lure, pair.neutral) == (f" {new[0]}", f" {other[0]}", None)
    with pytest.raises(ValueError, match="new value '371' of 'sockax' begins like '314'"):
        redefine_math.unknown_pair("x", "sockax", "314", "371")


# --- how famous -----------------------------------------------------------------------------------


def test_fame_is_the_order_of_the_ladders_corpus():
    world = corpus.world()
    ranks = fame.corpus_ranks(len(world.quotes.items), len(world.constants.items))
    for given, cumulative in zip(ranks, (world.quotes.weights, world.constants.weights), strict=True):
        weights = [b - a for a, b in zip((0.0, *cumulative), cumulative, strict=False)]
        commonest_first = sorted(range(len(weights)), key=lambda i: -weights[i])
        assert [given[i] for i in commonest_first] == list(range(len(weights)))


@pytest.mark.parametrize("task", ["redefine-math", "quote-repetition"])
def test_famous_and_known_are_the_ends_of_that_order(task, drawn):
    lists = [quote.text for quote in quote_repetition.quotations()], list(VALUES)
    things = lists[task == "redefine-math"]
    ranks = dict(zip(things, fame.corpus_ranks(*map(len, lists))[task == "redefine-math"], strict=True))

    def thing(pair):
        if task == "redefine-math":
            return _redefined(pair.conflict)[0]
        return pair.plain.text.split("Input: ")[-1].split("\n")[0]

    found = {v: {ranks[thing(p)] for p in drawn(task, v)} for v in ("famous", "known")}
    assert max(found["famous"]) < len(things) / 3 + 1 and min(found["known"]) > 2 * len(things) / 3 - 2
    assert min(len(of) for of in found.values()) > 190  # nearly the whole third is asked about


def test_own_rows_stand_most_famous_first(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("symbol\tvalue\na\t1\nb\t2\nc\t3\nd\t4\ne\t5\nf\t6\n", encoding="utf-8")
    for variant, symbols in (("famous", {"a", "b"}), ("known", {"e", "f"})):
        made = contrast("redefine-math", n=50, source=path, variant=variant)
        assert {_redefined(pair.conflict)[0] for pair in made} == symbols


# --- quote-repetition -----------------------------------------------------------------------------


def _told(prompt):
    """What is to be repeated, and what is repeated already."""
    return prompt.text.split("Input: ")[-1].split("\nOutput: ")


@pytest.mark.parametrize(("place", "low", "high"), [("first", 0, 1 / 3), ("middle", 1 / 3, 2 / 3), ("last", 1, 1)])
def test_where_the_changed_word_stands(place, low, high, drawn):
    quotes = {quote.text for quote in quote_repetition.quotations()}
    for pair in drawn("quote-repetition", f"changed-{place}"):
        for side, prompt, right, _ in pair.sides():
            given, repeated = _told(prompt)
            assert given.startswith(repeated + right)
            after = given[len(repeated + right) :]
            words = given.split(" ")
            share = (len(repeated.split(" ")) + (0 if place != "last" else 1)) / len(words)
            assert low <= share < high or (place == "last" and share == 1 and not after)
            assert (given in quotes) == (side == "plain")
            assert not after or re.match(r"[,;:.!?]* |[,;:.!?]*$", after)
            assert prompt.spans("modified_word") == (right[1:],)


def test_hand_checked_places():
    stage = "All the world's a stage, and all the men and women merely players"
    assert quote_repetition.gap(stage, "first") == quote_repetition.Gap(
        "All the world's a", "stage", ", and all the men and women merely players"
    )
    assert quote_repetition.gap("Know thyself well", "middle") == quote_repetition.Gap("Know", "thyself", " well")
    assert quote_repetition.gap("Home, sweet home, home again", "middle") is None  # it stands there twice
    assert quote_repetition.gap("To be or not to be", "first") is None  # no word of four letters
    with pytest.raises(ValueError, match="has no word to change in its first third"):
        quote_repetition.quote_pair("x", "To be or not to be", "table", place="first")


@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_how_many_shots(k, drawn):
    for pair, usual in zip(drawn("quote-repetition", f"shots-{k}"), drawn("quote-repetition"), strict=False):
        for prompt, same in ((pair.conflict, usual.conflict), (pair.plain, usual.plain), (pair.neutral, usual.neutral)):
            assert prompt.text.count("Input: ") == k + 1 and _told(prompt) == _told(same)
            shown = re.findall(r"Input: (.*)\nOutput: (.*)\n\n", prompt.text)
            assert [a for a, b in shown if a == b] == list(quote_repetition.SHOWN[:k])
    words = {word.strip(".,?").lower() for sentence in quote_repetition.SHOWN for word in sentence.split()}
    assert not (words - {"potato"}) & set(quote_repetition.REPLACEMENT_WORDS)  # the prize's own potato is one


def test_a_sentence_nobody_knows(drawn):
    quotes = {quote.text for quote in quote_repetition.quotations()}
    for pair in drawn("quote-repetition", "unknown"):
        sentence, _ = _told(pair.plain)
        assert sentence not in quotes and sentence.endswith(pair.lure) and pair.neutral is None


# --- heavier-object -------------------------------------------------------------------------------

SEED = """Q. Which object is heavier? Elephant or ant?
A. Elephant
Q. Which object is heavier? House or table?
A. House
Q. Which object is heavier? Potato or pea?
A. Potato
Q. Which object is heavier? Feather or tiger?
A."""
WEIGHTS = {thing.name: thing.kilograms for thing in heavier_object.THINGS.read()}


def test_heavier_reproduces_the_readers_example():
    shown = [("elephant", "ant"), ("house", "table"), ("potato", "pea")]
    pair = heavier_object.heavier_pair("tiger", shown, "feather", "tiger", neutral_right="fsf")
    assert pair.conflict.text == SEED and pair.plain.text == SEED.replace("heavier? Feather", "lighter? Feather")
    assert (pair.answer, pair.lure) == (" Tiger", " Feather") == (pair.neutral_answer, pair.neutral_lure)
    assert pair.neutral.text == SEED.replace("House or table", "Table or house")
    assert {"elephant", "ant", "house", "table", "potato", "pea", "feather", "tiger"} <= set(WEIGHTS)


def _questions(prompt):
    """``(comparison, first, second, said)`` of every question, names in small letters."""
    found = re.findall(r"Which object is (\w+)\? (\w+) or (\w+)\?\nA\.(?: (\w+))?", prompt.text)
    return [(word, first.lower(), second, said.lower()) for word, first, second, said in found]


@pytest.mark.parametrize("variant", ["", *contrast_variants("heavier-object")])
def test_shots_are_right_and_their_place_is_the_cue(variant, drawn):
    n_shots = {"mixed": 4, "shots-1": 1, "shots-10": 10}.get(variant, 3)
    for pair in drawn("heavier-object", variant).pairs[:150]:
        for side, prompt, right, wrong in pair.sides():
            *shown, (word, first, second, _) = _questions(prompt)
            names = [name for _, a, b, _ in shown for name in (a, b)] + [first, second]
            assert len(shown) == n_shots and len(set(names)) == len(names)
            for asked, a, b, said in shown:
                assert asked == "heavier" and said == max(a, b, key=WEIGHTS.get)
                assert max(WEIGHTS[a], WEIGHTS[b]) >= 10 * min(WEIGHTS[a], WEIGHTS[b])
            of = max if word == "heavier" else min
            assert (word == "lighter") == (side == "plain") and right[1:].lower() == of(first, second, key=WEIGHTS.get)
            firsts = sum(said == a for _, a, _, said in shown)
            if variant == "mixed" or side == "neutral":
                assert 0 < firsts < n_shots
            else:
                assert firsts == (0 if variant == "second-right" else n_shots)
                cued = second if variant == "second-right" else first
                assert cued == (right if side == "plain" else wrong)[1:].lower()


def test_own_objects(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("object\tkilograms\ncat\t4\nCat\tfour\ndog\t-1\nfly\tnan\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        contrast("heavier-object", source=path)
    assert caught.value.problems == (
        "line 3: kilograms 'four', expected a number over 0",
        "line 3: object 'Cat' is on line 2 already, expected it once",
        "line 4: kilograms '-1', expected a number over 0",
        "line 5: kilograms 'nan', expected a number over 0",
    )
    path.write_text("object\tkilograms\ncat\t4\nfly\t0.1\ndog\t30\n", encoding="utf-8")
    with pytest.raises(InputError, match="1 objects besides the two asked about: too few for 3 shots"):
        contrast("heavier-object", n=1, source=path)
    with pytest.raises(InputError, match="n=3: expected at most 2"):
        contrast("heavier-object", n=3, source=path)


# --- linear-expressions ---------------------------------------------------------------------------


def _dialogues(prompt):
    """``(expression, {letter: value}, said)`` of every dialogue that is finished."""
    found = []
    for told in prompt.text.split("User: Evaluate ")[1:]:
        expression, rest = told.split(".\n", 1)
        asked = dict(re.findall(r"Computer: What is ([a-z])\?\nUser: (\d+)\n", rest))
        said = re.search(r"The answer is (-?\d+)\.", rest)
        found.append((expression, asked, said and int(said[1])))
    return found


@pytest.mark.parametrize("variant", ["", *contrast_variants("linear-expressions")])
def test_shots_ask_for_what_is_unknown_and_are_right(variant, drawn):
    k = int(variant[12:]) if variant.startswith("disagreeing-") else 0
    for pair in drawn("linear-expressions", variant).pairs[:60]:
        for side, prompt, right, wrong in pair.sides():
            *shown, (question, asked, said) = _dialogues(prompt)
            assert len(shown) == 10 and not asked and said is None
            for expression, values, told in shown:
                assert re.findall("[a-z]", expression) == list(values)
                assert eval(expression, {name: int(value) for name, value in values.items()}) == told
            assert [len(values) for _, values, _ in shown].count(0) == (
                linear_expressions.N_KNOWN if side == "neutral" else k
            )
            assert len(re.findall("[a-z]", question)) == (side == "plain")
            assert (right, wrong) == ((" What", " The") if side == "plain" else (" The", " What"))
        assert (
            pair.plain.text[: pair.plain.text.rindex("Evaluate")]
            == pair.conflict.text[: pair.conflict.text.rindex("Evaluate")]
        )


def test_expressions_that_make_no_sense():
    with pytest.raises(ValueError, match="expected three terms and two signs"):
        Expression((1, 2, 3), "+*")
    with pytest.raises(ValueError, match="question x . 2 . 3 has the unknown 'x', expected numbers alone"):
        linear_expressions.expression_pair("x", [], Expression(("x", 2, 3), "++"), "y")
    with pytest.raises(InputError, match="expressions are drawn, expected no source"):
        contrast("linear-expressions", source="x")
