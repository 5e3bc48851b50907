"""What the command line takes: its verbs, their arguments and help. Nothing heavy is imported: help is quick."""

from __future__ import annotations

import argparse

from isp_mech import __version__
from isp_mech.cli import completion, verbs
from isp_mech.runs.settings import DECLARED, STEPS

DESCRIPTION = """\
Why do larger language models do worse on a task? isp-mech finds where in each model the prompt is
overridden, and whether replacing those places restores prompt-following."""

EPILOGUE = """\
start here:
  isp-mech explain quote-repetition          the whole chain on the models that come with the package
  isp-mech explain neqa --family pythia --sizes 70m,160m,410m
  isp-mech run plan.toml --out runs/mine    many families and tasks: docs/runs.md
  isp-mech score my-task.jsonl --family ./my-checkpoints/small --family ./my-checkpoints/large

TASK is a name (`isp-mech tasks`; a variant as neqa:twin), a file of the Inverse Scaling Prize's format (.jsonl or
.csv with prompt, classes, answer_index), or a pairs.jsonl that a run wrote. A stopped run goes on where it was."""

VERBS = {
    "explain": (verbs.measure, "everything: score, trace, locate, verify, restore, figures and a report in one folder"),
    "score": (verbs.measure, "how often each size answers rightly, and whether it follows the prompt or is overridden"),
    "trace": (
        verbs.measure,
        "how the margin builds up over depth, where the last position looks, what each part writes",
    ),
    "locate": (verbs.measure, "the effect of every head and MLP on the margin, by replacing it"),
    "block": (verbs.measure, "the effect of every head's attention to each role of the prompt, by blocking it"),
    "verify": (
        verbs.measure,
        "whether replacing the located sites restores prompt-following, on pairs not used to choose them",
    ),
    "restore": (
        verbs.measure,
        "which change makes a model follow the prompt again, chosen on one half of the pairs and judged on the other",
    ),
    "figures": (verbs.figures, "draw the figures again from the tables in DIR (no model is loaded)"),
    "report": (verbs.report, "write the figures and DIR/report.html again from the tables in DIR (no model is loaded)"),
    "view": (verbs.view, "open DIR/report.html in the browser"),
    "run": (verbs.run, "a plan: families, tasks and steps from a TOML file, in one run directory"),
    "show": (verbs.show, "how a table's file was made, and the command that makes it again"),
    "check": (verbs.check, "what a model can do here, how exactly and how fast: the first thing to run on one's own"),
    "doctor": (
        verbs.doctor,
        "what is installed, which device there is, which fast paths are on and what they gain",
    ),
    "tasks": (verbs.tasks, "the tasks there are by name, one a line, and their variants"),
    "families": (verbs.families, "the families of models there are by name, one a line"),
    "completion": (verbs.completion, "what a shell has to read to complete isp-mech's words on TAB"),
    "ladder": (verbs.ladder, "train the embedded family again: isp-mech ladder train --help"),
}
TABULAR = ("explain", *STEPS, "run", "show", "check", "doctor", "tasks", "families")


def make_parser() -> argparse.ArgumentParser:
    """The parser; what it parses has the function of its verb as ``verb``, and the verb's name as ``name``."""
    parser = argparse.ArgumentParser(
        prog="isp-mech", description=DESCRIPTION, epilog=EPILOGUE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"isp-mech {__version__}")
    each = parser.add_subparsers(metavar="VERB", required=True)
    subs = {name: each.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
            for name, (_, help) in VERBS.items()}  # fmt: skip
    for name, sub in subs.items():
        sub.set_defaults(verb=VERBS[name][0], name=name)
    for name in ("explain", *STEPS):
        _add_measuring(subs[name], name)
    for name in ("figures", "report", "view"):
        subs[name].add_argument("folder", metavar="DIR", help="a folder that explain, score, ... wrote")
    run = subs["run"]
    run.add_argument("plan", metavar="PLAN.toml", help="families, tasks, steps, settings: see docs/runs.md")
    run.add_argument("--out", metavar="DIR", required=True, help="the run directory, or a URL that fsspec reaches")
    run.add_argument("--status", action="store_true", help="say what is done, and do nothing")
    _add_workers(run)
    subs["show"].add_argument("file", metavar="FILE", help="a .parquet that isp-mech wrote")
    _add_check(subs["check"])
    for name in TABULAR:
        subs[name].add_argument("--json", action="store_true", help="print one JSON document in place of a table")
    subs["completion"].add_argument("shell", choices=completion.SHELLS, help="the shell that reads it")
    subs["ladder"].add_argument("action", choices=("train",), help="what to do with it")
    subs["ladder"].add_argument("options", nargs=argparse.REMAINDER, help="see isp-mech ladder train --help")
    return parser


