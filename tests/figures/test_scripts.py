"""Names in any script: written where a font has them, else numbered, with a legend in the report."""

from __future__ import annotations

import io
import warnings
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from isp_mech import figures
from isp_mech.figures import scripts
from isp_mech.figures.style import plain
from isp_mech.report import write_report
from isp_mech.tables import make_run, table

RUN = make_run(model="m", task="否定", method="synthetic", seed=0)
HEAD = {"model": "m", "n_params": 1000, "task": "否定"}


def attention(*roles: str):
    rows = [
        {**HEAD, "pair": f"p{p}", "side": side, "layer": layer, "head": 0, "role": role, "weight": 1 / len(roles)}
        for p in range(3)
        for side in ("conflict", "plain")
        for layer in range(2)
        for role in roles
    ]
    return table("attention", rows, RUN)


def curve(*tasks: str):
    rows = []
    for task in tasks:
        for n in (1000, 2000):
            share = {f"{name}{end}": 0.5 for name in ("accuracy", "loss") for end in ("", "_lo", "_hi")}
            rows.append({"model": f"m{n}", "n_params": n, "task": task, "side": "conflict", "baseline": np.nan, **share,
                         "coverage": 0.3, "ties": 0, "n": 30})  # fmt: skip
    return table("curve", pd.DataFrame(rows), RUN)


def texts_of(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text().strip()]


@pytest.fixture(autouse=True)
def as_before():
    """Fonts that a test finds are forgotten."""
    families, fonts = list(scripts.FAMILIES), list(fontManager.ttflist)
    scripts._family_with.cache_clear()
    yield
    scripts.FAMILIES[:], fontManager.ttflist[:] = families, fonts
    scripts._family_with.cache_clear()


@pytest.fixture
def without_cjk(monkeypatch):
    """Whatever fonts this machine has: none of them for Han characters."""
    here = scripts._characters
    monkeypatch.setattr(scripts, "_characters", lambda path: {c for c in here(path) if not 0x4E00 <= c < 0xA000})


def drawn_without_a_word(figure) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("png", "svg", "pdf"):
            figure.savefig(io.BytesIO(), format=kind)


@pytest.mark.usefixtures("without_cjk")
def test_names_without_glyphs_are_numbered_and_the_report_says_what_they_are(tmp_path):
    figure = figures.attention_by_role(attention("否定", "question", "定义", "φράση"))
    assert {"question", "φράση"} <= set(texts_of(figure)) and "否定" not in "".join(texts_of(figure))
    numbers = dict(figure.names_by_number)
    assert sorted(numbers) == ["[1]", "[2]"] and set(numbers.values()) == {"否定", "定义"}
    assert set(numbers) <= set(texts_of(figure))
    drawn_without_a_word(figure)
    page = write_report(tmp_path, {"attention": attention("否定", "question", "定义")},
                        {"attention_by_role": figure}, title="t").read_text(encoding="utf-8")  # fmt: skip
    said = ", ".join(f"{number} is {name}" for number, name in numbers.items())
    assert f"Names in a script that no font here has are numbered: {said}." in page


@pytest.mark.usefixtures("without_cjk")
def test_tasks_are_numbered_too_each_figure_from_one():
    for tasks in (["否定", "neqa"], ["neqa", "重复"]):
        figure = figures.scaling_curve(curve(*tasks))
        (named,) = figure.names_by_number.values()
        assert named in tasks and {"[1]", "neqa"} <= set(texts_of(figure))
        drawn_without_a_word(figure)
    assert figures.scaling_curve(curve("neqa", "other")).names_by_number == {}


def a_font(path, characters: str):
    """A font with a box for each of the characters."""
    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", *(f"c{i}" for i in range(len(characters)))]
    pen = TTGlyphPen(None)
    for i, point in enumerate([(0, 0), (0, 700), (700, 700), (700, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): name for c, name in zip(characters, names[1:], strict=True)})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Found Here", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)
    fontManager.addfont(path)


@pytest.mark.usefixtures("without_cjk")
def test_a_font_with_the_glyphs_is_found_and_used(tmp_path, monkeypatch):
    a_font(tmp_path / "found.ttf", "ⴰⴱⴳ")  # of which no other font here has the last
    monkeypatch.setattr(scripts, "_characters", lambda path, here=scripts._characters: (
        here(path) - {ord(c) for c in "ⴰⴱⴳ"} if "found.ttf" not in path else {ord(c) for c in "ⴰⴱⴳ"}))  # fmt: skip
    figure = figures.attention_by_role(attention("ⴰⴱⴳ", "question"))
    assert "ⴰⴱⴳ" in texts_of(figure) and figure.names_by_number == {}
    assert scripts.FAMILIES[-1] == "Found Here"
    drawn_without_a_word(figure)


def test_a_name_outside_of_a_figure_is_left_as_it_is():
    assert plain("否定") == "否定" and plain("a" * 50) == "a" * 39 + "…"


def test_figures_in_latin_letters_need_no_font_but_one():
    assert import_module("isp_mech.figures.style").LOOK["font.sans-serif"] is scripts.FAMILIES
    assert scripts.has_glyphs("quote-repetition … − ½ φ Ж") and scripts.FAMILIES == ["DejaVu Sans"]
