"""The tutorials run as they stand, on few pairs, and become pages."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from isp_mech.figures import PaperFigure

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
FEW = {"PAIRS = 60": "PAIRS = 8", "n_random=50": "n_random=5"}


def test_a_first_explanation(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    source = (TUTORIALS / "first_explanation.py").read_text(encoding="utf-8")
    for text, fewer in FEW.items():
        assert source.count(text) == 1
        source = source.replace(text, fewer)
    made: list[object] = []
    shown = re.sub(r"^(im\.figures\..*)$", r"made.append(\1)", source, flags=re.M)
    namespace: dict[str, object] = {"made": made}
    exec(compile(shown, "first_explanation.py", "exec"), namespace)
    assert len(made) == 4 and all(isinstance(figure, PaperFigure) for figure in made)
    curve = namespace["scores"].curve.frame.set_index(["model", "side"])["accuracy"]
    assert curve["ladder-4m", "conflict"] < curve["ladder-4m", "plain"]  # the larger model is overridden
    strongest = namespace["strongest"]
    assert (strongest["effect"] < 0).all() and set(namespace["large"]["model"]) == {"ladder-4m"}
    check = namespace["check"].frame.set_index("model").loc["ladder-4m"]
    assert (check["accuracy_after"] >= check["accuracy_before"]).all()
    assert "lure:" in capsys.readouterr().out


@pytest.mark.parametrize("script", sorted(TUTORIALS.glob("*.py")), ids=lambda script: script.stem)
def test_a_script_becomes_a_page(script):
    path = TUTORIALS.parent / "tutorial_pages.py"
    spec = importlib.util.spec_from_file_location("tutorial_pages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    source = script.read_text(encoding="utf-8")
    page = module.page_of(source)
    assert page.startswith("# ") and page.count("```python\n") == len(re.findall(r"^# %%$", source, re.M))
    code = [line for line in source.splitlines() if line and not line.startswith("#")]
    fenced = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)).splitlines()
    assert [line for line in fenced if line] == code
    for image in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page):
        assert (script.parent / image).is_file(), image
