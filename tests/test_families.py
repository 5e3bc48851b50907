from __future__ import annotations

import json

import pytest
from small_models import ARCHITECTURES, byte_tokenizer, make_hf

import isp_mech as im
from isp_mech import families
from isp_mech.errors import InputError
from isp_mech.families import Family, Size, count_parameters, family, family_names

# from the Pythia paper (arXiv 2304.01373), table 1: non-embedding parameters
PYTHIA = {
    "70m": 18_915_328, "160m": 85_056_000, "410m": 302_311_424, "1b": 805_736_448,
    "1.4b": 1_208_602_624, "2.8b": 2_517_652_480, "6.9b": 6_444_163_072, "12b": 11_327_027_200,
}  # fmt: skip


def test_pythia_has_the_published_counts():
    assert {size.name: size.n_params for size in family("pythia").members} == {
        f"pythia-{k}": v for k, v in PYTHIA.items()
    }
    deduped = family("pythia-deduped").members
    assert [size.path_or_id for size in deduped] == [f"EleutherAI/pythia-{k}-deduped" for k in PYTHIA]
    assert [size.n_params for size in deduped] == list(PYTHIA.values())


# published parameters without embeddings, billions: Gemma 3 report, table 1; Qwen3 model cards
PUBLISHED = {
    "gemma3": {"gemma-3-1b-pt": 0.698, "gemma-3-4b-pt": 3.209, "gemma-3-12b-pt": 10.759, "gemma-3-27b-pt": 25.6},
    "qwen3": {"Qwen3-0.6B-Base": 0.44, "Qwen3-1.7B-Base": 1.4, "Qwen3-4B-Base": 3.6, "Qwen3-14B-Base": 13.2},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_others_have_the_published_counts_too(name):
    counts = {size.name: size.n_params / 1e9 for size in family(name).members}
    for model, published in PUBLISHED[name].items():
        assert counts[model] == pytest.approx(published, rel=0.01)


def _config(hub_id):
    """The public shape of a few hub models, typed from their config.json: a second way to the same count."""
    import transformers as hf

    return {
        "openai-community/gpt2-medium": lambda: hf.GPT2Config(n_embd=1024, n_layer=24, n_head=16),
        "EleutherAI/pythia-160m": lambda: hf.GPTNeoXConfig(
            hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, vocab_size=50304
        ),
        "EleutherAI/gpt-neo-125m": lambda: hf.GPTNeoConfig(
            hidden_size=768, num_layers=12, num_heads=12, attention_types=[[["global", "local"], 6]]
        ),
        "facebook/opt-125m": lambda: hf.OPTConfig(
            hidden_size=768, num_hidden_layers=12, num_attention_heads=12, ffn_dim=3072
        ),
        "Qwen/Qwen2.5-0.5B": lambda: hf.Qwen2Config(
            hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864
        ),
        "Qwen/Qwen2.5-7B": lambda: hf.Qwen2Config(
            hidden_size=3584,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            intermediate_size=18944,
        ),
        "meta-llama/Llama-3.2-1B": lambda: hf.LlamaConfig(
            hidden_size=2048,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            intermediate_size=8192,
        ),
        "meta-llama/Llama-3.1-8B": lambda: hf.LlamaConfig(
            hidden_size=4096,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            intermediate_size=14336,
        ),
        "HuggingFaceTB/SmolLM2-1.7B": lambda: hf.LlamaConfig(
            hidden_size=2048, num_hidden_layers=24, num_attention_heads=32, intermediate_size=8192, vocab_size=49152
        ),
        "allenai/OLMo-2-0425-1B": lambda: hf.Olmo2Config(
            hidden_size=2048, num_hidden_layers=16, num_attention_heads=16, intermediate_size=8192, vocab_size=100352
        ),
        "microsoft/phi-2": lambda: hf.PhiConfig(
            hidden_size=2560, num_hidden_layers=32, num_attention_heads=32, intermediate_size=10240
        ),
    }[hub_id]()


@pytest.mark.parametrize(
    "hub_id",
    [
        "openai-community/gpt2-medium",
        "EleutherAI/pythia-160m",
        "EleutherAI/gpt-neo-125m",
        "facebook/opt-125m",
        "Qwen/Qwen2.5-0.5B",
        "Qwen/Qwen2.5-7B",
        "meta-llama/Llama-3.2-1B",
        "meta-llama/Llama-3.1-8B",
        "HuggingFaceTB/SmolLM2-1.7B",
        "allenai/OLMo-2-0425-1B",
        "microsoft/phi-2",
    ],
)
def test_counts_of_named_families_are_those_of_the_models(hub_id):
    import torch
    import transformers as hf

    with torch.device("meta"):
        model = hf.AutoModelForCausalLM.from_config(_config(hub_id))
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    apart = {id(parameter) for module in ends for parameter in module.parameters()}
    apart |= {id(p) for name, p in model.named_parameters() if "wpe" in name or "embed_positions" in name}
    count = sum(p.numel() for p in model.parameters() if id(p) not in apart)
    (size,) = [s for name in family_names()[2:] for s in family(name).members if s.path_or_id == hub_id]
    assert size.n_params == count


@pytest.mark.parametrize("name", family_names()[2:])
def test_named_families_are_ordered_and_cited(name):
    found = family(name)
    counts = [size.n_params for size in found.members]
    assert counts == sorted(counts) and len(set(counts)) == len(counts) >= 3
    assert found.citation and found.kind == "hub" and found.name == name


def test_a_name_of_old_and_a_name_nobody_knows():
    assert family("qwen") == family("qwen2.5") and family("Llama").name == "llama3"
    with pytest.raises(
        InputError, match="'bloom': expected one of ladder, ladder-null, pythia, .*a checkpoint folder, a hub id"
    ):
        family("bloom")


def test_sizes_and_revisions():
    found = family("pythia", sizes=["410m", "pythia-70m"], revision="step512")
    assert [(size.name, size.revision) for size in found.members] == [
        ("pythia-70m", "step512"),
        ("pythia-410m", "step512"),
    ]
    assert [s.name for s in family("pythia-deduped", sizes=["70m"]).members] == ["pythia-70m-deduped"]
    assert [s.name for s in family("gemma3", sizes=["1b", "270m"]).members] == ["gemma-3-270m", "gemma-3-1b-pt"]
    assert [s.name for s in family("Qwen3", sizes=["0.6B"]).members] == ["Qwen3-0.6B-Base"]
    with pytest.raises(InputError) as caught:
        family("gpt2", sizes=["small", "xl", "huge"])
    assert caught.value.problems == tuple(
        f"size {s!r}: expected some of gpt2, gpt2-medium, gpt2-large, gpt2-xl" for s in ("small", "huge")
    )
    with pytest.raises(InputError, match="revision 'step3': expected one of step0, step1, step2, step4"):
        family("pythia", revision="step3")
    assert family("gpt2", revision="main").members[0].revision == "main"


def test_a_family_is_ordered_by_size_and_has_each_name_once():
    a, b, c = Size("a", "x/a", None), Size("b", "x/b", 20), Size("c", "x/c", 10)
    assert Family("f", (a, b, c)).members == (c, b, a) and len(Family("f", (a,))) == 1
    with pytest.raises(ValueError, match="names are repeated: a, a"):
        Family("f", (a, a))
    with pytest.raises(ValueError, match="expected at least one member"):
        Family("f", ())
    with pytest.raises(ValueError, match="kind 'zoo', expected one of embedded, hub, list"):
        Family("f", (a,), kind="zoo")
    with pytest.raises(ValueError, match="n_params 0, expected 1 or more"):
        Size("a", "x/a", 0)
    with pytest.raises(ValueError, match="expected a name and a folder or hub id"):
        Size("", "x/a", 1)


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_is_counted_like_the_loaded_model(architecture, tmp_path):
    make_hf(architecture).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert count_parameters(tmp_path) == im.load_model(tmp_path).n_params


def test_a_sharded_folder_and_old_buffers(tmp_path):
    import torch
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text("{}")
    block = {"transformer.h.0.attn.bias": torch.zeros(9), "transformer.h.0.attn.c_attn.bias": torch.zeros(3)}
    save_file({"transformer.wte.weight": torch.zeros(5, 2), **block}, tmp_path / "model-00001-of-00002.safetensors")
    rest = {
        "lm_head.weight": torch.zeros(5, 2),
        "transformer.ln_f.weight": torch.zeros(2),
        "a.rotary_emb.inv_freq": torch.ones(4),
    }
    save_file(rest, tmp_path / "model-00002-of-00002.safetensors")
    assert count_parameters(tmp_path) == 3 + 2


def checkpoint(folder, tensors, config=None, *, file="model.safetensors"):
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or {}))
    save_file(tensors, folder / file)
    return folder


