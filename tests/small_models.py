"""Real transformers models of many architectures, small, with weights drawn from a seed."""

from __future__ import annotations

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 320
TEXT = "Redefine pi as 462. Q: What is the first digit of pi? A: 4 part pango many men plays answer the a man women"

# ten kinds of decoder: parallel and serial blocks, LayerNorm and RMSNorm with and without biases, rotary, learned
# and ALiBi positions, grouped-query attention, sliding windows, tied embeddings, soft-capped logits, post-norms,
# scaled logits
ARCHITECTURES = ("neox", "neox-serial", "gpt2", "llama", "opt", "mistral", "gemma2", "cohere", "qwen2", "bloom")
# of these the three that differ most: parallel blocks and rotary positions; serial ones, learned positions and a tied
# embedding; gains about one, grouped queries, windows, post-norms and a soft cap
DIFFERENT = ("neox", "gpt2", "gemma2")


def byte_tokenizer(*, start_token: bool = False) -> hf.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 300 tokens, with or without a start token before each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    if start_token:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def make_hf(architecture: str, *, seed: int = 0, layers: int = 3, heads: int = 4, width: int = 32, length: int = 256):
    """A transformers model in evaluation mode; weights are wide enough that every part matters."""
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 2 * width,
        "max_position_embeddings": length,
    }
    grouped = {**shape, "num_key_value_heads": heads // 2}
    head = width // heads
    torch.manual_seed(seed)
    made = {
        "neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**shape)),
        "neox-serial": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**shape, use_parallel_residual=False)),
        "gpt2": lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=VOCABULARY, n_embd=width, n_layer=layers, n_head=heads, n_positions=length)
        ),
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**grouped)),
        "opt": lambda: hf.OPTForCausalLM(
            hf.OPTConfig(
                vocab_size=VOCABULARY,
                hidden_size=width,
                ffn_dim=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                max_position_embeddings=length,
                word_embed_proj_dim=width,
            )
        ),
        "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**grouped, head_dim=head, sliding_window=12)),
        "gemma2": lambda: hf.Gemma2ForCausalLM(
            hf.Gemma2Config(**grouped, head_dim=head, sliding_window=12, query_pre_attn_scalar=head)
        ),
        "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**shape)),
        "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**grouped, tie_word_embeddings=True)),
        "bloom": lambda: hf.BloomForCausalLM(
            hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=width, n_layer=layers, n_head=heads)
        ),
        "gpt-neo": lambda: hf.GPTNeoForCausalLM(
            hf.GPTNeoConfig(
                vocab_size=VOCABULARY,
                hidden_size=width,
                num_layers=2,
                num_heads=heads,
                max_position_embeddings=length,
                attention_types=[[["global", "local"], 1]],
                window_size=12,
            )
        ),
    }[architecture]()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            is_gain = name.endswith("weight") and ("norm" in name or "ln_" in name) and architecture != "gemma2"
            spread = 0.25 if parameter.dim() > 1 else 0.3
            parameter.copy_(torch.randn_like(parameter) * spread + float(is_gain))
    return made.eval()


def plain_logprobs(model, ids: list[int]) -> torch.Tensor:
    """log-softmax at every position by the transformers model itself, one sequence, float32."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().log_softmax(-1)


HEAD_ORDER = [2, 0, 3, 1]  # in ``heads_permuted`` head i of layer 1 is the old head HEAD_ORDER[i]


def heads_permuted():
    """``make_hf("opt")``, the same function, with the heads of layer 1 in the order ``HEAD_ORDER``."""
    made = make_hf("opt")
    rows = torch.arange(32).view(4, 8)[HEAD_ORDER].flatten()
    with torch.no_grad():
        attention = made.model.decoder.layers[1].self_attn
        for part in (attention.q_proj, attention.k_proj, attention.v_proj):
            part.weight.copy_(part.weight[rows].clone())
            part.bias.copy_(part.bias[rows].clone())
        attention.out_proj.weight.copy_(attention.out_proj.weight[:, rows].clone())
    return made
