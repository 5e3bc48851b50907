from __future__ import annotations

import contextlib
import inspect
import io
import json
import resource
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import isp_mech as im
from isp_mech.cli.main import main
from isp_mech.contrasts.pair_files import is_pairs_file, read_pairs, write_pairs
from isp_mech.errors import InputError
from isp_mech.runs import explain as explaining
from isp_mech.runs.execute import run_parts
from isp_mech.runs.fingerprints import weights_of
from isp_mech.runs.jobs import TABLES as TABLES_OF_STEPS
from isp_mech.runs.settings import CHAIN, Settings

N = 12
FIGURES = {
    "scaling-curve", "shares-over-size", "lens-over-depth", "onset-over-size", "attention-by-role", "override-map",
    "direct-vs-total", "verification", "story-over-size", "restored-vs-cost", "restored-over-size",
}  # fmt: skip
TABLES = {name for step in CHAIN for name in TABLES_OF_STEPS[step]}


@pytest.fixture(scope="session")
def models(folders):
    return [word for folder in folders for word in ("--family", str(folder))]


@pytest.fixture(scope="session")
def explained(models, tmp_path_factory):
    """A folder that ``explain`` filled, without figures, with what it printed."""
    out = tmp_path_factory.mktemp("explained") / "out"
    command = ["explain", "redefine-math", "--n", str(N), "--random", "5", *models, "--out", str(out), "--progress"]
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), pytest.MonkeyPatch.context() as patch:
        patch.setattr(explaining, "make_figures", lambda tables, folder: {})
        assert main(command) == 0
    return out, stdout.getvalue(), stderr.getvalue()


def _names(folder, pattern):
    return {path.stem for path in folder.glob(pattern)}


# --- explain --------------------------------------------------------------------------------------


def test_explain_writes_tables_and_a_report(explained):
    out, stdout, stderr = explained
    assert _names(out, "tables/*.parquet") == TABLES - {"values", "value_curve"}  # those are of other metrics
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "redefine-math" in page and "small" in page and "large" in page
    assert stdout.rstrip().endswith(f"report: {out / 'report.html'}")
    assert "conflict" in stdout and "small: locate" in stderr
    assert read_pairs(out / "pairs.jsonl") == im.contrast("redefine-math", n=N)


def test_explain_measures_what_the_functions_do(explained, folders):
    out, *_ = explained
    pairs, family = im.contrast("redefine-math", n=N), im.family(folders)
    scores, sites = im.score(pairs, family), im.locate(pairs, family)
    check = im.verify(sites, pairs, family, n_random=5)
    traces = im.trace(pairs, family)
    ours = explaining.read_tables(out)
    for name, table in (
        ("curve", scores.curve), ("shares", scores.shares), ("lens", traces.lens), ("direct_effects", traces.effects),
        ("sites", sites.sites), ("effects", sites.effects), ("verification", check),
    ):  # fmt: skip
        # explaining scores and traces by the same forwards: equal up to rounding
        pd.testing.assert_frame_equal(ours[name].frame, table.frame, rtol=1e-5, atol=1e-5, obj=name)


def test_what_is_done_is_not_done_again(explained, models, monkeypatch, capsys):
    out, *_ = explained
    monkeypatch.setattr("isp_mech.models.load_size", _never)
    monkeypatch.setattr("isp_mech.runs.explain.make_report", lambda *_, **__: "drawn")  # again: below
    command = ["redefine-math", "--n", str(N), "--random", "5", *models, "--out", str(out)]
    assert main(["explain", *command]) == 0
    for verb in CHAIN:
        settings = (
            command if verb in ("verify", "restore") else [word for word in command if word not in ("--random", "5")]
        )
        assert main([verb, *settings]) == 0
        printed = capsys.readouterr().out
        assert f"tables: {out / 'tables'}" in printed and "large" in printed


def test_blocking_is_a_step_of_its_own_whose_map_is_drawn(models, folders, tmp_path, capsys):
    out, pairs = tmp_path / "out", im.contrast("redefine-math", n=N)
    assert main(["block", "redefine-math", "--n", str(N), "--roles", "question", *models, "--out", str(out)]) == 0
    said, tables = capsys.readouterr().out, explaining.read_tables(out)
    want = im.causal.block_heads(pairs, im.family(folders), roles=["question"])
    assert list(tables) == ["role_effects", "head_roles", "role_stability"]
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table.frame, getattr(want, name).frame, rtol=1e-5, atol=1e-6, obj=name)
    strongest = want.head_roles.frame.query("model == 'large'").sort_values("effect", key=abs).iloc[-1]
    assert f"large  a{strongest['layer']}.h{strongest['head']}" in said and "rank correlation of two halves" in said
    assert list(explaining.make_figures(tables, out)) == ["head_role_map"]
    assert _names(out, "figures/*.svg") == {"head-role-map"}
    assert "What each head takes" in explaining.make_report(tables, out).read_text(encoding="utf-8")