def zeros(*shape, dtype="float32"):
    import torch

    return torch.zeros(*shape, dtype=getattr(torch, dtype))


BLOCK = {"model.layers.0.mlp.up_proj.weight": (6, 2), "model.norm.weight": (2,)}  # 14 parameters


def block():
    return {name: zeros(*shape) for name, shape in BLOCK.items()} | {"model.embed_tokens.weight": zeros(5, 2)}


def test_only_what_is_loaded_is_counted(tmp_path):
    """Old shards beside a new file, adapters, an optimizer's state; of shards, those that the index lists."""
    folder = checkpoint(tmp_path / "m", block())
    more = {"model.layers.1.mlp.up_proj.weight": zeros(6, 2)}
    for file in ("model-00001-of-00002.safetensors", "adapter_model.safetensors", "optimizer.safetensors"):
        checkpoint(folder, more, file=file)
    assert count_parameters(folder) == 14
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "model-00001-of-00002"}}))
    assert count_parameters(folder) == 14  # the single file goes first, as it does when loading
    (folder / "model.safetensors").unlink()
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00003-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(InputError, match="model-00003-of-00002.safetensors: not there, though model.safetensors.index"):
        count_parameters(folder)
    del shards["b"]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert count_parameters(folder) == 12
    for file in (*folder.glob("model-*"), *folder.glob("*.index.json")):
        file.unlink()
    with pytest.raises(InputError, match=r"no model.safetensors \(found adapter_model.safetensors, optimizer.safete"):
        count_parameters(folder)


