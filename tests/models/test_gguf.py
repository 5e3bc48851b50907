"""GGUF files, made by tests/gguf_files.py: the weights, tokens and refusals that a file asks for."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from gguf_files import dequantised, tiny_llama, vocabulary, write_gguf

import isp_mech as im
from isp_mech.errors import InputError
from isp_mech.families import count_parameters, family
from isp_mech.models import gguf as gguf_room
from isp_mech.models.gguf_config import _llama3_factors
from isp_mech.runs.fingerprints import weights_of
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.weight_files import bits_of, read_gguf_header


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ISP_MECH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def plain_logits(made, ids):
    with torch.no_grad():
        return made(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_a_file_gives_the_logits_of_its_dequantised_weights(tmp_path, tied, packed, capsys):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama(tied=tied), packed=packed)
    model = im.load_model(path)
    assert "converting once" in capsys.readouterr().err
    # q and k rows are reordered in the file, but a block lies within a row: packing is the same before and after
    made = dequantised(tiny_llama(tied=tied)) if packed else tiny_llama(tied=tied)
    ids = [5, 40, 77, 31, 260, 90, 12, 13]
    assert torch.allclose(plain_logits(model.hf, ids), plain_logits(made, ids), atol=2e-5)
    apart = made.model.embed_tokens.weight.numel() * (1 if tied else 2)
    assert model.n_params == sum(p.numel() for p in made.parameters()) - apart == count_parameters(path)
    assert (model.name, model.source) == ("tiny", str(path))
    (note,) = model.notes
    assert ("tiny: weights from a GGUF file were 4-bit (Q4_1) and are dequantised" in note) == packed


def test_the_run_says_so(tmp_path, pairs):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    (note,) = [n for n in im.score(pairs, path).scores.run.notes if "GGUF" in n]
    assert note.startswith("tiny: weights from a GGUF file were 4-bit (Q4_1) and are dequantised to float32: Q4_1 ")


def test_the_second_load_converts_nothing_and_hashes_nothing(tmp_path, monkeypatch, capsys):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    first = im.load_model(path)
    capsys.readouterr()
    monkeypatch.setattr(gguf_room, "_convert", None)
    monkeypatch.setattr(gguf_room.hashlib, "file_digest", None)
    again = im.load_model(path)
    assert capsys.readouterr().err == ""
    ids = [5, 40, 77]
    assert torch.equal(plain_logits(first.hf, ids), plain_logits(again.hf, ids))


def test_another_file_under_the_same_name_is_another_model(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_llama(), packed=False)
    before = im.load_model(path)
    other = tiny_llama()
    with torch.no_grad():
        other.model.norm.weight.mul_(2)
    write_gguf(path, other, packed=False)
    ids = [5, 40, 77]
    assert torch.allclose(plain_logits(im.load_model(path).hf, ids), 2 * plain_logits(before.hf, ids), atol=1e-4)


def test_a_file_of_that_name_elsewhere_is_not_taken(tmp_path, monkeypatch):
    """transformers looks for a bare name in the current folder; and a link, or a name without an end, is a file too."""
    other = tiny_llama()
    with torch.no_grad():
        other.model.norm.weight.mul_(2)
    (tmp_path / "here").mkdir()
    write_gguf(tmp_path / "here" / "tiny.gguf", other, packed=False)
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), packed=False)
    (tmp_path / "here" / "link").symlink_to(path)
    monkeypatch.chdir(tmp_path / "here")
    ids = [5, 40, 77]
    for name in ("../tiny.gguf", "link"):
        assert torch.allclose(plain_logits(im.load_model(name).hf, ids), plain_logits(tiny_llama(), ids), atol=2e-5)


@pytest.mark.parametrize("damage", ["gone", "short", "record"])
def test_a_damaged_cache_is_made_again(tmp_path, cache, damage, capsys):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    im.load_model(path)
    (folder,) = [d for d in (cache / "gguf").iterdir() if d.name != "known"]
    if damage == "gone":
        (folder / "tokenizer.json").unlink()
    elif damage == "short":
        os.truncate(folder / "model.safetensors", 1000)
    else:
        (folder / "gguf.json").write_text("{")
    capsys.readouterr()
    im.load_model(path)
    assert "converting once" in capsys.readouterr().err
    assert sorted(d.name for d in (cache / "gguf").iterdir()) == sorted(["known", folder.name])


def test_tokens_are_those_of_the_files_rules(tmp_path):
    """Each digit alone before anything is merged, as ``pre = smollm`` says: GPT-2's rule would keep " 12" whole."""
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    model = im.load_model(path)
    tokens, _ = vocabulary(400)

    def spelt(text):
        return [tokens[i] for i in model.encode([text])[0].ids]

    assert spelt("the  12") == ["t", "he", "ĠĠ", "1", "2"]
    assert spelt(" the 12</s>") == ["Ġthe", "Ġ", "1", "2", "</s>"]
    assert model.added.before == () == model.added.after


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"tokenizer.ggml.add_bos_token": True}, (1,)),
        ({"tokenizer.ggml.add_bos_token": None}, ()),
        ({"tokenizer.ggml.add_bos_token": None, "tokenizer.ggml.pre": "llama-bpe"}, (1,)),
        ({"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.pre": "llama-bpe"}, ()),
    ],
)
def test_the_start_token_is_as_the_file_has_it(tmp_path, fields, start):
    model = im.load_model(write_gguf(tmp_path / "tiny.gguf", tiny_llama(), fields=fields))
    assert model.added.before == start


