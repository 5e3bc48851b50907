"""Families: models of one recipe, ordered by size. Nothing here loads a model, or torch.

    >>> [size.name for size in family("gpt2").members]
    ['gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl']
    >>> family("pythia", sizes=["70m"], revision="step3000").members
    (Size(name='pythia-70m', path_or_id='EleutherAI/pythia-70m', n_params=18915328, revision='step3000'),)

``n_params`` counts parameters without the embeddings of tokens and positions and without the
unembedding: for named families from the shape of the model (for Pythia these are the published
numbers), for a folder from the headers of its safetensors files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

from isp_mech.errors import InputError

KINDS = ("embedded", "hub", "list")
LADDER_WEIGHTS = Path(__file__).parent / "ladder" / "weights"
_EMBEDDED = ("ladder", "ladder-null")
_EMBEDDINGS = re.compile(
    r"(^|\.)(embed_in|embed_out|wte|wpe|embed_tokens|embed_positions|word_embeddings|lm_head|shared)\."
)
_BUFFERS = re.compile(r"\.(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$|(^|\.)position_ids$")
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
    kind: str = "list"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"family {self.name!r}: kind {self.kind!r}, expected one of {', '.join(KINDS)}")
        if not self.members:
            raise ValueError(f"family {self.name!r}: expected at least one member")
        if len({size.name for size in self.members}) < len(self.members):
            raise ValueError(f"family {self.name!r}: names are repeated: {', '.join(s.name for s in self.members)}")
        ordered = sorted(self.members, key=lambda s: (s.n_params is None, s.n_params or 0))
        object.__setattr__(self, "members", tuple(ordered))

    def __len__(self) -> int:
        return len(self.members)


# --- named families: hub id and shape of each size --------------------------------------------------


def gpt2_count(n_layers: int, d_model: int, biases: int = 13) -> int:
    """Parameters of GPT-2's shape (also GPT-NeoX's and OPT's): 12 d² + 13 d in a block, 2 d in the final norm.

    GPT-Neo, without biases on queries, keys and values, has 10 d instead of 13 d.
    """
    return n_layers * (12 * d_model**2 + biases * d_model) + 2 * d_model


def llama_count(n_layers: int, d_model: int, d_mlp: int, d_key: int, qkv_bias: bool = False) -> int:
    """Parameters of Llama's shape: ``d_key`` is the width of all keys together (grouped heads).

    Qwen 2 has biases on queries, keys and values.
    """
    attention = 2 * d_model**2 + 2 * d_model * d_key + (d_model + 2 * d_key) * qkv_bias
    return n_layers * (attention + 3 * d_model * d_mlp + 2 * d_model) + d_model


_neo = partial(gpt2_count, biases=10)
_qwen = partial(llama_count, qkv_bias=True)
_PYTHIA = {
    "70m": (6, 512), "160m": (12, 768), "410m": (24, 1024), "1b": (16, 2048),
    "1.4b": (24, 2048), "2.8b": (32, 2560), "6.9b": (32, 4096), "12b": (36, 5120),
}  # fmt: skip

# name -> (citation, count of a shape, {hub id: shape})
_HUB: dict[str, tuple[str, Callable[..., int], dict[str, tuple[int, ...]]]] = {
    "pythia": (
        "Biderman et al. 2023, Pythia, arXiv 2304.01373",
        gpt2_count,
        {f"EleutherAI/pythia-{size}": shape for size, shape in _PYTHIA.items()},
    ),
    "pythia-deduped": (
        "Biderman et al. 2023, Pythia, arXiv 2304.01373 (deduplicated Pile)",
        gpt2_count,
        {f"EleutherAI/pythia-{size}-deduped": shape for size, shape in _PYTHIA.items()},
    ),
    "opt": (  # without opt-350m, whose norms stand after the sublayers: no lens can be read off it
        "Zhang et al. 2022, OPT, arXiv 2205.01068",
        gpt2_count,
        {
            "facebook/opt-125m": (12, 768), "facebook/opt-1.3b": (24, 2048), "facebook/opt-2.7b": (32, 2560),
            "facebook/opt-6.7b": (32, 4096), "facebook/opt-13b": (40, 5120), "facebook/opt-30b": (48, 7168),
            "facebook/opt-66b": (64, 9216),
        },
    ),
    "gpt2": (
        "Radford et al. 2019, Language models are unsupervised multitask learners",
        gpt2_count,
        {
            "openai-community/gpt2": (12, 768), "openai-community/gpt2-medium": (24, 1024),
            "openai-community/gpt2-large": (36, 1280), "openai-community/gpt2-xl": (48, 1600),
        },
    ),
    "gpt-neo": (
        "Black et al. 2021, GPT-Neo, doi 10.5281/zenodo.5297715",
        _neo,
        {
            "EleutherAI/gpt-neo-125m": (12, 768), "EleutherAI/gpt-neo-1.3B": (24, 2048),
            "EleutherAI/gpt-neo-2.7B": (32, 2560),
        },
    ),
    "qwen2.5": (
        "Qwen team 2024, Qwen2.5, arXiv 2412.15115",
        _qwen,
        {
            "Qwen/Qwen2.5-0.5B": (24, 896, 4864, 128), "Qwen/Qwen2.5-1.5B": (28, 1536, 8960, 256),
            "Qwen/Qwen2.5-3B": (36, 2048, 11008, 256), "Qwen/Qwen2.5-7B": (28, 3584, 18944, 512),
            "Qwen/Qwen2.5-14B": (48, 5120, 13824, 1024), "Qwen/Qwen2.5-32B": (64, 5120, 27648, 1024),
            "Qwen/Qwen2.5-72B": (80, 8192, 29568, 1024),
        },
    ),
    "llama3": (
        "Grattafiori et al. 2024, The Llama 3 herd of models, arXiv 2407.21783",
        llama_count,
        {
            "meta-llama/Llama-3.2-1B": (16, 2048, 8192, 512), "meta-llama/Llama-3.2-3B": (28, 3072, 8192, 1024),
            "meta-llama/Llama-3.1-8B": (32, 4096, 14336, 1024), "meta-llama/Llama-3.1-70B": (80, 8192, 28672, 1024),
            "meta-llama/Llama-3.1-405B": (126, 16384, 53248, 1024),
        },
    ),
}  # fmt: skip
_ALIASES = {"qwen": "qwen2.5", "llama": "llama3", "gpt_neo": "gpt-neo", "gptneo": "gpt-neo"}


def family_names() -> tuple[str, ...]:
    """The names that ``family`` knows: the embedded ladder (and the same without lures), families of the hub."""
    return (*_EMBEDDED, *_HUB)


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
    if isinstance(given, str) and _ALIASES.get(given.lower(), given.lower()) in family_names():
        found = _named(_ALIASES.get(given.lower(), given.lower()))
    elif isinstance(given, str | Path):
        if "/" not in str(given) and not is_folder(given):
            raise InputError(
                "family",
                [f"{given!r}: expected one of {', '.join(family_names())}, a checkpoint folder, a hub id owner/name"],
            )
        found = _listed([given])
    else:
        found = _listed(given)
    if sizes is not None:
        found = _only(found, sizes)
    return found if revision is None else _at(found, revision)


def _named(name: str) -> Family:
    if name in _EMBEDDED:
        return _embedded(name)
    citation, _, shapes = _HUB[name]
    return Family(name, tuple(hub_size(hub_id) for hub_id in shapes), citation, "hub")


def hub_size(hub_id: str) -> Size:
    """The size of a hub id; without ``n_params`` where the project does not know it."""
    found = _known(hub_id)
    if found is None:
        return Size(hub_id.rstrip("/").split("/")[-1] or hub_id, hub_id, None)
    _, known, n_params = found
    return Size(known.split("/")[-1], known, n_params)


def family_of_hub_id(hub_id: str) -> str | None:
    """The name of the known family that a hub id, or its last part, belongs to; None for others.

    >>> family_of_hub_id("EleutherAI/pythia-70m"), family_of_hub_id("opt-125m"), family_of_hub_id("mine/model")
    ('pythia', 'opt', None)
    """
    found = _known(hub_id)
    return found[0] if found else None


def _known(hub_id: str) -> tuple[str, str, int] | None:
    for name, (_, count, shapes) in _HUB.items():
        for known, shape in shapes.items():
            if hub_id.lower() in (known.lower(), known.split("/")[-1].lower()):
                return name, known, count(*shape)
    return None


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
    names = [size.name for size in sizes]
    problems += [
        f"{name}: given {names.count(name)} times, expected each once"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if not given:
        problems.append("an empty list, expected at least one folder or hub id")
    if problems:
        raise InputError("family", problems)
    return Family(", ".join(names), tuple(sizes), kind="list")


def _only(found: Family, sizes: Sequence[str]) -> Family:
    def matches(size: Size, wanted: str) -> bool:
        return size.name.lower() == wanted.lower() or size.name.lower().removesuffix("-deduped").endswith(
            f"-{wanted.lower()}"
        )

    unknown = [wanted for wanted in sizes if not any(matches(size, wanted) for size in found.members)]
    if unknown or not sizes:
        names = ", ".join(size.name for size in found.members)
        raise InputError(f"family {found.name!r}", [f"size {u!r}: expected some of {names}" for u in unknown or ("",)])
    kept = tuple(size for size in found.members if any(matches(size, wanted) for wanted in sizes))
    return replace(found, members=kept)


def _at(found: Family, revision: str) -> Family:
    if found.kind == "embedded":
        raise InputError(f"family {found.name!r}", [f"revision {revision!r}: the embedded models have none"])
    if found.name.startswith("pythia") and revision.startswith("step"):
        if revision not in {f"step{step}" for step in PYTHIA_STEPS}:
            expected = "step0, step1, step2, step4, ..., step512, step1000, step2000, ..., step143000"
            raise InputError(f"family {found.name!r}", [f"revision {revision!r}: expected one of {expected}"])
    return replace(found, members=tuple(replace(size, revision=revision) for size in found.members))


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
        count += sum(
            prod(shape) for name, shape in shapes.items() if not _EMBEDDINGS.search(name) and not _BUFFERS.search(name)
        )
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