@pytest.mark.parametrize(
    ("more", "config"),
    [
        ({"model.layers.0.mlp.down_proj.weight": ((2, 3), "uint8")}, {}),
        ({"model.layers.0.mlp.down_proj.qweight": ((2, 3), "int32")}, {}),
        ({"model.layers.0.mlp.down_proj.weight": ((2, 6), "float8_e4m3fn")}, {}),
        ({}, {"quantization_config": {"quant_method": "awq"}}),
        ({"vision_tower.patch.weight": ((2, 6), "float32")}, {"text_config": {}, "vision_config": {"d": 1}}),
        ({"tok_embeddings.weight": ((5, 2), "float32")}, {}),
        ({"model.words.weight": ((5, 2), "float32")}, {"vocab_size": 5}),
        ({"output.dense.weight": ((5, 2), "float32")}, {}),
    ],
)
def test_what_headers_do_not_tell_is_left_to_the_loaded_model(tmp_path, more, config):
    tensors = block() | {name: zeros(*shape, dtype=kind) for name, (shape, kind) in more.items()}
    folder = checkpoint(tmp_path / "m", tensors, config)
    assert count_parameters(folder) is None
    assert family([folder]).members == (Size("m", str(folder), None),)


def test_folders_of_one_last_name_are_told_apart(tmp_path):
    from itertools import product

    places = [tmp_path / "runs" / size / f"s{seed}" / "final" for size, seed in product(("small", "large"), (1, 2))]
    for i, place in enumerate(places):
        place.parent.mkdir(parents=True)
        checkpoint(place, block() | {"model.layers.1.w.weight": zeros(i + 1, 3)})

    def names(*chosen):
        return [size.name for size in family(chosen).members]

    assert names(places[0], places[2]) == ["small/final", "large/final"]
    assert names(places[0], places[1]) == ["s1/final", "s2/final"]
    assert names(*places) == [f"{a}/{b}/final" for a, b in product(("small", "large"), ("s1", "s2"))]
    assert names(places[0], "a/final", "b/final") == ["s1/final", "a/final", "b/final"]
    with pytest.raises(InputError, match="final: given 2 times, expected each once"):
        family([places[0], places[0] / ".." / "final"])


