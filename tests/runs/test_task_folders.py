"""No two tasks in one folder: names that differ give folders that differ, and a folder that is taken is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import isp_mech as im
from isp_mech.cli.main import main
from isp_mech.errors import InputError
from isp_mech.runs.task_folders import default_folder, folder_name
from isp_mech.tables import read_table

ITEM = im.Item("0", "Q", (" a", " b"), 0)


NAMES = ["neqa v2", "neqa-v2", "neqa_v2", "neqa.v2", "否定", "反向", "neqa", "NEQA", " neqa", "a/b", "a b", "é", "e"]


@given(st.lists(st.text(min_size=1, max_size=6) | st.sampled_from(NAMES), unique=True, max_size=8))
def test_different_names_have_different_folders(names):
    names = [name for name in names if ":" not in name and name.encode("utf-8", "ignore").decode() == name]
    made = [folder_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert all(name.isascii() and "/" not in name and name[0] not in ".-" and len(name) < 100 for name in made)


def test_names_as_people_write_them():
    folders = [default_folder(im.Task(name, (ITEM,))).name for name in ("neqa-v2", "neqa v2", "否定", "反向", "neqa")]
    assert folders[0] == "neqa-v2" and folders[4] == "neqa" and len(set(folders)) == 5
    assert all(folder.startswith("task-") for folder in folders[2:4])


def task_file(folder: Path, name: str, answer: int = 0) -> str:
    path = folder / f"{name}.jsonl"
    row = {"prompt": "Q: A:", "classes": [" Y", " N"], "answer_index": answer}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return str(path)


def test_a_folder_with_another_tasks_tables_is_refused_and_stays_as_it_was(folders, tmp_path, capsys):
    words = ["--family", str(folders[0]), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(["score", task_file(tmp_path, "one"), *words]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")}
    capsys.readouterr()
    assert main(["score", task_file(tmp_path, "two"), *words]) == 2
    assert f"{tmp_path}/out: tables: found tables of the task 'one', expected another folder for 'two'" in (
        capsys.readouterr().err
    )
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")} == before
    assert main(["score", task_file(tmp_path, "one", answer=1), *words]) == 0  # the same task, changed
    with pytest.raises(InputError, match="found tables of the task 'one', expected another folder for 'redefine-math'"):
        im.explain("redefine-math", family=[folders[0]], n=2, out=tmp_path / "out", progress=False)


def test_a_table_of_another_task_that_would_stay_among_this_ones_is_refused(folders, tmp_path, capsys):
    words = ["--family", str(folders[0]), "--quiet"]
    for name in ("one", "two"):
        assert main(["score", task_file(tmp_path, name), *words, "--out", str(tmp_path / name)]) == 0
    tables = [tmp_path / name / "tables" for name in ("one", "two")]
    shutil.copy(tables[1] / "items.parquet", tables[0] / "items.parquet")  # damage: it is written again
    assert main(["score", task_file(tmp_path, "one"), *words, "--out", str(tmp_path / "one")]) == 0
    assert read_table(tables[0] / "items.parquet").run.task == "one"
    shutil.copy(tables[1] / "items.parquet", tables[0] / "lens.parquet")
    assert main(["score", task_file(tmp_path, "one"), *words, "--out", str(tmp_path / "one")]) == 2
    assert "found tables of the task 'two', expected another folder for 'one'" in capsys.readouterr().err


def test_a_plan_is_refused_by_the_folders_that_are_taken(folders, tmp_path, capsys):
    def run(*tasks: str) -> int:
        plan = tmp_path / "plan.toml"
        listed = ", ".join(json.dumps(task_file(tmp_path, task)) for task in tasks)
        plan.write_text(f"families = [{json.dumps(str(folders[0]))}]\ntasks = [{listed}]\n", encoding="utf-8")
        return main(["run", str(plan), "--out", str(tmp_path / "run"), "--quiet"])

    assert run("neqa v2", "neqa-v2", "否定", "反向") == 0
    made = sorted(path.parent.parent.name for path in (tmp_path / "run" / "results").rglob("scores.parquet"))
    assert len(made) == 4 and "neqa-v2" in made
    for path in (tmp_path / "run" / "results").rglob("scores.parquet"):
        assert set(read_table(path).frame["task"]) == {read_table(path).run.task}
    assert run("否定", "neqa-v2") == 0  # whatever else is in the plan


def test_a_variant_and_a_file_of_the_same_letters_are_told_apart_by_default(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    family = ["--family", str(folders[0]), "--quiet"]
    assert main(["score", "neqa:twin", "--n", "2", *family]) == 0
    for _ in range(2):
        assert main(["score", task_file(tmp_path, "neqa-twin"), *family]) == 0
    first, other = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert first == "neqa-twin" and other.startswith("neqa-twin-")
