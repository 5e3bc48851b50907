"""What others take for the same on a GPU: a function for each, or why there is none."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from bench_scoring import harness

from isp_mech.causal.replacements import SiteOutputs
from isp_mech.models import Model
from isp_mech.sites import Site
from isp_mech.tasks import Task

HARNESS_BATCH = 16  # it keeps the logits of all tokens
BySite = Callable[[Site, SiteOutputs], torch.Tensor]


def missing(package: str) -> str:
    """Why there is no measurement; empty where the package is there."""
    return "" if importlib.util.find_spec(package) else f"{package} is not installed"


def scoring(plain: Any, tokenizer: Any, task: Task, *, with_vllm: bool) -> Mapping[str, Callable[[], object] | str]:
    """Both classes of every item, by lm-evaluation-harness and, with ``with_vllm``, by vLLM."""
    out: dict[str, Callable[[], object] | str] = {}
    out["lm-evaluation-harness"] = missing("lm_eval") or harness(plain, tokenizer, task, HARNESS_BATCH) or ""
    if with_vllm:
        out["vLLM"] = missing("vllm") or by_vllm(plain, tokenizer, task)
    return out


def by_vllm(plain: Any, tokenizer: Any, task: Task) -> Callable[[], object]:
    """One token after each prompt, of the two classes' tokens alone, with shared beginnings run once."""
    from vllm import LLM, SamplingParams

    settings = {
        "dtype": "bfloat16",
        "enable_prefix_caching": True,
        "gpu_memory_utilization": 0.3,
        "max_model_len": 2048,
    }
    with tempfile.TemporaryDirectory() as folder:
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        engine = LLM(folder, **settings)
    classes = [tokenizer(c).input_ids[0] for c in task.items[0].classes]
    asked = SamplingParams(max_tokens=1, temperature=0.0, logprobs=len(classes), allowed_token_ids=classes)
    prompts = [{"prompt_token_ids": tokenizer(item.prompt).input_ids} for item in task.items]
    return lambda: engine.generate(prompts, asked, use_tqdm=False)


def one_forward_a_site(plain: Any, ours: Model, ids: torch.Tensor) -> Mapping[str, BySite | str]:
    """The last logits (prompt, vocabulary) with one site's output replaced at the last token, a forward for each."""
    out: dict[str, BySite | str] = {"transformers, hooks": partial(by_hooks, plain, ids)}
    out["TransformerLens"] = missing("transformer_lens") or partial(by_bridge, ours, ids)
    out["nnsight"] = missing("nnsight") or by_nnsight(plain, ids)
    return out


def value_of(site: Site, values: SiteOutputs, like: torch.Tensor) -> torch.Tensor:
    kept = values.mlps[:, site.layer] if site.head is None else values.heads[:, site.layer, site.head]
    return kept.to(like)


def put_head(module: Any, args: tuple, site: Site, values: SiteOutputs) -> tuple:
    z, value = args[0].clone(), value_of(site, values, args[0])
    z.unflatten(-1, (-1, value.shape[-1]))[:, -1, site.head] = value
    return (z, *args[1:])


def put_mlp(module: Any, args: tuple, out: torch.Tensor, site: Site, values: SiteOutputs) -> torch.Tensor:
    out = out.clone()
    out[:, -1] = value_of(site, values, out)
    return out


def by_hooks(plain: Any, ids: torch.Tensor, site: Site, values: SiteOutputs) -> torch.Tensor:
    """By PyTorch's hooks on transformers' own modules."""
    layer = plain.gpt_neox.layers[site.layer]
    if site.head is None:
        handle = layer.mlp.register_forward_hook(partial(put_mlp, site=site, values=values))
    else:
        handle = layer.attention.dense.register_forward_pre_hook(partial(put_head, site=site, values=values))
    with torch.no_grad():
        logits = plain(ids, logits_to_keep=1, use_cache=False).logits[:, -1]
    handle.remove()
    return logits


def by_bridge(ours: Model, ids: torch.Tensor, site: Site, values: SiteOutputs) -> torch.Tensor:
    """By TransformerLens, which unembeds all tokens."""

    def put(x: torch.Tensor, hook: object) -> torch.Tensor:
        value = value_of(site, values, x)
        if site.head is None:
            x[:, -1] = value
        else:
            (x if x.dim() == 4 else x.unflatten(-1, (-1, value.shape[-1])))[:, -1, site.head] = value
        return x

    name = f"blocks.{site.layer}." + ("hook_mlp_out" if site.head is None else "attn.hook_z")
    with torch.no_grad():
        return ours.bridge.run_with_hooks(ids, fwd_hooks=[(name, put)])[:, -1]


def by_nnsight(plain: Any, ids: torch.Tensor) -> BySite:
    from nnsight import NNsight

    wrapped = NNsight(plain)

    def run(site: Site, values: SiteOutputs) -> torch.Tensor:
        value = value_of(site, values, next(plain.parameters()))
        width = value.shape[-1]
        with torch.no_grad(), wrapped.trace(input_ids=ids, logits_to_keep=1, use_cache=False):
            layer = wrapped.gpt_neox.layers[site.layer]
            if site.head is None:
                layer.mlp.output[:, -1] = value
            else:
                layer.attention.dense.input[:, -1, site.head * width : (site.head + 1) * width] = value
            logits = wrapped.output.logits.save()
        return logits[:, -1]

    return run