def test_a_file_of_qwen_2_has_the_tokens_that_it_names(tmp_path):
    """transformers' class for Qwen 2 normalises texts, which the file does not ask for; and no start token is added."""
    made = tiny_llama(kind="qwen2", tied=False)
    path = write_gguf(tmp_path / "tiny.gguf", made, packed=False, fields={"tokenizer.ggml.pre": "qwen2"})
    model = im.load_model(path)
    letters = "e\u0301"  # an e and an accent: three bytes, where the normal form has two
    assert len(model.encode([letters])[0].ids) == 3 and model.added.before == ()
    ids = [5, 40, 77, 31, 260, 90, 12, 13]
    assert torch.allclose(plain_logits(model.hf, ids), plain_logits(made, ids), atol=2e-5)


def test_a_chat_template_is_kept(tmp_path):
    template = "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}"
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), fields={"tokenizer.chat_template": template})
    assert im.load_model(path).tokenizer.chat_template == template


def test_llama_3s_rotation_is_read_from_its_factors(tmp_path):
    """transformers' reader passes the tensor over, and would rotate as Llama 2 does."""
    rotation = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192, "rope_theta": 500000.0}  # fmt: skip
    made = tiny_llama(rope_parameters=rotation)
    inverse = 1 / 500000.0 ** (torch.arange(0, 16, 2).float() / 16)
    factors = (inverse / made.model.rotary_emb.inv_freq).numpy()  # as transformers reckons them
    assert np.allclose(factors, _llama3_factors(500000.0, 16, 32.0), rtol=1e-5) and factors.max() > 31
    path = write_gguf(tmp_path / "tiny.gguf", made, packed=False, more={"rope_freqs.weight": factors})
    ids = list(range(3, 300))
    assert torch.allclose(plain_logits(im.load_model(path).hf, ids), plain_logits(made, ids), atol=2e-5)
    odd = write_gguf(tmp_path / "odd.gguf", made, packed=False, more={"rope_freqs.weight": factors * 1.5})
    with pytest.raises(InputError, match=r"odd.gguf: rope_freqs.weight: factors that are neither Llama 3.1's nor 3.2"):
        im.load_model(odd)


def test_a_linear_rotation_is_read(tmp_path):
    made = tiny_llama(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0})
    fields = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    path = write_gguf(tmp_path / "tiny.gguf", made, packed=False, fields=fields)
    ids = list(range(3, 90))
    assert torch.allclose(plain_logits(im.load_model(path).hf, ids), plain_logits(made, ids), atol=2e-5)


