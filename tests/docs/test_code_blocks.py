"""The code on the pages runs: Python blocks on small stand-ins, command lines through the real parser.

A page's Python blocks share one namespace, in order, and a temporary directory. A comment before a block says what
else is done with it: ``<!-- test: skip, REASON -->`` runs it not at all, ``<!-- test: file NAME -->`` writes it to a
file that later blocks read.
"""

from __future__ import annotations

import argparse
import re
import shlex
from operator import attrgetter
from pathlib import Path

import pytest
from doc_pages import BLOCK, PAGES, ROOT, blocks_of

import isp_mech as im
from isp_mech.cli import main
from isp_mech.ladder import weights_folder
from isp_mech.models import load_model
from isp_mech.runs.plans import read_plan

PAIRS, SIZES = 8, ("25k", "100k")
QUICK = {
    "verify": {"n_random": 10},
    "causal.restoration": {"n_random": 3},
    "train_lens": {"steps": 2, "tokens": 32},
}
ONCE = "score trace locate verify train_lens causal.restoration causal.block_heads causal.edges tracing.head_classes"

_INLINE_COMMAND = re.compile(r"`(isp-mech [^`]+)`")


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if any(block.language == language for block in blocks_of(page))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- Python -------------------------------------------------------------------------------------


def once(function, settings):
    """``function`` with quick ``settings``, measured once for the same arguments: pages ask for the same things."""
    measured = []

    def call(*args, **given):
        for known_args, known_given, result in measured:
            same = len(args) == len(known_args) and all(a is b for a, b in zip(args, known_args, strict=True))
            if same and given == known_given:
                return result
        measured.append((args, given, function(*args, **{**given, **settings})))
        return measured[-1][-1]

    return call


@pytest.fixture(scope="module")
def stand_ins():
    """The public face on two small sizes and few pairs."""
    family = im.family("ladder", sizes=SIZES)
    drawn, contrast = {}, im.contrast

    def small_contrast(name, *, n=PAIRS, **settings):
        key = (name, *sorted(settings.items()))
        if key not in drawn:
            drawn[key] = contrast(name, n=PAIRS, **settings)
        return drawn[key]

    verbs = {verb: once(attrgetter(verb)(im), QUICK.get(verb, {})) for verb in ONCE.split()}
    return {
        **verbs,
        "contrast": small_contrast,
        "family": lambda *_, **__: family,
        "load_model": once(lambda *_, **__: load_model(weights_folder() / f"ladder-{SIZES[0]}"), {}),
    }


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_python_blocks_run(page, stand_ins, monkeypatch, tmp_path):
    for dotted, stand_in in stand_ins.items():
        home, _, name = f"im.{dotted}".rpartition(".")
        monkeypatch.setattr(im if home == "im" else getattr(im, home.removeprefix("im.")), name, stand_in)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks_of(page):
        if block.note.startswith("file "):
            Path(block.note.removeprefix("file ")).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and not block.note.startswith("skip"):
            source = "\n" * (block.line - 1) + block.text  # so that a traceback names the page's line
            exec(compile(source, str(page), "exec"), namespace)


def test_what_is_skipped_says_why():
    for page in PAGES:
        for block in blocks_of(page):
            assert re.fullmatch(r"|file \S+|skip, \S.+", block.note), f"{page}:{block.line}: {block.note}"


# --- command lines ------------------------------------------------------------------------------


def commands_of(page: Path) -> list[str]:
    """Command lines of ``isp-mech``: of shell blocks, continued lines joined, and in running text."""
    lines = [
        line.strip().removeprefix("$ ")
        for block in blocks_of(page)
        if block.language == "sh"
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    outside = BLOCK.sub("", page.read_text(encoding="utf-8"))
    shown = [match[1].replace("\n", " ") for match in _INLINE_COMMAND.finditer(outside)]
    shown = [command if command.count(" ") > 1 else f"{command} --help" for command in shown]  # a verb's name alone
    return [line[line.index("isp-mech ") :] for line in lines if re.search(r"^(srun .*)?isp-mech ", line)] + shown


class Parsed(Exception):
    """The parser took the command line; nothing of it is run."""


def parse(command: str) -> None:
    main(shlex.split(command, comments=True)[1:])


@pytest.fixture
def parse_only(monkeypatch):
    real = argparse.ArgumentParser.parse_args

    def parse_args(parser, argv=None, namespace=None):
        arguments = real(parser, argv, namespace)
        if getattr(arguments, "name", None) == "ladder":  # has a second parser, for what follows `ladder train`
            return arguments
        raise Parsed(arguments)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


COMMANDS = [(page, command) for page in PAGES for command in commands_of(page)]


def test_command_lines_parse(parse_only, capsys):
    assert len(COMMANDS) > 20
    refused = []
    for page, command in COMMANDS:
        try:
            parse(command)
        except Parsed:
            continue
        except SystemExit as end:
            if end.code == 0:  # --help
                continue
        refused.append(f"{name_of(page)}: {command}: {capsys.readouterr().err.strip()}")
    assert not refused, "\n".join(refused)


def test_a_wrong_flag_is_seen(parse_only):
    for command in ("isp-mech explain neqa --no-such-flag", "isp-mech ladder train --no-such-flag"):
        with pytest.raises(SystemExit):
            parse(command)


@pytest.mark.parametrize("page", pages_with("toml"), ids=name_of)
def test_plans_are_read(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    for name, size in zip(("small", "large"), SIZES, strict=True):
        Path("checkpoints", name).symlink_to(weights_folder() / f"ladder-{size}")
    im.write_task(im.Task("mine", (im.Item("0", "A or B?", (" A", " B"), 0),)), "mine.jsonl")
    for block in blocks_of(page):
        if block.language == "toml":
            Path("plan.toml").write_text(block.text, encoding="utf-8")
            assert read_plan("plan.toml").families
