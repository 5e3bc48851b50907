"""Files as the prize's evaluator and lm-evaluation-harness write them, made from scores of our own, and read back."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from isp_mech.contrasts import contrast
from isp_mech.errors import InputError
from isp_mech.scaling.evaluator_files import read_results
from isp_mech.scaling.item_flips import flips
from isp_mech.scoring import metrics
from isp_mech.scoring.completion_logprobs import cases_of
from isp_mech.tables import Table, make_run, table
from isp_mech.tasks import Item, Task

SIZES = {"ladder-25k": 25_536, "ladder-100k": 98_304}


@pytest.fixture(scope="module")
def task():
    pairs = contrast("neqa", n=30, seed=4)
    return Task("neqa", tuple(Item(p.id, p.conflict.text, p.classes, p.answer_index) for p in pairs))


@dataclass(frozen=True)
class Scored:
    """What ``score`` gives for drawn log-probabilities: its own tables, and the numbers themselves."""

    items: Table
    curve: Table
    logprobs: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def scored(task):
    rng, run = np.random.default_rng(3), make_run(model="", task="neqa", method="drawn", seed=0)
    drawn = {model: rng.uniform(-6, -0.1, (len(task), 2)) - np.log(2) for model in SIZES}
    cases, items, curve = cases_of(task), [], []
    for model, n_params in SIZES.items():
        head = {"model": model, "n_params": n_params, "task": "neqa"}
        judged = [metrics.judge(case, values) for case, values in zip(cases, drawn[model], strict=True)]
        items += [{**head, "item": c.item, "side": "item", **row} for c, row in zip(cases, judged, strict=True)]
        curve += metrics.curve_rows(head, cases, judged, metrics.baselines(task, cases), 0)
    return Scored(table("items", items, run), table("curve", curve, run), drawn)


def _write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _evaluator_rows(scored, task, model, *, predicted=True):
    """What the prize's evaluator writes, its index counted from 0."""
    items = scored.items.frame
    rows = []
    for place, row in enumerate(items[items["model"] == model].to_dict("records")):
        told = {"index": place, "loss": row["loss"], "correct": int(row["correct"])}
        told |= {"predicted": task[place].classes[row["predicted_index"]]} if predicted else {}
        rows.append(told | {"total_logprob": row["total_logprob"]})
    return rows


def _samples(scored, task, model, *, as_text=False):
    """What lm-evaluation-harness logs, in an order of its own."""
    lines = []
    for place, item in enumerate(task):
        values = [[str(v), "False"] if as_text else [v, False] for v in scored.logprobs[model][place].tolist()]
        doc = {"prompt": item.prompt, "classes": list(item.classes), "answer_index": item.answer}
        lines.append({"doc_id": place, "doc": doc, "target": item.answer, "filtered_resps": values, "filter": "none"})
    return "".join(json.dumps(line) + "\n" for line in reversed(lines))


def _same(ours, theirs, columns):
    for name in columns:
        if ours[name].dtype == float:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6, rtol=0)
        else:
            assert ours[name].tolist() == theirs[name].tolist(), name


@pytest.mark.parametrize("predicted", [True, False])
def test_the_prizes_evaluator(predicted, task, scored, tmp_path):
    files = [
        _write(tmp_path / f"{m}.csv", _evaluator_rows(scored, task, m, predicted=predicted)) for m in reversed(SIZES)
    ]
    read = read_results(files, task, n_params=SIZES)
    _same(scored.items.frame, read.items.frame, [c for c in scored.items.frame if c != "n_params"])
    _same(scored.curve.frame, read.curve.frame, [c for c in scored.curve.frame if c != "n_params"])
    assert flips(read).flip_steps.frame["lost"].tolist() == flips(scored).flip_steps.frame["lost"].tolist()
    assert read.values is None and read.items.run.settings["metric"] == "classification"


