"""GGUF files made from transformers models by this file's own hand: names, orders and fields as llama.cpp has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers as hf
from gguf import GGMLQuantizationType, GGUFWriter, quants

LAYER_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def tiny_llama(*, tied: bool = True, vocab: int = 400, kind: str = "llama", **more) -> hf.PreTrainedModel:
    """A Llama (or Qwen 2) whose rows are whole blocks of 32 weights, in evaluation mode."""
    torch.manual_seed(0)
    config_of, model_of = {
        "llama": (hf.LlamaConfig, hf.LlamaForCausalLM), "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM)
    }[kind]  # fmt: skip
    config = config_of(
        vocab_size=vocab, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=96, max_position_embeddings=512, tie_word_embeddings=tied, rms_norm_eps=1e-5,
        bos_token_id=1, eos_token_id=2, **more,
    )  # fmt: skip
    made = model_of(config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.25 + ("norm" in name))
    return made.eval()


def vocabulary(n: int) -> tuple[list[str], list[str]]:
    """Byte-level tokens and merges: three control tokens, the 256 bytes as GPT-2 spells them, and merged pairs."""
    from tokenizers.pre_tokenizers import ByteLevel

    bytes_ = sorted(ByteLevel.alphabet())
    pairs = [("Ġ", "a"), ("Ġ", "Ġ"), ("i", "n"), ("h", "e"), ("Ġ", "t"), ("Ġt", "he"), ("Ġ", "1"), ("1", "2")]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *("".join(pair) for pair in pairs)]
    return [*tokens, *(f"<unused{i}>" for i in range(n - len(tokens)))], [" ".join(pair) for pair in pairs]


def as_llama_cpp(name: str, weight: np.ndarray, config: hf.PreTrainedConfig) -> np.ndarray:
    """Rows of queries and keys as llama.cpp's rotation wants them: the two halves of each head interleaved."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    n = next((n for part, n in heads.items() if part in name), None)
    if n is None or config.model_type != "llama":
        return weight
    rows = weight.reshape(n, 2, weight.shape[0] // n // 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path,
    made: hf.PreTrainedModel,
    *,
    packed: bool = True,
    fields: dict[str, object] | None = None,
    leave_out: tuple[str, ...] = (),
    more: dict[str, np.ndarray] | None = None,
) -> Path:
    """``made`` as a GGUF file, weights in Q4_1 or as they are. Returns ``path``."""
    config, kind = made.config, made.config.model_type
    writer = GGUFWriter(path, kind)
    tokens, merges = vocabulary(config.vocab_size)
    said: dict[str, object] = {
        "general.name": "tiny", "general.file_type": 3 if packed else 0,
        f"{kind}.block_count": config.num_hidden_layers, f"{kind}.context_length": config.max_position_embeddings,
        f"{kind}.embedding_length": config.hidden_size, f"{kind}.feed_forward_length": config.intermediate_size,
        f"{kind}.attention.head_count": config.num_attention_heads,
        f"{kind}.attention.head_count_kv": config.num_key_value_heads,
        f"{kind}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{kind}.rope.freq_base": float(config.rope_parameters["rope_theta"]), f"{kind}.rope.dimension_count": 16,
        f"{kind}.vocab_size": config.vocab_size, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip
    for name, value in {**said, **(fields or {})}.items():
        if value is None:
            continue
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](name, value)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t.startswith("<") and len(t) > 1 else 1 for t in tokens])
    writer.add_token_merges(merges)
    for name, weight in _tensors(made).items():
        if name in leave_out:
            continue
        array = weight.astype(np.float32)
        if packed and array.ndim == 2:
            kind = GGMLQuantizationType.Q4_1
            writer.add_tensor(name, quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    for name, array in (more or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dequantised(made: hf.PreTrainedModel) -> hf.PreTrainedModel:
    """The same model with its matrices as Q4_1 leaves them, in the order in which the file has them."""
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.from_numpy(_through_blocks(parameter.numpy())))
    return made


def _through_blocks(weight: np.ndarray) -> np.ndarray:
    """Blocks of 32 weights of a row: 16 levels from the least to the most, both in half precision."""
    blocks = weight.reshape(weight.shape[0], -1, 32)
    least, most = blocks.min(-1, keepdims=True), blocks.max(-1, keepdims=True)
    step = (most - least) / 15
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.where(step == 0, 0, (blocks - least) / step)
    level = np.clip(np.trunc(level + 0.5), 0, 15)
    half = [np.float16(x).astype(np.float32) for x in (step, least)]
    return (level * half[0] + half[1]).reshape(weight.shape).astype(np.float32)


def _tensors(made: hf.PreTrainedModel) -> dict[str, np.ndarray]:
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    out = {}
    for name, parameter in made.named_parameters():
        stem, end = name.rsplit(".", 1)
        if stem in top:
            new = top[stem]
        else:
            _, _, layer, inner = stem.split(".", 3)
            new = f"blk.{layer}.{LAYER_NAMES[inner]}"
        out[f"{new}.{end}"] = as_llama_cpp(name, parameter.detach().numpy(), made.config)
    return out
