"""How a model is loaded: from a hub, a folder of safetensors or a GGUF file; or wrapped, where it is in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils.logging import disable_progress_bar

from isp_mech.errors import InputError
from isp_mech.families import Family, Size, family
from isp_mech.models.alibi import bloom_attention
from isp_mech.models.architecture import Architecture
from isp_mech.models.attention import ATTENTION
from isp_mech.models.chat import ChatSetting
from isp_mech.models.checkpoint import headers_of, loading_problems
from isp_mech.models.fast_linear import use_fast_products
from isp_mech.models.find_architecture import architecture_of
from isp_mech.models.finite_weights import check_logits, check_weights
from isp_mech.models.gguf import convert_gguf, tokenizer_of
from isp_mech.models.length_rule import follow_lengths
from isp_mech.models.memory import bytes_kept_per_token, bytes_per_token, free_bytes
from isp_mech.models.model import DTYPES, Dtype, Model, probe_ids
from isp_mech.models.parity import check_causal, two_rows, with_what_holds
from isp_mech.models.rotary import neox_attention
from isp_mech.models.skeleton import second_skeleton, without_weights
from isp_mech.weight_files import is_gguf, weight_files

logging.getLogger("transformers").setLevel(logging.ERROR)
disable_progress_bar()  # loading shows its own line where progress is asked for


def load_model(
    path_or_hub_id: str | Path,
    *,
    dtype: Dtype = "float32",
    device: str = "cpu",
    revision: str | None = None,
    name: str | None = None,
    device_map: str | dict[str, int | str | torch.device] | None = None,
    trust_remote_code: bool = False,
    chat: ChatSetting = False,
) -> Model:
    """One model, from a folder, a GGUF file or a hub id, in evaluation mode. With ``chat`` its prompts go into its own
    chat template, with that system text where ``chat`` is a text.

    ``device_map`` spreads it over devices as transformers does, in place of ``device`` (needs accelerate);
    a checkpoint that is quantised stays so.

    A GGUF file's weights are dequantised: the first time it is converted, and kept under the user's cache. Weights are
    read from safetensors alone, never unpickled; code that comes with a checkpoint runs only if
    ``trust_remote_code``. A checkpoint that lacks tensors of its model, or has others, is refused. The logits of a
    short prompt are compared with those of the plain transformers model; a mismatch is a ``RuntimeError``. Raises
    ``InputError`` where the path holds no such checkpoint, the hub cannot be reached, the dtype is unknown or the
    device is not there.
    """
    where = str(path_or_hub_id)
    folder = Path(where).expanduser()
    if dtype not in DTYPES:
        raise InputError(where, [f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}"])
    check_device(where, device)
    converted = convert_gguf(folder) if is_gguf(folder) else None
    local = converted is not None or folder.is_dir()
    if converted is not None:
        folder = converted.folder
    elif local:
        _check_folder(folder)
    elif folder.is_file():
        raise InputError(where, ["a file that is no GGUF file: expected one, a checkpoint folder or a hub id"])
    elif folder.is_absolute() or where.startswith((".", "~")):
        raise InputError(
            where, ["no such folder: expected a transformers checkpoint or a hub id such as EleutherAI/pythia-70m"]
        )
    options = {"revision": revision, "trust_remote_code": trust_remote_code, "local_files_only": local}
    source = str(folder) if local else where
    try:
        config = AutoConfig.from_pretrained(source, **options)
        tokenizer = tokenizer_of(folder) if converted else AutoTokenizer.from_pretrained(source, **options)
        hf, info = _auto_class(config).from_pretrained(
            source,
            config=config,
            dtype=DTYPES[dtype],
            device_map=device_map,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # which tells of them, below
            **options,
        )
    except Exception as error:  # a damaged checkpoint can make the loaders raise anything
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(where, [f"cannot be loaded: {first}"]) from error
    if problems := loading_problems(hf, info, headers_of(folder) if local else None):
        raise InputError(where, problems)
    short = name or (Path(where).stem if converted else folder.resolve().name if local else where.split("/")[-1])
    if not is_settled(hf):
        hf.to(device=device, dtype=DTYPES[dtype])
    model = _model_over(hf, tokenizer, name=short, revision=revision, device=device, source=source).with_chat(chat)
    model = replace(model, runs_own_code=trust_remote_code)
    if converted is None:
        return model
    return replace(model, source=str(Path(where).expanduser()), notes=(f"{short}: {converted.note}",))


def _auto_class(config: Any) -> Any:
    """What loads a checkpoint: as a causal language model, or as the one of more than text that its config names."""
    of_more = set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values())
    return AutoModelForImageTextToText if of_more & set(config.architectures or ()) else AutoModelForCausalLM


def wrap_model(
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    revision: str | None = None,
    dtype: Dtype = "float32",
    device: str = "cpu",
) -> Model:
    """A ``Model`` over a transformers model already in memory, which stays as it is.

    Modules of our own share its parameters, so that what is changed in these is seen; only where they lie on another
    device or are of another type are they copied. A model that is quantised or spread over devices stays where and
    what it is. The check of ``load_model`` is made.
    """
    own = second_skeleton(hf) if is_settled(hf) else second_skeleton(hf, device=device, dtype=DTYPES[dtype])
    return _model_over(own, tokenizer, name=name, revision=revision, device=device)


def _model_over(
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    device: str,
    revision: str | None = None,
    source: str | None = None,
) -> Model:
    """A ``Model`` over modules that are ours to change. A mismatch with the plain model's logits: ``RuntimeError``."""
    hf.eval()
    if is_settled(hf):
        device = str(hf.get_input_embeddings().weight.device if hf.device.type == "meta" else hf.device)
    ids, dtype = probe_ids(hf, device), str(hf.dtype).removeprefix("torch.")
    if not is_settled(hf):
        check_weights(hf, name)
    plain: list[Tensor] = []

    def run() -> Tensor:
        with torch.no_grad():
            plain.append(hf(two_rows(ids)).logits.to(device))
        check_logits(plain[-1], name, dtype)
        return plain[-1]

    shape = architecture_of(hf, name, run)
    check_causal(plain[-1], name, dtype)
    if not is_settled(hf):
        use_fast_products(hf)
    own: dict[str, Callable[..., Any]] = {"BloomAttention": bloom_attention, "GPTNeoXAttention": neox_attention}
    for module in hf.modules():
        if forward := own.get(type(module).__name__):
            module.forward = MethodType(forward, module)
    if shape.length_rule is not None:
        follow_lengths(hf)
    before = hf.config._attn_implementation
    if shape.mask_is_argument:
        hf.set_attn_implementation(ATTENTION)
    count = _count_without_embeddings(hf, shape)
    model = Model(name, revision, count, hf, tokenizer, shape, dtype, device, source)
    return with_what_holds(model, ids, plain[-1][:1], lambda: hf.set_attn_implementation(before))