@pytest.mark.parametrize("as_text", [True, False])
def test_logged_samples_and_the_accuracies_beside_them(as_text, task, scored, tmp_path):
    files = []
    for model in SIZES:
        folder = tmp_path / f"somebody__{model}"
        folder.mkdir()
        (folder / "samples_neqa_1.jsonl").write_text(_samples(scored, task, model, as_text=as_text), encoding="utf-8")
        files.append(folder / "samples_neqa_1.jsonl")
    named = dict(zip(SIZES, files, strict=True))
    read = read_results(named, task, n_params=SIZES)
    _same(scored.items.frame, read.items.frame, [c for c in scored.items.frame if c != "n_params"])
    theirs = read_results(files, task, n_params={f"somebody/{model}": n for model, n in SIZES.items()})
    assert theirs.items.frame["model"].tolist() == read.items.frame["model"].tolist()
    share = float(scored.curve.frame["accuracy"].iloc[0])
    results = tmp_path / "results_1.json"
    told = {"results": {"inverse_scaling_neqa": {"acc,none": share, "acc_stderr,none": 0.05}}}
    told |= {"model_name": "somebody/ladder-25k", "n-samples": {"inverse_scaling_neqa": {"effective": 30}}}
    results.write_text(json.dumps(told), encoding="utf-8")
    both = read_results([files[0], results], task, n_params={"somebody/ladder-25k": SIZES["ladder-25k"]})
    assert len(both.items.frame) == 30 and len(both.curve.frame) == 1
    told["results"]["inverse_scaling_neqa"]["acc,none"] = share - 0.1
    results.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(InputError, match="somebody/ladder-25k: accuracy .* in one file, .* in another"):
        read_results([files[0], results], task, n_params={"somebody/ladder-25k": SIZES["ladder-25k"]})


def test_accuracies_alone(task, tmp_path):
    old = {"results": {"isp_neqa": {"acc": 0.45, "acc_stderr": 0.02, "acc_norm": 0.45}, "isp_other": {"acc": 1}}}
    old |= {"config": {"model": "hf", "model_args": "pretrained=EleutherAI/pythia-70m,revision=step1000"}}
    path = tmp_path / "pythia.json"
    path.write_text(json.dumps(old), encoding="utf-8")
    read = read_results([path], task)
    row = read.curve.frame.iloc[0]
    assert (row["model"], row["n_params"], row["accuracy"]) == ("pythia-70m", 18_915_328, 0.45)
    assert row["accuracy_lo"] == pytest.approx(0.45 - 1.96 * 0.02) and math.isnan(row["loss"]) and not len(read.items)
    assert row["baseline"] == 0.5


def test_other_metrics(tmp_path):
    prompts = [Item(str(i), f"p{i}", (" x",)) for i in range(3)]
    path = _write(tmp_path / "gpt2.csv", [{"index": i, "loss": i + 0.5} for i in range(3)])
    read = read_results([path], Task("prompt-injection", tuple(prompts), "sequence_prob"))
    assert read.values.frame["value"].tolist() == [0.5, 1.5, 2.5] and read.value_curve.frame["value"].tolist() == [1.5]
    assert not len(read.items) and not len(read.curve)
    odds = Task("odds", tuple(Item(str(i), "p", (" A", " B"), 0, "o") for i in range(2)), "logodds")
    rows = [{"index": i, "logodds_difference": 1 - 2 * i, "correct": i, "total_logprob": -1} for i in range(2)]
    read = read_results([_write(tmp_path / "gpt2-xl.csv", rows)], odds)
    assert read.values.frame["value"].tolist() == [1.0, -1.0] and read.curve.frame["accuracy"].tolist() == [0.5]
    numbers = Task("numbers", (Item("0", "p", ()),), "numeric")
    read = read_results([_write(tmp_path / "gpt2-large.csv", [{"index": 0, "estimate": 12.5}])], numbers)
    assert read.values.frame["value"].tolist() == [12.5]