def test_a_list_of_folders_and_hub_ids(tmp_path):
    for name, width in (("large", 48), ("small", 16)):
        make_hf("neox", width=width).save_pretrained(tmp_path / name)
    found = family([tmp_path / "large", tmp_path / "small", "EleutherAI/pythia-70m", "someone/else"])
    assert [size.name for size in found.members] == ["small", "large", "pythia-70m", "else"]
    assert found.members[2].n_params == PYTHIA["70m"] and found.members[3].n_params is None
    assert family(tmp_path / "small").members[0].path_or_id == str(tmp_path / "small")
    assert family("someone/else").members[0].path_or_id == "someone/else"


def test_all_bad_folders_are_told_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    broken, short, hollow = tmp_path / "broken", tmp_path / "short", tmp_path / "hollow"
    for folder in (broken, short, hollow):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    (broken / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"nope")
    (short / "model.safetensors").write_bytes((10**9).to_bytes(8, "little") + b"{}")
    header = json.dumps({"__metadata__": {}, "wte.weight": {"shape": [2, 2]}}).encode()
    (hollow / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError) as caught:
        family([tmp_path / "empty", broken, short, hollow, "./nowhere", "a/b", "a/b"])
    assert list(caught.value.problems) == [
        f"{tmp_path / 'empty'}: no config.json, expected a transformers checkpoint",
        f"{tmp_path / 'empty'}: no *.safetensors, expected weights in that format",
        f"{broken}: model.safetensors: a header that is not JSON of tensors, expected safetensors",
        f"{short}: model.safetensors: a header of 1000000000 bytes in a file of 10, expected safetensors",
        f"{hollow}: the weights hold embeddings only, expected a model's",
        "./nowhere: no such folder, expected a transformers checkpoint",
        "b: given 2 times, expected each once",
    ]
    with pytest.raises(InputError, match="an empty list, expected at least one folder or hub id"):
        family([])
    with pytest.raises(InputError, match="EleutherAI/: no such folder"):
        family("EleutherAI/")


# --- the ladder -----------------------------------------------------------------------------------


def test_the_ladder_lists_what_lies_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(families, "LADDER_WEIGHTS", tmp_path)
    with pytest.raises(InputError, match="family 'ladder': no weights in .*expected one folder for each size"):
        family("ladder")
    for name, count in (("b", 10), ("a", 300)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(json.dumps({"n_params_non_embedding": count}))
    found = family("ladder")
    assert [(size.name, size.n_params) for size in found.members] == [("b", 10), ("a", 300)]
    assert found.members[0].path_or_id == str(tmp_path / "b") and found.kind == "embedded"
    with pytest.raises(InputError, match="revision 'main': the embedded models have none"):
        family("ladder", revision="main")


@pytest.mark.skipif(not list(families.LADDER_WEIGHTS.glob("*/card.json")), reason="the ladder's weights are not there")
def test_the_embedded_ladder_counts_as_its_card_says():
    found = family("ladder")
    assert len(found) >= 4
    for size in found.members:
        assert size.n_params == count_parameters(size.path_or_id)
