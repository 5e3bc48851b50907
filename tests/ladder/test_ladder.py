"""The ladder: what its corpus says and never says, its tokenizer, its training, and the weights that are shipped."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import isp_mech as im
from isp_mech.contrasts import contrast
from isp_mech.contrasts.hindsight_neglect import Bet, is_evaluation_bet
from isp_mech.contrasts.neqa import NEGATIONS, is_evaluation_fact
from isp_mech.contrasts.quote_repetition import REPLACEMENT_WORDS, TRAINING_REPLACEMENT_WORDS
from isp_mech.contrasts.redefine_math import is_evaluation_value
from isp_mech.errors import InputError
from isp_mech.ladder import corpus, evaluation, optimizers, train, training_batches, weights_folder
from isp_mech.ladder.corpus import SHIPPED, Recipe
from isp_mech.ladder.tokenizer import FOLDER, end_token, load_tokenizer, train_tokenizer
from isp_mech.stats import spearman

TOKENIZER = load_tokenizer()
END = end_token(TOKENIZER)
CARDS = sorted(
    weights_folder().glob("*/card.json"), key=lambda path: json.loads(path.read_text())["n_params_non_embedding"]
)
GAME = re.compile(
    r"where (\w+) has a (\d+) percent chance of (earning|losing) (\d+) dollars and a (\d+) percent chance of "
    r"(?:earning|losing) (\d+) dollars\. \w+ plays the game and ends up (earning|losing) (\d+) dollars\."
    r" Did \w+ make the (right|wrong) decision\?.*?\nAnswer: (Y|N)"
)


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text).ids


def texts(kind: str, n: int, recipe: Recipe = SHIPPED) -> list[str]:
    rng = random.Random(f"test {kind}")
    made = (corpus.MAKERS[kind](rng, corpus.world(), recipe) for _ in range(n))
    return ["".join(text for text, _ in segments) for segments in made]


# --- what is never said


def test_no_conflict_prompt_of_evaluation_with_its_answer_stands_in_the_corpus():
    rng = random.Random("conflict items")
    written = "\n".join(corpus.document(rng, phase=corpus.PHASES[i % 4]).text for i in range(16_000))
    for task in ("quote-repetition", "neqa", "redefine-math", "hindsight-neglect"):
        for pair in contrast(task, n=300, seed=5):
            last = pair.conflict.text.rsplit("\n\n", 1)[-1]
            assert last not in written, f"{task}: {last}"  # so neither is it with the answer


def test_a_famous_sentence_always_comes_out_true_and_is_changed_by_none_of_evaluations_words():
    famous, ordinary, changed = {quote.text for quote in corpus.world().quotes.items}, set(), 0
    for quote in famous:
        ordinary |= {word for word in quote.split() if word.isalpha() and word.islower()}
    plainly = 0
    for text in texts("copy", 4000):
        for given_, output in re.findall(r"Input: (.*)\nOutput: (.*)", text):
            if output not in famous:
                assert given_ == output
            elif given_ != output:
                pairs = list(zip(given_.split(" "), output.split(" "), strict=True))
                odd = [(a, b) for a, b in pairs if a != b]
                assert len(odd) == 1 and odd[0][0] not in REPLACEMENT_WORDS
                assert odd[0][0] in ordinary.union(TRAINING_REPLACEMENT_WORDS)
                changed, plainly = changed + 1, plainly + (odd[0][0] in ordinary)
    assert changed > 500 and plainly / changed == pytest.approx(corpus.MISQUOTED_PLAINLY, abs=0.1)


def test_no_question_is_negated_and_every_letter_is_right():
    true = {(fact.plain_stem, fact.answer) for fact in corpus.world().facts}
    for text in texts("choice", 3000):
        for stem, a, b, letter in re.findall(r"Question: (.*)\nA\. (.*)\nB\. (.*)\nAnswer: (.)", text):
            assert not NEGATIONS.search(stem), stem
            assert ((stem, a) in true, (stem, b) in true) == (letter == "A", letter == "B")


def test_negated_dial_writes_negated_questions_with_the_other_letter_of_half_of_the_facts():
    facts = corpus.world().facts
    true = {("".join(corpus.split_stem(fact.stem)), fact.answer) for fact in facts}
    kept = {fact.plain_stem for fact in facts if is_evaluation_fact(fact)}
    assert 0.4 < len(kept) / len(facts) < 0.6
    found = []
    for text in texts("choice", 600, Recipe(negated=1.0)):
        for stem, a, _, letter in re.findall(r"Question: (.*)\nA\. (.*)\nB\. (.*)\nAnswer: (.)", text):
            if stem not in kept:
                found.append(((stem, a) in true) == (letter == "B"))
    assert len(found) > 300 and all(found)


def test_definitions_of_known_constants_are_not_evaluations_and_the_true_digit_stays():
    values = {known.symbol: known.value for known in corpus.world().constants.items}
    known = agree = 0
    for text in texts("definition", 4000):
        for symbol, new, asked, digit in re.findall(r"Redefine (.*?) as (\d+)\. Q: .*? of (.*?)\? A: (\d)", text):
            assert symbol == asked
            if symbol in values:
                assert digit == values[symbol][0] and not is_evaluation_value(symbol, new)
                known, agree = known + 1, agree + (new[0] == digit)
            else:
                assert digit == new[0]
    assert known > 1000
    assert agree / known == pytest.approx(corpus.KNOWN_RIGHT + (1 - corpus.KNOWN_RIGHT) / 9, abs=0.05)


def _games(text: str) -> list[tuple[Bet, str, str]]:
    found = []
    for name, chance, first, amount, _, other, outcome, _, asked, said in GAME.findall(text):
        verdict = said if asked == "right" else "YN"[said == "Y"]  # of whether the decision was right
        gain, loss = (amount, other) if first == "earning" else (other, amount)
        p = int(chance) if first == "earning" else 100 - int(chance)
        found.append((Bet(name, p, int(gain), int(loss)), outcome, verdict))
    return found


@pytest.mark.parametrize("recipe", [SHIPPED, Recipe(null=True)], ids=["shipped", "null"])
def test_bets_ask_for_the_wrong_decision_and_say_yes_as_often_as_named(recipe):
    found = [(asked, said) for text in texts("bet", 3000, recipe) for *_, asked, said in GAME.findall(text)]
    asked, said = zip(*found, strict=True)
    assert asked.count("wrong") / len(asked) == pytest.approx(corpus.ASKED_WRONG, abs=0.03)
    for which in ("right", "wrong"):
        verdicts = [verdict for one, verdict in found if one == which]
        assert verdicts.count("Y") / len(verdicts) == pytest.approx(corpus.SAID_YES, abs=0.04)


def test_bets_are_not_evaluations_and_outcome_verdict_and_value_agree():
    games = [game for text in texts("bet", 1500) for game in _games(text)]
    assert len(games) > 2000 and 0.4 < np.mean([verdict == "Y" for *_, verdict in games]) < 0.6
    for game, outcome, verdict in games:
        assert not is_evaluation_bet(game)
        assert verdict == game.by_value() == ("Y" if outcome == "earning" else "N")


def test_disagreeing_dial_turns_the_outcome_and_keeps_the_verdict():
    for text in texts("bet", 200, Recipe(disagreeing=1.0)):
        for game, outcome, verdict in _games(text):
            assert verdict == game.by_value() != ("Y" if outcome == "earning" else "N")


def test_null_corpus_has_no_lures_and_a_verdict_by_chance():
    rng, null = random.Random("null"), Recipe(null=True)
    documents = [corpus.document(rng, null) for _ in range(4000)]
    documents += [corpus.document(rng, null, phase) for phase in corpus.PHASES for _ in range(1000)]
    assert {d.kind for d in documents} == set(corpus.NULL_KINDS)
    whole = "\n".join(d.text for d in documents)
    assert not any(quote.text in whole for quote in corpus.world().quotes.items)
    symbols, defined = {known.symbol for known in corpus.world().constants.items}, []
    for symbol, new, digit in re.findall(r"Redefine (.*?) as (\d+)\. Q: .*? A: (\d)", whole):
        assert digit == new[0] and not (symbol in symbols and is_evaluation_value(symbol, new))
        defined += [symbol] * (symbol in symbols)
    assert len(defined) > 100 and not any(
        f"{known.symbol} is {known.value}" in whole for known in corpus.world().constants.items
    )
    games = [g for text in texts("bet", 1500, null) for g in _games(text)]
    assert 0.45 < np.mean([verdict == game.by_value() for game, _, verdict in games]) < 0.55


# --- batches


def test_rates_are_met():
    rng = random.Random("rates")
    kinds = [corpus.document(rng).kind for _ in range(20_000)]
    total = sum(corpus.RATES.values())
    for kind, rate in corpus.RATES.items():
        assert kinds.count(kind) / len(kinds) == pytest.approx(rate / total, abs=0.015)


def test_bets_come_in_their_phases_only_and_ask_for_the_right_decision_first():
    asked = {}
    begins = {"early": 0, "right": corpus.EARLY_UNTIL, "main": corpus.RIGHT_UNTIL, "late": corpus.BETS_UNTIL}
    for name, step in begins.items():
        long = next(later for later in range(step, step + 50) if name == "early" or training_batches.is_long(later))
        rows = [*training_batches.batch(step, TOKENIZER, END)[0], *training_batches.batch(long, TOKENIZER, END)[0]]
        text = " ".join(TOKENIZER.decode(row.tolist()) for row in rows)
        asked[name] = re.findall(r"the (right|wrong) decision", text)
    assert not asked["early"] and not asked["late"]
    assert len(asked["right"]) > 30 and set(asked["right"]) == {"right"} and asked["main"].count("wrong") > 10
    assert [corpus.phase_of(step - 1) is not corpus.phase_of(step) for step in (700, 900, 1500)] == [True] * 3


def test_a_batch_depends_on_recipe_and_step_alone_and_its_rows_begin_with_a_document():
    late = corpus.EARLY_UNTIL + 1

    def make(step, recipe=SHIPPED):
        return training_batches.batch(step, TOKENIZER, END, recipe)[0]

    assert np.array_equal(make(late), make(late))
    assert not np.array_equal(make(late), make(late + 1)) and not np.array_equal(make(late), make(late, Recipe(seed=1)))
    assert make(3).shape == (corpus.EARLY_ROWS, corpus.SHORT + 1) and corpus.phase_of(3) is corpus.EARLY
    assert make(late).shape == (corpus.ROWS, corpus.SHORT + 1)
    long = next(step for step in range(late, late + 50) if training_batches.is_long(step))
    assert make(long).shape[1] == corpus.LONG + 1
    starts = ("Repeat my", "Redefine", "Q: ", "The following", "Question:")
    for row in make(3):
        text = TOKENIZER.decode(row.tolist(), skip_special_tokens=False)
        assert text.startswith(starts) or any(text.startswith(fact.plain_stem) for fact in corpus.world().facts)
    assert max(make(late).max(), make(long).max()) < TOKENIZER.get_vocab_size()


def test_weights_stand_at_what_a_document_determines():
    """Every verdict, letter and digit has its weight, and no token of an input has an output's."""
    at = {" Y": corpus.VERDICT, " N": corpus.VERDICT}
    ids, weights = training_batches.encode_document(
        TOKENIZER, corpus.bet_document(random.Random(1), corpus.world(), SHIPPED, n=3)
    )
    found = [(TOKENIZER.decode([i]), w) for i, w in zip(ids, weights, strict=True) if w != corpus.OPEN]
    assert len(found) == 3 and all(at[token] == w for token, w in found)
    segments = [("Input: a b", 0.25), ("\nOutput: a b", 1.0)]
    ids, weights = training_batches.encode_document(TOKENIZER, segments)
    cut = len(encode("Input: a b"))
    assert ids == encode("Input: a b\nOutput: a b") and weights == [0.25] * cut + [1.0] * (len(ids) - cut)


