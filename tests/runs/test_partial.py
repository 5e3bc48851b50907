"""A model of which some things are not defined, beside one of which all are: what can be done is done and written."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from small_models import VOCABULARY, byte_tokenizer, make_hf

from isp_mech.errors import InputError
from isp_mech.runs.explain import explain, read_tables


@pytest.fixture
def family(tmp_path):
    torch.manual_seed(0)
    made = {
        "good": make_hf("neox", layers=2, length=512),
        "recurrent": hf.MambaForCausalLM(
            hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8, time_step_rank=4)
        ),
        "norms-after": hf.OPTForCausalLM(
            hf.OPTConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                ffn_dim=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                word_embed_proj_dim=16,
                max_position_embeddings=512,
                do_layer_norm_before=False,
            )
        ),
    }
    for name, model in made.items():
        model.save_pretrained(tmp_path / name)
        byte_tokenizer().save_pretrained(tmp_path / name)
    return [tmp_path / name for name in made]


def test_what_can_be_done_is_done_and_written(family, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(InputError) as caught:
        explain("redefine-math", family=family, out=out, n=4, interventions="block", progress=False)
    assert "recurrent: score and trace: redefine-math: its scores are there, but recurrent: cannot be traced" in str(
        caught.value
    )
    assert "recurrent: heads and MLPs are not defined on it: a block adds MambaMixer" in str(caught.value)
    assert (out / "report.html").exists()
    tables = read_tables(out)
    of_models = {name: set(table.frame["model"]) for name, table in tables.items()}
    assert of_models["scores"] == of_models["curve"] == of_models["items"] == {"good", "recurrent", "norms-after"}
    assert of_models["lens"] == of_models["direct_effects"] == {"good"}
    assert of_models["attention"] == of_models["sites"] == of_models["verification"] == {"good", "norms-after"}
    assert of_models["restoration"] == {"good", "norms-after"}
    assert any("norms stand after its sublayers" in note for note in tables["lens"].run.notes)
    assert "recurrent: locate: redefine-math: not done" in tables["sites"].run.notes
    direct = tables["sites"].frame.groupby("model")["direct_effect"]
    assert direct.count().to_dict() == {"good": 10, "norms-after": 0}  # NaN where it is not defined

    units = set((out / "units").iterdir())
    monkeypatch.setattr("isp_mech.runs.explain.make_figures", lambda *args: {})
    with pytest.raises(InputError, match="its scores are there"):
        explain("redefine-math", family=family, out=out, n=4, interventions="block", progress=False)
    assert set((out / "units").iterdir()) == units
