"""Families: models of one recipe, ordered by size. Nothing here loads a model, or torch.

    >>> [size.name for size in family("gpt2").members]
    ['gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl']
    >>> family("pythia", sizes=["70m"], revision="step3000").members
    (Size(name='pythia-70m', path_or_id='EleutherAI/pythia-70m', n_params=18915328, revision='step3000'),)

``n_params`` counts parameters without the embeddings of tokens and positions and without the
unembedding: for named families as it follows from the shape of the model (for Pythia these are the
published numbers), for a folder or a GGUF file from the headers of its weight files. Where those do not tell (packed
weights, a model inside another) it is None, and counted when the model is loaded.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from isp_mech.errors import InputError
from isp_mech.weight_files import count_in_headers, is_gguf

Kind = Literal["embedded", "hub", "list"]
HUB_FAMILIES = Path(__file__).with_name("families.tsv")
LADDER_WEIGHTS = Path(__file__).parent / "ladder" / "weights"
_EMBEDDED = ("ladder", "ladder-null")
PYTHIA_STEPS = (0, *(2**k for k in range(10)), *range(1000, 144000, 1000))


@dataclass(frozen=True)
class Size:
    """One model: its name, the folder, GGUF file or hub id it is loaded from, and its parameters without embeddings.

    ``n_params`` is None where it is not known before the model is loaded, and counted then.
    """

    name: str
    path_or_id: str
    n_params: int | None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.path_or_id:
            raise ValueError(f"size {self!r}: expected a name and a folder or hub id")
        if self.n_params is not None and self.n_params < 1:
            raise ValueError(f"size {self.name!r}: n_params {self.n_params}, expected 1 or more")


@dataclass(frozen=True)
class Family:
    """Models of one recipe, smallest first (those of unknown size last, as given).

    ``kind`` is ``embedded`` (ships with the project), ``hub`` or ``list``. Raises ``ValueError`` for no
    members or two of one name.
    """

    name: str
    members: tuple[Size, ...]
    citation: str = ""
    kind: Kind = "list"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"family {self.name!r}: kind {self.kind!r}, expected one of {', '.join(get_args(Kind))}")
        if not self.members:
            raise ValueError(f"family {self.name!r}: expected at least one member")
        if len({size.name for size in self.members}) < len(self.members):
            raise ValueError(f"family {self.name!r}: names are repeated: {', '.join(s.name for s in self.members)}")
        ordered = sorted(self.members, key=lambda s: (s.n_params is None, s.n_params or 0))
        object.__setattr__(self, "members", tuple(ordered))

    def __len__(self) -> int:
        return len(self.members)


# --- families by name ---------------------------------------------------------------------------------

_ALIASES = {
    "qwen": "qwen2.5", "llama": "llama3", "gpt_neo": "gpt-neo", "gptneo": "gpt-neo", "smollm": "smollm2",
    "gemma": "gemma3", "olmo": "olmo2",
}  # fmt: skip


@cache
def _hub_families() -> Mapping[str, Family]:
    """The families of the hub that the project knows, from families.tsv beside this file.

    Its counts are those of the models' shapes. Left out is opt-350m, whose norms stand after the sublayers: no lens
    can be read off it.
    """
    with HUB_FAMILIES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    members: dict[str, list[Size]] = {}
    for row in rows:
        members.setdefault(row["family"], []).append(
            Size(row["hub_id"].split("/")[-1], row["hub_id"], int(row["n_params"]))
        )
    citations = {row["family"]: row["citation"] for row in rows if row["citation"]}
    return {name: Family(name, tuple(sizes), citations[name], "hub") for name, sizes in members.items()}


def family_names() -> tuple[str, ...]:
    """The names that ``family`` knows: the embedded ladder (and the same without lures), families of the hub."""
    return (*_EMBEDDED, *_hub_families())


def family(
    name_or_list: str | Path | Sequence[str | Path],
    *,
    sizes: Sequence[str] | None = None,
    revision: str | None = None,
) -> Family:
    """The family of that name, or the models of a list of checkpoint folders, GGUF files and hub ids.

    Folders of one last name are told apart by what differs: ``runs/small/final`` and ``runs/large/final`` are
    ``small/final`` and ``large/final``. ``sizes`` keeps the members so named (``pythia-70m`` or just ``70m``);
    ``revision`` is a branch, tag or training step for every member from a hub. One folder or hub id alone is a family
    of one. Raises ``InputError`` for an unknown name, size or step, and for every folder that holds no checkpoint.
    """
    given = name_or_list
    name = _ALIASES.get(str(given).lower(), str(given).lower())
    if isinstance(given, str) and name in family_names():
        chosen = _embedded(name) if name in _EMBEDDED else _hub_families()[name]
    elif isinstance(given, str | Path):
        if "/" not in str(given) and not is_folder(given) and not is_file(given):
            expected = (
                f"expected one of {', '.join(family_names())}, a checkpoint folder, a hub id owner/name, a GGUF file"
            )
            raise InputError("family", [f"{given!r}: {expected}"])
        chosen = _listed([given])
    else:
        chosen = _listed(given)
    if sizes is not None:
        chosen = _only(chosen, sizes)
    return chosen if revision is None else _at(chosen, revision)


def hub_size(hub_id: str) -> Size:
    """The size of a hub id; without ``n_params`` where the project does not know it."""
    unknown = Size(hub_id.rstrip("/").split("/")[-1] or hub_id, hub_id, None)
    return next((size for _, size in _named_like(hub_id)), unknown)


def family_of_hub_id(hub_id: str) -> str | None:
    """The name of the known family that a hub id, or its last part, belongs to; None for others.

    >>> family_of_hub_id("EleutherAI/pythia-70m"), family_of_hub_id("opt-125m"), family_of_hub_id("mine/model")
    ('pythia', 'opt', None)
    """
    return next((name for name, _ in _named_like(hub_id)), None)


def _named_like(hub_id: str) -> Iterator[tuple[str, Size]]:
    for name, known in _hub_families().items():
        for size in known.members:
            if hub_id.lower() in (size.path_or_id.lower(), size.name.lower()):
                yield name, size


def _embedded(name: str) -> Family:
    weights = LADDER_WEIGHTS if name == "ladder" else LADDER_WEIGHTS.with_name("null_weights")
    sizes = []
    for folder in sorted(path.parent for path in weights.glob("*/card.json")):
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        sizes.append(Size(str(card.get("name", folder.name)), str(folder), int(card["n_params_non_embedding"])))
    if not sizes:
        again = "isp-mech ladder train" + (" --null" if name == "ladder-null" else "")
        raise InputError(f"family {name!r}", [f"no weights in {weights}: expected one folder for each size ({again})"])
    citation = "the isp_mech ladder: model organisms trained on text made by code (isp_mech/ladder)"
    if name == "ladder-null":
        citation += "; this family has nothing to remember: what a locator must find nothing in"
    return Family(name, tuple(sizes), citation, "embedded")


def _listed(given: Sequence[str | Path]) -> Family:
    sizes, problems = [], []
    for one in given:
        try:
            sizes.append(size_of(one))
        except InputError as error:
            problems += [f"{error.subject}: {problem}" for problem in error.problems]
    times = Counter(place_of(size.path_or_id) for size in sizes)
    problems += [f"{parts[-1]}: given {n} times, expected each once" for parts, n in times.items() if n > 1]
    if not given:
        problems.append("an empty list, expected at least one folder or hub id")
    if problems:
        raise InputError("family", problems)
    names = _told_apart([size.name for size in sizes], [place_of(size.path_or_id) for size in sizes])
    told = tuple(replace(size, name=name) for size, name in zip(sizes, names, strict=True))
    return Family(", ".join(names), told, kind="list")


def size_of(path_or_id: str | Path) -> Size:
    """The size of one folder, GGUF file or hub id; ``InputError`` where there is no such folder or file."""
    where = str(path_or_id)
    if is_folder(where):
        folder = Path(where).expanduser()
        return Size(folder.resolve().name, where, count_parameters(folder))
    if is_file(where):
        file = Path(where).expanduser()
        return Size(file.stem, where, count_parameters(file))
    if isinstance(path_or_id, Path) or not where or where[0] in "./~" or where[-1] == "/":
        what = "file" if where.lower().endswith(".gguf") else "folder, expected a transformers checkpoint"
        raise InputError(where, [f"no such {what}"])
    return hub_size(where)


def place_of(path_or_id: str) -> tuple[str, ...]:
    """Where a model is, in parts, the same however it is spelt."""
    if is_folder(path_or_id) or is_file(path_or_id):
        return Path(path_or_id).expanduser().resolve().parts
    return tuple(path_or_id.strip("/").split("/"))


def _told_apart(names: Sequence[str], places: Sequence[tuple[str, ...]]) -> list[str]:
    """The names, those that several places share with the parts before it in which these differ.

    >>> _told_apart(["final", "final", "x"], [("runs", "a", "s1", "final"), ("runs", "b", "s1", "final"), ("x",)])
    ['a/final', 'b/final', 'x']
    """
    told = list(names)
    for name, times in Counter(names).items():
        same = [i for i, other in enumerate(names) if other == name]
        if times == 1:
            continue
        length = 2
        while len({places[i][-length:] for i in same}) < times:
            length += 1
        tails = [places[i][-length:-1] for i in same]
        differ = [k for k in range(-min(map(len, tails)), 0) if len({tail[k] for tail in tails}) > 1]
        short = ["/".join([*(tail[k] for k in differ), name]) for tail in tails]
        if len({*short}) < times or {*short} & {*names}:
            short = ["/".join([*tail, name]) for tail in tails]
        for i, new in zip(same, short, strict=True):
            told[i] = new
    return told


def _only(family: Family, sizes: Sequence[str]) -> Family:
    def matches(size: Size, wanted: str) -> bool:
        name, wanted = size.name.lower(), wanted.lower()
        is_size = re.fullmatch(r"[\d.]+[mb]", wanted) is not None and wanted in name.split("-")  # as in gemma-3-1b-pt
        return name == wanted or is_size or name.removesuffix("-deduped").endswith(f"-{wanted}")

    unknown = [wanted for wanted in sizes if not any(matches(size, wanted) for size in family.members)]
    if unknown or not sizes:
        names = ", ".join(size.name for size in family.members)
        raise InputError(f"family {family.name!r}", [f"size {u!r}: expected some of {names}" for u in unknown or ("",)])
    return replace(family, members=tuple(s for s in family.members if any(matches(s, wanted) for wanted in sizes)))


def _at(family: Family, revision: str) -> Family:
    if family.kind == "embedded":
        raise InputError(f"family {family.name!r}", [f"revision {revision!r}: the embedded models have none"])
    if family.name.startswith("pythia") and revision.startswith("step"):
        if revision not in {f"step{step}" for step in PYTHIA_STEPS}:
            expected = "step0, step1, step2, step4, ..., step512, step1000, step2000, ..., step143000"
            raise InputError(f"family {family.name!r}", [f"revision {revision!r}: expected one of {expected}"])
    return replace(family, members=tuple(replace(size, revision=revision) for size in family.members))


# --- what stands in a folder --------------------------------------------------------------------------


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder of that name; False too for what no file can be called."""
    try:
        return Path(path).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # too long, a null character, a user that does not exist
        return False


def is_file(path: str | Path) -> bool:
    """Whether there is a GGUF file of that name; False too for what no file can be called."""
    try:
        return is_gguf(Path(path).expanduser())
    except RuntimeError:  # a user that does not exist
        return False


def count_parameters(path: str | Path) -> int | None:
    """Parameters of a checkpoint folder or GGUF file without embeddings, from the headers of its weight files.

    Reads a few kilobytes, no weights. None where the headers do not tell: weights are packed (4 and 8 bits), the
    model is one part of several (a vision tower), or an embedding may go by a name that is not known. Raises
    ``InputError`` where there is no such checkpoint.
    """
    counted = count_in_headers(Path(path).expanduser())
    if counted.problems:
        raise InputError(str(Path(path).expanduser()), counted.problems)
    return counted.n_params
