"""Where a run directory lies: a folder of this machine, or anything else that fsspec reaches.

A file is written whole or not at all. Names are relative, with ``/`` between their parts, and never lead out.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isp_mech.errors import InputError, NotKept
from isp_mech.tables import write_whole

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

try:
    import fcntl
except ImportError:  # not on every system; then nothing is claimed
    fcntl = None  # type: ignore[assignment]

_URL = re.compile(r"[a-z][a-z0-9+.-]+://.*", re.DOTALL)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,200}")


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """The folder at a path or URL; it is made when first written to. ``InputError`` where there can be none."""
    try:
        import fsspec

        if isinstance(path, str) and _URL.fullmatch(path):
            system, root = fsspec.core.url_to_fs(path)
            return Folder(path.rstrip("/"), system, root.rstrip("/"))
    except (ImportError, ValueError, OSError) as error:
        raise InputError(str(path), [f"cannot be reached: {error}"]) from None
    if Path(path).exists() and not Path(path).is_dir():
        raise InputError(str(path), ["a file: expected a folder, or a name that is free"])
    return Folder(str(path), fsspec.filesystem("file"), os.path.abspath(path), Path(path))


@dataclass(frozen=True)
class Folder:
    """A folder that fsspec reaches; ``local`` is its path where it is one of this machine.

    Elsewhere nothing is claimed and nothing logged: two processes may compute and write the same.
    """

    shown: str
    system: AbstractFileSystem
    root: str
    local: Path | None = None

    def where(self, name: str) -> str:
        """What messages call the file ``name``."""
        return f"{self.shown}/{_inside(name)}"

    def names(self, under: str) -> list[str]:
        """The names of the files in the subfolder ``under``, sorted; none where it is missing."""
        try:
            self.system.invalidate_cache()
            paths = self.system.ls(f"{self.root}/{_inside(under)}", detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").split("/")[-1] for path in paths)

    def read(self, name: str) -> bytes | None:
        """The file's bytes; None where there is no such file. ``InputError`` where it cannot be read."""
        try:
            return bytes(self.system.cat_file(f"{self.root}/{_inside(name)}"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(self.where(name), [f"cannot be read ({error.strerror or error})"]) from None

    def write(self, name: str, data: bytes) -> None:
        """Keeps the file. ``NotKept`` where it cannot be written: no room, no right, a folder in its place."""
        target = f"{self.root}/{_inside(name)}"
        folder, _, last = target.rpartition("/")
        temporary = f"{folder}/.{last}.{secrets.token_hex(6)}.tmp"
        try:
            if self.local is not None:  # through a power cut too, which fsspec does not promise
                write_whole(target, data)
            else:
                self.system.makedirs(folder, exist_ok=True)
                self.system.pipe_file(temporary, data)
                self.system.mv(temporary, target)
        except OSError as error:
            then = "what is finished is kept, and the same command goes on from there"
            raise NotKept(self.where(name), [f"cannot be written ({error.strerror or error}): {then}"]) from error

    def append(self, name: str, line: str) -> None:
        """Adds a line; where that cannot be done the file is left alone, for nothing depends on it."""
        if self.local is None:
            return
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            with open(self.local / _inside(name), "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            pass

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Whether this process alone has claimed ``number``, until the block ends or the process dies.

        A lock on one byte of the file ``.claims``: the system takes it back however the process ends, so no clock
        and no cleaning up is needed. Where files cannot be locked everybody gets the claim. (filelock would need a
        file for each claim, and without locks makes files that outlive the process.)
        """
        file = _claims(self.local) if self.local is not None else None
        try:
            if file is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            yield False
            return
        except OSError:  # a file system without locks
            file = None
        try:
            yield True
        finally:
            if file is not None:
                fcntl.lockf(file, fcntl.LOCK_UN, 1, number)


_OPEN: dict[tuple[int, str], int] = {}  # closing any handle of a file would give up all of the process's locks on it


def _claims(path: Path) -> int | None:
    if fcntl is None:
        return None
    whose = os.getpid(), str(path.resolve())
    if whose not in _OPEN:
        try:
            path.mkdir(parents=True, exist_ok=True)
            _OPEN[whose] = os.open(path / ".claims", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return None
    return _OPEN[whose]


def _inside(name: str) -> str:
    """``name``, if every part of it is a plain one. ``ValueError`` for what could lead out of the folder."""
    if not all(_PART.fullmatch(part) for part in name.split("/")):
        raise ValueError(f"file {name!r}: expected letters, digits and ._+=- in each part, no dot first")
    return name
