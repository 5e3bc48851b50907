from __future__ import annotations

import re
from pathlib import Path

import pytest

from isp_mech.cli.main import main
from isp_mech.scaling.published_results import published
from isp_mech.tasks import Task, read_task, write_task
from isp_mech.tasks.released_files import release_of, released_files

DATA = Path(__file__).parents[3] / "shared" / "data"
NEQA = DATA / "prize" / "neqa_classification.jsonl"
HINDSIGHT = DATA / "prize" / "hindsight-neglect_classification.jsonl"
needs_data = pytest.mark.skipif(not NEQA.exists(), reason="the prize's files are not there")


def test_the_eleven():
    released = released_files()
    assert len({file.task for file in released}) == len({file.sha256 for file in released}) == len(released) == 11
    for file in released:
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256) and file.bytes > 50_000
        assert file.file.endswith(f"_{file.metric.replace('sequence_prob', 'sequence-probability')}.jsonl")
    assert [file.task for file in released if file.rows is None] == ["prompt-injection"]


@pytest.mark.skipif(not (DATA / "published").exists(), reason="the published accuracies are not there")
def test_rows_are_those_that_published_standard_errors_say():
    frame = published(DATA / "published" / "pythia-prize-accuracy.tsv").observations.frame
    says = {task.removeprefix("isp_").replace("_", "-"): n for task, n in zip(frame["task"], frame["n"], strict=True)}
    for file in released_files():
        name = file.task.removesuffix("-math")
        assert file.rows == says.get(name), file


@needs_data
def test_files_at_hand(tmp_path, capsys):
    task = read_task(NEQA)
    release = release_of(NEQA, task)
    assert release.is_same and release.sentence == "this is neqa as released, 300 rows (sha256 50ca9dca)"
    other = release_of(HINDSIGHT, read_task(HINDSIGHT))
    assert not other.is_same and other.sentence.startswith("not hindsight-neglect as released: 315 rows as there, but")
    less = write_task(task.take(range(280)), tmp_path / "neqa_classification.jsonl")
    assert release_of(less, read_task(less)).sentence == "not neqa as released: 280 rows, 20 fewer than released"
    copied = tmp_path / "mine.jsonl"
    copied.write_bytes(NEQA.read_bytes())
    assert release_of(copied, read_task(copied)).is_same
    mine = write_task(task.take(range(3)), tmp_path / "other.csv")
    assert release_of(mine, read_task(mine)) is None and release_of("somebody/neqa", task) is None
    assert main(["score", str(less), "--sizes", "25k", "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.startswith("not neqa as released: 280 rows, 20 fewer than released\n")


def test_the_name_of_the_release_with_another_metric(tmp_path):
    path = tmp_path / "prompt-injection_sequence-probability.jsonl"
    path.write_text('{"prompt": "Input: x", "completion": " x"}\n', encoding="utf-8")
    task = read_task(path)
    assert isinstance(task, Task) and (task.name, task.metric) == ("prompt-injection", "sequence_prob")
    assert release_of(path, task).sentence == "not prompt-injection as released: 1 rows, other bytes"
