"""A loaded model, and how one is loaded: from a hub, from a folder, safetensors alone."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from isp_mech.errors import InputError
from isp_mech.families import Family, Size
from isp_mech.models.alibi import use_our_attention
from isp_mech.models.anatomy import Anatomy, anatomy_of
from isp_mech.models.attention import ATTENTION
from isp_mech.models.bridging import capture
from isp_mech.models.checks import branches_come_out_right, check_against_plain, expect_equal
from isp_mech.models.forward import (
    ACTIVE,
    Batch,
    Edit,
    Encoding,
    Narrow,
    Probe,
    Record,
    Trunk,
    Watch,
    hooks,
    mask_of,
    narrow_copies,
    narrow_on_demand,
    narrow_to,
    starting_at,
)
from isp_mech.models.kernels import use_fast_products
from isp_mech.models.memory import bytes_per_token, free_bytes
from isp_mech.models.rotary import use_fast_rotation

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
logging.getLogger("transformers").setLevel(logging.ERROR)
disable_progress_bar()  # loading shows its own line where progress is asked for


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model. ``hf`` is the transformers model itself; every parameter belongs to it alone.
    ``source`` is the folder or hub id it was loaded from, if it was."""

    name: str
    revision: str | None
    n_params: int
    hf: Any
    tokenizer: Any
    anatomy: Anatomy
    dtype: str
    device: str
    source: str | None = None

    def __repr__(self) -> str:
        shape = f"{self.anatomy.n_layers} layers x {self.anatomy.n_heads} heads"
        return f"Model({self.name!r}, {shape}, {self.n_params:,} parameters without embeddings, {self.dtype})"

    @property
    def packs(self) -> bool:
        """Whether prompts may share a beginning: the attention takes a mask of our own making."""
        return self.anatomy.takes_mask

    @property
    def takes_trees(self) -> bool:
        """Whether one forward may hold a tree of tokens; true of some models whose attention is their own."""
        return self.anatomy.takes_trees

    @property
    def max_tokens(self) -> int | None:
        """The longest sequence the model was made for, None where its config names none."""
        config = self.hf.config
        found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        return int(found) if found else None

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokens of each text as the model's own tokenizer makes them, its special tokens included."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise InputError(
                self.name, ["its tokenizer gives no character offsets: a fast tokenizer (tokenizer.json) is needed"]
            )
        found = self.tokenizer(list(texts), return_offsets_mapping=True, return_attention_mask=False)
        return [
            Encoding(tuple(ids), tuple(spans))
            for ids, spans in zip(found["input_ids"], found["offset_mapping"], strict=True)
        ]

    @property
    def reads_alike(self) -> tuple[object, ...]:
        """What tells how this model reads texts: two models in which it is equal make the same tokens of them."""
        kind, backend = type(self.tokenizer), getattr(self.tokenizer, "backend_tokenizer", None)
        told = id(self.tokenizer) if backend is None else backend.to_str()
        special = (*self.tokenizer.all_special_ids, getattr(self.tokenizer, "split_special_tokens", None))
        return kind, told, special, self.max_tokens

    @cached_property
    def bridge(self) -> Any:
        """The model as a TransformerLens ``TransformerBridge``, for hooks by the field's names.

        Made when first asked for, over a second skeleton of modules that shares this model's
        parameters (booting a bridge rewrites the modules it is given); its logits are compared with
        the model's own, and a difference over 1e-3 is a ``RuntimeError``.
        """
        from transformer_lens.model_bridge import TransformerBridge

        shared = {id(t): t for t in (*self.hf.parameters(), *self.hf.buffers())}
        skeleton = copy.deepcopy(self.hf, memo=dict(shared))
        skeleton.set_attn_implementation("eager")
        tokenizer = copy.deepcopy(self.tokenizer)  # which booting changes too
        if not tokenizer.name_or_path:  # made in memory: it is not to be looked for on disk
            tokenizer.init_kwargs |= {"name_or_path": "", "add_bos_token": True}
        bridge = TransformerBridge.boot_transformers(
            self.name, hf_model=skeleton, tokenizer=tokenizer, device=self.device, dtype=DTYPES[self.dtype]
        )
        ids = self._probe_ids()
        with torch.no_grad():
            expect_equal(f"{self.name}: TransformerBridge", bridge(ids), self.hf(ids).logits, self.dtype)
        return bridge

    def capture(
        self, names: str | Sequence[str], prompts: str | Sequence[str], *, limit_gb: float | None = None
    ) -> list[dict[str, Tensor]]:
        """Raw activations of a few prompts, per prompt, by TransformerLens's names: for scripts of your own.

        A name is as ``blocks.3.attn.hook_pattern`` (head, query, key) or ``blocks.*.hook_resid_post``
        (pos, d_model): shapes are TransformerLens's without the axis of the batch. What they would take is
        reckoned before anything is kept: ``InputError`` where it is more than ``limit_gb`` (half of the free
        memory), and for names that this model has not. Slower than tracing, which keeps no activations.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        return capture(
            self.bridge,
            [encoding.ids for encoding in self.encode(texts)],
            [names] if isinstance(names, str) else list(names),
            name=self.name,
            limit_gb=limit_gb,
        )

    def unembed(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Logits, in float32, of residual vectors that went through the final norm."""
        weight = self.anatomy.unembed.weight
        device = weight.device if weight.device.type != "meta" else hidden.device  # offloaded: its hook moves it
        return self._finish(self.anatomy.unembed(hidden.to(device, weight.dtype)).float())

    def _finish(self, logits: Tensor) -> Tensor:
        logits, cap = logits * self.anatomy.logit_scale, self.anatomy.logit_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def forward(
        self, batch: Batch, *, watch: Watch | None = None, edits: Sequence[Edit] = ()
    ) -> tuple[Float[Tensor, "row pos d_model"], Record]:
        """Hidden states after the final norm, and what ``watch`` asked for.

        ``edits`` take effect in their layer's forward, so that everything after them follows.
        """
        return self._run(self._own(batch), watch, edits)

    def read(
        self, batch: Batch, rows: Int[Tensor, " n"], nodes: Int[Tensor, " n"], *, watch: Watch | None = None
    ) -> tuple[Float[Tensor, "n d_model"], Record]:
        """Hidden states after the final norm at the ``n`` tokens ``(rows, nodes)``, and what ``watch`` asked for.

        What ``forward`` gives at those tokens; the last layer is computed at them and the watched ones alone.
        """
        batch = self._own(batch)
        all_rows, all_nodes = rows, nodes
        if watch is not None:
            all_rows, all_nodes = torch.cat([rows, watch.rows]), torch.cat([nodes, watch.nodes])
        narrow = narrow_to(batch, all_rows, all_nodes, self.anatomy.n_layers - 1) if self.packs else None
        if narrow is not None and not narrow.is_worth_it:
            narrow = None
        hidden, record = self._run(batch, watch, (), narrow)
        return hidden[rows, nodes], record

    def _own(self, batch: Batch) -> Batch:
        """The batch on the model's device; ``ValueError`` for trees that its attention cannot take."""
        if batch.visible is not None and not self.takes_trees:
            raise ValueError(f"{self.name} takes chains of tokens only: its attention makes its own mask")
        visible = None if batch.visible is None else batch.visible.to(self.device)
        return Batch(batch.ids.to(self.device), batch.depth.to(self.device), visible)

    def _run(
        self, batch: Batch, watch: Watch | None, edits: Sequence[Edit], narrow: Narrow | None = None
    ) -> tuple[Float[Tensor, "row pos d_model"], Record]:
        seen = None
        if watch is not None and watch.query_rows is not None and watch.query_nodes is not None:
            seen = batch.seen_from(watch.query_rows, watch.query_nodes)
        record = Record()
        token = ACTIVE.set(Probe(batch, watch, record, seen, narrow=narrow))
        with ExitStack() as stack, torch.no_grad():
            stack.callback(ACTIVE.reset, token)
            for handle in hooks(self.anatomy, watch, record, edits, batch, narrow):
                stack.callback(handle.remove)
            finds_mask = self.packs and not self.anatomy.given_mask
            out = self.hf.base_model(
                input_ids=batch.ids,
                attention_mask=None if finds_mask else mask_of(batch, DTYPES[self.dtype]),
                position_ids=batch.depth,
                use_cache=False,
            )
        return out.last_hidden_state, record

    def branch(
        self, batch: Batch, trunk: Trunk, *, start: int = 0, edits: Sequence[Edit] = (), gradients: bool = False
    ) -> Float[Tensor, "row pos d_model"]:
        """Hidden states after the final norm of copies of each row's last tokens, each with its own edits.

        ``batch`` holds the copies one after the other, the trunk's ``t`` tokens each. The run starts at
        layer ``start``, before which no edit may lie: there all copies are as ``trunk.resid`` has them.
        With ``gradients`` what comes out can be differentiated by the edits' values.
        """
        return self._run_copies(self._own_copies(batch), trunk, start=start, edits=edits, gradients=gradients)

    def read_copies(
        self, batch: Batch, trunk: Trunk, rows: Int[Tensor, " n"], nodes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n d_model"]:
        """What ``branch`` gives at the ``n`` tokens ``(rows, nodes)``; the last layer is computed at them alone."""
        batch = self._own_copies(batch)
        narrow = narrow_copies(batch, rows, nodes, self.anatomy.n_layers - 1, trunk.own.shape[-1])
        return self._run_copies(batch, trunk, narrow=narrow if narrow.is_worth_it else None)[rows, nodes]

    def _own_copies(self, batch: Batch) -> Batch:
        if not self.packs:
            raise ValueError(f"{self.name} takes chains of tokens only: its attention makes its own mask")
        return Batch(batch.ids.to(self.device), batch.depth.to(self.device))

    def _run_copies(
        self,
        batch: Batch,
        trunk: Trunk,
        *,
        start: int = 0,
        edits: Sequence[Edit] = (),
        gradients: bool = False,
        narrow: Narrow | None = None,
    ) -> Float[Tensor, "row pos d_model"]:
        copies = batch.ids.shape[1] // trunk.own.shape[-1]
        token = ACTIVE.set(Probe(batch, None, Record(), None, trunk, narrow))
        with ExitStack() as stack, torch.set_grad_enabled(gradients):
            stack.callback(ACTIVE.reset, token)
            if start:
                stack.enter_context(starting_at(self.anatomy, start, trunk.resid[start].repeat(1, copies, 1)))
            for handle in hooks(self.anatomy, None, Record(), edits, batch):
                stack.callback(handle.remove)
            unused = None  # our attention has its own
            if self.anatomy.given_mask:
                unused = torch.zeros(1, 1, 1, 1, dtype=DTYPES[self.dtype], device=self.device)
            out = self.hf.base_model(
                input_ids=batch.ids, attention_mask=unused, position_ids=batch.depth, use_cache=False
            )
        return out.last_hidden_state

    def logits_of(self, hidden: Float[Tensor, "n d_model"], tokens: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The logit (float32) of one token after each of ``n`` vectors that went through the final norm."""
        unembed = self.anatomy.unembed
        raw = (hidden.float() * unembed.weight[tokens].float()).sum(-1)
        if unembed.bias is not None:
            raw = raw + unembed.bias[tokens].float()
        return self._finish(raw)

    def _probe_ids(self) -> Tensor:
        count = int(self.hf.config.vocab_size)
        return (torch.arange(1, 12, device=self.device) * 7919 % count)[None]


def load_model(
    path_or_hub_id: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
    name: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """One model, from a folder or a hub id, in evaluation mode.

    ``device_map`` spreads it over devices as transformers does, in place of ``device`` (needs accelerate);
    a checkpoint that is quantised stays so.

    Weights are read from safetensors alone, never unpickled; code that comes with a checkpoint runs
    only if ``trust_remote_code``. The logits of a short prompt are compared with those of the plain
    transformers model; a mismatch is a ``RuntimeError``. Raises ``InputError`` where the path holds no
    such checkpoint, the hub cannot be reached, the dtype is unknown or the device is not there.
    """
    where = str(path_or_hub_id)
    folder = Path(where).expanduser()
    if dtype not in DTYPES:
        raise InputError(where, [f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}"])
    check_device(where, device)
    local = folder.is_dir()
    if local:
        _check_folder(folder)
    elif folder.is_absolute() or where.startswith((".", "~")):
        raise InputError(
            where, ["no such folder: expected a transformers checkpoint or a hub id such as EleutherAI/pythia-70m"]
        )
    options = {"revision": revision, "trust_remote_code": trust_remote_code, "local_files_only": local}
    source = str(folder) if local else where
    try:
        config = AutoConfig.from_pretrained(source, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        hf = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=DTYPES[dtype], device_map=device_map, use_safetensors=True, **options
        )
    except Exception as error:  # a damaged checkpoint can make the loaders raise anything
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(where, [f"cannot be loaded: {first}"]) from error
    short = name or (folder.name if local else where.split("/")[-1])
    model = wrap_model(hf, tokenizer, name=short, revision=revision, dtype=dtype, device=device)
    return replace(model, source=source)


def wrap_model(
    hf: Any, tokenizer: Any, *, name: str, revision: str | None = None, dtype: str = "float32", device: str = "cpu"
) -> Model:
    """A ``Model`` over a transformers model already in memory, which goes to evaluation mode and gets
    our attention function; its parameters are not touched. A model that is quantised or spread over devices
    stays where and what it is. The check of ``load_model`` is made."""
    settled = is_settled(hf)
    hf = hf.eval() if settled else hf.to(device=device, dtype=DTYPES[dtype]).eval()
    if settled:
        device = str(hf.get_input_embeddings().weight.device if hf.device.type == "meta" else hf.device)
        dtype = str(hf.dtype).removeprefix("torch.")
    ids = (torch.arange(1, 12, device=device) * 7919 % int(hf.config.vocab_size))[None]
    with torch.no_grad():
        plain = hf(ids).logits.to(device)
    anatomy = anatomy_of(hf, name)
    if not settled:
        use_fast_products(hf)
    use_our_attention(hf)
    use_fast_rotation(hf)
    if anatomy.given_mask:
        hf.set_attn_implementation(ATTENTION)
    if anatomy.takes_mask:
        narrow_on_demand(anatomy.blocks[-1].block, anatomy.given_mask)
    model = Model(name, revision, _count_without_embeddings(hf, anatomy), hf, tokenizer, anatomy, dtype, device)
    if anatomy.takes_trees and not anatomy.takes_mask and not branches_come_out_right(model, ids):
        model = replace(model, anatomy=replace(anatomy, takes_trees=False))
    check_against_plain(model, ids, plain)
    return model


def is_settled(hf: Any) -> bool:
    """Whether a transformers model is quantised or spread over devices, and so must not be moved or cast."""
    return bool(getattr(hf, "hf_device_map", None)) or getattr(hf, "hf_quantizer", None) is not None


AUTO_TOKENS = {"cpu": 4096, "cuda": 1 << 15}  # enough to keep the device busy; more gains nothing


def plan_tokens(model: Model) -> int:
    """Tokens of one forward: as many as keep the device busy, if half of its free memory holds them."""
    shape = model.anatomy
    each = bytes_per_token(model.hf, shape.d_model, shape.n_heads * shape.d_head)
    most = AUTO_TOKENS.get(torch.device(model.device).type, AUTO_TOKENS["cpu"])
    return max(1, min(most, free_bytes(model.device) // 2 // each))


def in_float32(model: Model) -> Model | None:
    """The same model in float32, from where it was loaded or from its own weights; None where that is not to be
    had: it is quantised or spread over devices, or memory is short of another copy."""
    needed = 4 * sum(p.numel() for p in model.hf.parameters())
    if is_settled(model.hf) or free_bytes(model.device) < 1.2 * needed:
        return None
    if model.source is not None:
        return load_model(model.source, device=model.device, revision=model.revision, name=model.name)
    plain = type(model.hf)(model.hf.config)
    plain.load_state_dict(model.hf.state_dict())
    return wrap_model(plain, model.tokenizer, name=model.name, device=model.device)


def _count_without_embeddings(hf: Any, anatomy: Anatomy) -> int:
    """Parameters but those of the embedding, position embedding and unembedding (tied or not)."""
    apart = {id(p) for module in (*anatomy.embeddings, anatomy.unembed) for p in module.parameters()}
    return sum(p.numel() for p in hf.parameters() if id(p) not in apart)


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
        problems.append(f"model.safetensors is missing ({found}): expected weights as safetensors")
    if problems:
        raise InputError(str(folder), problems)


def load_size(
    size: Size,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: str | dict[str, Any] | None = None,
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


def members(models: Models, *, dtype: str = "float32", device: str = "cpu") -> Iterator[Model]:
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
        loaded = [m if isinstance(m, Model) else load_model(m, dtype=dtype, device=device) for m in models]
        yield from sorted(loaded, key=lambda m: m.n_params)
