"""Families: models of one recipe, ordered by size. Nothing here loads a model, or torch.

    >>> [size.name for size in family("gpt2").members]
    ['gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl']
    >>> family("pythia", sizes=["70m"], revision="step3000").members
    (Size(name='pythia-70m', path_or_id='EleutherAI/pythia-70m', n_params=18915328, revision='step3000'),)

``n_params`` counts parameters without the embeddings of tokens and positions and without the
unembedding: for named families as it follows from the shape of the model (for Pythia these are the
published numbers), for a folder from the headers of its safetensors files.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Literal, get_args

from isp_mech.errors import InputError

Kind = Literal["embedded", "hub", "list"]
HUB_FAMILIES = Path(__file__).with_name("families.tsv")
LADDER_WEIGHTS = Path(__file__).parent / "ladder" / "weights"
_EMBEDDED = ("ladder", "ladder-null")
_NOT_COUNTED = re.compile(  # embeddings, and buffers of old checkpoints
    r"(^|\.)(embed_in|embed_out|wte|wpe|embed_tokens|embed_positions|word_embeddings|lm_head|shared)\."
    r"|\.(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$|(^|\.)position_ids$"
)
PYTHIA_STEPS = (0, *(2**k for k in range(10)), *range(1000, 144000, 1000))


@dataclass(frozen=True)
class Size:
    """One model: its name, the folder or hub id it is loaded from, and its parameters without embeddings.

    ``n_params`` is None for a hub id the project does not know: it is counted when the model is loaded.
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

_ALIASES = {"qwen": "qwen2.5", "llama": "llama3", "gpt_neo": "gpt-neo", "gptneo": "gpt-neo"}


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
    """The family of that name, or the models of a list of checkpoint folders and hub ids.

    ``sizes`` keeps the members so named (``pythia-70m`` or just ``70m``); ``revision`` is a branch, tag or
    training step for every member from a hub. One folder or hub id alone is a family of one. Raises
    ``InputError`` for an unknown name, size or step, and for every folder that holds no checkpoint.
    """
    given = name_or_list
    name = _ALIASES.get(str(given).lower(), str(given).lower())
    if isinstance(given, str) and name in family_names():
        chosen = _embedded(name) if name in _EMBEDDED else _hub_families()[name]
    elif isinstance(given, str | Path):
        if "/" not in str(given) and not is_folder(given):
            expected = f"expected one of {', '.join(family_names())}, a checkpoint folder, a hub id owner/name"
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
            if is_folder(one):
                folder = Path(one).expanduser()
                sizes.append(Size(folder.resolve().name, str(one), count_parameters(folder)))
            elif isinstance(one, Path) or not one or one[0] in "./~" or one[-1] == "/":
                raise InputError(str(one), ["no such folder, expected a transformers checkpoint"])
            else:
                sizes.append(hub_size(str(one)))
        except InputError as error:
            problems += [f"{error.subject}: {problem}" for problem in error.problems]
    times = Counter(size.name for size in sizes)
    problems += [f"{name}: given {n} times, expected each once" for name, n in times.items() if n > 1]
    if not given:
        problems.append("an empty list, expected at least one folder or hub id")
    if problems:
        raise InputError("family", problems)
    return Family(", ".join(times), tuple(sizes), kind="list")


def _only(family: Family, sizes: Sequence[str]) -> Family:
    def matches(size: Size, wanted: str) -> bool:
        name = size.name.lower()
        return name == wanted.lower() or name.removesuffix("-deduped").endswith(f"-{wanted.lower()}")

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


def count_parameters(folder: str | Path) -> int:
    """Parameters of a checkpoint folder without embeddings, from the headers of its safetensors files.

    Reads a few kilobytes, no weights. Raises ``InputError`` where there is no such checkpoint.
    """
    folder = Path(folder).expanduser()
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    problems = [] if (folder / "config.json").is_file() else ["no config.json, expected a transformers checkpoint"]
    if not files:
        problems.append("no *.safetensors, expected weights in that format")
    count = 0
    for path in files:
        try:
            shapes = _header(path)
        except (OSError, ValueError) as error:
            problems.append(f"{path.name}: {error}")
            continue
        count += sum(prod(shape) for name, shape in shapes.items() if not _NOT_COUNTED.search(name))
    if not problems and count == 0:
        problems.append("the weights hold embeddings only, expected a model's")
    if problems:
        raise InputError(str(folder), problems)
    return count


def _header(path: Path) -> dict[str, list[int]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= path.stat().st_size - 8:
            raise ValueError(f"a header of {length} bytes in a file of {path.stat().st_size}, expected safetensors")
        try:
            header = json.loads(file.read(length))
            return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
        except (UnicodeDecodeError, json.JSONDecodeError, TypeError, KeyError, AttributeError):
            raise ValueError("a header that is not JSON of tensors, expected safetensors") from None
