"""How a file came to be: what ``isp-mech show FILE`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from isp_mech.errors import visible
from isp_mech.tables import read_table

STAMPED = ("content", "weights", "command")  # told in lines of their own


def provenance(path: str | Path) -> Iterator[tuple[str, str]]:
    """Names and texts that say how the table in a file was made, the last one the command that makes it again.

    The texts hold no character that could act on a terminal. ``InputError`` for a file that is no table of ours, or
    is damaged: its checksums are held against what it holds.
    """
    table = read_table(path)
    run, settings = table.run, table.run.settings
    rows: dict[str, object] = {
        "table": f"{table.name}, {len(table)} rows, whole by its checksums",
        "model": run.model,
        "revision": run.revision,
        "task": run.task,
        "method": run.method,
        "seed": run.seed,
        "dtype": run.dtype,
        "device": run.device,
        "settings": ", ".join(f"{name} {value}" for name, value in settings.items() if name not in STAMPED),
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        "commit": run.commit,
        "data": settings.get("content") and f"sha256:{settings['content']}",
        "weights": settings.get("weights"),
    }
    rows |= {f"note {i}": note for i, note in enumerate(run.notes, 1)}
    rows["command"] = settings.get("command") or f"none is known: it was made in Python ({run.method})"
    yield from ((name, visible(value)) for name, value in rows.items() if value not in (None, ""))
