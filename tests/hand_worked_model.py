"""A model small enough to work out by hand."""

from __future__ import annotations

import torch
import transformers as hf
from small_models import byte_tokenizer

from isp_mech.models import wrap_model


def by_hand():
    """One layer that adds nothing to the stream, so that logits are the unembedding of one normed vector.

    The stream at the last token is e = (1, -1, 0, 0); LayerNorm leaves mean 0 and variance 1/2, so the
    normed vector is (sqrt 2, -sqrt 2, 0, 0). With the unembedding's rows w: logit(w) = sqrt 2 (w0 - w1).
    """
    tokenizer = byte_tokenizer()
    config = hf.GPTNeoXConfig(
        vocab_size=320,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        layer_norm_eps=0.0,
    )
    model = hf.GPTNeoXForCausalLM(config).eval()
    x, y = tokenizer("x").input_ids[0], tokenizer("y").input_ids[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for norm in (model.gpt_neox.layers[0].input_layernorm, model.gpt_neox.layers[0].post_attention_layernorm):
            norm.weight.fill_(1)
        model.gpt_neox.final_layer_norm.weight.fill_(1)
        model.gpt_neox.embed_in.weight[:] = torch.tensor([1.0, -1.0, 0.0, 0.0])
        model.lm_head.weight[x] = torch.tensor([1.0, 0.0, 0.0, 0.0])
        model.lm_head.weight[y] = torch.tensor([0.0, 2.0, 0.0, 0.0])
    return wrap_model(model, tokenizer, name="by hand")
