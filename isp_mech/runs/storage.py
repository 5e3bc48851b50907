"""Where a run directory lies: a folder of this machine, or anything that fsspec reaches.

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
from typing import Any

from isp_mech.errors import InputError, NotKept
from isp_mech.tables import write_whole

try:
    import fcntl
except ImportError:  # not on every system; then nothing is claimed
    fcntl = None  # type: ignore[assignment]

_URL = re.compile(r"[a-z][a-z0-9+.-]+://.*", re.DOTALL)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,200}")


def open_folder(path: str | os.PathLike[str]) -> Folder | RemoteFolder:
    """The folder at a path or URL; it is made when first written to. ``InputError`` where there can be none."""
    if isinstance(path, str) and _URL.fullmatch(path):
        return RemoteFolder(path, *_reach(path))
    if Path(path).exists() and not Path(path).is_dir():
        raise InputError(str(path), ["a file: expected a folder, or a name that is free"])
    return Folder(Path(path))


@dataclass(frozen=True)
class Folder:
    """A folder of this machine."""

    path: Path

    def where(self, name: str) -> str:
        """What messages call the file ``name``."""
        return str(self.path / _inside(name))

    def names(self, under: str) -> list[str]:
        """The names of the files in the subfolder ``under``, sorted; none where it is missing."""
        folder = self.path / _inside(under)
        return sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []

    def read(self, name: str) -> bytes | None:
        """The file's bytes; None where there is no such file. ``InputError`` where it cannot be read."""
        try:
            return (self.path / _inside(name)).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(self.where(name), [f"cannot be read ({error.strerror or error})"]) from None

    def write(self, name: str, data: bytes) -> None:
        """Keeps the file. ``NotKept`` where it cannot be written: no room, no right, a folder in its place."""
        try:
            write_whole(self.path / _inside(name), data)
        except OSError as error:
            raise _unwritten(self.where(name), error) from error

    def append(self, name: str, line: str) -> None:
        """Adds a line; a file that cannot be written is left alone, for nothing depends on it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(self.path / _inside(name), "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            pass

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Whether this process alone has claimed ``number``, until the block ends or the process dies.

        A lock on one byte of the file ``.claims``: the system takes it back however the process ends, so no clock
        and no cleaning up is needed. Where files cannot be locked everybody gets the claim.
        """
        file = _claims(self.path)
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


@dataclass(frozen=True)
class RemoteFolder:
    """A folder that fsspec reaches. Nothing is claimed there: two processes may compute and write the same."""

    url: str
    system: Any
    root: str

    def where(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{_inside(name)}"

    def names(self, under: str) -> list[str]:
        try:
            self.system.invalidate_cache()
            found = self.system.ls(f"{self.root}/{_inside(under)}", detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").split("/")[-1] for path in found)

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self.system.cat_file(f"{self.root}/{_inside(name)}"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(self.where(name), [f"cannot be read ({error})"]) from None

    def write(self, name: str, data: bytes) -> None:
        target = f"{self.root}/{_inside(name)}"
        folder, _, last = target.rpartition("/")
        temporary = f"{folder}/.{last}.{secrets.token_hex(6)}.tmp"
        try:
            self.system.makedirs(folder, exist_ok=True)
            self.system.pipe_file(temporary, data)
            self.system.mv(temporary, target)
        except OSError as error:
            raise _unwritten(self.where(name), error) from error

    def append(self, name: str, line: str) -> None:
        """Nothing: few such systems can add to a file."""

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        yield True


def _reach(url: str) -> tuple[Any, str]:
    try:
        import fsspec

        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(url, [f"cannot be reached: {error}"]) from None
    return system, root.rstrip("/")


def _unwritten(where: str, error: OSError) -> NotKept:
    kept = "what is finished is kept, and the same command goes on from there"
    return NotKept(where, [f"cannot be written ({error.strerror or error}): {kept}"])


def _inside(name: str) -> str:
    """``name``, if every part of it is a plain one. ``ValueError`` for what could lead out of the folder."""
    if not all(_PART.fullmatch(part) for part in name.split("/")):
        raise ValueError(f"file {name!r}: expected letters, digits and ._+=- in each part, no dot first")
    return name
