"""``--json``: one document on stdout, nothing else there, with the numbers as they are stored."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import isp_mech as im
from isp_mech.cli.answers import plain, rows
from isp_mech.cli.main import main
from isp_mech.cli.parser import TABULAR
from isp_mech.runs import explain as explaining

N = 6
MEASURING = {
    "score": ("curve",),
    "trace": ("onset",),
    "locate": ("sites",),
    "block": ("head_roles", "role_stability"),
    "verify": ("verification",),
    "restore": ("restoration",),
    "explain": ("curve",),
}
MEASURING = {verb: names for verb, names in MEASURING.items() if verb in TABULAR}


@pytest.fixture(scope="module")
def out(folders, tmp_path_factory):
    """A folder with everything measured, so that a verb has nothing to compute."""
    out = tmp_path_factory.mktemp("json") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explaining, "make_figures", lambda tables, folder: {})
        measure = ["redefine-math", "--n", str(N), "--family", str(folders[0]), "--out", str(out), "--device", "cpu"]
        assert main(["explain", *measure, "--random", "5", "--quiet"]) == 0
    return out


@pytest.fixture
def words(out, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(explaining, "make_figures", lambda tables, folder: {})
    monkeypatch.setattr("isp_mech.cli.doctor.measure", lambda weights: ())  # tests/cli/test_doctor.py
    plan = tmp_path / "plan.toml"
    plan.write_text(f'families = ["{folders[0]}"]\ntasks = [{{task = "neqa", n = 2}}]\nsteps = ["score"]\n')
    measure = ["redefine-math", "--n", str(N), "--family", str(folders[0]), "--out", str(out), "--device", "cpu"]
    random = {verb: ["--random", "5"] for verb in ("explain", "verify", "restore")}
    return {verb: [verb, *measure, *random.get(verb, [])] for verb in MEASURING} | {
        "run": ["run", str(plan), "--out", str(tmp_path / "runs"), "--status"],
        "show": ["show", str(out / "tables" / "curve.parquet")],
        "check": ["check", str(folders[0])],
        "doctor": ["doctor"],
        "tasks": ["tasks"],
        "families": ["families"],
    }


@pytest.mark.parametrize("verb", TABULAR)
def test_stdout_is_one_document(verb, words, capsys):
    code = main([*words[verb], "--json"])
    said = capsys.readouterr().out

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    document = json.loads(said, parse_constant=refuse)
    assert code == 0 and isinstance(document, dict) and document
    assert main(words[verb]) == 0
    assert not capsys.readouterr().out.startswith("{")


@pytest.mark.parametrize("verb", MEASURING)
def test_rows_are_those_of_the_table_exactly(verb, words, out, capsys):
    assert main([*words[verb], "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    for name in MEASURING[verb]:
        frame = im.read_table(out / "tables" / f"{name}.parquet").frame
        assert len(document[name]) == len(frame) > 0 and list(document[name][0]) == list(frame)
        for column in frame:
            stored = frame[column]
            told = [row[column] for row in document[name]]
            assert [value is None for value in told] == stored.isna().tolist(), column
            kept = stored.dropna().to_numpy()
            again = np.array([value for value in told if value is not None], dtype=kept.dtype)
            assert (again == kept).all(), column


def test_lists_hold_what_the_library_says(capsys):
    assert main(["tasks", "--json"]) == 0
    tasks = json.loads(capsys.readouterr().out)["tasks"]
    assert [task["name"] for task in tasks] == list(im.contrast_names())
    assert "twin" in tasks[0]["variants"]
    assert main(["families", "--json"]) == 0
    families = {each["name"]: each for each in json.loads(capsys.readouterr().out)["families"]}
    assert list(families) == list(im.family_names())
    sizes = {size["name"]: size["n_params"] for size in families["pythia"]["sizes"]}
    assert sizes["pythia-70m"] == 18_915_328


def test_bad_input_leaves_stdout_empty(capsys):
    assert main(["score", "nosuch", "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("isp-mech: task: 'nosuch'")


def test_missing_and_infinite_numbers():
    assert plain([math.nan, math.inf, {"a": (1, None)}]) == [None, "Infinity", {"a": [1, None]}]


def test_rows_keep_types(out):
    row = rows(im.read_table(out / "tables" / "sites.parquet"))
    kinds = {type(value) for each in row for value in each.values()}
    assert kinds <= {str, int, float, bool, type(None)}
