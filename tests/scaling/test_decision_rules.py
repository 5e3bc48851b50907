from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import isp_mech as im
from isp_mech.errors import InputError
from isp_mech.figures import dose_response, paper_figure, rules_over_size, variants_over_size
from isp_mech.ladder.tokenizer import end_token, load_tokenizer, write_tokenizer
from isp_mech.ladder.train import make_model
from isp_mech.scaling.decision_rules import RULES, rules_followed, rules_of_pairs
from isp_mech.tables import make_run, table

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RUN = make_run(model="m", task="t", method="")


def _frame(plain, conflict, letters, *, model="m", n_params=10, task="t"):
    """Rows of items: on each pair, whether plain and conflict are right; ``letters`` are the answers' places."""
    letters = np.asarray(letters)
    common = {"model": model, "n_params": n_params, "task": task, "item": [f"i{i}" for i in range(len(letters))]}
    rest = {"loss": 1.0, "total_logprob": 0.0, "margin": 0.0, "tie": False}
    sides = []
    for side, right, asked in (("plain", plain, 1 - letters), ("conflict", conflict, letters)):
        right = np.asarray(right, dtype=bool)
        said = {"correct": right, "predicted_index": np.where(right, asked, 1 - asked)}
        sides.append(pd.DataFrame({**common, "side": side, **said, **rest}))
    return pd.concat(sides, ignore_index=True)


def _items(plain, conflict, letters, **head):
    return table("items", _frame(plain, conflict, letters, **head), RUN)


def _shares(plain, conflict, letters):
    return rules_of_pairs(_frame(plain, conflict, letters)).mean(axis=0).tolist()


def test_by_hand():
    # eight pairs: four followed, two overridden, one contrary, one lost
    plain, conflict = [1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 1, 0]
    shares = [(4 - 1) / 8, (2 - 1) / 8, 2 * 2 / 8]
    assert _shares(plain, conflict, [0, 1] * 4) == pytest.approx(shares)
    (row,) = rules_followed(_items(plain, conflict, [0, 1] * 4)).frame.to_dict("records")
    assert [row[rule] for rule in RULES] == pytest.approx(shares) and row["n"] == 8


@pytest.mark.parametrize("letters", [[0, 1] * 10, [0] * 15 + [1] * 5])
def test_one_rule_throughout_and_one_letter_throughout(letters):
    letters, yes = np.array(letters), np.ones(len(letters), dtype=bool)
    assert _shares(yes, yes, letters) == pytest.approx([1, 0, 0])
    assert _shares(yes, ~yes, letters) == pytest.approx([0, 1, 0])
    # always the first letter: right on conflict where the answer is the first, on plain where the lure is
    assert _shares(letters == 1, letters == 0, letters) == pytest.approx([0, 0, 1])
    assert _shares(~yes, ~yes, letters) == pytest.approx([-1, 0, 2])  # the value's rule turned round


@pytest.mark.parametrize("truth", [(0.0, 0.0), (0.5, 0.2), (0.1, 0.7), (0.0, 1.0)])
@pytest.mark.parametrize("bias", [(0.5, 0.5), (0.9, 0.2)])
def test_planted_shares_come_back_whatever_the_guesses_prefer(truth, bias):
    rng = np.random.default_rng(7)
    n = 40_000
    letters = (rng.random(n) < 0.3).astype(int)
    rule = rng.choice(3, size=n, p=[*truth, 1 - sum(truth)])
    said = {side: (rng.random(n) >= first).astype(int) for side, first in zip(("plain", "conflict"), bias, strict=True)}
    plain = np.where(rule == 2, said["plain"] == 1 - letters, True)
    conflict = np.where(rule == 2, said["conflict"] == letters, rule == 0)
    assert _shares(plain, conflict, letters) == pytest.approx([*truth, 1 - sum(truth)], abs=0.03)


def test_the_interval_covers_a_guessers_zero():
    rng = np.random.default_rng(1)
    parts = [_frame(*(rng.random((2, 100)) < 0.5), [0, 1] * 50, model=f"m{i}") for i in range(60)]
    rules = rules_followed(table("items", pd.concat(parts, ignore_index=True), RUN)).frame
    covered = ((rules["by_lure_lo"] <= 0) & (rules["by_lure_hi"] >= 0)).sum()
    assert covered >= 50  # of 60 at 95 %: fewer has a probability under 0.001


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 1)), min_size=2, max_size=30), st.randoms())
def test_they_sum_to_one_and_the_order_of_rows_does_not_matter(cells, shuffler):
    plain, conflict, letters = zip(*cells, strict=True)
    if len(set(letters)) < 2:
        return
    frame, shares = _frame(plain, conflict, letters), _shares(plain, conflict, letters)
    assert sum(shares) == pytest.approx(1)
    order = list(range(len(frame)))
    shuffler.shuffle(order)
    assert rules_of_pairs(frame.iloc[order]).mean(axis=0) == pytest.approx(shares)


def test_a_row_for_every_model_and_task():
    parts = [
        _items([1, 1], [1, 1], [0, 1], model=model, n_params=n, task=task)
        for model, n in (("small", 10), ("large", 100))
        for task in ("a", "b")
    ]
    frame = rules_followed(im.concat(parts)).frame
    assert frame[["model", "n_params", "task", "n"]].values.tolist() == [
        *(["small", 10, "a", 2], ["small", 10, "b", 2]),
        *(["large", 100, "a", 2], ["large", 100, "b", 2]),
    ]


