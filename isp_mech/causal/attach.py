"""An intervention on a plain transformers model, by PyTorch hooks: for generating text with it, or for your own code.

with attach(block("quote_output"), hf_model, tokenizer, prompt=prompt):
    hf_model.generate(...)

Nothing of this package's own forward is used. The decision position is the last token of the prompt; what is generated
after it counts as onward. One text at a time, without padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from isp_mech.causal.intervention_parts import ONWARD, Made, Part
from isp_mech.errors import InputError
from isp_mech.inference.tokenization import role_names, token_roles
from isp_mech.models import Encoding, wrap_model
from isp_mech.models.architecture import Architecture, Block
from isp_mech.models.last_layer import attention_of
from isp_mech.models.skeleton import second_skeleton
from isp_mech.sites import DECISION, Site
from isp_mech.tasks import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Hook = Callable[..., Any]


@contextmanager
def attach(
    intervention: Made,
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompt: Prompt | str | None = None,
    decision: int | None = None,
) -> Iterator[PreTrainedModel]:
    """Within it, every forward of ``hf_model`` is changed by the intervention; afterwards the model is as it was.

    ``prompt`` has the roles that the intervention names, and ends at the decision position; without one the decision
    position is the last token of each text's first forward. ``decision`` names another token, from 0. ``InputError``
    for a role that the prompt does not have, and for what needs pairs (swap; replacements other than fitted ones and
    zero).
    """
    needed = [
        f"{part}: needs {' and '.join(part.needs)}"
        for part in intervention.parts
        if part.kind == "swap" or not part.is_fitted
    ]
    if needed:
        raise InputError("attach", needed)
    given = Prompt(prompt) if isinstance(prompt, str) else prompt
    tokens, n_tokens = _role_tokens(intervention, given, tokenizer)
    at = decision if decision is not None else None if given is None else n_tokens - 1
    state = _State(intervention, _architecture(hf_model, tokenizer), hf_model.base_model, tokens, at)
    before = hf_model.config._attn_implementation
    with ExitStack() as stack:
        if any(part.kind in ("block", "reweight") for part in intervention.parts):
            hf_model.set_attn_implementation("eager")  # the masks of others know no weights
            stack.callback(hf_model.set_attn_implementation, before)
        for handle in state.hooks():
            stack.callback(handle.remove)
        yield hf_model


def _architecture(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Architecture:
    """The model's own modules by the field's names, as they are found on a second skeleton of the same parameters."""
    known = wrap_model(second_skeleton(hf_model), tokenizer, name=type(hf_model).__name__)
    names, own = {id(module): name for name, module in known.hf.named_modules()}, dict(hf_model.named_modules())

    def mine(module: nn.Module) -> nn.Module:
        return own[names[id(module)]]

    blocks = tuple(
        replace(
            block,
            block=mine(block.block),
            attn_out=mine(block.attn_out),
            attn_write=mine(block.attn_write),
            mlp_write=mine(block.mlp_write),
        )
        for block in known.architecture.blocks
    )
    return replace(known.architecture, blocks=blocks)


def _role_tokens(
    intervention: Made, prompt: Prompt | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, list[int]], int]:
    roles = list(dict.fromkeys(role for part in intervention.parts for role in part.roles))
    if prompt is None:
        if roles:
            raise InputError("attach", [f"roles {', '.join(roles)}: expected a prompt that has them"])
        return {}, 0
    made = tokenizer(prompt.text, return_offsets_mapping=True)
    encoding = Encoding(tuple(made["input_ids"]), tuple((int(a), int(b)) for a, b in made["offset_mapping"]))
    names = role_names([prompt])
    missing = [role for role in roles if role not in names]
    if missing:
        raise InputError("attach", [f"no token of role {role!r}, found {', '.join(names)}" for role in missing])
    of_token = token_roles(encoding, prompt, names)
    tokens = {role: [i for i, n in enumerate(of_token) if names[n] == role] for role in roles}
    return tokens, len(encoding.ids)


@dataclass
class _State:
    """What the hooks know of the text so far: ``start`` tokens stood before this forward's."""

    intervention: Made
    architecture: Architecture
    base: nn.Module
    tokens: Mapping[str, list[int]]
    given_decision: int | None
    start: int = 0
    length: int = 0
    decision: int = 0
    ids: Tensor | None = None
    recording: bool = False
    written: dict[str, Tensor] = field(default_factory=dict)

    def hooks(self) -> Iterator[Any]:
        parts = self.intervention.parts
        yield self.base.register_forward_pre_hook(self.begin, with_kwargs=True)
        for layer, block in enumerate(self.architecture.blocks):
            here = [part for part in parts if any(site.layer == layer for site in part.sites)]
            if of_heads := [p for p in here if any(s.kind == "head" and s.layer == layer for s in p.sites)]:
                yield block.attn_out.register_forward_pre_hook(self.on_heads(layer, of_heads))
            if of_mlp := [p for p in here if Site(layer, "mlp") in p.sites]:
                yield block.mlp_write.register_forward_hook(self.on_output(Site(layer, "mlp"), of_mlp))
            if of_stream := [p for p in here if Site(layer, "resid") in p.sites]:
                yield block.block.register_forward_hook(self.on_output(Site(layer, "resid"), of_stream))
            weighted = [p for p in parts if p.role and (p.layers is None or layer in p.layers)]
            if weighted:
                yield self.attention(block).register_forward_pre_hook(self.on_mask(weighted), with_kwargs=True)

    def attention(self, block: Block) -> nn.Module:
        found = attention_of(block)
        if found is None:
            raise InputError("attach", [f"{type(block.block).__name__}: its attention is not a part by itself"])
        return found

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before each forward: which tokens it has; and, where outputs are replayed, a forward without any change."""
        if self.recording:
            return
        given = signature(module.forward).bind(*args, **kwargs).arguments
        past, ids = given.get("past_key_values"), given.get("input_ids")
        self.start = int(past.get_seq_length()) if past is not None else 0
        self.length = int((given["inputs_embeds"] if ids is None else ids).shape[1])
        if self.start == 0:
            self.ids, self.decision = ids, self.length - 1 if self.given_decision is None else self.given_decision
        elif ids is not None and self.ids is not None:
            self.ids = torch.cat([self.ids[:, : self.start], ids], 1)
        if any(part.kind == "replay" and part.sites for part in self.intervention.parts):
            if self.ids is None:
                raise InputError("attach", ["replay: expected input_ids, not embeddings"])
            self.recording = True
            try:
                with torch.no_grad():
                    self.base(input_ids=self.ids, use_cache=False)
            finally:
                self.recording = False

    def places(self, at: str) -> list[int]:
        """The tokens of this forward, from 0, at which sites are changed."""
        end = self.start + self.length
        if at == ONWARD:
            wanted = list(range(self.decision, end))
        else:
            wanted = [self.decision] if at == DECISION else self.tokens[at]
        return [i - self.start for i in wanted if self.start <= i < end]

    def changed(self, x: Tensor, part: Part, site: Site) -> None:
        """Changes what a site writes, ``x`` (row, token, d), in place."""
        at = self.places(part.at)
        if part.kind == "scale":
            x[:, at] = x[:, at] * part.number
        elif part.kind == "replay":
            x[:, at] = x[:, at] + part.number * self.written[str(site)][:, [self.start + i for i in at]]
        elif part.source == "zero":
            x[:, at] = 0
        else:
            values = torch.from_numpy(np.asarray(self.intervention.arrays[f"{part.source}/{site}"])).to(x).flatten()
            if site.kind == "mlp":  # what the stream gains, of which the module gives a part
                values = values / self.architecture.blocks[site.layer].mlp_gain
            x[:, at] = values if part.kind == "replace" else x[:, at] + part.number * values

    def on_heads(self, layer: int, parts: list[Part]) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
            z = args[0].clone()
            heads = z.unflatten(-1, (self.architecture.n_heads, -1))
            for part in parts:
                for site in part.sites:
                    if site.kind == "head" and site.layer == layer:
                        self.apply(heads[..., site.head, :], part, site)
            return None if self.recording else (z, *args[1:])

        return hook

    def on_output(self, site: Site, parts: list[Part]) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
            x = (out[0] if isinstance(out, tuple) else out).clone()
            rows = x if x.dim() == 3 else x.view(-1, len(self.written_ids()), x.shape[-1])
            for part in parts:
                self.apply(rows, part, site)
            return None if self.recording else (x, *out[1:]) if isinstance(out, tuple) else x

        return hook

    def written_ids(self) -> range:
        """The tokens of the forward that runs: all of the text where it is recorded."""
        return range(self.start + self.length) if self.recording else range(self.length)

    def apply(self, x: Tensor, part: Part, site: Site) -> None:
        if self.recording:
            self.written[str(site)] = x.clone()
        else:
            self.changed(x, part, site)

    def on_mask(self, parts: list[Part]) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self.recording:
                return None
            bound = signature(module.forward).bind(*args, **kwargs)
            mask = bound.arguments.get("attention_mask")
            if mask is None:
                raise InputError("attach", [f"{type(module).__name__}: given no mask, expected one to add to"])
            bound.arguments["attention_mask"] = self.weighted(mask, parts)
            return bound.args, bound.kwargs

        return hook

    def weighted(self, mask: Tensor, parts: list[Part]) -> Tensor:
        """(row, head, query, key): the mask, with what is added to scores towards the parts' roles."""
        low, n_heads, keys = torch.finfo(mask.dtype).min, self.architecture.n_heads, mask.shape[-1]
        out = mask.expand(-1, n_heads, -1, -1)

        def long(numbers: Iterable[int]) -> Tensor:
            return torch.tensor(list(numbers), dtype=torch.long)

        first_key = self.start + self.length - keys  # a window's cache has the last keys alone
        queries = self.places(ONWARD)
        for part in parts:
            columns = [i - first_key for i in self.tokens[part.role] if i < self.decision and i >= first_key]
            heads = range(n_heads) if part.heads is None else part.heads
            at = torch.zeros(out.shape[1:], dtype=torch.bool, device=out.device)
            at[long(heads).view(-1, 1, 1), long(queries).view(-1, 1), long(columns)] = True
            new = torch.full_like(out, low) if part.kind == "block" else (out + math.log(part.number)).clamp(min=low)
            out = torch.where(at, new, out)
        return out
