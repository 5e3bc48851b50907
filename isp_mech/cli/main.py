"""The command line: the library's verbs, on a task and a family.

Nothing heavy is imported until a verb needs it, so that help and lists answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isp_mech import __version__
from isp_mech.cli import printing
from isp_mech.errors import InputError, visible

if TYPE_CHECKING:
    from isp_mech.runs.engines import Engine
    from isp_mech.tables import Table

DESCRIPTION = """\
Why do larger language models do worse on a task? isp-mech finds where in each model the prompt is
overridden, and whether replacing those places gives it back."""

EPILOGUE = """\
start here:
  isp-mech explain quote-repetition          the whole chain on the models that come with the package
  isp-mech explain neqa --family pythia --sizes 70m,160m,410m
  isp-mech run plan.toml --out runs/mine    many families and tasks: docs/runs.md
  isp-mech score my-task.jsonl --family ./my-checkpoints/small --family ./my-checkpoints/large

TASK is a name (`isp-mech tasks`; a variant as neqa:twin), a file of the Inverse Scaling Prize's format (.jsonl or
.csv with prompt, classes, answer_index), or a pairs.jsonl that a run wrote. A stopped run goes on where it was."""


NEWLINE = "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, 2 for bad input (told on stderr, nothing written), 130 when stopped."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.verb(arguments) or 0
    except InputError as error:
        print(f"isp-mech: {visible(error, keep=NEWLINE)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nisp-mech: stopped; what is done is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="isp-mech", description=DESCRIPTION, epilog=EPILOGUE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"isp-mech {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def add(name: str, help: str, verb: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        sub.set_defaults(verb=verb, name=name)
        return sub

    for name, help in (
        ("explain", "everything: score, trace, locate, verify, figures and a report in one folder"),
        ("score", "how often each size answers rightly, and whether it follows the prompt or is overridden"),
        ("trace", "how the margin builds up over depth, where the last position looks, what each part writes"),
        ("locate", "the effect of every head and MLP on the margin, by replacing it"),
        ("verify", "whether replacing the located sites gives the prompt back, on pairs not used to choose them"),
    ):
        _measuring_arguments(add(name, help, _explain if name == "explain" else _measure), name)
    for name, help, verb in (
        ("figures", "draw the figures again from the tables in DIR (no model is loaded)", _figures),
        ("report", "write the figures and DIR/report.html again from the tables in DIR (no model is loaded)", _report),
    ):
        add(name, help, verb).add_argument("folder", metavar="DIR", help="a folder that explain, score, ... wrote")
    _running_arguments(add("run", "a plan: families, tasks and steps from a TOML file, in one run directory", _run))
    show = add("show", "how a table's file was made, and the command that makes it again", _show)
    show.add_argument("file", metavar="FILE", help="a .parquet that isp-mech wrote")
    add("tasks", "the tasks there are by name, one a line, and their variants", _tasks)
    add("families", "the families of models there are by name, one a line", _families)
    ladder = add("ladder", "train the embedded family again: isp-mech ladder train --help", _ladder)
    ladder.add_argument("action", choices=("train",), help="what to do with it")
    ladder.add_argument("options", nargs=argparse.REMAINDER, help="see isp-mech ladder train --help")
    return parser


def _measuring_arguments(sub: argparse.ArgumentParser, name: str) -> None:
    sub.add_argument("task", metavar="TASK", help="a name from `isp-mech tasks`, or a file (.jsonl, .csv)")
    models = sub.add_argument_group("models")
    models.add_argument(
        "--family",
        action="append",
        metavar="F",
        help="a name from `isp-mech families`, or a checkpoint folder or hub id; repeat for a list (default: ladder)",
    )
    models.add_argument("--sizes", metavar="A,B", help="only these members, as 70m,160m")
    models.add_argument("--revision", help="a branch, tag or training step of hub models, as step3000")
    models.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1; auto takes a GPU where there is one (default)"
    )
    models.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="default: float32"
    )
    models.add_argument("--device-map", metavar="M", help="auto spreads a model over all GPUs (needs accelerate)")
    models.add_argument("--batch-size", default="auto", metavar="B", help="prompts at a time (default: auto)")
    models.add_argument("--threads", type=int, metavar="T", help="CPU threads (default: what torch takes)")
    models.add_argument("--shard", type=int, default=0, metavar="K", help="pairs at a time in score and trace")
    prompts = sub.add_argument_group("prompts")
    prompts.add_argument("--n", type=int, default=300, help="pairs to draw for a task by name (default: 300)")
    prompts.add_argument("--seed", type=int, default=0, help="seed of the pairs and of all intervals (default: 0)")
    prompts.add_argument("--source", metavar="FILE", help="your own quotations, facts or constants in place of ours")
    if name == "score":
        prompts.add_argument(
            "--rule",
            default="strict",
            choices=("strict", "prize"),
            help="how a completion's tokens are counted (default: strict)",
        )
    if name in ("explain", "locate", "verify"):
        sub.add_argument(
            "--replacement",
            default="mean",
            metavar="R",
            help="what replaces a site: mean, resample, plain, zero; several with commas (default: mean)",
        )
    if name == "locate":
        method = "exact, or for very large models attribution or integrated gradients (default: exact)"
        sub.add_argument("--method", default="exact", choices=("exact", "attribution", "integrated"), help=method)
        where = "replace what stands at a role's tokens, as definition or negation (default: decision, the last token)"
        sub.add_argument("--positions", default="decision", metavar="ROLE", help=where)
    if name in ("explain", "verify"):
        sub.add_argument(
            "--random", type=int, default=200, metavar="K", help="random sets to compare with (default: 200)"
        )
        sub.add_argument(
            "--share",
            type=float,
            default=0.1,
            metavar="X",
            help="share of all sites to replace together (default: 0.1)",
        )
    sub.add_argument("--out", metavar="DIR", help="folder for tables, figures, report (default: reports/TASK)")
    _engine_arguments(sub)


def _running_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("plan", metavar="PLAN.toml", help="families, tasks, steps, settings: see docs/runs.md")
    sub.add_argument("--out", metavar="DIR", required=True, help="the run directory, or a URL that fsspec reaches")
    sub.add_argument("--status", action="store_true", help="say what is done, and do nothing")
    _engine_arguments(sub)


def _engine_arguments(sub: argparse.ArgumentParser) -> None:
    engine = sub.add_argument_group("workers")
    engine.add_argument("--jobs", type=int, default=1, metavar="N", help="workers (default: this process alone)")
    engine.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="workers of the Ray cluster at ADDRESS (auto: the one this machine is in), or of one started here",
    )
    engine.add_argument("--gpus", type=float, metavar="G", help="GPUs of each Ray worker (default: 1 for cuda)")
    engine.add_argument(
        "--trust-remote-code", action="store_true", help="run the code that comes with a checkpoint (default: refuse)"
    )
    shown = sub.add_mutually_exclusive_group()
    shown.add_argument(
        "--progress", action="store_true", default=None, help="show progress even where stderr is no terminal"
    )
    shown.add_argument("--quiet", dest="progress", action="store_false", help="show no progress")


# --- verbs ----------------------------------------------------------------------------------------


def _measure_with(
    arguments: argparse.Namespace, steps: Sequence[str] | None
) -> tuple[dict[str, Table], Any, Path, bool]:
    from isp_mech.families import family
    from isp_mech.runs.explain import STEPS, default_folder, measure
    from isp_mech.runs.plans import origin_of, read_subject
    from isp_mech.tasks import PairSet

    progress = _progress(arguments)
    batch_size = arguments.batch_size
    if batch_size != "auto":
        if not batch_size.isdigit():
            raise InputError("--batch-size", [f"{batch_size!r}: expected auto or a whole number"])
        batch_size = int(batch_size)
    drawn = {"n": arguments.n, "seed": arguments.seed, "source": arguments.source}
    subject = read_subject(arguments.task, **drawn)
    given = arguments.family or ["ladder"]
    sizes = [size.strip() for size in arguments.sizes.split(",")] if arguments.sizes else None
    chosen = family(given[0] if len(given) == 1 else given, sizes=sizes, revision=arguments.revision)
    out = Path(arguments.out) if arguments.out else default_folder(subject)
    if steps is None:
        steps = STEPS if isinstance(subject, PairSet) else ("score",)
    tables = measure(
        subject,
        chosen,
        out=out,
        steps=steps,
        origin=origin_of(arguments.task, **drawn),
        engine=_engine(arguments),
        seed=arguments.seed,
        rule=getattr(arguments, "rule", "strict"),
        replacement=[kind.strip() for kind in getattr(arguments, "replacement", "mean").split(",")],
        method=getattr(arguments, "method", "exact"),
        positions=getattr(arguments, "positions", "decision"),
        n_random=getattr(arguments, "random", 200),
        share=getattr(arguments, "share", 0.1),
        batch_size=batch_size,
        device=_device(arguments.device),
        device_map=arguments.device_map,
        dtype=arguments.dtype,
        threads=arguments.threads,
        shard=arguments.shard,
        progress=progress,
    )
    return tables, subject, out, progress


def _progress(arguments: argparse.Namespace) -> bool:
    return sys.stderr.isatty() if arguments.progress is None else bool(arguments.progress)


def _engine(arguments: argparse.Namespace) -> Engine:
    from isp_mech.runs.engines import Engine

    return Engine(arguments.jobs, arguments.ray, arguments.gpus, arguments.trust_remote_code)


def _device(given: str) -> str:
    if given != "auto":
        return given
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _explain(arguments: argparse.Namespace) -> None:
    from isp_mech.runs.explain import draw, tell
    from isp_mech.tasks import PairSet

    tables, subject, out, progress = _measure_with(arguments, None)
    if progress:
        print("drawing figures, writing the report", file=sys.stderr, flush=True)
    pairs = subject.pairs[:1] if isinstance(subject, PairSet) else ()
    report = tell(tables, draw(tables, out), out, examples=pairs)
    printing.curve(tables)
    if not pairs:
        print("scored only: tracing, locating and verifying need pairs (`isp-mech tasks`, or a file of pairs)")
    print(f"report: {report}")


def _measure(arguments: argparse.Namespace) -> None:
    tables, _, out, _ = _measure_with(arguments, (arguments.name,))
    {"score": printing.curve, "trace": printing.onset, "locate": printing.sites, "verify": printing.verification}[
        arguments.name
    ](tables)
    print(f"tables: {out / 'tables'}")


def _figures(arguments: argparse.Namespace) -> None:
    from isp_mech.runs.explain import draw, read_tables

    drawn = draw(read_tables(arguments.folder), arguments.folder)
    print(f"figures: {Path(arguments.folder) / 'figures'} ({', '.join(name.replace('_', '-') for name in drawn)})")


def _report(arguments: argparse.Namespace) -> None:
    from isp_mech.runs.explain import draw, read_tables, tell

    tables = read_tables(arguments.folder)
    print(f"report: {tell(tables, draw(tables, arguments.folder), arguments.folder)}")


def _run(arguments: argparse.Namespace) -> None:
    from isp_mech.runs.execute import run_parts, status
    from isp_mech.runs.plans import read_plan
    from isp_mech.runs.run_directory import RunDirectory

    engine, directory = _engine(arguments), RunDirectory(arguments.out)
    parts = read_plan(arguments.plan).parts(directory)
    if not arguments.status:
        run_parts(parts, directory, engine=engine, progress=_progress(arguments))
    rows = [(folder, step, f"{done} of {n}") for folder, step, done, n in status(parts, directory)]
    printing.columns([("results", "step", "done"), *rows])
    if not arguments.status:
        print(f"figures and a page of one: isp-mech report {arguments.out}/{rows[0][0]}")


def _show(arguments: argparse.Namespace) -> None:
    from isp_mech.runs.provenance import provenance

    printing.columns(list(provenance(arguments.file)))


def _tasks(_: argparse.Namespace) -> None:
    from isp_mech.contrasts import task_lines

    printing.columns(task_lines())


def _ladder(arguments: argparse.Namespace) -> int:
    from isp_mech.ladder import train

    return train.main(arguments.options, prog="isp-mech ladder train")


def _families(_: argparse.Namespace) -> None:
    from isp_mech.families import family, family_names

    rows = []
    for name in family_names():
        try:
            members = family(name).members
        except InputError as error:
            rows.append((name, error.problems[0]))
            continue
        shown = ", ".join(f"{size.name} ({printing.count(size.n_params)})" for size in members)
        rows.append((name, shown))
    printing.columns(rows)
    print("\nin brackets: parameters without embeddings; also a checkpoint folder or any hub id, repeated for a list")


if __name__ == "__main__":
    raise SystemExit(main())