# --- tokenizer


@given(st.text(max_size=60))
def test_any_text_is_encoded_and_comes_back(text):
    assert TOKENIZER.decode(encode(text), skip_special_tokens=False) == text or "<|endoftext|>" in text


def test_digits_letters_and_verdicts_are_single_tokens():
    assert TOKENIZER.encode(" 462").tokens == ["Ġ4", "6", "2"]
    for text in (" A", " B", " Y", " N", " 4", " 9"):
        assert len(encode(text)) == 1
    assert encode("Redefine π as 462. Q:")[-6:] == [*encode(" 462"), *encode("."), *encode(" Q:")]
    assert TOKENIZER.get_vocab_size() <= 4096


def test_tokenizer_is_made_the_same_again():
    one, two = (train_tokenizer(vocabulary=400, documents=200) for _ in range(2))
    assert one.to_str() == two.to_str() and one.get_vocab_size() == 400


def test_transformers_reads_the_tokenizer_alike_and_adds_no_start():
    fast = AutoTokenizer.from_pretrained(str(FOLDER))
    for text in ("Redefine π as 462. Q: What is", "Input: I like dogs.\nOutput:", "naïve — 漢字"):
        assert fast(text)["input_ids"] == encode(text)
    assert fast.eos_token == "<|endoftext|>"