def is_settled(hf: PreTrainedModel) -> bool:
    """Whether a transformers model is quantised or spread over devices, and so must not be moved or cast."""
    return bool(getattr(hf, "hf_device_map", None)) or getattr(hf, "hf_quantizer", None) is not None


AUTO_TOKENS = {"cpu": 4096, "cuda": 1 << 15}  # enough to keep the device busy; more gains nothing


def plan_tokens(model: Model, *, keeping: bool = False) -> int:
    """Tokens of one forward: as many as keep the device busy, if half of its free memory holds them; with ``keeping``
    their keys and values in all layers too."""
    shape = model.architecture
    each = bytes_per_token(model.hf, shape.d_model, shape.n_heads * shape.d_head)
    each += bytes_kept_per_token(model.hf, shape.n_layers, shape.n_heads, shape.d_head) if keeping else 0
    most = AUTO_TOKENS.get(torch.device(model.device).type, AUTO_TOKENS["cpu"])
    return max(1, min(most, free_bytes(model.device) // 2 // each))


def in_float32(model: Model) -> Model | None:
    """The same model in float32, from where it was loaded or from its own weights; None where that is not to be
    had: it is quantised or spread over devices, or memory is short of another copy."""
    needed = 4 * sum(p.numel() for p in model.hf.parameters())
    if is_settled(model.hf) or free_bytes(model.device) < 1.2 * needed:
        return None
    if model.source is not None:
        exact = load_model(
            model.source,
            device=model.device,
            revision=model.revision,
            name=model.name,
            trust_remote_code=model.runs_own_code,
        )
    else:
        plain = type(model.hf)(model.hf.config)
        plain.load_state_dict(model.hf.state_dict())
        exact = _model_over(plain.to(model.device), model.tokenizer, name=model.name, device=model.device)
    return exact


def _count_without_embeddings(hf: PreTrainedModel, architecture: Architecture) -> int:
    """Parameters of the language model but those of the embedding, position embedding and unembedding; of packed
    weights as many as the model has unpacked."""
    whole = hf if architecture.decoder is hf.base_model else architecture.decoder
    ends: Sequence[Any] = (*architecture.embeddings, architecture.unembed)
    if getattr(hf, "hf_quantizer", None) is not None:
        bare, names = without_weights(hf), {id(module): name for name, module in hf.named_modules()}
        whole, *ends = (bare.get_submodule(names[id(module)]) for module in (whole, *ends))
    apart = {id(p) for module in ends for p in module.parameters()}
    return sum(p.numel() for p in whole.parameters() if id(p) not in apart)


def check_device(where: str, device: str) -> None:
    """``InputError`` where torch knows no such device, or it is not there; ``where`` is what the message names."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(where, [f"device {device!r}: {str(error).splitlines()[0]}"]) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(where, [f"device {device!r}: no GPU is available here; expected cpu"])


def _check_folder(folder: Path) -> None:
    problems = []
    if not (folder / "config.json").is_file():
        problems.append("config.json is missing: expected a transformers checkpoint folder")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
        found = f"found {', '.join(pickles)}, which would have to be unpickled" if pickles else "found no weights"
        if files := sorted(file.name for file in folder.glob("*.gguf")):
            found = f"found {', '.join(files)}: give the file's own path"
        problems.append(f"model.safetensors is missing ({found}): expected weights as safetensors")
    else:
        problems += weight_files(folder)[1]
        if (folder / "adapter_config.json").is_file():
            expected = "expected it merged into the weights, or in another folder"
            problems.append(f"adapter_config.json: an adapter beside the weights, {expected}")
    if problems:
        raise InputError(str(folder), problems)


def load_size(
    size: Size,
    *,
    dtype: Dtype = "float32",
    device: str = "cpu",
    device_map: str | dict[str, int | str | torch.device] | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """The model of one member of a family, under the member's name and parameter count."""
    model = load_model(
        size.path_or_id,
        dtype=dtype,
        device=device,
        revision=size.revision,
        name=size.name,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
    )
    return model if size.n_params is None else replace(model, n_params=size.n_params)


Models = Family | Model | Sequence[Model | str | Path] | str | Path


def members(models: Models, *, dtype: Dtype = "float32", device: str = "cpu") -> Iterator[Model]:
    """Loads a family's models one after the other, smallest first; loaded models pass through.

    Yields one ``Model`` at a time, so that no two need to be in memory together.
    """
    if isinstance(models, Model):
        yield models
    elif isinstance(models, Family):
        for size in models.members:
            yield load_size(size, dtype=dtype, device=device)
    elif isinstance(models, str | Path):
        yield load_model(models, dtype=dtype, device=device)
    else:
        paths = [m for m in models if not isinstance(m, Model)]
        known: list[Model | Size] = [m for m in models if isinstance(m, Model)]
        known += family(paths).members if paths else ()
        for one in sorted(known, key=lambda m: (m.n_params is None, m.n_params or 0)):
            yield one if isinstance(one, Model) else load_size(one, dtype=dtype, device=device)
