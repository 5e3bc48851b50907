"""Small models of every kind of decoder that transformers has and TransformerLens knows: configs and random weights.

Nothing is downloaded. Weights are uneven, gains are no ones, queries share keys, windows are shorter than prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = "Redefine pi as 462. Q: What is the first digit of pi? A: 4 part pango many men plays answer the a man women"
VOCABULARY = 320
# what a config is given wherever it has the name
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 256,
    "sliding_window": 9,
    "attention_bias": True,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "query_pre_attn_scalar": 10,
    "use_qk_norm": True,
    "qk_layernorm": True,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
    "use_mamba_kernels": False,
}
WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
MIXED = ["linear_attention", "full_attention", "linear_attention"]
BESIDE = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
IDS = ("pad_token_id", "bos_token_id", "cls_token_id", "sep_token_id")
GPT2 = {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 256, "n_inner": 48}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8, "mamba_expand": 2}
MAMBA |= {"mamba_d_conv": 3}
LINEAR = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
GRANITE = {"residual_multiplier": 0.4, "embedding_multiplier": 3.0, "logits_scaling": 2.0, "attention_multiplier": 0.3}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
QWEN_VISION = {"depth": 1, "hidden_size": 16, "embed_dim": 16, "num_heads": 2, "intermediate_size": 16, "mlp_ratio": 1}
QWEN_VISION |= {"out_hidden_size": 32, "deepstack_visual_indexes": [], "fullatt_block_indexes": [0]}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16}
LONG |= {"short_factor": [1.0] * 4, "long_factor": [1.0, 1.5, 2.0, 4.0], "factor": 16.0}
LATENT = {"num_key_value_heads": 4, "head_dim": 8}  # keys and values of a low rank: all heads have their own
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}

# by architecture: what its config is given besides; after a colon a variant of it
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "AfmoeForCausalLM": {"layer_types": WINDOWS, "num_dense_layers": 1, "mup_enabled": True},
    "ApertusForCausalLM": {},
    "ArceeForCausalLM": {"mlp_bias": True},
    "BambaForCausalLM": {**MAMBA, "attn_layer_indices": [1]},
    "BertLMHeadModel": {"is_decoder": True},
    "BitNetForCausalLM": {"attention_bias": False},
    "BloomForCausalLM": {"n_layer": 3, "n_head": 4, "head_dim": None},
    "CodeGenForCausalLM": {**GPT2, "rotary_dim": 4},
    "CohereForCausalLM": {"use_qk_norm": True, "logit_scale": 0.7},
    "Cohere2ForCausalLM": {"layer_types": WINDOWS, "logit_scale": 0.7},
    "DeepseekV2ForCausalLM": {**LATENT, "topk_method": "group_limited_greedy"},
    "DeepseekV3ForCausalLM": LATENT,
    "DeepseekV4ForCausalLM": {"layer_types": ["sliding_attention"] * 3},
    "Ernie4_5ForCausalLM": {"use_bias": True},
    "Ernie4_5_MoeForCausalLM": {"moe_k": 2, "moe_num_experts": 4, "moe_num_shared_experts": 1, "use_bias": True},
    "Exaone4ForCausalLM": {"layer_types": WINDOWS},
    "FalconForCausalLM": {"ffn_hidden_size": 48, "bias": True},
    "FalconForCausalLM:alibi": {"ffn_hidden_size": 48, "alibi": True, "multi_query": False, "parallel_attn": False},
    "FalconForCausalLM:new": {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 48},
    "FalconH1ForCausalLM": {**MAMBA, "mamba_d_ssm": 64},
    "FalconMambaForCausalLM": {"state_size": 8},
    "FlexOlmoForCausalLM": {},
    "GemmaForCausalLM": {},
    "Gemma2ForCausalLM": {"layer_types": WINDOWS, "final_logit_softcapping": 8.0, "attn_logit_softcapping": 6.0},
    "Gemma3ForCausalLM": {"layer_types": WINDOWS},
    "Gemma3ForConditionalGeneration": {"text": {"layer_types": WINDOWS}, "vision": {**VISION, "image_size": 28}},
    "Gemma3nForConditionalGeneration": {"text": {"layer_types": WINDOWS, "intermediate_size": 48}},
    "Gemma4ForCausalLM": {"layer_types": WINDOWS, **BESIDE},
    "Gemma4ForConditionalGeneration": {"text": {"layer_types": WINDOWS, **BESIDE, "pad_token_id": 0}},
    "GlmForCausalLM": {},
    "Glm4ForCausalLM": {},
    "Glm4MoeForCausalLM": {"use_qk_norm": True},
    "Glm4MoeLiteForCausalLM": LATENT,
    "GlmMoeDsaForCausalLM": {**LATENT, "index_topk": 256, "index_head_dim": 16, "index_n_heads": 2},
    "Glm4vForConditionalGeneration": {"text": {"rope_parameters": MROPE}, "vision": QWEN_VISION},
    "GPT2LMHeadModel": GPT2,
    "GPT2LMHeadModel:scaled": {**GPT2, "scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    "GPTBigCodeForCausalLM": GPT2,
    "GPTJForCausalLM": {**GPT2, "rotary_dim": 4},
    "GPTNeoForCausalLM": {"num_layers": 3, "num_heads": 4, "attention_types": [[["local", "global", "local"], 1]]},
    "GPTNeoXForCausalLM": {},
    "GPTNeoXForCausalLM:serial": {"use_parallel_residual": False},
    "GptOssForCausalLM": {"layer_types": WINDOWS},
    "GraniteForCausalLM": GRANITE,
    "GraniteMoeForCausalLM": GRANITE,
    "GraniteMoeHybridForCausalLM": {**GRANITE, **MAMBA, "layer_types": ["mamba", "attention", "mamba"]},
    "GraniteMoeHybridForCausalLM:attention": {**GRANITE, **MAMBA, "layer_types": ["attention"] * 3},
    "HrmTextForCausalLM": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "HunYuanDenseV1ForCausalLM": {},
    "Idefics3ForConditionalGeneration": {"text": {}, "vision": VISION},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4},
    "Jais2ForCausalLM": {},
    "JetMoeForCausalLM": {"kv_channels": 12},
    "LagunaForCausalLM": {"layer_types": WINDOWS},
    "Lfm2ForCausalLM": {"layer_types": ["conv", "full_attention", "conv"]},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "LlamaForCausalLM": {"mlp_bias": True},
    "LlamaForCausalLM:dynamic": {"rope_parameters": DYNAMIC},
    "Llama4ForCausalLM": {"attention_chunk_size": 9, "intermediate_size_mlp": 48, "no_rope_layers": [1, 0, 1]},
    "Llama4ForConditionalGeneration": {"text": {"attention_chunk_size": 9}, "vision": VISION},
    "LlavaForConditionalGeneration": {"text": {"model_type": "llama"}, "vision": {"model_type": "clip_vision_model"}},
    "LlavaNextForConditionalGeneration": {"text": {"model_type": "mistral"}},
    "LlavaOnevisionForConditionalGeneration": {"text": {"model_type": "qwen2"}},
    "MambaForCausalLM": {"state_size": 8},
    "Mamba2ForCausalLM": {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    "MiniMaxM2ForCausalLM": {},
    "Ministral3ForCausalLM": {},
    "MistralForCausalLM": {},
    "Mistral3ForConditionalGeneration": {"text": {"model_type": "mistral"}},
    "MixtralForCausalLM": {},
    "ModernBertDecoderForCausalLM": {"layer_types": WINDOWS, **dict.fromkeys(IDS, 0)},
    "MptForCausalLM": {"d_model": 32, "n_heads": 4, "n_layers": 3, "expansion_ratio": 2},
    "NanoChatForCausalLM": {},
    "NemotronForCausalLM": {},
    "NemotronHForCausalLM": {"layers_block_type": ["linear_attention", "full_attention", "mlp"]},
    "OlmoForCausalLM": {"clip_qkv": 1.0},
    "Olmo2ForCausalLM": {},
    "Olmo3ForCausalLM": {"layer_types": WINDOWS},
    "OlmoeForCausalLM": {"clip_qkv": 1.0},
    "OlmoHybridForCausalLM": {"layer_types": MIXED, **LINEAR},
    "OpenAIGPTLMHeadModel": GPT2,
    "OPTForCausalLM": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "OPTForCausalLM:norms-after": {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "PhiForCausalLM": {"qk_layernorm": True},
    "Phi3ForCausalLM": {},
    "Phi3ForCausalLM:longrope": {"rope_parameters": LONG, "original_max_position_embeddings": 16},
    "Phi3ForCausalLM:longrope-and-short": {  # of the prompts some are short, some long
        "rope_parameters": {**LONG, "original_max_position_embeddings": 27},
        "original_max_position_embeddings": 27,
    },
    "Qwen2ForCausalLM": {"layer_types": WINDOWS, "use_sliding_window": True},
    "Qwen2MoeForCausalLM": {},
    "Qwen2_5_VLForConditionalGeneration": {"text": {"rope_parameters": MROPE}, "vision": QWEN_VISION},
    "Qwen3ForCausalLM": {},
    "Qwen3MoeForCausalLM": {},
    "Qwen3NextForCausalLM": {"layer_types": MIXED, **LINEAR},
    "Qwen3VLForConditionalGeneration": {"text": {"rope_parameters": MROPE}, "vision": QWEN_VISION},
    "Qwen3VLMoeForConditionalGeneration": {"text": {"rope_parameters": MROPE}, "vision": QWEN_VISION},
    "Qwen3_5ForCausalLM": {"layer_types": MIXED, **LINEAR},
    "Qwen3_5MoeForCausalLM": {"layer_types": MIXED, **LINEAR},
    "Qwen3_5ForConditionalGeneration": {"text": {"layer_types": MIXED, **LINEAR}, "vision": QWEN_VISION},
    "RecurrentGemmaForCausalLM": {
        "lru_width": 32,
        "attention_window_size": 9,
        "block_types": ["recurrent", "attention"],
    },
    "RwkvForCausalLM": {"attention_hidden_size": 32},
    "SeedOssForCausalLM": {"attention_out_bias": True, "mlp_bias": True},
    "SmolLM3ForCausalLM": {"no_rope_layers": [1, 0, 1]},
    "StableLmForCausalLM": {"use_qkv_bias": True},
    "StableLmForCausalLM:parallel": {"use_parallel_residual": True, "use_qkv_bias": True},
    "Starcoder2ForCausalLM": {},
    "VaultGemmaForCausalLM": {"layer_types": WINDOWS},
    "XGLMForCausalLM": {"d_model": 32, "ffn_dim": 48, "num_layers": 3, "attention_heads": 4},
    "YoutuForCausalLM": LATENT,
    "Zamba2ForCausalLM": {**MAMBA, "layers_block_type": ["linear_attention", "hybrid", "hybrid"]},
}


def make(name: str, *, seed: int = 0) -> Any:
    """A transformers model of the architecture, in evaluation mode, with weights drawn from ``seed``."""
    torch.manual_seed(seed)
    kind = getattr(hf, name.partition(":")[0])
    given = ARCHITECTURES[name]
    config = kind.config_class
    if "text" in given or "vision" in given:
        parts = _parts(config, given)
        made = kind(config(**parts))
    else:
        made = kind(config(**_settings(config(), given)))
    draw(made, seed)
    return made.eval()


def _settings(default: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    names = default.to_dict()
    return {key: value for key, value in COMMON.items() if key in names} | dict(given)


def _parts(config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    default = config()
    text = default.text_config
    kind = given.get("text", {}).get("model_type", text.model_type)
    settings = _settings(hf.AutoConfig.for_model(kind), given.get("text", {}))
    parts: dict[str, Any] = {"text_config": {**settings, "model_type": kind}}
    if default.vision_config is not None:
        vision = {"model_type": default.vision_config.model_type, **VISION, **given.get("vision", {})}
        parts["vision_config"] = vision
    return parts


def draw(made: torch.nn.Module, seed: int) -> None:
    """Weights of uneven size: each matrix has a scale of its own, gains lie about what they were made as."""
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: torch.Tensor) -> torch.Tensor:
        return torch.randn(parameter.shape, generator=generator)

    with torch.no_grad():
        for name, parameter in made.named_parameters():
            scale = 0.5 + float(torch.rand(1, generator=generator))
            if "A_log" in name or "dt_bias" in name or name.endswith((".D", "time_decay", "time_first")):
                parameter.add_(0.1 * normal(parameter))
            elif parameter.dim() > 1:
                parameter.copy_(normal(parameter) * 0.25 * scale)
            else:
                parameter.add_(normal(parameter) * 0.3 * scale)


def byte_tokenizer() -> hf.PreTrainedTokenizerFast:
    """A byte-level tokenizer of 300 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
