"""Input that means harm: it is refused by name, or shown and does nothing."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

import isp_mech as im
from isp_mech.cli.main import main
from isp_mech.contrasts.pair_files import write_pairs

ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202e"
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
ITEM = {"prompt": "Q: 1? A:", "classes": [" Y", " N"], "answer_index": 0}


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "ran")


REMOTE = """
from pathlib import Path
Path({target!r}).write_text("ran")
from transformers import GPTNeoXForCausalLM, GPTNeoXConfig
class Mine(GPTNeoXForCausalLM): pass
"""


def refused(capsys, *words: str) -> str:
    """What the command says on stderr, having refused: one message, no traceback, nothing that acts."""
    assert main(list(words)) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("isp-mech: ") and "Traceback" not in said.err
    assert not set(said.err) & set("\x1b\x07\r\u202e")
    return said.err


# --- checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model.pt"])
def test_pickles_are_refused_and_not_opened(folders, tmp_path, capsys, name):
    folder, target = shutil.copytree(folders[0], tmp_path / "m"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(target)))
    for words in (["score", "neqa", "--family", str(folder)], ["run", str(_plan(tmp_path, folder))]):
        said = refused(capsys, *words, "--out", str(tmp_path / "out"))
        assert "expected safetensors" in said or "expected weights in that format" in said
    assert not target.exists() and not (tmp_path / "out").exists()


def test_code_that_comes_with_a_checkpoint_runs_only_when_asked_to(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, target = shutil.copytree(folders[0], tmp_path / "m"), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(REMOTE.format(target=str(target)))
    plan = _plan(tmp_path, folder)
    said = refused(capsys, "run", str(plan), "--out", str(tmp_path / "out"))
    assert f"{folder}: cannot be loaded: " in said and not target.exists()
    main(["run", str(plan), "--out", str(tmp_path / "out"), "--trust-remote-code", "--quiet"])
    assert target.read_text() == "ran"


def _plan(folder: Path, checkpoint: Path, task: str = "neqa") -> Path:
    path = folder / "plan.toml"
    path.write_text(f"families = [{json.dumps(str(checkpoint))}]\ntasks = [{json.dumps(task)}]\n[settings]\nn = 2\n")
    return path


def test_a_plan_cannot_ask_for_a_checkpoints_code(folders, tmp_path, capsys):
    path = _plan(tmp_path, folders[0])
    path.write_text(path.read_text() + "trust_remote_code = true\n")
    said = refused(capsys, "run", str(path), "--out", str(tmp_path / "out"))
    assert "settings: 'trust_remote_code': unknown" in said


def test_a_hub_id_while_offline_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "plan.toml").write_text("families = ['me/model']\ntasks = ['neqa']\n")
    said = refused(capsys, "run", str(tmp_path / "plan.toml"), "--out", str(tmp_path / "out"))
    assert "me/model (main): the hub cannot be reached (HF_HUB_OFFLINE is set), and it is not in the cache" in said


# --- tasks --------------------------------------------------------------------------------------------

FILES = {
    "a huge field": json.dumps({**ITEM, "prompt": "x" * 5_000_000}).encode(),
    "deep JSON": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep JSON in a good row": json.dumps(ITEM)[:-1].encode() + b', "x": ' + b"[" * 500 + b"]" * 500 + b"}",
    "UTF-16": json.dumps(ITEM).encode("utf-16"),
    "not UTF-8": json.dumps(ITEM).encode()[:-1] + b"\xff}",
    "half a surrogate pair": json.dumps({**ITEM, "prompt": "Q"}).replace('"Q"', '"\\ud800"').encode(),
    "many classes": json.dumps({**ITEM, "classes": [f"{i}" for i in range(10_001)]}).encode(),
    "zeros": bytes(10_000),
    "a number of five thousand digits": json.dumps(ITEM)[:-2].encode() + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("what", FILES)
def test_hostile_task_files_are_refused_by_name(folders, tmp_path, capsys, what):
    (tmp_path / "t.jsonl").write_bytes(FILES[what])
    models, out = ["--family", str(folders[0])], ["--out", str(tmp_path / "o")]
    said = refused(capsys, "score", str(tmp_path / "t.jsonl"), *models, *out)
    assert f"{tmp_path}/t.jsonl: line 1" in said or f"{tmp_path}/t.jsonl: UTF-16" in said
    assert len(said) < 2000
    said = refused(capsys, "run", str(_plan(tmp_path, folders[0], "t.jsonl")), *out)
    assert "tasks[0]: " in said and len(said) < 2000 and not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "name", ["x" * 5000, "x" * 300 + ".jsonl", "a\x00b", "a\x00b.jsonl", "~nosuchuser/x", "/" * 9999]
)
def test_names_that_no_file_can_have_are_refused(folders, tmp_path, capsys, name):
    out = ["--out", str(tmp_path / "o")]
    refused(capsys, "score", name, "--family", str(folders[0]), *out)
    refused(capsys, "score", "neqa", "--n", "2", "--family", name, *out)
    plan = _plan(tmp_path, Path("nosuch"), name)
    plan.write_text(plan.read_text().replace("nosuch", name.replace("\x00", "\\u0000")).replace("\x00", "\\u0000"))
    said = refused(capsys, "run", str(plan), *out)
    assert "families[0]" in said and "tasks[0]" in said


def test_ten_million_classes_are_refused(folders, tmp_path, capsys):
    (tmp_path / "t.csv").write_text('prompt,classes,answer_index\nQ,"[' + "'a'," * 10_000_000 + ']",0\n')
    said = refused(capsys, "score", str(tmp_path / "t.csv"), "--family", str(folders[0]), "--out", str(tmp_path / "o"))
    assert "found over 10000 classes, expected fewer" in said


def test_names_and_prompts_that_carry_escapes_are_inert(folders, tmp_path, capsys):
    task = tmp_path / f"{ESCAPES}x.jsonl"
    rows = [{**ITEM, "id": f"{SCRIPT}{i}", "prompt": f"{ESCAPES}{SCRIPT} Q{i}?"} for i in range(3)]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    assert main(["explain", str(task), "--family", str(folders[0]), "--out", str(out), "--progress"]) == 0
    said = capsys.readouterr()
    assert "score" in said.err and not set(said.out + said.err) & set("\x1b\x07\u202e")
    for file in (out / "report.html", out / "log.jsonl", *out.glob("figures/*.svg")):
        text = file.read_text(encoding="utf-8")
        assert "<script" not in text and "onerror" not in text.replace("onerror=alert(2)&gt;", "")
        assert not set(text) & set("\x1b\x07\u202e")
    bad = tmp_path / f"{ESCAPES}y.jsonl"
    bad.write_text(json.dumps({**ITEM, ESCAPES: {ESCAPES: "\ud800"}, "answer_index": ESCAPES}))
    assert "owned" in refused(capsys, "score", str(bad), "--out", str(tmp_path / "o"))


def test_names_in_files_never_lead_out_of_the_run_directory(folders, tmp_path, capsys):
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    pairs = im.contrast("redefine-math", n=4)
    for i, name in enumerate(("../../../../evil", "/etc/evil", "..", "C:\\evil", "a/../../evil")):
        file = write_pairs(im.PairSet(name, pairs.pairs, seed=0), inside / f"pairs{i}.jsonl")
        plan = _plan(inside, folders[0], str(file))
        plan.write_text('steps = ["score"]\n' + plan.read_text())
        assert main(["run", str(plan), "--out", str(inside / "run"), "--quiet"]) == 0
        capsys.readouterr()
        written = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != inside]
        assert all(path.is_relative_to(inside / "run") for path in written)
    folders_of = {path.parent.parent for path in (inside / "run" / "results").rglob("scores.parquet")}
    assert all(path.parent.parent == inside / "run" / "results" for path in folders_of) and len(folders_of) >= 3
