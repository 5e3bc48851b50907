"""Processes of their own that are forks of this one: what it has imported costs them nothing."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from isp_mech.cli.main import main

_CONTEXT = multiprocessing.get_context("fork")


def _told(said: str, does: Callable[..., object], given: tuple[object, ...]) -> None:
    with open(said, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # past what pytest captures
    try:
        code = does(*given)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    sys.exit(code if isinstance(code, int) else 0)


def start(does: Callable[..., object], *given: object, said: str | os.PathLike[str] = os.devnull) -> BaseProcess:
    """``does(*given)`` in a process of its own; its exit code is the number returned, ``said`` has what it prints."""
    process = _CONTEXT.Process(target=_told, args=(os.fspath(said), does, given))
    process.start()
    return process


def start_command(*words: object, said: str | os.PathLike[str] = os.devnull) -> BaseProcess:
    """``isp-mech`` with these words, in a process of its own."""
    return start(main, list(map(str, words)), said=said)
