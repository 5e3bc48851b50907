"""Margins by plain forwards of transformers with hooks of our own: nothing packed, nothing shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isp_mech.causal.replacements import SiteOutputs
from isp_mech.inference.margin import ContrastPrompt
from isp_mech.models import Model
from isp_mech.sites import Site


@dataclass(frozen=True)
class At:
    """A site's output at some tokens becomes ``new`` of what it is (token, d)."""

    site: Site
    tokens: Sequence[int]
    new: Callable[[Tensor], Tensor]


def put(site: Site, tokens: Sequence[int], values: SiteOutputs, pair: int) -> At:
    """A site's output becomes that of a pair."""
    of_kind = {"head": values.heads, "mlp": values.mlps, "resid": values.stream}[site.kind]
    value = of_kind[pair, site.layer] if site.head is None else of_kind[pair, site.layer, site.head]
    return At(site, tokens, lambda old: value.expand_as(old))


def margins_alone(
    model: Model, prompt: ContrastPrompt, changes: Sequence[Sequence[At]], mask: Tensor | None = None
) -> np.ndarray:
    """(change,): the margin with each of the changes, one plain row for each, a forward for each completion."""
    totals = np.zeros(len(changes))
    for sign, completion in ((1, prompt.answer), (-1, prompt.lure)):
        ids = torch.tensor([completion.tokens[:-1]] * len(changes))
        handles = [_register(model, at, row, ids) for row, mine in enumerate(changes) for at in mine]
        with torch.no_grad():
            options = {} if mask is None else {"attention_mask": mask[: ids.shape[1], : ids.shape[1]][None, None]}
            logp = model.hf(ids, use_cache=False, **options).logits.float().log_softmax(-1)
        for handle in handles:
            handle.remove()
        for i in range(prompt.shared, len(completion.tokens)):
            totals += sign * logp[:, i - 1, completion.tokens[i]].numpy()
    return totals


def _register(model: Model, at: At, row: int, ids: Tensor):
    block, tokens = model.architecture.blocks[at.site.layer], list(at.tokens)

    def before(module, args):
        z = args[0].clone()
        heads = z.view(*ids.shape, model.architecture.n_heads, -1)
        heads[row, tokens, at.site.head] = at.new(heads[row, tokens, at.site.head])
        return (z, *args[1:])

    def after(module, args, out):
        whole = (out[0] if isinstance(out, tuple) else out).clone()
        stream = whole.view(*ids.shape, -1)
        stream[row, tokens] = at.new(stream[row, tokens])
        return (whole, *out[1:]) if isinstance(out, tuple) else whole

    if at.site.kind == "head":
        return block.attn_out.register_forward_pre_hook(before)
    return (block.mlp_write if at.site.kind == "mlp" else block.block).register_forward_hook(after)
