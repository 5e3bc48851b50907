"""What tells one set of weights, or one task's content, from another; no model is loaded, no torch imported.

A checkpoint folder is known by the sha256 of its files, a GGUF file by its own: computed once, and remembered for as
long as sizes and times stay. A hub id is known by the commit its revision stands for, which is asked for once and
then pinned in the run directory: a branch that moves on cannot bring two sets of weights into one plan.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isp_mech.errors import InputError
from isp_mech.families import Size, is_file, is_folder
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.tasks import PairSet, Task

FILE = "models.json"  # in the run directory: what is remembered
OF_MODELS = ("*.safetensors", "*.json", "*.py", "*.txt", "*.model")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def weights_of(sizes: Mapping[str, Size], directory: RunDirectory) -> dict[str, str]:
    """For each of ``sizes`` (by any names), ``sha256:...`` of a folder's files or a file, ``commit:...`` of a hub id.

    ``InputError`` names every hub id whose commit is not to be had: offline, and not in the cache either.
    """
    known = _remembered(directory)
    before = json.dumps(known, sort_keys=True)
    found: dict[str, str] = {}
    problems: list[str] = []
    for name, size in sizes.items():
        try:
            where = size.path_or_id
            local = is_folder(where) or is_file(where)
            found[name] = _of_files(Path(where).expanduser(), known) if local else _of_hub(size, known)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError("models", list(dict.fromkeys(problems)))
    text = json.dumps(known, sort_keys=True, indent=1)
    if json.dumps(known, sort_keys=True) != before:
        directory.folder.write(FILE, text.encode())
    return found


def content_of(subject: PairSet | Task) -> str:
    """sha256 of everything in a task that scores can depend on."""
    rows = map(repr, subject.items if isinstance(subject, Task) else subject.pairs)
    metric = subject.metric if isinstance(subject, Task) else ""
    head = [type(subject).__name__, metric, str(subject.equally_likely)]
    return hashlib.sha256("\n".join([*head, *rows]).encode()).hexdigest()


def _remembered(directory: RunDirectory) -> dict[str, Any]:
    """What ``FILE`` holds; nothing where it is missing or damaged, for all of it can be found out again."""
    try:
        known = json.loads(directory.folder.read(FILE) or b"{}")
    except (ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _of_files(path: Path, known: dict[str, Any]) -> str:
    files = [path] if path.is_file() else sorted({file for pattern in OF_MODELS for file in path.glob(pattern)})
    stats = [(file.name, file.stat()) for file in files]
    stamp = [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in stats]
    place = str(path.resolve())
    before = known.get(place)
    if not isinstance(before, dict) or before.get("files") != stamp or not isinstance(before.get("sha256"), str):
        digests = []
        for file in files:
            with file.open("rb") as opened:
                digests.append(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n")
        of_all = hashlib.sha256("".join(digests).encode()).hexdigest()
        known[place] = {"files": stamp, "sha256": digests[0].split()[-1] if path.is_file() else of_all}
    return f"sha256:{known[place]['sha256']}"


def _of_hub(size: Size, known: dict[str, Any]) -> str:
    revision = size.revision or "main"
    if _COMMIT.fullmatch(revision):
        return f"commit:{revision}"
    place = f"{size.path_or_id}@{revision}"
    if not isinstance(known.get(place), str) or not _COMMIT.fullmatch(known[place]):
        known[place] = _commit_of(size.path_or_id, revision)
    return f"commit:{known[place]}"


def _commit_of(hub_id: str, revision: str) -> str:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().model_info(hub_id, revision=revision, timeout=20).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        why = str(error).strip().splitlines()[0]
        raise InputError("models", [f"{hub_id} ({revision}): no such model on the hub: {why}"]) from None
    except Exception as error:  # no network: its stack raises types of many packages
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{type(error).__name__}"
    cached = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "refs" / revision
    text = cached.read_text(encoding="utf-8").strip() if cached.is_file() else ""
    if _COMMIT.fullmatch(text):
        return text
    raise InputError(
        "models",
        [f"{hub_id} ({revision}): the hub cannot be reached ({why}), and it is not in the cache: expected a "
         "network, a cached model or a checkpoint folder"],
    )  # fmt: skip