def _problems(rows, task, tmp_path, name="gpt2.csv"):
    path = _write(tmp_path / name, rows) if isinstance(rows, list) else tmp_path / name
    if not isinstance(rows, list):
        path.write_text(rows, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_results([path], task)
    return caught.value.problems


def test_rows_that_do_not_fit_the_items(task, scored, tmp_path):
    good = _evaluator_rows(scored, task, "ladder-25k")
    for row in good:  # the verdict that two classes' loss allows
        row |= {"loss": 0.1, "correct": 1, "predicted": task[row["index"]].classes[task[row["index"]].answer]}
    assert _problems(good[:-2], task, tmp_path) == ("gpt2.csv: 2 of 30 items are missing, the first of them 28",)
    bad = [dict(row) for row in good]
    bad[0]["index"], bad[1]["index"], bad[2]["loss"], bad[3]["correct"] = 30, 4, 2.0, 0
    bad[5]["predicted"], bad[6]["correct"], bad[7]["loss"], bad[8]["total_logprob"] = " C", "yes", -1, 3
    bad[1]["predicted"] = good[4]["predicted"]
    bad[9] |= {"predicted": next(c for c in task[9].classes if c != good[9]["predicted"])}
    wrong = bad[9]["predicted"], good[9]["predicted"]
    assert _problems(bad, task, tmp_path) == (
        "gpt2.csv: line 2: item '30', expected a place from 0 to 29",
        "gpt2.csv: line 4: correct with a loss of 2, expected 0.6931 or less",
        "gpt2.csv: line 5: not correct with a loss of 0.1, expected 0.6931 or more of two classes",
        "gpt2.csv: line 6: item 4 is there twice, expected it once",
        "gpt2.csv: line 7: predicted ' C', expected one of [' A', ' B']",
        "gpt2.csv: line 8: correct 'yes', expected 0 or 1",
        "gpt2.csv: line 9: loss '-1', expected a number of 0 or more",
        "gpt2.csv: line 10: total_logprob '3', expected a number",
        f"gpt2.csv: line 11: predicted {wrong[0]!r}, correct 1: the answer is {wrong[1]!r}",
    )
    assert "columns correct, loss: expected index and loss, correct (metric classification)" in _problems(
        [{"loss": 0.1, "correct": 1}], task, tmp_path
    )[0]  # fmt: skip
    assert _problems(good, task, tmp_path, "ada.csv")[0].startswith(
        "n_params of 'ada' is not known, expected n_params="
    )


def test_samples_and_accuracies_that_do_not_fit(task, scored, tmp_path):
    lines = [json.loads(line) for line in _samples(scored, task, "ladder-25k").splitlines()]
    lines[0]["doc"]["prompt"], lines[1]["filtered_resps"], lines[2]["doc_id"] = "Other", [[-1.0, False]], None
    problems = _problems("".join(json.dumps(line) + "\n" for line in lines), task, tmp_path, "samples.jsonl")
    assert [problem.split(": ", 2)[2] for problem in problems[:3]] == [
        "another prompt than the task's item 'neqa-29': 'Other'",
        "1 log-probabilities, expected 2, one for every class",
        "item None, expected a place from 0 to 29",
    ]
    told = {"results": {"neqa": {"acc": 45}}, "n-samples": {"neqa": {"effective": 20}}, "model_name": "gpt2"}
    assert _problems(json.dumps(told), task, tmp_path, "results.json") == (
        "results.json: neqa: acc 45, expected a share from 0 to 1",
        "results.json: neqa: 20 items, but the task has 30",
    )
    assert "expected those of neqa once" in _problems('{"results": {"x": {}}}', task, tmp_path, "r.json")[0]
    assert "as lm-evaluation-harness writes" in _problems("[1]", task, tmp_path, "r.json")[0]
    assert "no model is named" in _problems('{"results": {"neqa": {"acc": 0.5}}}', task, tmp_path, "r.json")[0]
    assert "suffix '.txt', expected .csv, .jsonl or .json" in _problems("x", task, tmp_path, "r.txt")[0]
    with pytest.raises(InputError, match="no files, expected one or more"):
        read_results([], task)
