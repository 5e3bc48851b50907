"""The tutorials run as they stand, on few pairs, and become pages and notebooks; only two tests need a kernel."""

from __future__ import annotations

import ast
import base64
import importlib.util
import re
from pathlib import Path

import pytest

import isp_mech as im
from isp_mech.figures import PaperFigure

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
SCRIPTS = sorted(TUTORIALS.glob("*.py"))
FEW = {
    "first_explanation": {
        "PAIRS = 60": "PAIRS = 8",
        'SIZES = ["25k", "335k", "800k", "4m"]': 'SIZES = ["335k", "4m"]',
        "n_random=50": "n_random=5",
    },
    "own_task_and_models": {
        "LINES = 20": "LINES = 10",
        'SIZES = ["25k", "100k", "335k", "800k", "4m"]': 'SIZES = ["25k", "100k", "335k", "800k"]',
    },
    "from_sites_to_a_figure": {
        "PAIRS = 60": "PAIRS = 8",
        "N_RANDOM = 50": "N_RANDOM = 3",
        '"800k"': '"335k"',
    },
}


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs a tutorial on less: what it names, what its cells show at their end, and what it prints."""

    def run_script(name: str):
        monkeypatch.chdir(tmp_path)
        source = (TUTORIALS / f"{name}.py").read_text(encoding="utf-8")
        for text, fewer in FEW[name].items():
            assert source.count(text) == 1
            source = source.replace(text, fewer)
        module, shown, namespace = ast.parse(source), [], {}
        for statement in module.body:
            if isinstance(statement, ast.Expr):
                shown.append(eval(compile(ast.Expression(statement.value), name, "eval"), namespace))
            else:
                exec(compile(ast.Module([statement], []), name, "exec"), namespace)
        return namespace, shown, capsys.readouterr().out

    return run_script


def figures(shown):
    return [value for value in shown if isinstance(value, PaperFigure)]


def test_a_first_explanation(run):
    names, shown, out = run("first_explanation")
    assert len(figures(shown)) == 4
    curve = names["scores"].curve.frame.set_index(["model", "side"])["accuracy"]
    assert curve["ladder-4m", "conflict"] < curve["ladder-4m", "plain"]  # the larger model is overridden
    strongest = names["strongest"]
    assert (strongest["effect"] < 0).all() and set(names["large"]["model"]) == {"ladder-4m"}
    check = names["check"].frame.set_index("model").loc["ladder-4m"]
    assert (check["accuracy_after"] >= check["accuracy_before"]).all()
    assert "lure:" in out


def test_your_own_task_and_models(run):
    names, shown, out = run("own_task_and_models")
    assert len(figures(shown)) == 3
    overridden, control = (names[name].shares.frame.set_index("model")["overridden"] for name in ("scores", "control"))
    assert overridden["ladder-25k"] < 0.2 < 0.5 < overridden["ladder-800k"] and (control == 0).all()  # as its text says
    assert len(names["drawn"]) == len(names["sayings"]) == 10
    assert "sayings: inverse." in out and "chat    no" in out
    assert "line 6: field 'answer_index'" in out and "line 10: field 'classes'" in out
    assert len(names["task"]) == 8 and names["task"].items == tuple(names["items"])


def test_from_sites_to_a_figure(run, tmp_path):
    names, shown, out = run("from_sites_to_a_figure")
    assert len(figures(shown)) == 2 and "no token of role 'quote_output'" in out
    assert {path.name for path in tmp_path.joinpath("figures").iterdir()} == {path.name for path in names["files"]}
    assert names["change"] == names["best"] and names["best"].kinds == "block"
    assert names["again"].equals(names["found"].table)
    tried = names["tried"].frame.set_index(["place", "side"])["accuracy"]
    as_it_is = names["scores"].curve.frame.set_index("side")["accuracy"]["conflict"]
    assert tried["block(quote_output; layers=all; heads=all)", "conflict"] > as_it_is
    assert "as it is:" in out and "with the change:" in out


# --- pages --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tutorial_pages():
    spec = importlib.util.spec_from_file_location("tutorial_pages", TUTORIALS.parent / "tutorial_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_script_is_in_the_navigation_and_on_the_first_page():
    assert {script.stem for script in SCRIPTS} == set(FEW)
    texts = [(TUTORIALS.parents[1] / name).read_text("utf-8") for name in ("mkdocs.yml", "docs/index.md")]
    for script in SCRIPTS:
        assert all(f"tutorials/{script.stem.replace('_', '-')}.md" in text for text in texts)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_in_percent_format_and_begins_with_its_title(script):
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# %% [markdown]" and lines[1].startswith("# # ")
    assert {line for line in lines if line.startswith("# %%")} == {"# %%", "# %% [markdown]"}
    assert not re.search(r"\]\((?!https?://)", "\n".join(lines))  # a downloaded notebook stands alone


PNG = b"\x89PNG\r\n\x1a\n"
NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": "# A title\n\nSome text."},
        {
            "cell_type": "code",
            "source": "import isp_mech as im\nim.figures.override_map(sites)\n",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": "one "},
                {"output_type": "stream", "name": "stderr", "text": "10 % done"},
                {"output_type": "stream", "name": "stdout", "text": "line\n"},
                {
                    "output_type": "execute_result",
                    "data": {"image/png": base64.b64encode(PNG).decode(), "text/plain": "<Figure>"},
                },
            ],
        },
        {
            "cell_type": "code",
            "source": "frame",
            "outputs": [
                {
                    "output_type": "execute_result",
                    "data": {
                        "text/html": '<div>\n<style scoped>\n    p {}\n</style>\n<table border="1" class="dataframe">\n'
                        "  <tr>\n    <td>1</td>\n  </tr>\n</table>\n</div>",
                        "text/plain": "1",
                    },
                }
            ],
        },
        {
            "cell_type": "code",
            "source": "1 + 1",
            "outputs": [{"output_type": "execute_result", "data": {"text/plain": "2"}}],
        },
    ]
}
PAGE = """\
# A title

