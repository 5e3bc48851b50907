"""What the headers of weight files say, safetensors and GGUF: names, shapes and types. No weights are read.

    >>> bits_of("Q4_K"), bits_of("F16"), bits_of("IQ2_XS")
    (4, 16, 2)

A damaged or foreign file is a ``ValueError`` that says what was found and what was expected.
"""

from __future__ import annotations

import json
import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_NOT_COUNTED = re.compile(  # embeddings, and buffers of old checkpoints
    r"(^|\.)(embed_in|embed_out|wte|wpe|embed_tokens|embed_positions|word_embeddings|lm_head|shared)\."
    r"|\.(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$|(^|\.)position_ids$"
    r"|^(token_embd|position_embd|token_types|output)\.(weight|bias)$|^rope_(freqs|factors_long|factors_short)\.weight$"
)
_MAY_BE_EMBEDDING = re.compile(r"emb|vocab|wte|wpe|(^|\.)(head|output|score|classifier)\.", re.IGNORECASE)
# whole numbers, several weights of which may be packed into one; 8-bit floats, whose scales are no parameters
_PACKED = re.compile(r"^[IU]\d|^F[468]_|^F4$|^BOOL$")
_OTHERS = re.compile(r"adapter|optimi[sz]er|scheduler|trainer|rng_state|consolidated", re.IGNORECASE)
MAGIC = b"GGUF"
VERSIONS = (2, 3)
# by the numbers that the format gives them (ggml.h); 4, 5, 31 to 33 and 36 to 38 are gone from it
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
LONGEST_LIST = 4096  # of numbers that is kept; longer ones are a vocabulary's
LONGEST_NAME = 1 << 16


@dataclass(frozen=True)
class TensorHeader:
    """One tensor of a file: its shape, rows first, and its type as the format spells it (``F32``, ``U8``, ``Q4_K``)."""

    shape: tuple[int, ...]
    kind: str

    @property
    def n_elements(self) -> int:
        count = 1
        for n in self.shape:
            count *= n
        return count


@dataclass(frozen=True)
class GGUFHeader:
    """``fields`` holds numbers, texts, and lists of numbers; of lists of texts and of long ones their length.
    ``begins`` is the byte at which each tensor begins."""

    fields: Mapping[str, object]
    tensors: Mapping[str, TensorHeader]
    begins: Mapping[str, int]

    @property
    def architecture(self) -> str:
        return str(self.fields.get("general.architecture", ""))


def bits_of(kind: str) -> int:
    """Bits of one number in a type's name, 0 where it has none."""
    found = re.search(r"\d+", kind)
    return int(found.group()) if found else 0


