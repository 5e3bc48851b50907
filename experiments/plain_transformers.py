"""A second implementation of scores, lens, direct effects, attention and total effects, in the plainest way.

One sequence at a time, by hooks on transformers' own modules. It has nothing of the library's.

What a sublayer writes is measured, not looked up: an MLP's write is what the block's output loses when the MLP's output
is set to zero; attention's is the rest of what the block adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

ATTENTION = ("self_attn", "attn", "attention", "self_attention", "temporal_block")
PROJECTION = ("o_proj", "out_proj", "c_proj", "dense", "Wo")
MLP = ("mlp", "feed_forward", "block_sparse_moe", "shared_mlp", "fc2", "moe", "ffn", "output", "mlp_block")
NORM = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f", "layer_norm", "embedding_norm", "final_norm")


@dataclass
class Seen:
    """One sequence's forward, by layer: what goes into a block and comes out, heads' outputs, their projection, weights
    (head, query, key); and the logits."""

    before: dict[int, Tensor] = field(default_factory=dict)
    after: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)
    projected: dict[int, Tensor] = field(default_factory=dict)
    weights: dict[int, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None


class Plain:
    """A transformers model with eager attention, and what of it is what, by the names of its modules."""

    def __init__(self, hf: Any) -> None:
        self.hf = hf.eval()
        try:
            hf.set_attn_implementation("eager")
        except ValueError:
            pass  # it has one way of attending
        path, self.blocks = next(
            (name, part)
            for name, part in hf.named_modules()
            if isinstance(part, nn.ModuleList) and not any(w in name for w in ("vis", "audio", "expert"))
        )
        parent = hf.get_submodule(path.rpartition(".")[0])
        self.norm = next((getattr(parent, name) for name in NORM if hasattr(parent, name)), None)
        self.head = hf.get_output_embeddings()
        self.norms_after = "OpenAIGPT" in type(hf).__name__ or not getattr(hf.config, "do_layer_norm_before", True)
        config = hf.config.get_text_config()
        names = ("num_attention_heads", "num_heads", "n_head", "n_heads")
        self.n_heads = next((int(getattr(config, name)) for name in names if hasattr(config, name)), 1)
        self.cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)

    def attention(self, layer: int) -> nn.Module | None:
        """A block's attention, if it has one."""
        return next(
            (getattr(self.blocks[layer], name) for name in ATTENTION if hasattr(self.blocks[layer], name)), None
        )

    def projection(self, layer: int) -> Any:
        attention = self.attention(layer)
        if attention is None:
            return None
        fits = [part for name, part in attention.named_modules() if name.rpartition(".")[2] in PROJECTION]
        return next((part for part in reversed(fits) if getattr(part, "weight", None) is not None), None)

    def mlps(self, layer: int) -> list[nn.Module]:
        block = self.blocks[layer]
        if "Bloom" in type(block).__name__:  # its MLP adds the stream
            return [block.mlp.dense_4h_to_h]
        if "Mpt" in type(block).__name__:
            return [block.ffn.down_proj]
        return [getattr(block, name) for name in MLP if isinstance(getattr(block, name, None), nn.Module)]

    @torch.no_grad()
    def run(self, ids: list[int], change: Callable[[Plain], list[Any]] | None = None, *, weights: bool = False) -> Seen:
        """One forward over the sequence, with hooks that ``change`` puts on the model; attention's weights if asked."""
        seen = Seen()
        handles = change(self) if change else []
        for i, block in enumerate(self.blocks):
            handles.append(block.register_forward_pre_hook(partial(_keep_input, seen.before, i), with_kwargs=True))
            handles.append(block.register_forward_hook(partial(_keep_output, seen.after, i)))
            if (projection := self.projection(i)) is not None:
                handles.append(
                    projection.register_forward_pre_hook(partial(_keep_input, seen.heads, i), with_kwargs=True)
                )
                handles.append(projection.register_forward_hook(partial(_keep_output, seen.projected, i)))
            for part in self.attention(i).modules() if weights and self.attention(i) is not None else ():
                handles.append(part.register_forward_hook(partial(_keep_weights, seen.weights, i)))
        try:
            out = self.hf(torch.tensor([ids]), **(self._with_weights(len(ids)) if weights else {}))
        finally:
            for handle in handles:
                handle.remove()
        seen.logits = out.logits[0].float()
        return seen

    def _with_weights(self, n: int) -> dict[str, Any]:
        if "Falcon" not in type(self.hf).__name__:
            return {"output_attentions": True}
        hidden = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)  # its own mask is one of truth values
        return {"output_attentions": True, "attention_mask": hidden[None, None]}

    def logprob(self, ids: list[int], start: int, change: Callable[[Plain], list[Any]] | None = None) -> float:
        """log p of the tokens from ``start`` on."""
        logits = self.run(ids, change).logits
        assert logits is not None
        logp = logits.log_softmax(-1)
        return sum(float(logp[i - 1, ids[i]]) for i in range(start, len(ids)))

    def mlp_write(self, ids: list[int], layer: int, clean: Seen) -> Tensor:
        """(pos, d_model): what the block's output loses without its MLP."""
        without = self.run(ids, lambda plain: [mlp.register_forward_hook(_zero) for mlp in plain.mlps(layer)])
        return clean.after[layer] - without.after[layer]

    def mlp_value(self, ids: list[int], layer: int, clean: Seen) -> Tensor:
        """(pos, d_model): what an MLP gives, where it is replaced: its write, or, with a norm after it, its output."""
        if not self.norms_after:
            return self.mlp_write(ids, layer, clean)
        gave: dict[int, Tensor] = {}
        self.run(ids, lambda plain: [plain.mlps(layer)[-1].register_forward_hook(partial(_keep_output, gave, 0))])
        return gave[0]

    def final(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x if self.norm is None else self.norm(x[None])[0]

    def logit_scale(self, clean: Seen) -> float:
        """What the logits are multiplied by after the unembedding, measured."""
        assert clean.logits is not None
        raw = self.unembedded(self.final(clean.after[len(self.blocks) - 1]))
        logits = clean.logits if self.cap is None else self.cap * torch.atanh(clean.logits / self.cap)
        return float((logits * raw).sum() / raw.square().sum())

    def unembedded(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.head(x).float()

    def lens(self, x: Tensor, clean: Seen) -> Tensor:
        """(pos, vocab): logits that the stream gives from where it is."""
        logits = self.unembedded(self.final(x)) * self.logit_scale(clean)
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def linear(self, part: Tensor, whole: Tensor) -> Tensor:
        """What ``part`` of ``whole`` (d_model,) becomes through the final norm, its scale as ``whole`` gives it."""
        if self.norm is None:
            return part
        zero = self.final(torch.zeros_like(whole)[None])[0]
        shifted = self.final((whole + 1.0)[None])[0]
        out = self.final(whole[None])[0]
        if torch.allclose(shifted, out, atol=1e-4):  # it takes off the mean
            return (out - zero) / (whole - whole.mean()) * (part - part.mean())
        return (out - zero) / whole * part

    def head_writes(self, seen: Seen, attn: Tensor, layer: int, at: int) -> Tensor:
        """(head, d_model): each head's part of what attention writes there, a factor and a norm after it included."""
        projection, z = self.projection(layer), seen.heads[layer][at].view(self.n_heads, -1)
        weight = projection.weight if isinstance(projection, nn.Linear) else projection.weight.T
        by_head = torch.stack([weight.view(len(weight), self.n_heads, -1)[:, h] @ z[h] for h in range(self.n_heads)])
        whole, write = seen.projected[layer][at], attn[at]
        factor = (write @ whole) / (whole @ whole)
        if torch.allclose(write, factor * whole, atol=1e-5):
            return factor * by_head
        return write / whole * by_head

    def replace(self, layer: int, head: int | None, at: int, value: Tensor, own: Tensor | None = None) -> Any:
        """A change for ``run``: a head's output becomes ``value``; an MLP's write ``own`` does."""

        def change(plain: Plain) -> list[Any]:
            if head is not None:
                hook = partial(_set_head, head, plain.n_heads, at, value)
                return [plain.projection(layer).register_forward_pre_hook(hook)]
            assert own is not None
            if plain.norms_after:
                return [plain.mlps(layer)[-1].register_forward_hook(partial(_add, at, value - own))]
            return [plain.blocks[layer].register_forward_hook(partial(_add, at, value - own))]

        return change


def _first(x: Any) -> Tensor:
    return x[0] if isinstance(x, tuple | list) else x


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).detach().clone()


def _keep_input(into: dict[int, Tensor], i: int, module: Any, args: Any, kwargs: Any) -> None:
    into[i] = _flat(args[0] if args else kwargs["hidden_states"])


def _keep_output(into: dict[int, Tensor], i: int, module: Any, args: Any, out: Any) -> None:
    into[i] = _flat(_first(out))


def _keep_weights(into: dict[int, Tensor], i: int, module: Any, args: Any, out: Any) -> None:
    for x in out if isinstance(out, tuple | list) else ():
        if isinstance(x, Tensor) and x.dim() == 4 and x.shape[2] == x.shape[3]:
            into[i] = x[0].detach().clone()


def _zero(module: Any, args: Any, out: Any) -> Any:
    return (torch.zeros_like(out[0]), *out[1:]) if isinstance(out, tuple) else torch.zeros_like(out)


def _add(at: int, difference: Tensor, module: Any, args: Any, out: Any) -> Any:
    x = _first(out).clone()
    x.view(-1, x.shape[-1])[at] += difference
    return type(out)((x, *out[1:])) if isinstance(out, tuple | list) else x


def _set_head(head: int, n_heads: int, at: int, value: Tensor, module: Any, args: Any) -> Any:
    z = args[0].clone()
    z.view(-1, n_heads, z.shape[-1] // n_heads)[at, head] = value
    return (z, *args[1:])
