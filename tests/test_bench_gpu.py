"""The measurement for a GPU, in small: every section gives its rows, in time."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def bench():
    """The script, as one imports it from its folder."""
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        yield importlib.import_module("bench_gpu")
    finally:
        sys.path.remove(str(EXPERIMENTS))


@pytest.fixture(scope="module")
def smallest(bench):
    return replace(bench.TINY, items=3, shots=40, few=2, prompts=2, tokens=16, exact=3, matrix=32)


def sections(bench, frame):
    """Of each section its rows, none of which say that it failed or was not reached."""
    assert not frame.note.str.contains("failed|not reached").any(), frame.note.tolist()
    return {name: frame[frame.section == name] for name in ("machine", *bench.SECTIONS)}


@pytest.mark.slow
def test_every_section_gives_its_rows(bench, smallest, tmp_path):
    frame = bench.measure(smallest, "cpu", tmp_path)
    rows = sections(bench, frame)
    assert all(len(of_section) for of_section in rows.values())
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "bench.parquet"), frame)
    assert set(rows["scoring"].path) == {
        "isp_mech", "isp_mech, same shots", "transformers", "lm-evaluation-harness", "vLLM"
    }  # fmt: skip
    assert {"isp_mech", "transformers, hooks", "TransformerLens", "nnsight"} == set(rows["locating"].path)
    kinds = {"replace", "scale", "block", "reweight", "replay", "steer", "swap", "all of them"}
    assert set(rows["interventions"].path) == kinds
    gaps = frame[(frame.unit == "nats") & frame.value.notna()]
    assert len(gaps) >= 6 and (gaps.value < 0.05).all()
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert all(f"### {name.capitalize()}" in page for name in rows) and "Measured on: CPU" in page


def test_what_is_right_is_told_first(bench, smallest, tmp_path, monkeypatch):
    """One section alone, through the whole script."""
    monkeypatch.setattr(bench, "SECTIONS", {"correctness": bench.SECTIONS["correctness"]})
    frame = bench.measure(smallest, "cpu", tmp_path)
    of_section = sections(bench, frame)["correctness"].set_index("measure").value
    assert of_section[["accepts_custom_masks", "accepts_trees", "selects_tokens"]].tolist() == [1, 1, 1]
    assert of_section["margins of 3 items"] < 0.05 and of_section["to transformers"] < 0.05


def test_a_section_that_fails_or_comes_too_late_says_so(bench, smallest, monkeypatch):
    def fails(this):
        raise ValueError("no kernel for this\nand more")

    monkeypatch.setattr(bench, "SECTIONS", {"a": (fails, 1)})
    made = bench.Bench("tiny", None, None, smallest, bench.Clock(100), 1.0)
    (row,) = bench.attempt("a", made)
    assert row["note"] == "failed: ValueError: no kernel for this"
    (row,) = bench.attempt("a", replace(made, clock=bench.Clock(0)))
    assert row["note"] == "not reached in time" and row["shape"] == "tiny"


def test_the_page_goes_between_the_marks(bench, tmp_path):
    page = importlib.import_module("gpu_page")
    rows = [
        {"section": "machine", "shape": "", "path": "H200", "measure": "rate", "value": 781.25, "unit": "TFLOP/s"},
        {
            "section": "scoring",
            "shape": "1b",
            "path": "isp_mech",
            "measure": "items",
            "value": 1234.5,
            "unit": "a second",
        },
    ]
    frame = bench.save(rows, tmp_path)
    docs = tmp_path / "gpu.md"
    docs.write_text("before\n{}\nold\n{}\nafter\n".format(*page.MARKS), encoding="utf-8")
    page.into_docs(frame, docs)
    text = docs.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "Measured on: H200." in text and "| 1b | isp_mech | items | 1,234 | a second |  |  |" in text
    with pytest.raises(SystemExit, match="measured on a CPU"):
        page.into_docs(frame.replace("H200", "CPU"), docs)


def test_the_documentation_says_that_nothing_was_measured_until_it_is():
    text = (DOCS / "gpu.md").read_text(encoding="utf-8")
    told = text.partition("<!-- measured -->")[2].partition("<!-- end of measured -->")[0]
    assert ("Measured on:" in told) != ("Nothing here has been measured on a GPU yet" in text)
