"""Processes of their own that have imported the library before they start: being killed costs a test no import."""

from __future__ import annotations

import multiprocessing
import os
import sys

from isp_mech.cli.main import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["isp_mech.runs.worker", "isp_mech.scoring", "isp_mech.causal"])


def _command(words: tuple[str, ...], said: str) -> None:
    with open(said, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(main(list(words)))


def start_command(*words: object, said: str | os.PathLike[str] = os.devnull) -> multiprocessing.process.BaseProcess:
    """``isp-mech`` with these words, in a process of its own; its exit code is the command's, and the file ``said`` has
    all that it prints."""
    process = _CONTEXT.Process(target=_command, args=(tuple(map(str, words)), os.fspath(said)))
    process.start()
    return process