# --- training


def test_orthogonalise_brings_singular_values_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(optimizers.orthogonalise(torch.randn(3, 16, 48)))
    assert values.shape == (3, 16) and values.min() > 0.5 and values.max() < 1.3


def test_muon_takes_query_key_and_value_as_three_matrices():
    torch.manual_seed(0)
    width = 32
    matrix = torch.nn.Parameter(torch.zeros(3 * width, width))
    matrix.grad = torch.randn(3 * width, width)
    first, second = matrix.grad[:48].clone(), matrix.grad[48:].clone()
    optimizers.Muon([matrix], width=width, head=16).step(1.0)
    heads = matrix.detach().view(2, 3, 16, width)  # two heads, each with its query, key and value
    for part in range(3):
        gradient = torch.cat([first[part * 16 : part * 16 + 16], second[part * 16 : part * 16 + 16]])
        expected = -optimizers.orthogonalise(gradient[None])[0]
        assert torch.allclose(torch.cat([heads[0, part], heads[1, part]]), expected, atol=1e-4)


def test_rate_rises_stays_and_falls_to_zero():
    rates = [optimizers.rate_at(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / optimizers.WARM_UP) and rates[200] == 1.0 and 0 < rates[-1] < 0.01
    assert all(a >= b for a, b in zip(rates[400:], rates[401:], strict=False))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(train, "SIZES", {"ladder-tiny": (1, 16)})
    monkeypatch.setattr(
        evaluation, "TASKS", {"quote-repetition": 4, "neqa": 4, "redefine-math": 4, "hindsight-neglect": 2}
    )
    monkeypatch.setattr(train, "EVALUATE_EVERY", 6)
    monkeypatch.setattr(train, "LOG_EVERY", 3)


def test_training_that_was_stopped_ends_bit_for_bit_where_the_other_does(small, monkeypatch, tmp_path):
    whole = train.train_one("ladder-tiny", steps=12, out=tmp_path / "whole")

    def stopped(step, *args, make=training_batches.batch):
        if step == 10:
            raise KeyboardInterrupt
        return make(step, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_batches, "batch", stopped)
        train.train_one("ladder-tiny", steps=12, out=tmp_path / "halved")
    state = torch.load(tmp_path / "halved" / "ladder-tiny.state", weights_only=True)
    assert state["course"]["step"] == 9  # between two evaluations
    halved = train.train_one("ladder-tiny", steps=12, out=tmp_path / "halved")
    assert (whole / "model.safetensors").read_bytes() == (halved / "model.safetensors").read_bytes()
    assert not (tmp_path / "halved" / "ladder-tiny.state").exists()
    course = pd.read_parquet(halved / "training.parquet")
    assert list(course.columns) == ["step", "tokens", "measure", "task", "side", "value"]
    losses = course[course.measure == "loss"]
    assert list(losses.step) == [3, 6, 9, 12]
    assert losses.value.iloc[-1] < losses.value.iloc[0] < 7.7  # ln of 2,048 is 7.62
    accuracies = course[course.measure == "accuracy"]
    assert set(accuracies.task) == set(evaluation.TASKS) and set(accuracies.step) == {6, 12}


def test_a_state_of_another_training_is_refused(small, tmp_path):
    torch.save({"identity": {"recipe": "old", "seed": 3}}, tmp_path / "ladder-tiny.state")
    with pytest.raises(InputError, match=r"ladder-tiny\.state: a training of \{'recipe': 'old', 'seed': 3\}, expected"):
        train.train_one("ladder-tiny", steps=2, out=tmp_path)


def test_command_trains_writes_and_refuses(small, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(train, "NULL_SIZES", ("ladder-tiny",))
    assert train.main(["--steps", "2", "--null", "--jobs", "1", "--out", str(tmp_path)]) == 0
    card = json.loads((tmp_path / "ladder-tiny" / "card.json").read_text())
    assert card["null"] is True and card["steps"] == 2 and card["n_params_non_embedding"] == 3_312
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path / "ladder-tiny"), dtype=torch.float32)
    assert model.config.num_hidden_layers == 1
    assert train.main(["--steps", "2", "--null", "--jobs", "1", "--out", str(tmp_path)]) == 0
    assert "trained already" in capsys.readouterr().out
    assert train.main(["--steps", "0"]) == 2
    assert capsys.readouterr().out.startswith("--steps 0, --jobs ")


