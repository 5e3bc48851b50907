"""Words that a shell completes on TAB, by argcomplete: verbs, flags and choices, tasks, families and files."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import Literal, get_args

from isp_mech.errors import InputError

Shell = Literal["bash", "zsh", "fish"]
SHELLS: tuple[Shell, ...] = get_args(Shell)
ASKED = "_ARGCOMPLETE"  # a shell sets it where it asks for words in place of running the command
TASK_FILES = ("jsonl", "csv")


def script(shell: Shell) -> str:
    """What the shell has to read to complete ``isp-mech``; ``InputError`` where argcomplete is not installed."""
    if find_spec("argcomplete") is None:
        raise InputError("completion", ["needs argcomplete: pip install 'isp_mech[complete]'"])
    import argcomplete

    return argcomplete.shellcode(["isp-mech"], shell=shell)


def answer_shell(parser: argparse.ArgumentParser) -> None:
    """Gives a shell that asks its words, and ends the process."""
    import argcomplete

    argcomplete.autocomplete(parser)


def task_words(prefix: str, **_: object) -> list[str]:
    """Tasks, their variants, and files of tasks."""
    from argcomplete.completers import FilesCompleter

    from isp_mech.contrasts import contrast_names, contrast_variants

    variants = [f"{name}:{variant}" for name in contrast_names() for variant in contrast_variants(name)]
    return [*contrast_names(), *variants, *FilesCompleter(TASK_FILES)(prefix)]


def family_words(prefix: str, **_: object) -> list[str]:
    """Families, folders and files."""
    from argcomplete.completers import FilesCompleter

    from isp_mech.families import family_names

    return [*family_names(), *FilesCompleter()(prefix)]
