"""Words on TAB: what the parser knows, tasks, families and files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import isp_mech as im
from isp_mech.cli import completion
from isp_mech.cli.main import main
from isp_mech.cli.parser import VERBS


def words(line, folder):
    """What ``isp-mech`` answers a shell that asks for the words after ``line``."""
    out = folder / "answer"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n",
             "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(out)}  # fmt: skip
    program = "from isp_mech.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", program], env=os.environ | asked, cwd=folder, check=True)
    return out.read_text().split("\n")


def test_verbs_flags_and_choices(tmp_path):
    assert set(words("isp-mech ", tmp_path)) >= set(VERBS)
    assert "--replacement" in words("isp-mech locate neqa --re", tmp_path)
    assert words("isp-mech locate neqa --dtype b", tmp_path) == ["bfloat16"]


def test_tasks_families_and_files(tmp_path):
    (tmp_path / "mine.jsonl").touch()
    (tmp_path / "mine.txt").touch()
    told = words("isp-mech explain ", tmp_path)
    assert set(told) >= {*im.contrast_names(), "neqa:twin", "mine.jsonl"} and "mine.txt" not in told
    assert words("isp-mech explain redef", tmp_path)[0] == "redefine-math"
    assert words("isp-mech score neqa --family pyth", tmp_path) == ["pythia", "pythia-deduped"]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_has_a_script(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "isp-mech" in script and "_ARGCOMPLETE" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes(tmp_path):
    program = Path(sys.executable).with_name("isp-mech")
    lines = f"""
        export PATH={program.parent}:$PATH
        eval "$(isp-mech completion bash)"
        COMP_LINE="isp-mech fam" COMP_POINT=12 COMP_WORDS=(isp-mech fam) COMP_CWORD=1 COMP_TYPE=9
        $(complete -p isp-mech | sed 's/.*-F \\([^ ]*\\).*/\\1/') isp-mech fam isp-mech
        printf '%s' "${{COMPREPLY[*]}}"
    """
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "families"


def test_without_argcomplete_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(completion, "find_spec", lambda name: None)
    assert main(["completion", "bash"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "pip install 'isp_mech[complete]'" in said.err