def _add_check(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="a checkpoint folder, a GGUF file or a hub id")
    sub.add_argument("--revision", help="a branch, tag or training step of a hub model, as step3000")
    sub.add_argument("--dtype", choices=DECLARED["dtype"].choices, default="float32", help=DECLARED["dtype"].help)
    sub.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    code = "run the code that comes with a checkpoint (default: refuse)"
    sub.add_argument("--trust-remote-code", action="store_true", help=code)


def _add_measuring(sub: argparse.ArgumentParser, name: str) -> None:
    task = sub.add_argument("task", metavar="TASK", help="a name from `isp-mech tasks`, or a file (.jsonl, .csv)")
    task.completer = completion.task_words  # type: ignore[attr-defined]
    listed = "a name from `isp-mech families`; or a folder, GGUF file or hub id, repeated for a list (default: ladder)"
    family = sub.add_argument("--family", action="append", metavar="F", help=listed)
    family.completer = completion.family_words  # type: ignore[attr-defined]
    sub.add_argument("--sizes", metavar="A,B", help="only these members, as 70m,160m")
    sub.add_argument("--revision", help="a branch, tag or training step of hub models, as step3000")
    sub.add_argument("--n", type=int, default=300, help="pairs to draw for a task by name (default: 300)")
    sub.add_argument("--source", metavar="FILE", help="your own quotations, facts or constants in place of ours")
    sub.add_argument("--out", metavar="DIR", help="folder for tables, figures, report (default: reports/TASK)")
    settings = sub.add_argument_group("settings")
    for setting, told in DECLARED.items():
        if name in told.verbs:
            settings.add_argument(
                told.flag,
                dest=setting,
                type=told.parse,
                choices=told.choices,
                metavar=told.metavar,
                nargs="?" if told.bare else None,
                const=told.bare,
                default=argparse.SUPPRESS,  # the default stands in Settings
                help=told.help + _default(setting, told.default),
            )
    _add_workers(sub)


def _default(setting: str, default: object) -> str:
    """How help tells of a default; a device is chosen by the command line, where none is given."""
    if default in (None, "", ()):
        return ""
    text = ",".join(default) if isinstance(default, tuple) else str(default)
    return f" (default: {'auto' if setting == 'device' else text})"


def _add_workers(sub: argparse.ArgumentParser) -> None:
    workers = sub.add_argument_group("workers")
    workers.add_argument("--jobs", type=int, default=1, metavar="N", help="workers (default: this process alone)")
    of_ray = "workers of the Ray cluster at ADDRESS (auto: the one this machine is in), or of one started here"
    workers.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help=of_ray)
    workers.add_argument("--gpus", type=float, metavar="G", help="GPUs of each Ray worker (default: 1 for cuda)")
    code = "run the code that comes with a checkpoint (default: refuse)"
    workers.add_argument("--trust-remote-code", action="store_true", help=code)
    shown = sub.add_mutually_exclusive_group()
    even = "a line for every step, and not only one a minute, where stderr is no terminal"
    shown.add_argument("--progress", action="store_true", default=None, help=even)
    shown.add_argument("--quiet", dest="progress", action="store_false", help="show no progress")
