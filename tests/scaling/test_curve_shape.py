"""The names of shapes, on curves drawn from known ones, and every number against another computation."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import scipy.stats

from isp_mech.errors import InputError
from isp_mech.scaling import NAMES, Shape, chances, power, shape, shape_decision, shape_of_curve, shapes
from isp_mech.tables import make_run, table

SIZES = {k: 10 ** np.linspace(5, 8, k) for k in range(1, 10)}
RUN = make_run(model="family", task="t", method="score")
simulating = sys.modules["isp_mech.scaling.power"]
DRAWS, ITEMS = 1000, 300
WAYS = {"accuracy": None, "independent": 0.0, "paired": 0.7}  # how much of an item's luck is its own at every size


def true_curve(name: str, k: int, amplitude: float = 0.3, turn: float = 0.5) -> np.ndarray:
    t = np.linspace(0, 1, k)
    low, valley = 0.5 - amplitude / 2, np.where(t < turn, 1 - t / turn, (t - turn) / (1 - turn))
    return (
        low
        + amplitude
        * {
            "positive": t,
            "inverse": 1 - t,
            "U": valley,
            "inverted U": 1 - valley,
            "flat": np.full(k, 0.5),
        }[name]
    )


def named(curve: np.ndarray, way: str, draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """Shares of names given to noisy draws of a curve."""
    return power(SIZES[len(curve)], curve, ITEMS, item_correlation=WAYS[way], draws=draws, seed=seed)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("k", [5, 6, 7, 8])
@pytest.mark.parametrize("name", ["inverse", "positive", "U", "inverted U"])
def test_shapes_of_amplitude_three_tenths_are_named(name, k, way):
    assert named(true_curve(name, k), way)[name] >= 0.9


@pytest.mark.parametrize("k", [5, 8])
@pytest.mark.parametrize("name", ["U", "inverted U"])
@pytest.mark.parametrize("turn", [0.3, 0.7])
def test_turns_off_the_middle_are_named(name, k, turn):
    assert named(true_curve(name, k, turn=turn), "accuracy")[name] >= 0.9


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("k", [3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("level", [0.15, 0.5, 0.95])
def test_flat_curves_are_called_anything_else_in_one_of_twenty_at_most(k, way, level):
    shares = named(np.full(k, level), way, seed=k)
    assert 1 - shares["flat"] - shares["undecided"] <= 0.05
    assert shares["flat"] > 0.85


@pytest.mark.parametrize("way", WAYS)
def test_three_sizes_are_never_a_turn(way):
    for curve in ([0.5, 0.5, 0.5], [0.9, 0.2, 0.9], [0.1, 0.8, 0.1]):
        shares = named(np.array(curve), way)
        assert shares["U"] == shares["inverted U"] == 0.0
    noise = power(SIZES[3], [0.5] * 3, ITEMS, item_correlation=WAYS[way], true_between_model_sd=0.2)
    assert noise["U"] == noise["inverted U"] == 0.0
    assert shape(SIZES[3], accuracy=[0.9, 0.2, 0.9], n=300).name == "undecided"  # it differs, but has no trend


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("curve", [true_curve("U", 5, 0.12), true_curve("flat", 4), true_curve("inverse", 8, 0.1)])
def test_many_curves_at_once_are_named_as_one_by_one(curve, way, monkeypatch):
    drawn, real = [], simulating.decide
    monkeypatch.setattr(simulating, "decide", lambda points, level: drawn.append(points) or real(points, level=level))
    shares = named(curve, way, draws=60, seed=3)
    x = SIZES[len(curve)]
    if way == "accuracy":
        names = [shape(x, accuracy=mean, n=ITEMS).name for mean in drawn[0].mean]
    else:
        rng, names = np.random.default_rng(3), []
        for outcomes in simulating._outcomes(rng, np.broadcast_to(curve, (60, len(curve))), ITEMS, WAYS[way]):
            names.append(shape(x, outcomes).name)
    assert {name: names.count(name) / 60 for name in NAMES} == shares


def test_models_that_differ_are_taken_for_a_shape():
    """What the interval over items does not know: noise between models. It is said in the docs."""
    same, differing = (power(SIZES[5], [0.5] * 5, ITEMS, true_between_model_sd=sd) for sd in (0.0, 0.05))
    assert 1 - same["flat"] - same["undecided"] <= 0.05 < 1 - differing["flat"] - differing["undecided"]


@pytest.mark.parametrize("k", [4, 5, 8])
def test_a_known_difference_between_models_is_allowed_for(k):
    known = power(SIZES[k], [0.5] * k, ITEMS, true_between_model_sd=0.05, between_model_sd=0.05)
    assert 1 - known["flat"] - known["undecided"] <= 0.05
    found, without = (shape(SIZES[k], accuracy=[0.5] * k, n=ITEMS, between_model_sd=s) for s in (0.05, 0.0))
    se = [(f.change_hi - f.change_lo) / 2 / scipy.stats.t.ppf(0.975, ITEMS - 1) for f in (found, without)]
    assert se[0] ** 2 - se[1] ** 2 == pytest.approx(2 * 0.05**2)
    assert named(true_curve("inverse", k, 0.6), "accuracy")["inverse"] == 1.0


def test_old_names_work_and_say_the_new_ones():
    x, flat = SIZES[5], [0.5] * 5
    with pytest.warns(DeprecationWarning, match="chances: '(chances|alike|between|stray)' is now") as caught:
        old = chances(x, flat, ITEMS, alike=0.7, between=0.05, stray=0.02, draws=20)
    assert len(caught) == 4
    assert old == power(
        x, flat, ITEMS, item_correlation=0.7, true_between_model_sd=0.05, between_model_sd=0.02, draws=20
    )
    with pytest.warns(DeprecationWarning, match="shape: 'stray' is now 'between_model_sd'"):
        old_shape = shape(x, accuracy=flat, n=ITEMS, stray=0.05)
    assert old_shape.sentence == shape(x, accuracy=flat, n=ITEMS, between_model_sd=0.05).sentence
    with pytest.warns(DeprecationWarning, match="shapes: 'stray'"), pytest.raises(InputError):
        shapes(table("stability", [], RUN), stray=0.05)


def test_power_refuses_bad_numbers():
    with pytest.raises(InputError) as caught:
        power([1, 1], [0.5, 2], 1, item_correlation=7, true_between_model_sd=-1, between_model_sd=-1, draws=0, level=1)
    assert list(caught.value.problems) == [
        "sizes [1.0, 1.0]: expected different positive numbers",
        "accuracy [0.5, 2.0]: expected 2 numbers from 0 to 1",
        "n 1: expected 2 or more",
        "draws 0: expected 1 or more",
        "true_between_model_sd -1: expected 0 or more",
        "between_model_sd -1: expected 0 or more",
        "item_correlation 7: expected a number from 0 to 1",
        "level 1: expected a number between 0 and 1",
    ]


def test_few_items_leave_it_undecided_and_say_what_could_have_shown():
    found = shape(SIZES[5], accuracy=[0.5, 0.45, 0.55, 0.5, 0.5], n=40)
    assert found.name == "undecided" and 0.2 < found.smallest_effect < 0.4
    assert found.sentence.endswith(
        "The smallest trend that 5 sizes and so many items would have shown with a probability of 0.8 is a change "
        f"of {found.smallest_effect:.2f}."
    )
    assert shape(SIZES[5], accuracy=[0.5, 0.52, 0.54, 0.56, 0.58], n=40).name == "undecided"
    assert shape(SIZES[5], accuracy=[0.5, 0.52, 0.54, 0.56, 0.58], n=4000).name == "positive"
    assert shape(SIZES[5], accuracy=[0.5, 0.49, 0.51, 0.5, 0.5], n=400).name == "flat"
    assert shape(SIZES[5], accuracy=[0.5, 0.49, 0.51, 0.5, 0.5], n=400, flat_within=0.05).name == "undecided"


def test_the_smallest_effect_is_shown_four_times_in_five():
    effect = shape(SIZES[6], accuracy=np.full(6, 0.5), n=ITEMS).smallest_effect
    assert 0.75 < named(true_curve("inverse", 6, effect), "accuracy")["inverse"] < 0.85


@pytest.mark.parametrize("k", [4, 5, 6, 8])
def test_the_smallest_turn_is_shown_four_times_in_five(k):
    depth = shape(SIZES[k], accuracy=np.full(k, 0.5), n=ITEMS).smallest_turn
    assert 0.74 < named(true_curve("U", k, depth), "accuracy")["U"] < 0.86
    assert shape(SIZES[3], accuracy=[0.5] * 3, n=ITEMS).smallest_turn == math.inf
    assert shape(SIZES[k], accuracy=np.full(k, 0.5), n=4 * ITEMS).smallest_turn == pytest.approx(depth / 2, rel=0.02)


@pytest.mark.parametrize("name", ["U", "inverted U"])
@pytest.mark.parametrize("low", [0.31, 0.5, 0.62])
def test_the_turns_interval_holds_the_turn(name, low):
    """In nine of ten curves or more, also where the turn is between two sizes; and it is no wider than it must be."""
    truth, x, where = true_curve(name, 8, 0.3, turn=low), SIZES[8], 5 + 3 * low
    accuracy = np.random.default_rng(1).binomial(ITEMS, truth, size=(300, 8)) / ITEMS
    points = shape_decision.of_shares(np.log10(x), accuracy, np.full(8, float(ITEMS)))
    decision = shape_decision.decide(points, level=0.95)
    first, last = shape_decision.turn_places(points, name == "U", level=0.95)
    named = decision.name == NAMES.index(name)
    first, last = np.minimum(first, decision.turn)[named], np.maximum(last, decision.turn)[named]
    held = (points.x[first] <= where) & (where <= points.x[last])
    assert held.mean() >= 0.95 and named.sum() > 200 and np.mean(points.x[last] - points.x[first]) < 2
    for i, curve_accuracy in enumerate(accuracy[named][:5]):
        found = shape(x, accuracy=curve_accuracy, n=ITEMS)
        assert found.name == name and found.turn_lo <= found.turn <= found.turn_hi
        assert (found.turn_lo, found.turn_hi) == pytest.approx((x[first[i]], x[last[i]]))


def test_the_turns_interval_by_hand():
    x = [1e5, 1e6, 1e7, 1e8, 1e9]
    sharp = shape(x, accuracy=[0.9, 0.6, 0.3, 0.6, 0.9], n=3000)
    assert (sharp.turn_lo, sharp.turn_hi) == pytest.approx((1e6, 1e8))  # only the neighbours are left
    twofold = shape(x, accuracy=[0.9, 0.3, 0.3, 0.6, 0.9], n=3000)
    assert (twofold.turn_lo, twofold.turn_hi) == pytest.approx((1e5, 1e8))


def test_slopes_and_intervals_agree_with_a_regression_per_item():
    rng = np.random.default_rng(1)
    x, margins = np.log10(SIZES[6]), rng.normal(size=(6, 80)) - np.arange(6)[:, None] * 0.4
    found = shape(SIZES[6], margins)
    slopes = np.polyfit(x, margins, 1)[0]  # one line per item
    half = scipy.stats.t.ppf(0.975, 79) * slopes.std(ddof=1) / math.sqrt(80)
    (slope,) = found.slopes
    assert (slope.value, slope.lo, slope.hi) == pytest.approx(
        (slopes.mean(), slopes.mean() - half, slopes.mean() + half)
    )
    assert (slope.start, slope.stop) == pytest.approx((1e5, 1e8))
    change = margins[-1] - margins[0]
    interval = scipy.stats.ttest_1samp(change, 0).confidence_interval()
    assert (found.change, found.change_lo, found.change_hi) == pytest.approx((change.mean(), *interval))
    assert found.name == "inverse" and found.spearman == -1.0 and found.p == pytest.approx(2 / 720)


def test_a_turn_has_its_place_and_two_slopes():
    found = shape([1e5, 1e6, 1e7, 1e8, 1e9], accuracy=[0.9, 0.6, 0.3, 0.6, 0.9], n=300)
    assert found.name == "U" and found.turn == pytest.approx(1e7) and found.change == 0.0
    assert [s.value for s in found.slopes] == pytest.approx([-0.3, 0.3])
    assert all(s.lo < s.value < s.hi for s in found.slopes) and found.slopes[0].hi < 0 < found.slopes[1].lo
    upside = shape([1e5, 1e6, 1e7, 1e8, 1e9], accuracy=[0.1, 0.4, 0.7, 0.4, 0.1], n=300)
    assert upside.name == "inverted U" and [s.value for s in upside.slopes] == pytest.approx([0.3, -0.3])
    assert math.isnan(shape(SIZES[5], accuracy=np.full(5, 0.5), n=300).turn)


def test_a_curve_of_equal_values_has_no_order_and_its_sentence_says_so():
    found = shape(SIZES[5], accuracy=np.full(5, 1.0), n=20)
    assert math.isnan(found.spearman) and "(equal everywhere)" in found.sentence and "nan" not in found.sentence


def test_a_hook_does_not_give_the_name():
    found = shape(SIZES[5], accuracy=[0.85, 0.97, 0.7, 0.4, 0.1], n=2000)
    assert found.name == "inverse" and len(found.slopes) == 1
    assert shape(SIZES[5], accuracy=[0.5, 0.97, 0.7, 0.4, 0.1], n=2000).name == "inverted U"


@pytest.mark.parametrize("accuracy", [[0.5, 0.9, 0.5, 0.9, 0.5], [0.9, 0.2, 0.7], [0.9, 0.5, 0.8, 0.3, 0.6, 0.1]])
def test_a_zigzag_has_no_name(accuracy):
    found = shape(SIZES[len(accuracy)], accuracy=accuracy, n=300)
    assert found.name == "undecided" and math.isnan(found.turn) and len(found.slopes) == 1


def test_margins_are_judged_by_their_own_spread():
    rng = np.random.default_rng(2)
    flat = rng.normal(3.0, 1.0, size=(5, 400))
    for unit in (1.0, 1000.0):
        found = shape(SIZES[5], unit * flat, measure="margin")
        assert found.name == "flat" and found.sentence.startswith("Margin does not change with size: ")
        assert found.smallest_effect == pytest.approx(unit * shape(SIZES[5], flat).smallest_effect)
    few = shape(SIZES[5], flat[:, :30] - flat[:, :30].mean(axis=1, keepdims=True))
    assert few.name == "undecided" and few.change == pytest.approx(0.0)


def test_the_order_of_models_and_the_unit_of_parameters_do_not_matter():
    accuracy, n = np.array([0.9, 0.8, 0.5, 0.4, 0.1]), np.array([300, 200, 300, 250, 300])
    found, order = shape(SIZES[5], accuracy=accuracy, n=n), [3, 0, 4, 1, 2]
    again = shape(SIZES[5][order] * 7, accuracy=accuracy[order], n=n[order])
    assert (again.name, again.change, again.p) == (found.name, found.change, found.p)
    assert again.slopes[0].value == pytest.approx(found.slopes[0].value)


def test_all_right_or_all_wrong_is_not_certain():
    found = shape(SIZES[5], np.ones((5, 20)))
    assert found.change == 0.0 and found.change_lo < -0.02 < 0.02 < found.change_hi
    assert found.name == "undecided" and shape(SIZES[5], np.ones((5, 300))).name == "flat"


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        ([0.9, 0.8, 0.5, 0.4, 0.1], "Accuracy falls with size, by -0.27 (95 % interval "),
        ([0.1, 0.4, 0.5, 0.8, 0.9], "Accuracy rises with size, by +0.27 (95 % interval "),
        ([0.9, 0.6, 0.3, 0.6, 0.9], "Accuracy first falls with size, by -0.40 (95 % interval "),
        ([0.1, 0.4, 0.7, 0.4, 0.1], "and falls from 3.16 million parameters on, by -0.40"),
        ([0.5, 0.5, 0.5, 0.5, 0.5], "Accuracy does not change with size: from the smallest to the largest of 5 sizes"),
        ([0.5, 0.9, 0.5, 0.9, 0.5], "is undecided: sizes differ, but by no one line or turn; from the smallest"),
        ([0.52, 0.45, 0.55, 0.5, 0.52], "does not change with size"),
        ([0.5, 0.9], "Two sizes show a change but no shape, for which at least 3 are needed: "),
        ([0.5], "One size shows no shape: at least 3 are needed."),
    ],
)
def test_the_sentence_says_it(accuracy, said):
    found = shape(SIZES[len(accuracy)], accuracy=accuracy, n=300)
    assert said in found.sentence and found.sentence.endswith(".") and found.name in NAMES
    assert "nan" not in found.sentence or found.name == "flat"


@pytest.mark.parametrize(
    ("numbers", "settings", "problem"),
    [
        ([], {"accuracy": [], "n": 1}, "sizes of shape (0,): expected (k,) with k at least 1"),
        ([1, 0], {"accuracy": [0.5, 0.5], "n": 9}, "sizes [1.0, 0.0]: expected positive numbers"),
        ([1, 1], {"accuracy": [0.5, 0.5], "n": 9}, "sizes [1.0, 1.0]: expected different sizes, one model each"),
        ([1, 2], {"accuracy": [0.5, 1.5], "n": 9}, "accuracy [0.5, 1.5]: expected 2 numbers from 0 to 1"),
        ([1, 2], {"accuracy": [0.5, math.nan], "n": 9}, "accuracy [0.5, nan]: expected 2 numbers from 0 to 1"),
        (
            [1, 2],
            {"accuracy": [0.5, 0.5], "n": [9, 9, 9]},
            "n [9.0, 9.0, 9.0]: expected one number of items, or 2, 2 or more",
        ),
        ([1, 2], {"accuracy": [0.5, 0.5]}, "expected either outcomes, or accuracy with n or with se"),
        ([1, 2], {}, "expected either outcomes, or accuracy with n or with se"),
        ([1, 2], {"outcomes": [[1, 0]]}, "outcomes of shape (1, 2): expected (2, 2 items or more) finite numbers"),
        ([1, 2], {"outcomes": [[1, 0], [1, math.nan]]}, "outcomes of shape (2, 2): expected"),
        ([1, 2], {"accuracy": [0.5, 0.5], "n": 9, "level": 95}, "level 95: expected a number between 0 and 1"),
        (
            [1, 2],
            {"accuracy": [0.5, 0.5], "n": 9, "se": 0.1},
            "expected either outcomes, or accuracy with n or with se",
        ),
        ([1, 2], {"outcomes": [[1, 0], [1, 0]], "se": 0.1}, "expected either outcomes, or accuracy with n or with se"),
        ([1, 2], {"accuracy": [0.5, 0.5], "se": [0.1, 0]}, "se [0.1, 0.0]: expected one standard error over 0, or 2"),
        (
            [1, 2],
            {"accuracy": [0.5, 0.5], "n": 9, "over": "time"},
            "over 'time': expected one of parameters, tokens, FLOPs",
        ),
        ([1, 2], {"accuracy": [0.5, 0.5], "n": 9, "between_model_sd": -1}, "between_model_sd -1: expected 0 or more"),
    ],
)
def test_bad_numbers_are_refused(numbers, settings, problem):
    with pytest.raises(InputError) as caught:
        shape(numbers, **settings)
    assert problem in str(caught.value)


def test_standard_errors_do_for_a_number_of_items():
    accuracy, n = np.array([0.9, 0.8, 0.5, 0.4, 0.1]), 5000
    by_n = shape(SIZES[5], accuracy=accuracy, n=n)
    by_se = shape(SIZES[5], accuracy=accuracy, se=np.sqrt(accuracy * (1 - accuracy) / n))
    assert (by_se.name, by_se.change, by_se.p) == (by_n.name, by_n.change, by_n.p)
    assert by_se.change_hi == pytest.approx(by_n.change_hi, abs=1e-4)
    assert shape(SIZES[5], accuracy=[0.5] * 5, se=0.1).name == "undecided"
    assert shape(SIZES[5], accuracy=[0.5] * 5, se=0.01).name == "flat"


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (
            "tokens",
            "Accuracy falls with training, by -0.27 (95 % interval -0.28 to -0.25) per tenfold training tokens; "
            "from the first to the last of 5 checkpoints it changes by -0.80",
        ),
        ("FLOPs", "per tenfold training FLOPs; from the least trained to the most trained of 5 models it changes by"),
    ],
)
def test_words_follow_what_changes(over, said):
    assert said in shape(SIZES[5], accuracy=[0.9, 0.8, 0.5, 0.4, 0.1], n=300, over=over).sentence
    turned = shape(SIZES[5], accuracy=[0.9, 0.6, 0.3, 0.6, 0.9], n=300, over=over).sentence
    assert f"from 3.16 million training {over} on, by +0.40" in turned
    assert "it turns between 562 thousand and 17.8 million (95 % interval)." in turned


# ---- curve tables


def curve(accuracy, side="conflict", task="t", n=300):
    return [
        {
            "model": f"m{i}",
            "n_params": int(SIZES[len(accuracy)][i]),
            "task": task,
            "side": side,
            "accuracy": a,
            "accuracy_lo": a,
            "accuracy_hi": a,
            "loss": 1.0,
            "loss_lo": 1.0,
            "loss_hi": 1.0,
            "coverage": 0.9,
            "ties": 0,
            "n": n,
            "baseline": None,
        }
        for i, a in reversed(list(enumerate(accuracy)))
    ]


def test_a_curve_table_gives_its_shape():
    rows = curve([0.9, 0.6, 0.3, 0.1]) + curve([0.5, 0.6, 0.8, 0.95], side="plain")
    made = table("curve", rows, RUN)
    found = shape_of_curve(made)
    expected = shape([int(x) for x in SIZES[4]], accuracy=[0.9, 0.6, 0.3, 0.1], n=300)
    assert isinstance(found, Shape) and found == expected and found.name == "inverse"
    assert shape_of_curve(made, "plain").name == "positive"


def test_a_curve_table_that_does_not_answer_is_refused():
    two = table("curve", curve([0.9, 0.6, 0.3]) + curve([0.1, 0.6, 0.9], task="u"), RUN)
    assert shape_of_curve(two, task="u").name == "positive"
    with pytest.raises(InputError, match="task None: expected one of t, u"):
        shape_of_curve(two)
    with pytest.raises(InputError, match="task 'v': expected one of t, u"):
        shape_of_curve(two, task="v")
    with pytest.raises(InputError, match="side 'item': expected one of conflict"):
        shape_of_curve(two, "item")
    with pytest.raises(InputError, match="n is missing"):
        shape_of_curve(table("curve", curve([0.9, 0.6, 0.3], n=None), RUN))
    with pytest.raises(InputError, match="table 'stability': expected a table 'curve'"):
        shape_of_curve(table("stability", [], RUN))