def _never(*_, **__):
    raise AssertionError("a model was loaded")


def test_changed_settings_and_changed_weights_are_measured_anew(explained, folders, tmp_path, monkeypatch):
    out = shutil.copytree(explained[0], tmp_path / "out")
    pairs, family = im.contrast("redefine-math", n=N), im.family(folders)
    monkeypatch.setattr("isp_mech.models.load_size", _never)

    def measure(pairs, **settings):
        directory = im.RunDirectory(out)
        part = explaining.part_in(directory, pairs, family, steps=("score",), settings=Settings(**settings))
        run_parts({"": part}, directory)

    measure(pairs)
    for changed in ({"seed": 1}, {"rule": "prize"}, {"dtype": "bfloat16"}):
        with pytest.raises(InputError, match="a model was loaded"):
            measure(pairs, **changed)
    with pytest.raises(InputError, match="a model was loaded"):
        measure(pairs.take(range(3)))
    stored = folders[0] / "config.json"
    text = stored.read_text()
    runs = im.RunDirectory(tmp_path / "other")
    key = weights_of({"one": family.members[0]}, runs)
    stored.write_text(text + " ")
    assert weights_of({"one": family.members[0]}, runs) != key
    stored.write_text(text)
    assert weights_of({"one": family.members[0]}, runs) == key


def test_a_stopped_run_goes_on_where_it_was(folders, models, tmp_path, monkeypatch, capsys):
    from importlib import import_module

    locating, scoring = import_module("isp_mech.causal.locate"), import_module("isp_mech.scoring.score")

    out, real, asked = tmp_path / "out", locating.locate, []

    def stop_at_the_second(pairs, model, **options):
        asked.append(model.name)
        if model.name == "large":
            raise KeyboardInterrupt
        return real(pairs, model, **options)

    command = ["locate", "neqa", "--n", str(N), *models, "--out", str(out)]
    monkeypatch.setattr(locating, "locate", stop_at_the_second)
    assert main(command) == 130
    assert "stopped; what is done is kept, and the same command goes on from there" in capsys.readouterr().err
    assert asked == ["small", "large"] and not (out / "tables").exists()
    assert len(list(out.glob("units/*.parquet"))) == 4
    monkeypatch.setattr(
        locating, "locate", lambda pairs, model, **o: asked.append(model.name) or real(pairs, model, **o)
    )
    monkeypatch.setattr(scoring, "score", _never)
    assert main(command) == 0
    assert asked == ["small", "large", "large"]
    whole = im.locate(im.contrast("neqa", n=N), im.family(folders))
    assert explaining.read_tables(out)["sites"].frame.equals(whole.sites.frame)


def test_five_functions_lead_from_the_command_line_to_locating(models, tmp_path, monkeypatch):
    from importlib import import_module

    way = []

    def locate(pairs, model, **settings):
        way.append([frame.function for frame in inspect.stack() if "isp_mech/" in frame.filename][::-1])
        assert settings["replacement"] == ("zero",)
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("isp_mech.causal.locate"), "locate", locate)
    words = ["locate", "neqa", "--n", "4", *models, "--replacement", "zero", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path)]) == 130
    assert way == [["main", "measure", "run_what_can", "run_jobs", "run"]]


