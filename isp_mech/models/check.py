"""What a model can do here, and how far each is from plain transformers: the first thing to run on one's own.

print(im.models.check_model("my-checkpoint").to_json())        # isp-mech check my-checkpoint
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from isp_mech.errors import InputError
from isp_mech.models.activations import ActivationEdit, RecordSpec
from isp_mech.models.batch import Batch, TokenPlaces
from isp_mech.models.loading import is_settled, load_model
from isp_mech.models.model import Dtype, Model

AbilityName = Literal["score", "trees", "trace", "lens", "edit", "bridge", "chat"]
Fact = str | int | float | None
TEXTS = (
    "The capital of France is Paris, and the capital of Italy is",
    'Write a quote that ends in the word "heavy": Absence makes the heart grow',
    "1 + 1 = 2, 2 + 2 = 4, 4 + 4 =",
)
LIMIT = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}  # nats: a larger gap is no rounding
SPEED = (4, 32)  # rows and tokens of the forward that is timed


@dataclass(frozen=True)
class Ability:
    """Whether a model can do one thing. ``gap`` is the largest difference to plain transformers, in nats (``trace``:
    as a part of the residual stream's size), None where it was not compared; ``note`` says why not, or what else."""

    name: AbilityName
    can: bool
    gap: float | None = None
    note: str = ""


@dataclass(frozen=True)
class ModelCheck:
    """What ``check_model`` found: ``facts`` by name, and ``abilities``."""

    model: str
    facts: Mapping[str, Fact]
    abilities: tuple[Ability, ...] = field(default=())

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def check_model(
    model: Model | str | Path,
    *,
    dtype: Dtype = "float32",
    device: str = "cpu",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> ModelCheck:
    """What the model can do here, each held against plain transformers on three short prompts.

    ``model`` is a loaded one, a folder, a GGUF file or a hub id, which is loaded. A quantised model, or one that is
    spread over devices, is not compared. ``InputError`` where it cannot be loaded.
    """
    began = time.perf_counter()
    if not isinstance(model, Model):
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        model = load_model(model, dtype=dtype, device=device, **options)
    seconds = time.perf_counter() - began
    probe = _Probe(model, None if is_settled(model.hf) else _plain_model(model))
    checks: tuple[tuple[AbilityName, Callable[[_Probe], Ability]], ...] = (
        ("score", _score), ("trees", _trees), ("trace", _trace), ("lens", _lens), ("edit", _edit), ("bridge", _bridge),
        ("chat", _chat),
    )  # fmt: skip
    abilities = tuple(_attempt(name, check, probe) for name, check in checks)
    return ModelCheck(model.name, {**_facts(model), "seconds to load": round(seconds, 1)}, abilities)


@dataclass(frozen=True)
class _Probe:
    """The model, its plain twin over the same weights (None where there is none), and tokens to try them on."""

    model: Model
    plain: PreTrainedModel | None

    def rows(self) -> list[tuple[int, ...]]:
        most = self.model.max_tokens or 10**9
        return [encoding.ids[: min(most - 4, 40)] for encoding in self.model.encode(TEXTS)]

    def logprobs(self, ids: tuple[int, ...]) -> Tensor:
        """(pos, vocab) by plain transformers, one sequence alone."""
        assert self.plain is not None
        with torch.no_grad():
            given = torch.tensor([ids], device=self.model.device)
            return self.plain(given, use_cache=False).logits[0].float().log_softmax(-1)

    def twin(self, module: nn.Module) -> nn.Module:
        """The plain model's module of the same name."""
        assert self.plain is not None
        return self.plain.get_submodule(next(n for n, m in self.model.hf.named_modules() if m is module))


def _attempt(name: AbilityName, check: Callable[[_Probe], Ability], probe: _Probe) -> Ability:
    try:
        found = check(probe)
    except Exception as error:  # whatever a model does that was not made for it: it cannot, and says why
        return Ability(name, False, None, next(iter(str(error).strip().splitlines()), type(error).__name__))
    if found.gap is not None and not found.gap <= LIMIT[probe.model.dtype]:
        return Ability(name, False, found.gap, f"{found.gap:.2g} apart from plain transformers. {found.note}".strip())
    return found


def _plain_model(model: Model) -> PreTrainedModel:
    """transformers' own modules and attention over the same weights."""
    config = copy.deepcopy(model.hf.config)
    with no_init_weights():
        plain = type(model.hf)(config)
    plain.load_state_dict(model.hf.state_dict(), assign=True, strict=False)
    plain.tie_weights()
    plain.set_attn_implementation("eager")
    return plain.to(model.device).eval()


def _forward(model: Model, rows: list[tuple[int, ...]], **options: Any) -> Tensor:
    """Log-probabilities (pos, vocab) after the tokens of every row, one row after the other, padded as in a batch."""
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=model.device)
    batch = Batch(ids, torch.arange(length, device=model.device).repeat(len(rows), 1))
    hidden = model.forward(batch, **options).hidden
    with torch.no_grad():
        states = torch.cat([hidden[i, : len(row)] for i, row in enumerate(rows)])
        return model.unembed(states).log_softmax(-1)


def _gap(ours: Tensor, plain: Tensor) -> float:
    """In nats, over the tokens that are not hopeless: those within 30 nats of the most probable."""
    seen = plain > -30
    return float((ours.to(plain.device) - plain)[seen].abs().max())


def _score(probe: _Probe) -> Ability:
    rows = probe.rows()
    ours = _forward(probe.model, rows)
    if not bool(torch.isfinite(ours).all()):
        return Ability("score", False, None, "its log-probabilities are NaN or infinite")
    if probe.plain is None:
        return Ability("score", True, None, "not compared: quantised, or spread over devices")
    return Ability("score", True, _gap(ours, torch.cat([probe.logprobs(row) for row in rows])))


def _trees(probe: _Probe) -> Ability:
    model = probe.model
    if not model.accepts_trees:
        return Ability("trees", False, None, "prompts that begin alike run one by one: it makes its own mask")
    ids = probe.rows()[0]
    cut, n = len(ids) - 3, len(ids)
    tree = torch.tensor([[*ids, *reversed(ids[cut:])]], device=model.device)
    depth = torch.tensor([[*range(n), *range(cut, n)]], device=model.device)
    visible = torch.ones(1, n + 3, n + 3, dtype=torch.bool, device=model.device).tril()
    visible[:, n:, cut:n] = False
    hidden = model.forward(Batch(tree, depth, visible)).hidden[0]
    if probe.plain is None:
        return Ability("trees", True)
    with torch.no_grad():
        ours = model.unembed(hidden).log_softmax(-1)
    other = (*ids[:cut], *reversed(ids[cut:]))
    return Ability("trees", True, max(_gap(ours[:n], probe.logprobs(ids)), _gap(ours[n:], probe.logprobs(other)[cut:])))


def _trace(probe: _Probe) -> Ability:
    model = probe.model
    if reason := model.architecture.no_blocks:
        return Ability("trace", False, None, reason)
    ids = probe.rows()[0]
    rows, nodes = torch.zeros(len(ids), dtype=torch.long), torch.arange(len(ids))
    batch = Batch(torch.tensor([ids], device=model.device), nodes[None].to(model.device))
    record = model.forward(batch, record=RecordSpec(rows, nodes)).record
    gaps = [0.0]
    if record.final is not None and not model.architecture.no_lens:
        after = [*record.resid[1:], record.final]
        gaps += [_relative(before + record.attn[i] + record.mlp[i], after[i]) for i, before in enumerate(record.resid)]
    if probe.plain is not None:
        with torch.no_grad():
            states = probe.plain(batch.ids, output_hidden_states=True, use_cache=False).hidden_states
        gaps += [_relative(ours, states[i][0]) for i, ours in enumerate(record.resid)]
    reason = model.architecture.no_attention
    return Ability("trace", True, max(gaps), f"without attention by role: {reason}" if reason else "")


def _relative(ours: Tensor, plain: Tensor) -> float:
    return float((ours.float() - plain.float()).abs().max() / plain.float().abs().max().clamp(min=1e-9))


def _lens(probe: _Probe) -> Ability:
    model = probe.model
    if reason := model.architecture.no_lens:
        return Ability("lens", False, None, reason)
    norm = model.architecture.norm()
    ids = probe.rows()[0]
    at = torch.zeros(1, dtype=torch.long), torch.tensor([len(ids) - 1])
    batch = Batch(torch.tensor([ids], device=model.device), torch.arange(len(ids), device=model.device)[None])
    final = model.forward(batch, record=RecordSpec(*at)).record.final
    assert final is not None
    with torch.no_grad():
        ours = model.unembed(norm(final)).log_softmax(-1)
    return Ability("lens", True, None if probe.plain is None else _gap(ours[0], probe.logprobs(ids)[-1]))


def _edit(probe: _Probe) -> Ability:
    """The MLP of the middle layer and a head of it become zero at the last token."""
    model, shape = probe.model, probe.model.architecture
    if reason := shape.no_sites:
        return Ability("edit", False, None, reason)
    ids = probe.rows()[0]
    layer = min(range(shape.n_layers), key=lambda i: (shape.blocks[i].attn_out is None, abs(2 * i - shape.n_layers)))
    block = shape.blocks[layer]
    at = torch.zeros(1, dtype=torch.long), torch.tensor([len(ids) - 1])
    head = None if block.attn_out is None else torch.tensor([0])
    zeros = torch.zeros(1, shape.d_model), torch.zeros(1, shape.d_head)
    edits = [ActivationEdit(layer, *at, None, zeros[0])]
    edits += [] if head is None else [ActivationEdit(layer, *at, head, zeros[1])]
    ours = _forward(model, [ids], edits=edits)
    if probe.plain is None:
        return Ability("edit", True)

    def after(module: Any, given: Any, out: Any) -> Any:
        whole = (out[0] if isinstance(out, tuple) else out).clone()
        whole.view(1, len(ids), -1)[:, -1] = 0
        return (whole, *out[1:]) if isinstance(out, tuple) else whole

    def before(module: Any, given: Any) -> Any:
        whole = given[0].clone()
        whole.view(1, len(ids), shape.n_heads, -1)[:, -1, 0] = 0
        return (whole, *given[1:])

    handles = [probe.twin(block.mlp_write).register_forward_hook(after)]
    handles += [] if head is None else [probe.twin(block.attn_out).register_forward_pre_hook(before)]
    with _removed(handles):
        return Ability("edit", True, _gap(ours, probe.logprobs(ids)))


@contextmanager
def _removed(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _bridge(probe: _Probe) -> Ability:
    ids = probe.rows()[0]
    with torch.no_grad():
        ours = probe.model.bridge(torch.tensor([ids], device=probe.model.device))[0].float().log_softmax(-1)
    return Ability("bridge", True, None if probe.plain is None else _gap(ours, probe.logprobs(ids)))


def _chat(probe: _Probe) -> Ability:
    tokenizer = probe.model.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        return Ability("chat", False, None, "its tokenizer has no chat template")
    chatting = probe.model.with_chat(True)
    text = chatting.prompt_text(TEXTS[0])
    if isinstance(text, str) or chatting.chat is None:
        return Ability("chat", False, None, str(text))
    ours = tokenizer(text.text, add_special_tokens=False).input_ids
    turn, template = [{"role": "user", "content": TEXTS[0]}], chatting.chat.template
    told = tokenizer.apply_chat_template(turn, chat_template=template, add_generation_prompt=True, tokenize=False)
    theirs = tokenizer(str(told), add_special_tokens=False).input_ids
    if ours[: len(theirs)] != theirs:
        return Ability("chat", False, None, "its tokens are not those of apply_chat_template")
    try:
        probe.model.with_chat("Be brief.")
        notes = []
    except InputError:
        notes = ["without a system text"]
    return Ability("chat", True, None, "; ".join([*notes, *chatting.chat.notes]))


def _facts(model: Model) -> dict[str, Fact]:
    hf, shape, added = model.hf, model.architecture, model.added
    whole = sum(p.numel() * p.element_size() for p in hf.parameters())
    return {
        "architecture": type(hf).__name__,
        "parameters without embeddings": model.n_params,
        "layers": shape.n_layers,
        "heads": shape.n_heads,
        "d_model": shape.d_model,
        "vocabulary": model.n_tokens,
        "longest prompt (tokens)": model.max_tokens,
        "added before every text": _spelt(model, added.before),
        "added after every text": _spelt(model, added.after),
        "ends with": _spelt(model, sorted(model.end_tokens)),
        "number format": model.dtype,
        "device": model.device,
        "memory of the weights (GB)": round(whole / 1e9, 3),
        "tokens a second": round(_speed(model)),
        **{f"note {i}": note for i, note in enumerate(model.notes, 1)},
    }


def _spelt(model: Model, tokens: Any) -> str:
    return " ".join(str(model.tokenizer.convert_ids_to_tokens(t)) for t in tokens) or "nothing"


def _speed(model: Model) -> float:
    """Tokens of plain rows in a second, of which the last one's states are asked for."""
    n_rows, length = SPEED[0], min(SPEED[1], model.max_tokens or SPEED[1])
    ids = torch.arange(n_rows * length, device=model.device).view(n_rows, length) * 7919 % model.n_tokens
    batch = Batch(ids, torch.arange(length, device=model.device).repeat(n_rows, 1))
    at = TokenPlaces(torch.arange(n_rows), torch.full((n_rows,), length - 1))
    model.forward(batch, at=at)
    began = time.perf_counter()
    model.forward(batch, at=at).hidden.sum().item()
    return n_rows * length / (time.perf_counter() - began)
