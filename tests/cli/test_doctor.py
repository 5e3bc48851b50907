"""``isp-mech doctor``: what is installed, what is missing, and whether fast paths are worth it."""

from __future__ import annotations

import json
import os
from itertools import count
from random import random
from types import SimpleNamespace

import pandas as pd
import pytest

import isp_mech as im
from isp_mech.cli import doctor
from isp_mech.cli.main import main


def _frame(*values):
    return pd.DataFrame({"model": "m", "effect": values, "p": [random() for _ in values]})


def test_the_ladder_is_measured_both_ways(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "SIZE", "ladder-25k")
    monkeypatch.setattr(doctor, "PAIRS", 2)
    monkeypatch.setattr(doctor, "ROUNDS", 1)
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == [] and [each["verb"] for each in found["measured"]] == ["score", "trace"]
    assert all(each["gap"] <= 1e-4 and each["ratio"] > 0 for each in found["measured"])
    assert {each["name"] for each in found["packages"]} >= {"torch", "transformers", "numpy"}
    assert found["machine"]["threads"] >= 1 and "ray" in found["extras"]
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "times as fast" in said and "problem" not in said


def test_a_missing_and_an_old_package_are_problems(monkeypatch, capsys):
    real = doctor.metadata.requires(doctor.PACKAGE)
    asked = [*real, "no-such-package>=2", "numpy<1", 'pytest>=9999; extra == "later"', "isp-mech[ray]"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: asked)
    monkeypatch.setattr(doctor, "measure", lambda weights: pytest.fail("measured what cannot be imported"))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "problem: no-such-package: found none, expected >=2" in said
    assert "problem: numpy: found " in said and ", expected <1" in said
    assert said.count("problem: ") == 2  # what an extra lacks is none
    later = doctor.installed(asked, "later")
    assert [(each.name, each.fits) for each in later] == [("pytest", False)]


def test_weights_that_are_not_there_are_a_problem(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("isp_mech.families.LADDER_WEIGHTS", tmp_path)
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"][0].startswith(str(tmp_path / doctor.SIZE))


def test_numbers_that_differ_are_a_problem(monkeypatch, capsys):
    wrong = doctor.Measured("score", 1.0, 2.0, 2.0, 3e-3)
    monkeypatch.setattr(doctor, "measure", lambda weights: (wrong,))
    assert main(["doctor"]) == 1
    assert "problem: score: fast and plain numbers are 3.0e-03 apart, expected 0.0001" in capsys.readouterr().out


def test_the_gap_is_worked_out():
    assert doctor.gap(_frame(0.5, 1.0), _frame(0.5, 1.0)) == 0
    assert doctor.gap(_frame(0.5, 0.8), _frame(0.5, 1.0)) == pytest.approx(0.2 / 2)
    assert doctor.gap(_frame(0.5), _frame(0.5, 1.0)) == float("inf")
    assert doctor.gap(_frame(float("nan")), _frame(0.5)) == float("inf")


@pytest.mark.parametrize("before", [None, "1"])
def test_ways_take_turns_until_the_time_is_over(before, monkeypatch):
    if before is None:
        monkeypatch.delenv("ISP_MECH_PLAIN", raising=False)
    else:
        monkeypatch.setenv("ISP_MECH_PLAIN", before)
    ways, seconds = [], count()
    monkeypatch.setattr(im, "load_model", lambda path: None)
    monkeypatch.setattr(im, "score", lambda *_: ways.append(im.models.fast_paths()) or _Made())
    monkeypatch.setattr(im, "trace", lambda *_: ways.append(im.models.fast_paths()) or _Made())
    found = doctor.measure(None, clock=lambda: next(seconds))
    assert ways == [True, False, True, False]  # over after one round
    assert [(each.fast, each.plain, each.ratio) for each in found] == [(1, 1, 1)] * 2
    assert os.environ.get("ISP_MECH_PLAIN") == before


class _Made:
    scores = effects = SimpleNamespace(frame=_frame(0.5))


def test_what_is_on_here(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    monkeypatch.delenv("ISP_MECH_PLAIN", raising=False)
    shared, products, two = doctor.fast_paths_here()
    assert shared.on and not products.on and not two.on
    assert products.why == "the processor has AVX2, expected AVX512"
    assert two.why == "torch has 1 thread, expected 2 or more"
    monkeypatch.setenv("ISP_MECH_PLAIN", "1")
    assert {each.why for each in doctor.fast_paths_here()} == {"ISP_MECH_PLAIN is 1"}


def test_a_caches_size_counts_each_file_once(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"123")
    (tmp_path / "link").symlink_to(tmp_path / "blobs" / "a")
    assert doctor.size_of(tmp_path) == 8 and doctor.size_of(tmp_path / "nothing") == 0
