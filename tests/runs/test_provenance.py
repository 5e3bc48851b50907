from __future__ import annotations

import shlex

import pytest

from isp_mech.cli.main import main
from isp_mech.errors import InputError
from isp_mech.runs.jobs import TABLES
from isp_mech.runs.provenance import provenance
from isp_mech.tables import make_run, read_table, table

ROWS = [{"model": "m", "n_params": 1, "task": "t", "replacement_a": "a", "replacement_b": "b", "spearman": 0.5}]
ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\r\n"


def test_a_file_tells_how_it_was_made(tmp_path):
    run = make_run(model="m", revision="step3", task="t", method="locate", seed=4,
                   settings={"level": 0.05, "content": "c0ffee", "weights": "sha256:beef", "command": "isp-mech x"},
                   notes=["A note."])  # fmt: skip
    told = dict(provenance(table("stability", ROWS, run).save(tmp_path / "t.parquet")))
    assert told["table"] == "stability, 1 rows, whole by its checksums"
    assert (told["model"], told["revision"], told["seed"], told["device"]) == ("m", "step3", "4", "cpu")
    assert told["settings"] == "level 0.05" and told["data"] == "sha256:c0ffee" and told["weights"] == "sha256:beef"
    assert f"numpy {run.versions['numpy']}" in told["versions"] and told["note 1"] == "A note."
    assert list(told)[-1] == "command" and told["command"] == "isp-mech x"
    assert told.get("commit", "") == run.commit


def test_what_was_made_in_python_says_so_and_a_damaged_file_is_refused(tmp_path):
    path = table("stability", ROWS, make_run(model="m", task="t", method="locate: x")).save(tmp_path / "t.parquet")
    assert dict(provenance(path))["command"] == "none is known: it was made in Python (locate: x)"
    path.write_bytes(path.read_bytes()[:-1] + b"2")
    with pytest.raises(InputError, match="t.parquet: not a parquet file"):
        dict(provenance(path))
    with pytest.raises(InputError, match="none.parquet: no such file"):
        dict(provenance(tmp_path / "none.parquet"))


def test_hostile_texts_do_not_act_on_the_terminal(tmp_path, capsys):
    run = make_run(model=ESCAPES, task=ESCAPES, method=ESCAPES, settings={ESCAPES: ESCAPES, "command": ESCAPES},
                   notes=[ESCAPES])  # fmt: skip
    path = table("stability", ROWS, run).save(tmp_path / "t.parquet")
    assert main(["show", str(path)]) == 0
    said = capsys.readouterr().out
    assert "owned" in said and not set(said) & set("\x1b\x07\r\u202e")
    assert len(said.splitlines()) == len(list(provenance(path)))


@pytest.mark.parametrize("step", ["score", "trace", "locate", "block", "verify", "restore"])
def test_the_command_makes_the_file_again(folders, tmp_path, step):
    """Byte for byte, for a model's own unit and for the family's table."""
    first, again = tmp_path / "first", tmp_path / "again"
    of_step = {
        "verify": ["--random", "3", "--share", "0.5"],
        "locate": ["--replacement", "plain,mean"],
        "block": ["--roles", "question,definition"],
        "restore": ["--random", "3", "--interventions", "steer"],
    }
    more = of_step.get(step, [])
    given = [word for folder in folders for word in ("--family", str(folder))]
    settings = ["--n", "4", "--seed", "3", "--threads", "1", "--shard", "3", "--batch-size", "9", *more]
    assert main([step, "redefine-math", *given, *settings, "--out", str(first), "--quiet"]) == 0
    name = {"score": "curve", "trace": "onset", "locate": "sites"}.get(step, TABLES[step][0])
    path = first / "tables" / f"{name}.parquet"
    command = shlex.split(dict(provenance(path))["command"])
    assert command[:2] == ["isp-mech", step]
    assert main([*command[1:], "--out", str(again), "--quiet"]) == 0
    assert (again / "tables" / f"{name}.parquet").read_bytes() == path.read_bytes()
    rows = TABLES[step][0]
    for unit in sorted((first / "units").glob(f"{rows}-*.parquet")):
        assert (again / "units" / unit.name).read_bytes() == unit.read_bytes()
        alone = shlex.split(read_table(unit).run.settings["command"])
        assert alone.count("--family") == 1 and alone[1] == step