Some text.

[This page as a notebook](a-title.ipynb). What stands under the code is what it printed and drew.


```python
import isp_mech as im
im.figures.override_map(sites)
```

```text
one line
```

![Drawn by im.figures.override_map(sites)](a-title-1.png)

```python
frame
```

<div>
<table>
<tr>
<td>1</td>
</tr>
</table>
</div>

```python
1 + 1
```

```text
2
```
"""


def test_a_notebook_that_was_run_becomes_a_page(tutorial_pages):
    pictures: dict[str, bytes] = {}
    cells = [
        {**cell, "outputs": tutorial_pages.shown_outputs(cell["outputs"])} if "outputs" in cell else cell
        for cell in NOTEBOOK["cells"]
    ]
    assert tutorial_pages.page_of({"cells": cells}, "a-title", pictures) == PAGE
    assert pictures == {"a-title-1.png": PNG}


def test_a_notebook_is_run_and_can_be_read_again(tutorial_pages):
    nbformat = pytest.importorskip("nbformat", reason="the documentation's builder is not installed")
    pytest.importorskip("jupytext"), pytest.importorskip("nbclient"), pytest.importorskip("ipykernel")
    script = "# %% [markdown]\n# # Sum\n\n# %%\nimport sys\n\nprint('no', file=sys.stderr)\nprint('yes')\n6 * 7\n"
    (notebook,) = tutorial_pages.executed((script,))
    files = dict(tutorial_pages.pages_of(notebook, "sum"))
    assert set(files) == {"sum.md", "sum.ipynb"}
    assert files["sum.md"].partition("```text")[2] == "\nyes\n```\n\n```text\n42\n```\n"
    again = nbformat.reads(files["sum.ipynb"], as_version=4)
    assert [cell.cell_type for cell in again.cells] == ["markdown", "code"] and len(again.cells[1].outputs) == 2


def test_a_cell_that_fails_stops_the_build(tutorial_pages):
    nbclient = pytest.importorskip("nbclient", reason="the documentation's builder is not installed")
    pytest.importorskip("jupytext"), pytest.importorskip("ipykernel")
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        tutorial_pages.executed(("# %%\n1 / 0\n",))


def test_a_figure_shows_itself_in_a_cell_without_pyplot():
    figure = im.figures.scaling_curve(im.score(im.contrast("neqa", n=4), im.family("ladder", sizes=["25k"])).curve)
    assert figure._repr_png_().startswith(PNG) and figure._repr_png_() == figure._repr_png_()
