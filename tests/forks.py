"""Processes of their own that have imported the library before they start: being killed costs a test no import."""

from __future__ import annotations

import multiprocessing
import os
import sys

from isp_mech.cli import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["isp_mech.measuring", "isp_mech.scoring", "isp_mech.verifying", "isp_mech.tracing"])


def _command(words: tuple[str, ...]) -> None:
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
    sys.exit(main(list(words)))


def start_command(*words: object) -> multiprocessing.process.BaseProcess:
    """``isp-mech`` with these words, in a process of its own; its exit code is the command's."""
    process = _CONTEXT.Process(target=_command, args=(tuple(map(str, words)),))
    process.start()
    return process