LACKS_ONE = {"leave_out": ("blk.1.ffn_down.weight",)}
HAS_ANOTHER = {"more": {"blk.0.attn_q.bias": np.zeros(64, np.float32)}}
PASSED_OVER = "transformers' reader passes it over"
NOT_KNOWN = "how it splits text is not known"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (LACKS_ONE, "tensor model.layers.1.mlp.down_proj.weight: is missing, expected one of shape 64 x 96"),
        (HAS_ANOTHER, "tensor blk.0.attn_q.bias: transformers' reader has no place for it"),
        ({"llama.attention.sliding_window": 64}, "llama.attention.sliding_window = 64, and .* makes it None"),
        ({"llama.logit_scale": 0.5}, "llama.logit_scale = 0.5, and .* makes it None"),
        ({"llama.residual_scale": 0.5}, f"llama.residual_scale = 0.5: {PASSED_OVER}"),
        ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.type 'yarn': expected none or linear"),
        ({"tokenizer.ggml.pre": "viking"}, f"tokenizer.ggml.pre = 'viking': {NOT_KNOWN}"),
        ({"tokenizer.ggml.pre": None}, f"tokenizer.ggml.pre = 'default': {NOT_KNOWN}"),
        ({"general.type": "adapter"}, r"it holds a part of a model \(adapter\)"),
        ({"split.count": 3}, "it is one of 3 parts"),
        ({"llama.embedding_length": 128}, "model.embed_tokens.weight: of shape 400 x 64, expected 400 x 128"),
    ],
)
def test_what_would_be_another_model_is_refused_by_name(tmp_path, cache, options, expected):
    options = options if {*options} & {"leave_out", "more"} else {"fields": options}
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), **options)
    with pytest.raises(InputError, match=expected) as caught:
        im.load_model(path)
    assert str(path) in str(caught.value)
    assert [d.name for d in (cache / "gguf").glob("*") if d.name != "known"] == []


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda d: b"", "a file of 0 bytes, expected GGUF"),
        (lambda d: b"PK\x03\x04" + d[4:], "it begins with b'PK"),
        (lambda d: d[:4] + (1).to_bytes(4, "little") + d[8:], "GGUF version 1, expected one of 2, 3"),
        (lambda d: d[:4] + (3).to_bytes(4, "big") + d[8:], "its numbers are big-endian"),
        (lambda d: d[:500], "it ends in the middle of its header"),
        (lambda d: d[:-5000], "it ends in the middle of its weights"),
        (lambda d: d[:16] + (2**60).to_bytes(8, "little") + d[24:], "header"),
    ],
)
def test_a_damaged_file_is_one_error(tmp_path, spoil, expected):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match=expected):
        im.load_model(path)


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "q4.gguf").touch()
    with pytest.raises(InputError, match="found q4.gguf: give the file's own path"):
        im.load_model(tmp_path / "folder")
    (tmp_path / "model.bin").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="model.bin: a file that is no GGUF file"):
        im.load_model(tmp_path / "model.bin")
    with pytest.raises(InputError, match="no such file"):
        family([str(tmp_path / "nothing.gguf")])


def test_no_room_is_said_before_anything_is_converted(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    monkeypatch.setattr(gguf_room, "free_bytes", lambda device: 1000)
    expected = r"converting it to float32 takes 0.00044 GB of memory, where 1e-06 GB are free"
    with pytest.raises(InputError, match=expected):
        im.load_model(path)


def test_files_are_a_family(tmp_path):
    small, large = tiny_llama(), tiny_llama(tied=False)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [write_gguf(tmp_path / folder / "q4.gguf", made) for folder, made in (("b", large), ("a", small))]
    found = family(paths)
    assert [size.name for size in found.members] == ["b/q4", "a/q4"]  # of one size without embeddings: as given
    assert [m.name for m in im.models.members(found)] == ["b/q4", "a/q4"]
    weights = weights_of({size.name: size for size in found.members}, RunDirectory(tmp_path / "run"))
    assert len({*weights.values()}) == 2 and all(w.startswith("sha256:") for w in weights.values())


def test_the_header_of_a_file(tmp_path):
    header = read_gguf_header(write_gguf(tmp_path / "tiny.gguf", tiny_llama()))
    assert header.architecture == "llama" and header.fields["llama.block_count"] == 2
    assert header.fields["tokenizer.ggml.tokens"] == 400 and header.fields["general.name"] == "tiny"
    assert header.tensors["blk.0.ffn_down.weight"].shape == (64, 96)
    assert {t.kind for t in header.tensors.values()} == {"Q4_1", "F32"}
    assert [bits_of(kind) for kind in ("Q8_0", "IQ3_XXS", "BF16", "F32")] == [8, 3, 16, 32]


def test_what_is_cached_says_what_it_was_made_of(tmp_path, cache):
    im.load_model(write_gguf(tmp_path / "tiny.gguf", tiny_llama()))
    (record,) = (cache / "gguf").glob("*/gguf.json")
    told = json.loads(record.read_text())
    assert told["file"] == "tiny.gguf" and told["sha256"] == record.parent.name
    assert "model.safetensors" in told["sizes"]