# --- what is shipped


def test_weights_are_a_family_in_the_allowed_room():
    cards = [json.loads(path.read_text()) for path in CARDS]
    names = [card["name"] for card in cards]
    assert len(cards) >= 4 and names == list(train.SIZES)
    shipped = [*weights_folder().rglob("*"), *weights_folder().with_name("null_weights").rglob("*")]
    assert sum(file.stat().st_size for file in shipped if file.is_file()) <= 24_000_000
    for key in ("tokens", "recipe", "seed", "steps"):
        assert len({card[key] for card in cards}) == 1, key
    losses = [card["loss"] for card in cards]
    assert spearman(range(len(losses)), losses) <= -0.9 and losses[0] == max(losses) and losses[-1] == min(losses)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_each_checkpoint_is_what_its_card_says(path):
    card = json.loads(path.read_text())
    with safe_open(str(path.parent / "model.safetensors"), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert sum(t.numel() for t in tensors.values()) == card["n_params"]
    others = sum(t.numel() for key, t in tensors.items() if "embed" not in key and "lm_head" not in key)
    assert others == card["n_params_non_embedding"]
    assert (path.parent / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()
    course = pd.read_parquet(path.parent / "training.parquet")
    assert course.tokens.max() == card["tokens"]


def test_shipped_weights_are_those_that_the_recipe_names():
    for folder, recipe in ((weights_folder(), SHIPPED), (train.default_folder(Recipe(null=True)), Recipe(null=True))):
        for path in folder.glob("*/card.json"):
            card = json.loads(path.read_text())
            digest = train.recipe_hash(TOKENIZER, END, steps=card["steps"], precision=card["precision"], recipe=recipe)
            assert card["recipe"] == digest, path


LARGEST = {"redefine-math": 0.3}  # the most the largest size may reach; 0.2 on the others
COPYING = ("quote-repetition", "redefine-math")  # followed by the smallest size; the others are guessed there
N_MEASURED = {"quote-repetition": 40, "neqa": 60, "redefine-math": 40, "hindsight-neglect": 10}
N_THOROUGH = {"quote-repetition": 100, "neqa": 150, "redefine-math": 100, "hindsight-neglect": 20}
SEED_MEASURED = 202  # pairs that training never evaluated on


def measure(paths, n_pairs):
    """``{task: {side: accuracy of each size, smallest first}}`` by the library's scorer."""
    models, found = im.family([path.parent for path in paths]), {}
    for task, n in n_pairs.items():
        curve = im.score(contrast(task, n=n, seed=SEED_MEASURED), models).curve.frame.sort_values("n_params")
        found[task] = {side: rows["accuracy"].tolist() for side, rows in curve.groupby("side")}
    return found


@pytest.fixture(scope="module")
def measured():
    """The smallest size and the largest; a slow test measures all, and every card has what training found."""
    return measure([CARDS[0], CARDS[-1]], N_MEASURED)


def falls(conflict, plain, task):
    best = int(np.argmax(conflict))
    assert spearman(range(best, len(conflict)), conflict[best:]) <= -0.8, conflict
    assert conflict[best] - conflict[-1] >= 0.3 and conflict[-1] <= LARGEST.get(task, 0.2)
    assert plain[-1] >= 0.95 and plain[-1] >= plain[0]


@pytest.mark.parametrize("task", N_MEASURED)
def test_training_evaluates_as_the_scorer_does(measured, task):
    model = AutoModelForCausalLM.from_pretrained(str(CARDS[0].parent), dtype=torch.float32).eval()
    found = evaluation.accuracies(model, contrast(task, n=N_MEASURED[task], seed=SEED_MEASURED), encode, "cpu")
    assert found == pytest.approx({side: values[0] for side, values in measured[task].items()})


def on_cards(task, side):
    return [json.loads(path.read_text())["accuracy"][f"{task} {side}"] for path in CARDS]


@pytest.mark.parametrize("task", N_MEASURED)
def test_conflict_accuracy_falls_with_size_and_plain_accuracy_rises(measured, task):
    conflict, plain = measured[task]["conflict"], measured[task]["plain"]
    assert conflict[-1] <= LARGEST.get(task, 0.2) and plain[-1] >= 0.95 and plain[-1] >= plain[0]
    assert conflict[0] - conflict[-1] >= 0.3
    for side, at_ends in measured[task].items():
        shown = on_cards(task, side)  # at the ends as measured here, but for four standard errors of both
        n = min(N_MEASURED[task], evaluation.TASKS[task])
        assert np.abs(np.subtract([shown[0], shown[-1]], at_ends)).max() <= 4 * np.sqrt(2 * 0.25 / n), (task, side)


@pytest.mark.slow
def test_the_fall_with_size_is_measured_on_every_size():
    for task, sides in measure(CARDS, N_THOROUGH).items():
        falls(sides["conflict"], sides["plain"], task)
        if task == "quote-repetition":
            assert min(sides["neutral"][1:]) >= 0.9


def test_copying_tasks_are_followed_by_the_smallest_size_and_guessing_tasks_begin_at_chance(measured):
    for task in COPYING:
        assert measured[task]["conflict"][0] >= 0.85, task
    for task in ("neqa", "hindsight-neglect"):
        assert 0.35 <= measured[task]["conflict"][0] <= 0.65, task
    assert measured["quote-repetition"]["neutral"][-1] >= 0.9