def read_safetensors_header(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file, by name."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= path.stat().st_size - 8:
            raise ValueError(f"a header of {length} bytes in a file of {path.stat().st_size}, expected safetensors")
        try:
            header = json.loads(file.read(length))
            return {
                name: TensorHeader(tuple(entry["shape"]), str(entry.get("dtype", "F32")))
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (UnicodeDecodeError, json.JSONDecodeError, TypeError, KeyError, AttributeError, RecursionError):
            raise ValueError("a header that is not JSON of tensors, expected safetensors") from None


def is_gguf(path: Path) -> bool:
    """Whether there is a file of that name, and it is called or begins like a GGUF file."""
    try:
        if not path.is_file():
            return False
        if path.suffix.lower() == ".gguf":
            return True
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):  # no right to read it, too long, a null character
        return False


def read_gguf_header(path: Path) -> GGUFHeader:
    """The fields and tensors of a GGUF file."""
    size = path.stat().st_size
    if size < 24:
        raise ValueError(f"a file of {size} bytes, expected GGUF")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != MAGIC:
            raise ValueError(f"it begins with {data[:4]!r}, expected {MAGIC!r}")
        cursor = _Cursor(data, 4)
        version = cursor.number("I")
        if version not in VERSIONS:
            order = " (its numbers are big-endian)" if version > 1 << 16 else ""
            raise ValueError(f"GGUF version {version}{order}, expected one of {', '.join(map(str, VERSIONS))}")
        n_tensors, n_fields = cursor.number("Q"), cursor.number("Q")
        fields = {}
        for _ in range(n_fields):
            name = cursor.text()
            fields[name] = cursor.value(cursor.number("I"))
        tensors, begins = {}, {}
        for _ in range(n_tensors):
            name, n_axes = cursor.text(), cursor.number("I")
            if n_axes > 8:
                raise ValueError(f"tensor {name!r} has {n_axes} axes: the header is damaged")
            shape = tuple(cursor.number("Q") for _ in range(n_axes))[::-1]
            kind = cursor.number("I")
            begins[name] = cursor.number("Q")
            tensors[name] = TensorHeader(shape, TYPES.get(kind, f"type {kind}"))
        step = fields.get("general.alignment", 32)
        step = step if isinstance(step, int) and step > 0 else 32
        data_begin = -(-cursor.at // step) * step
        return GGUFHeader(fields, tensors, {name: data_begin + at for name, at in begins.items()})


@dataclass(frozen=True)
class Counted:
    """Parameters without embeddings, None where headers do not tell; and what is wrong with the files."""

    n_params: int | None
    problems: tuple[str, ...] = ()


def count_in_headers(path: Path) -> Counted:
    """The parameters of a checkpoint folder or of a GGUF file."""
    if not path.is_dir():
        try:
            return _count(read_gguf_header(path).tensors, n_rows=None)
        except (OSError, ValueError) as error:
            return Counted(None, (str(error),))
    config, problems = _config_of(path)
    files, missing = weight_files(path)
    problems += missing
    tensors: dict[str, TensorHeader] = {}
    for file in files:
        try:
            tensors |= read_safetensors_header(file)
        except (OSError, ValueError) as error:
            problems.append(f"{file.name}: {error}")
    if problems:
        return Counted(None, tuple(problems))
    rows = config.get("vocab_size")
    counted = _count(tensors, n_rows=rows if isinstance(rows, int) else None)
    parts = ("quantization_config", "text_config", "llm_config", "vision_config")
    return counted if counted.problems or not any(config.get(part) for part in parts) else Counted(None)


def _count(tensors: Mapping[str, TensorHeader], *, n_rows: int | None) -> Counted:
    counted = {name: tensor for name, tensor in tensors.items() if not _NOT_COUNTED.search(name)}
    if not counted:
        return Counted(None, ("the weights hold embeddings only, expected a model's",))
    for name, tensor in counted.items():
        if _PACKED.search(tensor.kind):
            return Counted(None)
        if len(tensor.shape) == 2 and (_MAY_BE_EMBEDDING.search(name) or tensor.shape[0] == n_rows):
            return Counted(None)
    return Counted(sum(tensor.n_elements for tensor in counted.values()))


def _config_of(folder: Path) -> tuple[dict[str, object], list[str]]:
    file = folder / "config.json"
    if not file.is_file():
        return {}, ["no config.json, expected a transformers checkpoint"]
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}, ["config.json is no JSON, expected a transformers checkpoint"]
    return (config, []) if isinstance(config, dict) else ({}, ["config.json holds no object"])


def weight_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The files that transformers loads of a folder, and what is wrong with them: a single file goes before shards,
    and of shards those that the index lists. Adapters and optimizers are none."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single], []
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return [], [f"{index.name} is damaged, expected JSON with a weight_map"]
        files = [folder / name for name in sorted({str(name) for name in names})]
        return files, [f"{file.name}: not there, though {index.name} lists it" for file in files if not file.is_file()]
    found = sorted(folder.glob("*.safetensors"))
    files = [f for f in found if f.name.startswith("model")] or [f for f in found if not _OTHERS.search(f.name)]
    if files:
        return files, []
    others = f" (found {', '.join(file.name for file in found)})" if found else ""
    return [], [f"no {'model' if found else '*'}.safetensors{others}, expected weights in that format"]


@dataclass
class _Cursor:
    """Reads one thing after another."""

    data: mmap.mmap
    at: int

    def number(self, form: str) -> int:
        width = struct.calcsize(f"<{form}")
        self._expect(width)
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += width
        return value

    def text(self) -> str:
        raw = self._raw()
        if len(raw) > LONGEST_NAME:
            raise ValueError(f"a name of {len(raw)} bytes: the header is damaged")
        return raw.decode("utf-8", "replace")

    def value(self, kind: int) -> object:
        """A field's value. Lists that are not kept are walked over."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _TEXT:
            return self._raw().decode("utf-8", "replace")
        if kind != _LIST:
            raise ValueError(f"a field of type {kind}: the header is damaged")
        inner, n = self.number("I"), self.number("Q")
        if inner in _NUMBERS:
            width = struct.calcsize(f"<{_NUMBERS[inner]}")
            self._expect(n * width)
            values = struct.unpack_from(f"<{n}{_NUMBERS[inner]}", self.data, self.at) if n <= LONGEST_LIST else n
            self.at += n * width
            return values
        for _ in range(n):
            self.value(inner)
        return n

    def _raw(self) -> bytes:
        length = self.number("Q")
        self._expect(length)
        self.at += length
        return self.data[self.at - length : self.at]

    def _expect(self, n_bytes: int) -> None:
        if self.at + n_bytes > len(self.data):
            raise ValueError(f"it ends in the middle of its header, after {len(self.data)} bytes")
