"""GGUF files: read once by transformers, then kept as safetensors and a fast tokenizer under the user's cache.

The cache is ``$ISP_MECH_CACHE``, else the folder for caches that the system names. A file is known in it by its
sha256, which is computed once and remembered for as long as the file's size and time stay. What transformers' reader
passes over, and would change the numbers, is mended where the file says how (``gguf_config``, ``gguf_tokenizer``) or
refused by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from isp_mech.errors import InputError
from isp_mech.models.checkpoint import loading_problems
from isp_mech.models.gguf_config import config_problems, mend_config
from isp_mech.models.gguf_tokenizer import mend_tokenizer
from isp_mech.models.memory import free_bytes
from isp_mech.tables.atomic_write import write_whole
from isp_mech.weight_files import GGUFHeader, bits_of, read_gguf_header

VARIABLE = "ISP_MECH_CACHE"
FORMAT = 1  # of a converted folder; another number is converted again
RECORD = "gguf.json"  # in a converted folder: what it was made of, written last
STALE = 24 * 3600  # seconds after which an unfinished folder belongs to a process that was killed
# tensors that are no parameters of a model, but say how its positions rotate
OF_ROTATION = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True)
class ConvertedFile:
    """The checkpoint folder that was made of a GGUF file, and what a reader of its numbers must know."""

    folder: Path
    note: str


def cache_folder() -> Path:
    """Where converted files are kept."""
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "isp_mech" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "isp_mech"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isp_mech"


def convert_gguf(path: Path) -> ConvertedFile:
    """The file as a checkpoint folder: from the cache, or converted now, which one line on stderr says.

    ``InputError`` where the file is damaged or foreign, holds what transformers does not read, or there is no room.
    """
    if find_spec("gguf") is None:
        raise InputError(str(path), ["reading GGUF files takes the package gguf: pip install 'isp-mech[gguf]'"])
    try:
        header = read_gguf_header(path)
    except (OSError, ValueError) as error:
        raise InputError(str(path), [f"no GGUF file that can be read: {error}"]) from None
    _expect_a_model(path, header)
    digest = _sha256(path)
    folder = cache_folder() / "gguf" / digest
    note = _note(header)
    if not _is_whole(folder):
        try:
            _convert(path, header, folder, digest)
        except OSError as error:
            problem = f"cannot be converted into {folder.parent}: {error} ({VARIABLE} names another folder)"
            raise InputError(str(path), [problem]) from error
    return ConvertedFile(folder, note)


def _expect_a_model(path: Path, header: GGUFHeader) -> None:
    problems = []
    if not header.architecture:
        problems.append("it names no architecture (general.architecture), expected a language model")
    kind = header.fields.get("general.type", "model")
    if kind != "model":
        problems.append(f"it holds a part of a model ({kind}), expected a whole one")
    parts = header.fields.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        problems.append(f"it is one of {parts} parts: expected them merged into one file")
    if not header.tensors:
        problems.append("it holds no weights")
    problems = problems or _weights_cut_off(path, header)
    if problems:
        raise InputError(str(path), problems)


def _weights_cut_off(path: Path, header: GGUFHeader) -> list[str]:
    import gguf

    size, needed = path.stat().st_size, 0
    for name, tensor in header.tensors.items():
        try:
            block, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[tensor.kind]]
        except KeyError:
            return [f"tensor {name} is of type {tensor.kind}, which is not known"]
        needed = max(needed, header.begins[name] + tensor.n_elements // block * n_bytes)
    return [f"it ends in the middle of its weights, after {size} bytes of {needed}"] if size < needed else []


def _note(header: GGUFHeader) -> str:
    """Which types the weights had, those of most weights first."""
    weights: Counter[str] = Counter()
    for tensor in header.tensors.values():
        weights[tensor.kind] += tensor.n_elements
    whole = sum(weights.values())
    packed = [kind for kind in weights if kind not in ("F32", "F16", "BF16", "F64")]
    shares = ", ".join(f"{kind} {n / whole:.0%}" for kind, n in weights.most_common() if n / whole >= 0.005)
    if not packed:
        return f"weights from a GGUF file ({shares})"
    bits = bits_of(_file_type(header)) or bits_of(max(packed, key=weights.__getitem__))
    named = f" ({_file_type(header)})" if _file_type(header) else ""
    return f"weights from a GGUF file were {bits}-bit{named} and are dequantised to float32: {shares}"


def _file_type(header: GGUFHeader) -> str:
    """What the file calls its mixture of types, as ``Q4_K_M``."""
    import gguf

    try:
        return gguf.LlamaFileType(int(str(header.fields.get("general.file_type")))).name.removeprefix("MOSTLY_")
    except ValueError:
        return ""


def _sha256(path: Path) -> str:
    """Of the whole file; remembered by its place, size and time."""
    stat, place = path.stat(), str(path.resolve())
    stamp = [place, stat.st_size, stat.st_mtime_ns, stat.st_ino]
    memory = cache_folder() / "gguf" / "known" / f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:24]}.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["file"] == stamp and len(known["sha256"]) == 64:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # it is only to save time
        write_whole(memory, json.dumps({"file": stamp, "sha256": digest}).encode())
    return digest


def _is_whole(folder: Path) -> bool:
    """Whether a converted folder is as it was written, by this version of transformers' reader."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        made_by = record["format"], record["transformers"]
        sizes = {name: (folder / name).stat().st_size for name in record["sizes"]}
        return made_by == (FORMAT, transformers.__version__) and sizes == record["sizes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _convert(path: Path, header: GGUFHeader, folder: Path, digest: str) -> None:
    """Converts beside ``folder`` and renames, so that it is whole or not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(".unfinished-*"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)
    _expect_room(path, header, folder.parent)
    print(f"isp-mech: {path.name}: converting once, into {folder}", file=sys.stderr, flush=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        _write(path, header, unfinished)
        sizes = {file.name: file.stat().st_size for file in unfinished.iterdir()}
        record = {"format": FORMAT, "transformers": transformers.__version__, "sizes": sizes, "sha256": digest}
        write_whole(unfinished / RECORD, json.dumps({**record, "file": path.name}, indent=1).encode())
        if folder.exists() and not _is_whole(folder):  # damaged, or of another version
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # another process was first
            os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if not _is_whole(folder):
        raise OSError(f"{folder} could not be written")


def _expect_room(path: Path, header: GGUFHeader, cache: Path) -> None:
    needed = 4 * sum(tensor.n_elements for tensor in header.tensors.values())
    problems = []
    # with what else it takes: a vocabulary; what the loader holds beside the weights (1.28 times was measured)
    rooms = (("in the cache", 1.05, shutil.disk_usage(cache).free), ("of memory", 1.25, free_bytes("cpu")))
    for what, share, there in rooms:
        if there < share * needed:
            told = f"{share * needed / 1e9:.2g} GB {what}, where {there / 1e9:.2g} GB are free"
            problems.append(f"converting it to float32 takes {told}")
    if problems:
        raise InputError(str(path), problems)


def _write(path: Path, header: GGUFHeader, folder: Path) -> None:
    """The file as transformers reads it: config, weights in float32, tokenizer."""
    # by its whole path: transformers looks for a bare name in the current folder first
    options: dict[str, Any] = {"gguf_file": str(path.absolute()), "local_files_only": True}
    where = str(path.absolute().parent)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            config = AutoConfig.from_pretrained(where, **options)
            mend_config(config, header, path)
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
            problems = [*config_problems(config, header), *mend_tokenizer(tokenizer, header)]
            if problems:
                raise InputError(str(path), problems)
            _save_tokenizer(tokenizer, folder, path)
            hf, info = AutoModelForCausalLM.from_pretrained(
                where,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except InputError:
        raise
    except Exception as error:  # a damaged file can make the reader raise anything
        raise InputError(str(path), [f"cannot be loaded: {_first_line(error)}"]) from error
    problems = [*loading_problems(hf, info), *_unread(header, hf)]
    if problems:
        raise InputError(str(path), problems)
    hf.hf_quantizer = None
    if hasattr(hf.config, "quantization_config"):
        del hf.config.quantization_config
    hf.save_pretrained(folder)


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a converted folder. transformers' ``AutoTokenizer`` would take the class of the model's type for
    some (Qwen 2), which normalises texts where the file does not."""
    return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, path: Path) -> None:
    """As the general class of fast tokenizers, which takes what is in the file as it is; that of an architecture
    would build its own. What is read back is compared."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "tokenizer_class": "TokenizersBackend"}, indent=1), encoding="utf-8")
    back = tokenizer_of(folder)
    mine, theirs = (
        (json.loads(t.backend_tokenizer.to_str()), t.chat_template, t.bos_token_id, t.eos_token_id)
        for t in (tokenizer, back)
    )
    if mine != theirs:
        raise InputError(str(path), ["its tokenizer is another one when it is written and read back"])


def _unread(header: GGUFHeader, hf: PreTrainedModel) -> list[str]:
    """The tensors that transformers' reader has passed over, each named."""
    in_file = sum(tensor.n_elements for name, tensor in header.tensors.items() if name not in OF_ROTATION)
    in_model = sum(parameter.numel() for parameter in hf.parameters())
    if in_file == in_model:
        return []
    names = _names_not_read(header, hf)
    if names:
        return [f"tensor {name}: transformers' reader has no place for it" for name in names]
    return [f"it holds {in_file:,} weights, and the model has {in_model:,}: transformers' reader leaves some out"]


def _names_not_read(header: GGUFHeader, hf: PreTrainedModel) -> list[str]:
    try:
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=hf.config.to_dict())
        known = get_gguf_hf_weights_map(hf, processor)
    except (ImportError, NotImplementedError, KeyError, TypeError):  # another version, or another reader
        return []
    return [name for name in header.tensors if name not in known and name not in OF_ROTATION]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