def test_a_task_of_the_prizes_format_is_scored_and_told(models, tmp_path, capsys):
    task = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"Q: {i}? A:", "classes": [" Y", " N"], "answer_index": i % 2} for i in range(6)]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    assert main(["explain", str(task), *models, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "scored only: tracing, locating and verifying need pairs" in printed and "item" in printed
    assert _names(out, "tables/*.parquet") == {"scores", "items", "curve", "rule_differences"}
    assert _names(out, "figures/*.pdf") == {"scaling-curve"}
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0 and (out / "report.html").read_bytes() == page
    capsys.readouterr()
    assert main(["trace", str(task), *models, "--out", str(tmp_path / "other")]) == 2
    assert "steps: trace: needs contrasting pairs, and mine is a plain task" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_file_of_pairs_is_a_task(models, explained, tmp_path, capsys):
    pairs = tmp_path / "pairs.jsonl"
    write_pairs(im.contrast("neqa", n=4), pairs)
    assert main(["score", str(pairs), "--rule", "prize", *models, "--out", str(tmp_path / "out")]) == 0
    frame = explaining.read_tables(tmp_path / "out")["items"].frame
    assert set(frame["task"]) == {"neqa"} and set(frame["side"]) == {"plain", "conflict"}


def test_explain_as_a_function(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(explaining, "make_figures", lambda tables, folder: {})
    report = im.explain(im.contrast("neqa", n=6), family=folders[:1], progress=False)
    assert report == explaining.Path("reports/neqa/report.html") and report.exists()


# --- ways of locating ---------------------------------------------------------------------------


def test_locating_by_gradients_says_how_far_they_are_from_exact_effects(models, tmp_path, capsys):
    command = ["locate", "redefine-math", "--n", "4", "--method", "attribution", *models]
    assert main([*command, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("rank correlation") == 2 and "gradients (attribution)" in said
    stability = im.read_table(tmp_path / "tables" / "stability.parquet").frame
    assert (stability["replacement_a"] == "exact").sum() == 2


def test_locating_at_a_role_has_the_residual_stream_and_no_story(models, tmp_path, capsys):
    command = ["locate", "redefine-math", "--n", "4", "--positions", "definition", "--replacement", "zero", *models]
    assert main([*command, "--out", str(tmp_path)]) == 0
    kinds = im.read_table(tmp_path / "tables" / "sites.parquet").frame["kind"]
    assert set(kinds) == {"head", "mlp", "resid"} and not (tmp_path / "tables" / "story.parquet").exists()
    assert main([*command[:5], "nothing", *command[6:], "--out", str(tmp_path / "other")]) == 2
    assert "no token of role 'nothing', found definition" in capsys.readouterr().err


# --- figures and report, from tables alone --------------------------------------------------------


FEW = {"curve", "shares"}


def test_figures_are_drawn_from_the_tables_there_are(explained, tmp_path):
    for name in FEW:
        (tmp_path / "tables").mkdir(exist_ok=True)
        shutil.copy(explained[0] / "tables" / f"{name}.parquet", tmp_path / "tables")
    assert main(["figures", str(tmp_path)]) == 0
    assert _names(tmp_path, "figures/*.svg") == {"scaling-curve", "shares-over-size"}
    assert not (tmp_path / "report.html").exists()


def test_all_figures_and_a_report_are_made_without_torch(explained, tmp_path):
    out, *_ = explained
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "report.html").unlink()
    program = (
        f"import sys; from isp_mech.cli.main import main; code = main(['report', {str(copy)!r}]); "
        "print(code, [m for m in ('torch', 'transformers', 'transformer_lens') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    for kind in ("pdf", "svg", "png", "parquet"):
        assert _names(copy, f"figures/*.{kind}") == FIGURES
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure") >= len(FIGURES) and page.count("<script") == page.count('id="explorer-data"') + 1 == 2


def test_view_opens_the_page_and_says_where_it_is(tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: not opened.append(address))
    assert main(["view", str(tmp_path)]) == 2 and opened == []
    assert "found no report.html, expected a folder that `isp-mech report` wrote" in capsys.readouterr().err
    page = tmp_path / "report.html"
    page.write_text("<!DOCTYPE html>")
    assert main(["view", str(tmp_path)]) == 0 and main(["view", str(page)]) == 0
    assert opened == [page.as_uri()] * 2
    assert capsys.readouterr().out == f"report: {page}\n" * 2
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    assert main(["view", str(tmp_path)]) == 0 and "found no browser to open it with" in capsys.readouterr().out


def test_a_folder_without_tables(tmp_path, capsys):
    for verb in ("figures", "report"):
        assert main([verb, str(tmp_path)]) == 2
        assert f"isp-mech: {tmp_path}: found no tables/*.parquet" in capsys.readouterr().err
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "curve.parquet").write_bytes(b"PAR1")
    assert main(["figures", str(tmp_path)]) == 2
    assert "curve.parquet" in capsys.readouterr().err and not (tmp_path / "figures").exists()
    with pytest.raises(InputError, match="none that a figure is drawn from"):
        explaining.make_figures({})


# --- help and lists -------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["explain", "--help"], ["tasks"], ["families"], ["--version"]])
def test_help_and_lists_answer_at_once_without_torch(words):
    program = (
        "import sys\nfrom isp_mech.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "print([m for m in ('torch', 'transformers', 'transformer_lens', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    times: list[float] = []
    while len(times) < 3 and not (times and min(times) < 0.5):  # again where something else was in the way
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.stdout.splitlines()[-1] == "[]", words
    assert min(times) < 0.5, times


def test_the_lists_name_everything(capsys, monkeypatch, tmp_path):
    assert main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(im.contrast_names())
    assert "  :twin" in [line[:7] for line in lines] and all(line.startswith("  :") for line in lines if line[0] == " ")
    assert main(["families"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[: len(im.family_names())]] == list(im.family_names())
    assert "pythia-70m (18.9M)" in printed and "Llama-3.1-405B (402B)" in printed
    monkeypatch.setattr("isp_mech.families.LADDER_WEIGHTS", tmp_path)
    assert main(["families"]) == 0
    assert "no weights in" in capsys.readouterr().out.splitlines()[0]


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"isp-mech {im.__version__}\n"


# --- bad input: exit code 2, one message, nothing written -------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["explain", "nosuch"],
            "task: 'nosuch': expected one of neqa, quote-repetition, redefine-math, hindsight-neglect",
        ),
        (["score", "nosuch.jsonl"], "nosuch.jsonl"),
        (["explain", "neqa", "--family", "bloom"], "family: 'bloom': expected one of ladder, ladder-null, pythia"),
        (["explain", "neqa", "--family", "gpt2", "--sizes", "huge"], "size 'huge': expected some of gpt2, gpt2-medium"),
        (["explain", "neqa", "--n", "0"], "contrast 'neqa': n=0: expected a whole number of pairs, 1 or more"),
        (["explain", "neqa", "--n", "1000000"], "the number of distinct pairs there are"),
        (["explain", "neqa", "--source", "nowhere.tsv"], "nowhere.tsv: no such file"),
        (["explain", "a.jsonl", "--source", "x.tsv"], "source: 'x.tsv': goes with a contrast's name, one of neqa"),
        (["explain", "neqa", "--batch-size", "many"], "batch size 'many': expected 'auto' or a whole number"),
        (
            ["explain", "neqa", "--family", "gpt2", "--batch-size", "0"],
            "batch size 0: expected 'auto' or a whole number",
        ),
        (
            ["locate", "neqa", "--family", "gpt2", "--replacement", "means"],
            "replacement ['means']: expected one or more of mean",
        ),
        (["verify", "neqa", "--family", "gpt2", "--share", "2", "--random", "0"], "share 2.0: expected a share of the"),
        (["score", "neqa", "--family", "gpt2", "--device", "cuda:77"], "device 'cuda:77'"),
        (["score", "neqa", "--family", "gpt2", "--device", "abacus"], "device 'abacus'"),
    ],
)
def test_bad_arguments(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(words) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.startswith("isp-mech: ") and said.out == ""
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []


GOOD = '{"prompt": "Q: 1? A:", "classes": [" Y", " N"], "answer_index": 0}\n'


@pytest.mark.parametrize(
    ("name", "content", "where", "expected"),
    [
        ("a.csv", b"prompt,classes\nQ,\"[' A', ' B']\"\n", "answer_index", "missing column"),
        ("a.jsonl", b'{"prompt": "Q", "classes": [" A"], "answer_index": 0}\n', "1", "expected"),
        ("a.jsonl", b'{"prompt": "Q", "classes": [" A", " B"], "answer_index": 2}\n', "1", "expected"),
        ("a.jsonl", b'{"prompt": "", "classes": [" A", " B"], "answer_index": 0}\n', "1", "expected"),
        ("a.jsonl", GOOD.encode() * 6 + b'{"prompt": \n', "7", "JSON"),
        ("a.jsonl", GOOD.encode() + b'{"prompt": "\xff"}\n', "line 2", "UTF-8"),
        ("a.jsonl", b"", "a.jsonl", "expected"),
        ("a.txt", b"hello\n", "a.txt", "expected"),
    ],
)
def test_malformed_files(name, content, where, expected, tmp_path, capsys, models):
    path = tmp_path / name
    path.write_bytes(content)
    for verb in ("explain", "score"):
        assert main([verb, str(path), *models, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert str(path) in said and where in said and expected in said
    assert list(tmp_path.iterdir()) == [path]


def test_the_output_folder_is_a_file(models, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert main(["score", "neqa", "--n", "2", *models, "--out", str(tmp_path / "out")]) == 2
    assert "expected a folder" in capsys.readouterr().err and (tmp_path / "out").read_text() == "mine"


def test_usage_errors_exit_with_2(capsys):
    for words in ([], ["explain"], ["nosuch"], ["score", "neqa", "--n", "x"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        assert "usage: isp-mech" in capsys.readouterr().err


def test_default_folder_is_a_plain_name():
    assert explaining.default_folder(im.contrast("neqa", n=1)) == explaining.Path("reports/neqa")
    item = im.Item("0", "Q", (" a", " b"), 0)
    assert explaining.default_folder(im.Task("../../etc/x y", (item,))) == explaining.Path("reports/etc-x-y-148662b1")


# --- pairs as a file ------------------------------------------------------------------------------


@pytest.mark.parametrize("task", im.contrast_names())
def test_pairs_survive_a_file(task, tmp_path):
    pairs = im.contrast(task, n=20, seed=3)
    path = write_pairs(pairs, tmp_path / "deep" / "pairs.jsonl")
    assert is_pairs_file(path) and read_pairs(path) == pairs
    assert [p.name for p in path.parent.iterdir()] == ["pairs.jsonl"]


def test_bad_pairs_are_told_all_at_once(tmp_path):
    path = write_pairs(im.contrast("redefine-math", n=1), tmp_path / "pairs.jsonl")
    head, row = path.read_text(encoding="utf-8").splitlines()
    good = json.loads(row)
    bad = [
        "nonsense",
        "[]",
        json.dumps(good | {"answer": 4}),
        json.dumps(good | {"plain": {"text": "Q"}}),
        json.dumps(good | {"plain": {"text": "Q", "roles": {"question": [[0]]}}}),
        json.dumps(good | {"plain": {"text": "Q", "roles": {"question": [[0, 9]]}}}),
        json.dumps(good | {"plain": {"text": "Something else", "roles": {}}}),
        json.dumps(good | {"answer": good["lure"]}),
    ]
    path.write_text("\n".join([head, *bad]), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [f"line {i}" for i in range(2, 10)]
    for problem, part in zip(
        caught.value.problems,
        (
            "Expecting value",
            "found [], expected an object with fields",
            "answer: expected texts",
            'plain: expected {"text": ..., "roles": ',
            "expected lists of [start, stop]",
            "is not inside a text of 1 characters",
            "apart from 'definition' the prompts differ",
            "must be two different texts",
        ),
        strict=True,
    ):
        assert part in problem
    path.write_text(f"{head}\n{row}\n{row}\n", encoding="utf-8")
    with pytest.raises(InputError, match="ids are repeated"):
        read_pairs(path)
    path.write_text(head.replace('"redefine-math"', "7") + f"\n{row}\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1: name 7 and seed 0, expected a text and a whole number"):
        read_pairs(path)
    path.write_text(row, encoding="utf-8")
    with pytest.raises(InputError, match="line 1: expected .*the head of a file of pairs"):
        read_pairs(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_under_a_good_head_give_pairs_or_an_input_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "pairs.jsonl"
    path.write_bytes(b'{"format": "isp_mech pairs 1", "name": "x"}\n' + data)
    try:
        assert len(read_pairs(path)) > 0
    except InputError:
        pass


def test_the_best_changes_are_saved_and_told(folders, tmp_path, capsys):
    """The file of a change that restores is the one whose vectors stand in the table, and it can be applied."""
    from isp_mech.causal import load_intervention, scale
    from isp_mech.runs.explain import save_interventions
    from isp_mech.tables import Table, make_run, table

    made, weaker = scale("m0", 2.0), scale("m0", 3.0)
    ends = ("conflict_before", "conflict_after", "gain", "plain_before", "plain_after", "neutral_before",
            "neutral_after", "neutral_kl", "restored", "broken")  # fmt: skip
    numbers = {f"{name}{end}": 0.1 for name in ends for end in ("", "_lo", "_hi")}
    numbers |= dict.fromkeys(("n_sites", "n_layers", "n", "n_overridden", "n_random"), 1)
    rows = [
        {"model": "me/model", "n_params": 1, "task": "t", "kind": "scale", "split": split, "restoring": True,
         "n_tokens": 1.0, "restored_random": 0.0, "p": 0.01, "q": 0.01, "needs": one.needs, "intervention": str(one),
         "saved": one.to_json()} | numbers | {"conflict_after": after}
        for one, split, after in ((made, "half_a", 0.9), (weaker, "half_b", 0.6))
    ]  # fmt: skip
    found = table("restoration", rows, make_run(model="me/model", task="t", method="made up"))
    (path,) = save_interventions({"restoration": found}, tmp_path)
    assert path.parent == tmp_path / "interventions" and path.name.endswith("-anywhere.json")
    assert load_intervention(path) == made
    command = ["score", "redefine-math", "--n", "4", "--family", str(folders[0]), "--out", str(tmp_path / "scored")]
    assert main([*command, "--intervention", str(path), "--quiet"]) == 0
    assert im.read_table(tmp_path / "scored/tables/scores.parquet").run.settings["intervention"] == str(made)
    refused = Table("restoration", found.frame.assign(restoring=False), found.run)
    assert save_interventions({"restoration": refused}, tmp_path) == [] and not path.exists()
