"""Published tables: what is read, what is known beside it, and a published study's regressions number by number."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import isp_mech as im
from isp_mech.errors import InputError
from isp_mech.scaling import regressions, shape, shapes
from isp_mech.scaling.published_results import human_agreement, named_size, observations_of, published, training_tokens
from isp_mech.tables import concat, make_run, table

PYTHIA = Path(__file__).parents[3] / "shared" / "data" / "published" / "pythia-prize-accuracy.tsv"
needs_pythia = pytest.mark.skipif(not PYTHIA.exists(), reason="the published numbers are not there")
RUN = make_run(model="mine", task="t", method="score")

# t of log10 parameters, log10 tokens and their interaction, as Michaelov and Bergen 2023 give them (repository
# jmichaelov/emergent-inabilities, statistical_analysis/statistical_tests.tsv), and which of them stay under 0.05
# after Benjamini-Hochberg over all 36
STUDY = {
    "isp_hindsight_neglect": ((-4.22, -4.69, -2.88), "111"),
    "isp_into_the_unknown": ((-0.31, 2.04, 0.02), "000"),
    "isp_memo_trap": ((-10.05, -11.34, -9.71), "111"),
    "isp_modus_tollens": ((-0.16, -2.13, -1.5), "000"),
    "isp_neqa": ((0.79, -0.08, 2.45), "001"),
    "isp_pattern_matching_suppression": ((-3.2, -9.58, -6.37), "111"),
    "isp_redefine": ((0.6, -0.79, -1.53), "000"),
    "isp_repetitive_algebra": ((-0.49, -2.11, -1.0), "000"),
    "isp_resisting_correction": ((5.13, 5.63, -1.89), "110"),
    "isp_sig_figs": ((-0.59, -0.74, -1.46), "000"),
    "truthfulqa_mc1": ((-10.9, -11.45, -2.97), "111"),
    "truthfulqa_mc2": ((-24.72, -23.89, -12.02), "111"),
}
STUDY_Q = {  # those that the study gives as numbers
    ("isp_hindsight_neglect", "interaction"): 0.012, ("isp_into_the_unknown", "size"): 0.824,
    ("isp_into_the_unknown", "tokens"): 0.079, ("isp_into_the_unknown", "interaction"): 0.986,
    ("isp_modus_tollens", "tokens"): 0.071, ("isp_neqa", "size"): 0.559, ("isp_neqa", "interaction"): 0.034,
    ("isp_pattern_matching_suppression", "size"): 0.005, ("isp_redefine", "size"): 0.645,
    ("isp_repetitive_algebra", "interaction"): 0.443, ("isp_resisting_correction", "interaction"): 0.104,
    ("isp_sig_figs", "interaction"): 0.215, ("truthfulqa_mc1", "interaction"): 0.01,
}  # fmt: skip


def _file(tmp_path, text, name="numbers.tsv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_published_numbers_become_a_curve(tmp_path):
    path = _file(tmp_path, "Model,Task,Accuracy,SE,N\nEleutherAI/pythia-70m,neqa,0.5,0.1,300\nmine,neqa,1,,\n", "a.csv")
    with pytest.raises(InputError, match="line 3: n_params of mine is not known, expected a column n_params"):
        published(path)
    path = _file(
        tmp_path, "model\ttask\taccuracy\taccuracy_se\tn_params\npythia-70m\tneqa\t0.5\t0.1\t\nmine\tneqa\t1\t0.2\t7\n"
    )
    read = published(path)
    table = read.curve
    assert table.name == "curve" and list(table.frame["model"]) == ["pythia-70m", "mine"]
    assert list(table.frame["n_params"]) == [18_915_328, 7]
    assert table.frame["accuracy_lo"].tolist() == pytest.approx([0.5 - 0.196, 1 - 0.392])
    assert table.frame["accuracy_hi"].tolist() == pytest.approx([0.696, 1.0])
    assert set(table.frame["side"]) == {"item"} and table.run.method == "published numbers"
    assert im.figures.scaling_curve(read).axes


def test_published_revisions_stay_apart(tmp_path):
    text = "model\trevision\ttask\taccuracy\npythia-70m\tstep1\tt\t0.5\npythia-70m\tstep2\tt\t0.25\n"
    assert list(published(_file(tmp_path, text)).curve.frame["model"]) == ["pythia-70m@step1", "pythia-70m@step2"]
    one = published(_file(tmp_path, text), revision="step2").curve.frame
    assert list(one["model"]) == ["pythia-70m"] and list(one["accuracy"]) == [0.25]
    with pytest.raises(InputError, match="no row of revision 'step3', expected one of step1, step2"):
        published(_file(tmp_path, text), revision="step3")


def test_tasks_by_ones_own_names(tmp_path):
    path = _file(tmp_path, "model\ttask\taccuracy\ngpt2\tisp_neqa\t0.5\ngpt2\tother\t0.4\n")
    read = published(path, tasks={"isp_neqa": "neqa"})
    assert read.curve.frame["task"].tolist() == read.observations.frame["task"].tolist() == ["neqa", "other"]
    with pytest.raises(InputError, match="tasks: no task 'neqa' in the file"):
        published(path, tasks={"neqa": "x"})


def test_published_tells_all_bad_cells(tmp_path):
    rows = [
        "pythia-70m\tt\t50\t",
        "pythia-70m\t\t0.5\t",
        "pythia-70m\tt\t0.5",
        "gpt2\tt\t0.5\tx",
        "gpt2\tu\t0.5\t",
        "gpt2\tu\t0.1\t",
    ]
    path = _file(tmp_path, "model\ttask\taccuracy\tse\n" + "\n".join(rows) + "\n")
    with pytest.raises(InputError) as caught:
        published(path)
    assert list(caught.value.problems) == [
        "line 2: accuracy '50', expected a number from 0 to 1",
        "line 3: task is empty, expected a name",
        "line 4: expected 4 cells, found 3",
        "line 5: se 'x', expected a number from 0 to 1",
        "line 7: gpt2 on u is on line 6 already, expected it once",
    ]
    with pytest.raises(InputError, match="line 1: no column 'task' among model, accuracy"):
        published(_file(tmp_path, "model\taccuracy\nx\t1\n"))
    with pytest.raises(InputError, match="expected rows under the header"):
        published(_file(tmp_path, "model\ttask\taccuracy\n"))


def test_what_is_known_of_a_model_stands_beside_its_accuracy(tmp_path):
    text = (
        "model\trevision\ttask\taccuracy\tn_params\ttokens\tflops\tfamily\tbaseline\tcolour\n"
        "EleutherAI/pythia-1.4b\tstep2000\tt\t0.5\t\t\t\t\t0.25\tred\n"
        "Gopher-280B\t\tt\t0.5\t280e9\t3e11\t\t\t\t\n"
        "chinchilla\t\tt\t0.5\t7e10\t1.4e12\t5.76e23\tChinchilla\t\t\n"
        "mine\tfinal\tt\t0.5\t1000\t\t\t\t\t\n"
    )
    frame = published(_file(tmp_path, text)).observations.frame
    assert list(frame["model"]) == ["pythia-1.4b", "Gopher-280B", "chinchilla", "mine"]
    assert list(frame["family"]) == ["pythia", "Gopher", "Chinchilla", "mine"]
    assert list(frame["n_params"]) == [1_208_602_624, 280_000_000_000, 70_000_000_000, 1000]
    assert frame["nominal_params"].tolist() == pytest.approx([1.4e9, 2.8e11, math.nan, math.nan], nan_ok=True)
    assert frame["tokens"].tolist() == pytest.approx([2000 * 1024 * 2048, 3e11, 1.4e12, math.nan], nan_ok=True)
    six = [6 * 1_208_602_624 * 2000 * 2_097_152, 6 * 280e9 * 3e11, 5.76e23, math.nan]
    assert frame["flops"].tolist() == pytest.approx(six, nan_ok=True)
    assert list(frame["revision"]) == ["step2000", "", "", "final"]
    assert frame["baseline"].tolist() == pytest.approx([0.25, *[math.nan] * 3], nan_ok=True)


def test_a_baseline_only_where_the_file_gives_one(tmp_path):
    given = _file(tmp_path, "model,task,accuracy,baseline\ngpt2,t,0.5,0.25\ngpt2,u,0.5,\n", "a.csv")
    assert published(given).curve.frame["baseline"].tolist() == pytest.approx([0.25, math.nan], nan_ok=True)
    figure = im.figures.scaling_curve(published(given))
    lines = [[one.get_label() for one in ax.get_lines()] for ax in figure.axes]
    assert ["guessing" in labels for labels in lines] == [True, False]


def _with_errors(tmp_path, task, numbers):
    rows = [f"m{i}\t{task}\t{a}\t{se}\t{10**i}" for i, (a, se) in enumerate(numbers, 1)]
    return published(_file(tmp_path, "model\ttask\taccuracy\tse\tn_params\n" + "\n".join(rows) + "\n"))


def _se(right, n):
    return (right / n, math.sqrt(right / n * (1 - right / n) / (n - 1)))


def test_items_are_counted_from_standard_errors_that_agree(tmp_path):
    read = _with_errors(tmp_path, "t", [_se(100, 300), _se(7, 300), (0.0, 0.0), (1.0, 0.0)])
    assert list(read.observations.frame["n"]) == [300] * 4 == list(read.curve.frame["n"])
    assert read.curve.run.notes == ("items of t: 300, as its standard errors say",)
    for numbers in (
        [_se(100, 300), _se(100, 310)],  # not the same number
        [_se(100, 300)],  # one alone says nothing
        [(0.4, 0.01), (0.6, 0.03)],  # no right and wrong
        [_se(100, 300), _se(7, 300), (0.3, 0.0)],
    ):
        read = _with_errors(tmp_path, "t", numbers)
        assert read.observations.frame["n"].isna().all() and not read.curve.run.notes


def test_ones_own_curve_stands_beside():
    rows = [{"model": f"m{i}", "n_params": 10**i, "task": "t", "side": side, "accuracy": 0.1 * i, "accuracy_lo": 0.0,
             "accuracy_hi": 1.0, "loss": 1.0, "loss_lo": 1.0, "loss_hi": 1.0, "coverage": 0.9, "ties": 0, "n": 100,
             "baseline": None} for i in (3, 4, 5) for side in ("conflict", "plain")]  # fmt: skip
    curve = table("curve", rows, RUN)
    mine = observations_of(curve, family="mine", side="conflict", tokens={"m3": 10.0, "m5": 1000.0})
    assert list(mine.frame["model"]) == ["m3", "m4", "m5"] and set(mine.frame["family"]) == {"mine"}
    assert mine.frame["flops"].tolist() == pytest.approx([6 * 1e3 * 10, math.nan, 6 * 1e5 * 1000], nan_ok=True)
    assert mine.frame["accuracy_se"].tolist() == pytest.approx([math.sqrt(p * (1 - p) / 100) for p in (0.3, 0.4, 0.5)])
    assert shapes(mine).frame["name"].tolist() == ["positive"]
    both = concat([mine, observations_of(curve, family="again")])
    assert shapes(both).frame[["family", "side"]].to_numpy().tolist() == [
        ["mine", "conflict"], ["again", "conflict"], ["again", "plain"]]  # fmt: skip
    with pytest.raises(InputError) as caught:
        observations_of(curve, family="mine", side="item", tokens={"x": 1.0})
    assert list(caught.value.problems) == [
        "tokens of 'x': no such model", "side 'item': expected one of conflict, plain"]  # fmt: skip
    with pytest.raises(InputError, match="table 'observations': expected a table 'curve'"):
        observations_of(mine, family="mine")


def test_sizes_tokens_and_people():
    assert [named_size(name) for name in ("pythia-70m", "a/opt-6.7b", "PaLM-540B", "gpt2", "b4", "x-1b-deduped")] == [
        70e6, 6.7e9, 540e9, None, None, 1e9]  # fmt: skip
    assert training_tokens("pythia-12b-deduped", "step143000") == 143_000 * 2_097_152
    assert [training_tokens(*m) for m in (("pythia-12b", "main"), ("opt-125m", "step5"), ("pythia-1b", "step0"))] == [
        None, None, None]  # fmt: skip
    people = [human_agreement(task) for task in im.contrast_names()[:4]]  # the prize's
    assert sorted(people) == [0.98, 1.0, 1.0, 1.0] and human_agreement("neqa") == 0.98
    assert human_agreement("hindsight-neglect-10shot_classification") == 1.0 and human_agreement("isp_neqa") is None


def test_a_count_is_whole(tmp_path):
    with pytest.raises(InputError) as caught:
        published(_file(tmp_path, "model,task,accuracy,n,n_params\na,t,0.5,3.5,10\nb,t,0.5,3,1.5\n", "a.csv"))
    assert list(caught.value.problems) == [
        "line 2: n '3.5', expected a whole number from 1 to 1e+12",
        "line 3: n_params '1.5', expected a whole number from 1 to 1e+15",
    ]


ODD = ["gpt2", "t", "0.5", "1", "nan", "1e400", "-1", "1_0", '"', "\r", "/", "a/"]
CELLS = st.one_of(st.text(max_size=8), st.sampled_from(ODD))
LINES = st.lists(st.lists(CELLS, min_size=3, max_size=5).map("\t".join), max_size=4).map("\n".join)


@given(st.one_of(st.text(max_size=60), LINES))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.tsv"
    path.write_text("model\ttask\taccuracy\tn_params\n" + text, encoding="utf-8", errors="surrogatepass")
    try:
        assert len(published(path).observations) >= 1
    except InputError as error:
        assert error.problems and str(path) in str(error)


# --- shapes and regressions of tables -------------------------------------------------------------


def observed(rows):
    empty = {"side": "item", "nominal_params": None, "flops": None, "accuracy_lo": None, "accuracy_hi": None,
             "accuracy_se": None, "n": 300, "baseline": None, "revision": "", "tokens": None, "task": "t"}  # fmt: skip
    return table("observations", [empty | row for row in rows], RUN)


def test_every_curve_of_a_table_gets_its_shape():
    falls, rises = (0.9, 0.6, 0.4, 0.1), (0.1, 0.4, 0.6, 0.9)
    rows = [
        {"family": family, "model": f"{family}{i}", "n_params": 10**i, "revision": revision, "tokens": tokens,
         "flops": 6.0 * 10**i * tokens, "accuracy": (falls if family == "f" else rises)[i - 4]}
        for family in ("f", "g") for revision, tokens in (("early", 1e9), ("late", 1e11)) for i in (7, 4, 5, 6)
    ]  # fmt: skip
    found = shapes(observed(rows)).frame
    assert found[["family", "held", "name", "n_sizes"]].to_numpy().tolist() == [
        [f, held, name, 4] for f, name in (("f", "inverse"), ("g", "positive")) for held in ("early", "late")
    ]
    alone = shape([1e4, 1e5, 1e6, 1e7], accuracy=falls, n=300)
    first = found.iloc[0]
    assert (first["slope"], first["change_lo"], first["sentence"]) == (
        alone.slopes[0].value, alone.change_lo, alone.sentence)  # fmt: skip
    assert math.isnan(first["slope_after"]) and math.isnan(first["turn"]) and first["n_params"] == 10**7
    assert found["q"].tolist() == pytest.approx(scipy.stats.false_discovery_control(found["p"]).tolist())
    over_tokens = shapes(observed(rows), over="tokens").frame
    assert set(over_tokens["held"]) == {f"{f}{i}" for f in "fg" for i in (4, 5, 6, 7)}
    assert set(over_tokens["name"]) == {"undecided"} and set(over_tokens["n_sizes"]) == {2}
    assert "per tenfold training FLOPs" in shapes(observed(rows), over="FLOPs").frame["sentence"][0]


def test_a_table_that_lacks_a_number_is_refused():
    rows = [{"family": "f", "model": f"f{i}", "n_params": i, "accuracy": 0.5} for i in (1, 2, 3)]
    with pytest.raises(InputError, match="f f1 on t: tokens is missing for f1"):
        shapes(observed(rows), over="tokens")
    with pytest.raises(InputError, match="f on t: neither n nor accuracy_se is given for every row"):
        shapes(observed([row | {"n": None} for row in rows]))
    with pytest.raises(InputError, match="over 'time': expected one of parameters, tokens, FLOPs"):
        shapes(observed(rows), over="time")
    with pytest.raises(InputError, match="f on t: sizes .*: expected different sizes, one model each"):
        shapes(observed([row | {"n_params": 5} for row in rows]))
    with pytest.raises(InputError, match="table 'stability': expected a table 'observations'"):
        shapes(table("stability", [], RUN))
    with pytest.raises(InputError, match="table 'stability': expected a table 'observations'"):
        regressions(table("stability", [], RUN))
    with pytest.raises(InputError, match="size 'width': expected one of n_params, nominal_params, flops"):
        regressions(observed(rows), size="width")
    with pytest.raises(InputError, match="f on t: nominal_params is missing for f1, f2, f3: expected a number"):
        regressions(observed(rows), size="nominal_params")
    with pytest.raises(InputError, match="f on t: neither size nor tokens vary"):
        regressions(observed([row | {"n_params": 5} for row in rows]))
    with pytest.raises(InputError, match="f on t: 2 rows and 2 predictors: expected more rows than predictors"):
        regressions(observed(rows[:2]))


def test_a_line_over_size_alone_is_scipys():
    rng = np.random.default_rng(0)
    sizes, accuracy = 10 ** np.arange(4, 10), rng.uniform(size=6)
    rows = [{"family": "f", "model": f"f{n}", "n_params": int(n), "accuracy": a}
            for n, a in zip(sizes, accuracy, strict=True)]  # fmt: skip
    (row,) = regressions(observed(rows)).frame.to_dict("records")
    z = scipy.stats.zscore(np.log10(sizes), ddof=1)
    theirs = scipy.stats.linregress(z, accuracy)
    assert (row["term"], row["df"], row["n"]) == ("size", 4, 6)
    assert (row["coefficient"], row["se"], row["p"]) == pytest.approx((theirs.slope, theirs.stderr, theirs.pvalue))
    assert row["beta"] == pytest.approx(theirs.rvalue) and row["q"] == row["p"]
    half = scipy.stats.t.ppf(0.975, 4) * theirs.stderr
    assert row["coefficient_hi"] - row["coefficient"] == pytest.approx(half)


@needs_pythia
def test_the_published_pythia_numbers():
    read = published(PYTHIA)
    assert len(read.curve) == len(read.observations) == 768
    frame = read.observations.frame
    assert set(frame["family"]) == {"pythia"} and frame["model"].nunique() == 8 and frame["tokens"].nunique() == 8
    assert sorted(set(frame["nominal_params"])) == [70e6, 160e6, 410e6, 1e9, 1.4e9, 2.8e9, 6.9e9, 12e9]
    counts = frame.groupby("task")["n"].first()
    assert (counts["isp_neqa"], counts["isp_hindsight_neglect"], counts["truthfulqa_mc1"]) == (300, 315, 817)
    assert frame.loc[frame["n"].isna(), "task"].unique().tolist() == ["truthfulqa_mc2"]
    last = published(PYTHIA, revision="step143000")
    assert len(last.curve) == 96 and set(last.curve.frame["model"]) == set(frame["model"])
    names = shapes(last.observations).frame.set_index("task")["name"]
    assert len(names) == 12 and names["isp_memo_trap"] == names["truthfulqa_mc2"] == "inverse"
    assert names["isp_neqa"] == names["isp_into_the_unknown"] == "flat"
    assert len(shapes(read.observations, over="tokens")) == 96


@needs_pythia
def test_the_published_regressions_number_by_number():
    made = regressions(published(PYTHIA).observations, size="nominal_params").frame
    assert len(made) == 36 and set(made["df"]) == {60} and set(made["n"]) == {64}
    for row in made.itertuples():
        term = ("size", "tokens", "interaction").index(row.term)
        assert abs(row.t - STUDY[row.task][0][term]) <= 0.0051  # the study gives two digits; 0.15 was asked for
        assert row.significant == (STUDY[row.task][1][term] == "1"), (row.task, row.term)
        if (row.task, row.term) in STUDY_Q:
            assert row.q == pytest.approx(STUDY_Q[row.task, row.term], abs=0.00051)


@needs_pythia
@pytest.mark.parametrize("size", ["nominal_params", "n_params"])
def test_the_regressions_agree_with_normal_equations(size):
    observations = published(PYTHIA).observations
    made = regressions(observations, size=size).frame.set_index(["task", "term"])
    p = {}
    for task, rows in observations.frame.groupby("task"):
        a, b = (scipy.stats.zscore(np.log10(rows[c].to_numpy(float)), ddof=1) for c in (size, "tokens"))
        x = np.stack([np.ones(64), a, b, a * b])
        y = rows["accuracy"].to_numpy(float)
        coefficient = np.linalg.solve(x @ x.T, x @ y)
        variance = ((y - coefficient @ x) ** 2).sum() / 60 * np.diag(np.linalg.inv(x @ x.T))
        for i, term in enumerate(("size", "tokens", "interaction"), 1):
            row, t = made.loc[(task, term)], coefficient[i] / math.sqrt(variance[i])
            assert row["coefficient"] == pytest.approx(coefficient[i], abs=1e-9)
            assert row["beta"] == pytest.approx(coefficient[i] / y.std(ddof=1), abs=1e-9)
            assert row["t"] == pytest.approx(t, abs=1e-6)
            p[task, term] = 2 * scipy.stats.t.sf(abs(t), 60)
            assert row["p"] == pytest.approx(p[task, term], rel=1e-6)
    q = scipy.stats.false_discovery_control(list(p.values()))
    assert [made.loc[key, "q"] for key in p] == pytest.approx(list(q), rel=1e-6)
