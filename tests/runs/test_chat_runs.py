"""Chat in runs: a flag, a plan's setting, an argument of ``explain``; for every model, or for those named."""

from __future__ import annotations

import pytest
from small_models import byte_tokenizer, make_hf

import isp_mech as im
from isp_mech.cli.main import main
from isp_mech.errors import InputError
from isp_mech.runs.plans import read_plan
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.runs.settings import Settings
from isp_mech.tables import read_table

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|reply|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base model without a template, and one with."""
    made = []
    for name, template in (("base", None), ("instruct", TEMPLATE)):
        folder, tokenizer = tmp_path_factory.mktemp("chat") / name, byte_tokenizer()
        tokenizer.chat_template = template
        make_hf("neox", layers=2, width=16, seed=len(name), length=512).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made.append(str(folder))
    return made


def test_the_flag_puts_the_models_named_in_chat(models, tmp_path, capsys):
    words = ["score", "redefine-math", "--n", "4", *(w for m in models for w in ("--family", m))]
    assert main([*words, "--chat", "instruct", "--system", "Be terse.", "--out", str(tmp_path / "a"), "--quiet"]) == 0
    found = read_table(tmp_path / "a" / "tables" / "scores.parquet")
    assert (
        "system text 'Be terse.'" in found.run.settings["chat"] and "--chat instruct" in found.run.settings["command"]
    )
    pairs = im.contrast("redefine-math", n=4)
    want = im.score(pairs, [im.load_model(models[0]), im.load_model(models[1], chat="Be terse.")])
    assert found.frame["logprob"].tolist() == pytest.approx(want.scores.frame["logprob"].tolist(), abs=1e-5)
    units = sorted((tmp_path / "a" / "units").iterdir())
    assert main([*words, "--chat=instruct", "--system", "Be terse.", "--out", str(tmp_path / "a"), "--quiet"]) == 0
    assert sorted((tmp_path / "a" / "units").iterdir()) == units
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "a"), "--chat", "--quiet"]) == 2  # every model
    assert "base: chat: its tokenizer has no chat template" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "b"), "--chat", "other", "--quiet"]) == 2
    assert "chat 'other': expected some of base, instruct" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_a_unit_made_without_chat_is_that_of_a_model_that_is_not_in_chat(models, tmp_path):
    def jobs(name: str, chat: str):
        plan = tmp_path / f"{name}.toml"
        plan.write_text(
            f"families = [{{family = {models}}}]\ntasks = ['neqa']"
            f"\nsteps = ['score']\n[settings]\nn = 2\nchat = {chat}\n"
        )
        (part,) = read_plan(plan).parts(RunDirectory(tmp_path / "run")).values()
        return {job.size.name: job.files for job in part.jobs}

    nobody, named, everybody = jobs("a", "false"), jobs("b", "'instruct'"), jobs("c", "true")
    assert nobody["base"] == named["base"] != everybody["base"]
    assert nobody["instruct"] != named["instruct"] == everybody["instruct"]
    assert "chat" not in Settings().key("score") and "system" not in Settings().key("score")


def test_explain_takes_the_setting(models, tmp_path):
    report = im.explain(
        "redefine-math", family=[models[1]], n=4, out=tmp_path, chat=True, system="Be terse.", progress=False
    )
    assert "system text" in report.read_text(encoding="utf-8")
    tables = {path.stem: read_table(path) for path in (tmp_path / "tables").glob("*.parquet")}
    assert {"scores", "lens", "sites", "verification"} <= set(tables)
    assert all("template" in str(table.run.settings.get("chat", "")) for table in tables.values())


def test_a_system_text_goes_with_chat_alone():
    with pytest.raises(InputError, match="system 'x': goes with chat alone"):
        Settings(system="x")
    assert Settings(chat=True).chat_setting is True and Settings().chat_setting is False
    assert Settings(chat="all", system="x").chat_setting == "x"
    assert Settings(chat="a, b", system="x").of_model("b").chat_setting == "x"
    assert Settings(chat="a, b", system="x").of_model("c") == Settings()