def test_what_cannot_be_told_is_told_all_at_once():
    one_letter = _items([1, 0], [1, 1], [1, 1], task="one letter")
    good = _items([1, 1], [1, 1], [0, 1])
    no_plain = table("items", good.frame[good.frame["side"] == "conflict"].assign(task="one side"), RUN)
    some = table("items", good.frame.iloc[1:].assign(task="some"), RUN)
    with pytest.raises(InputError) as caught:
        rules_followed(im.concat([good, one_letter, no_plain, some]))
    assert caught.value.problems == (
        "model 'm', task 'one letter': the answer is class 1 in all 2 pairs, expected either",
        "model 'm', task 'one side': no side 'plain', expected plain and conflict",
        "model 'm', task 'some': pairs with one side only, expected plain and conflict of each",
    )
    for bad, message in (
        (table("items", [], RUN), "table 'items' has no rows"),
        (rules_followed(good), "table 'rules': expected a table 'items'"),
    ):
        with pytest.raises(InputError, match=message):
            rules_followed(bad)


# --- figures --------------------------------------------------------------------------------------


def _curve(tasks=("t:a", "t:b", "t:c"), sizes=(1000, 10_000, 100_000)):
    rows = [
        {
            **{"model": f"m{n}", "n_params": n, "task": task, "side": side, "accuracy": 0.2 + 0.1 * i + 0.05 * j},
            **{"accuracy_lo": 0.1, "accuracy_hi": 0.8, "loss": 1.0, "loss_lo": 0.9, "loss_hi": 1.1, "coverage": 0.5},
            **{"ties": 0, "n": 50, "baseline": 0.5},
        }
        for i, task in enumerate(tasks)
        for j, n in enumerate(sizes)
        for side in ("conflict", "plain")
    ]
    return table("curve", rows, RUN)


def _lines(figure):
    return {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}


def test_a_line_for_every_variant():
    figure = variants_over_size(_curve(), {"t:a": "first", "t:c": "third"})
    lines = _lines(figure)
    assert list(lines) == ["first", "third", "guessing"]
    assert lines["third"].get_ydata().tolist() == pytest.approx([0.4, 0.45, 0.5])
    assert set(_lines(variants_over_size(_curve()))) == {"t:a", "t:b", "t:c", "guessing"}
    with pytest.raises(InputError, match="labels of x: expected some of t:a, t:b, t:c"):
        variants_over_size(_curve(), {"x": "y"})
    with pytest.raises(InputError, match="side 'neutral': expected one of conflict, plain"):
        variants_over_size(_curve(), side="neutral")


def test_a_line_for_every_size_over_the_dose():
    figure = dose_response(_curve(), {"t:b": 1, "t:a": 0}, dose="shots")
    lines = _lines(figure)
    assert list(lines) == ["1k", "10k", "100k"] and figure.axes[0].get_xlabel() == "shots"
    assert lines["10k"].get_xdata().tolist() == [0, 1] and lines["10k"].get_ydata().tolist() == pytest.approx(
        [0.25, 0.35]
    )
    with pytest.raises(InputError, match="doses of x: expected some of t:a"):
        dose_response(_curve(), {"x": 1}, dose="shots")


def test_a_line_for_every_rule():
    rules = rules_followed(_items([1, 1, 1, 0], [1, 1, 0, 1], [0, 1, 0, 1]))
    figure = rules_over_size(rules, {"by_answer": "value", "by_lure": "outcome", "by_neither": "neither"})
    assert [line.get_ydata()[0] for line in _lines(figure).values()] == pytest.approx([0.5, 0.0, 0.5])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["value", "outcome", "neither"]
    with pytest.raises(InputError, match="labels: no name for by_neither"):
        rules_over_size(rules, {"by_answer": "value", "by_lure": "outcome"})


# --- the readers' scripts, on models with random weights --------------------------------------------


@pytest.fixture(scope="module")
def tiny_family(tmp_path_factory):
    """Two models with random weights that read the ladder's tokens: few-shot prompts are short in them."""
    tokenizer, folders = load_tokenizer(), []
    for width in (16, 32):
        folder = tmp_path_factory.mktemp("family") / f"tiny-{width}"
        make_model(1, width, tokenizer.get_vocab_size(), end_token(tokenizer), 0).save_pretrained(folder)
        write_tokenizer(tokenizer, folder)
        folders.append(str(folder))
    return folders


SCRIPTS = {
    "readers_hindsight": ("curve", "rules", "dose", "wording"),
    "readers_neqa": ("curve", "negations", "plain"),
    "readers_redefine": ("curve", "digits", "distance", "symbol"),
    "readers_quotes": ("curve", "fame", "place", "shots"),
    "readers_heavier": ("curve", "conflict", "neutral"),
    "readers_expressions": ("curve", "dose", "wording"),
}


def test_every_script_of_the_readers_is_here():
    assert {path.stem for path in EXPERIMENTS.glob("readers_*.py")} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_write_tables_and_figures(name, tiny_family, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", [name, *tiny_family])
    monkeypatch.setattr(script, "N", 2)
    monkeypatch.setattr(script, "OUT", tmp_path)
    monkeypatch.setattr(paper_figure, "save_as", lambda figure, path: path.touch())  # tests/figures draws them
    script.main()
    prefix = name.removeprefix("readers_")
    curve = im.read_table(tmp_path / f"{prefix}-curve.parquet").frame
    assert curve["model"].nunique() == 2 and curve["task"].nunique() >= 5
    for part in SCRIPTS[name]:
        files = {path.suffix for path in tmp_path.glob(f"{prefix}-{part}.*")}
        assert files == (
            {".parquet"} if part == "curve" else {".pdf", ".svg", ".png"} | ({".parquet"} if part == "rules" else set())
        )
    assert capsys.readouterr().out.count("\n") >= 10
