from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import isp_mech as im
from isp_mech.errors import InputError
from isp_mech.runs import jobs
from isp_mech.runs.fingerprints import content_of, weights_of
from isp_mech.runs.plans import read_plan
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.runs.settings import DECLARED, STEPS, VERBS, Settings
from isp_mech.runs.task_folders import plain_name
from isp_mech.scaling import summaries
from isp_mech.scoring import score

LADDER = 'families = ["ladder"]\ntasks = ["neqa"]\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def parts_of(folder: Path, text: str, out: str = "out"):
    return read_plan(write(folder, text)).parts(RunDirectory(folder / out))


# --- reading ----------------------------------------------------------------------------------------


def test_a_plan_says_families_tasks_steps_and_settings(tmp_path, folders):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "Q", "classes": [" A", " B"], "answer_index": 0}\n')
    listed = json.dumps([str(folder) for folder in folders])
    plan = read_plan(
        write(
            tmp_path,
            f"""
families = [
    "ladder",
    {{family = {listed}}},
    {{family = "pythia", sizes = ["70m"], revisions = ["step0", "step3000"]}},
]
tasks = ["neqa", "neqa:twin", {{task = "redefine-math", n = 3}}, "mine.jsonl"]
steps = ["score", "locate"]
[settings]
n = 5
seed = 2
replacement = ["plain", "mean"]
""",
        )
    )
    assert [f.name for f in plan.families] == ["ladder", "small, large", "pythia", "pythia"]
    assert [f.members[0].revision for f in plan.families[2:]] == ["step0", "step3000"]
    assert [(s.name, len(s)) for s, _ in plan.tasks] == [
        ("neqa", 5), ("neqa:twin", 5), ("redefine-math", 3), ("mine", 1)]  # fmt: skip
    assert [origin for _, origin in plan.tasks] == [
        "neqa --n 5 --seed 2", "neqa:twin --n 5 --seed 2", "redefine-math --n 3 --seed 2", str(tmp_path / "mine.jsonl")
    ]  # fmt: skip
    assert plan.steps == ("score", "locate")
    assert plan.settings == Settings(seed=2, replacement=("plain", "mean"), threads=1)


WRONG = [
    ("", ["families: found [], expected a list of at least one", "tasks: found [], expected a list of at least one"]),
    (LADDER + "step = 1\n", ["'step': unknown, expected some of families, tasks, steps, settings"]),
    (LADDER + "steps = ['score', 'trance']\n",
     ["steps: 'trance': expected some of score, trace, locate, block, verify, restore"]),
    (LADDER + "steps = []\n", ["steps: found [], expected a list of texts, at least one"]),
    (LADDER + "settings = 3\n", ["settings: found 3, expected a table"]),
    (LADDER + "[settings]\nsed = 1\nn = 0\nshare = 2\nthreads = 0\nreplacement = ['means', 'means']\n", [
        "settings: 'sed': unknown, expected some of n, seed, rule, replacement",
        "settings: n: found 0, expected a whole number of pairs, 1 or more",
        "settings: replacement ['means', 'means']: expected one or more of mean, resample, plain, zero, each once",
        "settings: share 2: expected a share of the sites over 0 and up to 1",
        "settings: threads 0: expected a whole number, 1 or more",
    ]),
    (LADDER + "[settings]\nreplacement = [1]\n", ["settings: replacement [1]: expected one or more of mean"]),
    (LADDER + "[settings]\nseed = true\nbatch_size = 'many'\nrule = 'lax'\ndtype = 'int8'\ndevice = 7\n", [
        "batch size 'many': expected 'auto' or a whole number",
        "rule 'lax': expected one of strict, prize",
        "dtype 'int8': expected one of float32, bfloat16, float16",
        "device 7: expected a text, as cpu, cuda or cuda:1",
        "seed True: expected a whole number, 0 or more",
    ]),
    ("families = ['nosuch', 7, {sizes = ['70m']}, {family = 'pythia', step = 1}]\ntasks = ['neqa']\n", [
        "families[0]: family: 'nosuch': expected one of ladder, ladder-null, pythia",
        "families[1]: found 7, expected a text, or a table with family, sizes, revisions",
        "families[2]: found {'sizes': ['70m']}, expected a text, or a table with family",
        "families[3]: 'step': unknown, expected some of family, sizes, revisions",
    ]),
    ("families = [{family = 'pythia', sizes = ['huge']}]\ntasks = ['nosuch', {task = 'neqa', n = 'x'}, {task = 1}]\n", [
        "families[0]: family 'pythia': size 'huge': expected some of pythia-70m",
        "tasks[0]: task: 'nosuch': expected one of neqa",
        "tasks[1]: n: found 'x', expected a whole number of pairs, 1 or more",
        "tasks[2]: found {'task': 1}, expected texts for task and source",
    ]),
    ("families = ['ladder']\ntasks = ['nowhere.jsonl']\n", ["nowhere.jsonl: no such file"]),
    ("families = [{family = 'ladder', revisions = ['step1']}]\ntasks = ['neqa']\n", ["the embedded models have none"]),
    ("families = [", ["not TOML: "]),
    ("a = " + "[" * 30_000, ["expected a plan, in TOML"]),
    ("a" * 300_000, ["over 256 kB: expected a plan, in TOML"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_everything_wrong_with_a_plan_is_told_at_once(tmp_path, text, expected):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_plan(path)
    assert caught.value.subject == str(path)
    said = "\n".join(caught.value.problems)
    assert [line for line in expected if line not in said] == []
    assert len(caught.value.problems) == len(expected)


def test_files_that_are_no_plan(tmp_path):
    with pytest.raises(InputError, match="none.toml: no such file"):
        read_plan(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_plan(tmp_path)
    (tmp_path / "x.toml").write_bytes(b"families = '\xff'")
    with pytest.raises(InputError, match="x.toml: line 1: byte 0xff at offset 12 of the file is not UTF-8"):
        read_plan(tmp_path / "x.toml")


def test_a_task_without_a_lure_is_scored_only_and_told_where_nothing_is_left(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "Q", "classes": [" A", " B"], "answer_index": 0}\n')
    mine = "families = ['ladder']\ntasks = ['mine.jsonl']\n"
    (part,) = parts_of(tmp_path, mine).values()
    assert part.steps == ("score",) and part.tables == ("scores", "items", "curve", "rule_differences")
    with pytest.raises(InputError, match="tasks: trace: needs contrasting pairs, and mine is a plain task"):
        read_plan(write(tmp_path, mine + "steps = ['trace']\n"))


toml_values = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _toml(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf").replace("\\ud", "\\\\ud")


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["families", "tasks", "steps", "settings", "x"]), toml_values),
    st.dictionaries(st.sampled_from(["n", "seed", "share", "replacement", "device", "threads", "y"]), toml_values),
)
def test_any_toml_is_a_plan_or_an_input_error(tmp_path_factory, top, own):
    lines = [f"{name} = {_toml(value)}" for name, value in top.items() if name != "settings" or not own]
    path = tmp_path_factory.mktemp("any") / "plan.toml"
    text = "\n".join([*lines, *(["[settings]"] if own else []), *(f"{k} = {_toml(v)}" for k, v in own.items())])
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(InputError):
        read_plan(path)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_a_plan(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "plan.toml"
    path.write_bytes(data)
    with pytest.raises(InputError):
        read_plan(path)


# --- parts, jobs, units -------------------------------------------------------------------------------


def files(parts) -> set[str]:
    return {file for part in parts.values() for job in part.jobs for file in job.files}


def test_jobs_stand_in_an_order_in_which_each_can_be_computed(tmp_path):
    (part,) = parts_of(tmp_path, LADDER + "steps = ['verify', 'score']\n[settings]\nn = 4\nshard = 3\n").values()
    assert part.steps == ("score", "locate", "verify")
    done = []
    for job in part.jobs:
        assert job.needs is None or job.needs in done
        done.append(job)
    first = [job for job in part.jobs if job.size == part.family.members[0]]
    assert [(job.steps, len(job.subject)) for job in first] == [
        (("score",), 3), (("score",), 1), (("locate",), 4), (("verify",), 4)]  # fmt: skip
    assert set(first[0].units) == {"scores", "items", "rule_differences"}  # what is made of all pairs is made later
    assert len(files({"": part})) == sum(len(job.files) for job in part.jobs)


def of(*steps: str) -> set[str]:
    """The tables of some steps."""
    return {name for step in steps for name in jobs.TABLES[step]}


@pytest.mark.parametrize(("change", "kept"), [
    ("seed = 1", set()), ("n = 5", set()), ("dtype = 'bfloat16'", set()), ("threads = 2", set()),
    ("batch_size = 3", set()), ("device = 'cuda'", set()), ("device_map = 'auto'", set()),
    ("rule = 'prize'", of("trace", "locate", "verify", "restore")),
    ("replacement = 'zero'", of("score", "trace", "restore")),
    ("method = 'attribution'", of("score", "trace", "restore")),
    ("positions = 'definition'", of("score", "trace", "restore")),
    ("n_random = 7", of("score", "trace", "locate")),
    ("interventions = 'all'", of("score", "trace", "locate", "verify")),
    ("interventions = 'none'", of("score", "trace", "locate", "verify")),
    ("share = 0.5", of("score", "trace", "locate", "restore")),
    ("roles = 'question'", of("score", "trace", "locate", "verify", "restore")),
])  # fmt: skip
def test_a_changed_setting_makes_new_units_of_what_depends_on_it(tmp_path, change, kept):
    n = "" if change.startswith("n =") else "n = 4\n"
    before = files(parts_of(tmp_path, LADDER + "[settings]\nn = 4\n"))
    after = files(parts_of(tmp_path, LADDER + f"[settings]\n{n}{change}\n"))
    common = {file.rpartition("-")[0] for file in before & after}
    assert common == kept - {"values", "value_curve", "story"}  # of other metrics; of all models, so no unit


def test_units_do_not_depend_on_where_a_checkpoint_lies(tmp_path, folders):
    import shutil

    copy = shutil.copytree(folders[0], tmp_path / "elsewhere" / folders[0].name)
    text = "families = ['{}']\ntasks = ['neqa']\n[settings]\nn = 2\n"
    one, two = (parts_of(tmp_path, text.format(folder)) for folder in (folders[0], copy))
    assert files(one) == files(two)
    (copy / "generation_config.json").write_text("{}")
    assert not files(one) & files(parts_of(tmp_path, text.format(copy)))


def test_two_tasks_of_one_name_have_folders_of_their_own(tmp_path):
    text = "families = ['ladder', 'ladder']\ntasks = ['neqa', {task = 'neqa', n = 3}]\n[settings]\nn = 2\n"
    parts = parts_of(tmp_path, text)
    assert list(parts) == [f"results/ladder/neqa{more}" for more in ("", "-2", "-3", "-4")]
    assert len({job.files for part in parts.values() for job in part.jobs}) == sum(
        len(part.jobs) for part in list(parts.values())[:2])  # fmt: skip


@pytest.mark.parametrize(
    "raw", ["../../etc/passwd", "..", "/", "a/../b", "\x1b]0;x\x07", "C:\\x", "~root", "", "é" * 300]
)
def test_no_name_leads_out_of_its_folder(raw):
    name = plain_name(raw)
    assert name and len(name) < 100 and name.isascii() and name[0] not in ".-" and "/" not in name and "\\" not in name


def test_what_is_told_apart(folders, tmp_path):
    pairs, runs = im.contrast("neqa", n=3), RunDirectory(tmp_path)
    assert content_of(pairs) == content_of(im.contrast("neqa", n=3)) != content_of(pairs.take([0, 1]))
    assert content_of(pairs) != content_of(im.contrast("neqa", n=3, seed=1))
    items = [im.Item("0", "Q", (" A", " B"), 0)]
    task = im.Task("t", tuple(items))
    assert (
        len(
            {
                content_of(t)
                for t in (
                    task,
                    im.Task("t", (im.Item("0", "Q", (" A", " B"), 1),)),
                    im.Task("t", tuple(items), equally_likely=False),
                )
            }
        )
        == 3
    )
    small, large = (im.family([folder]).members[0] for folder in folders)
    both = weights_of({"a": small, "b": large, "c": small}, runs)
    assert both["a"] == both["c"] != both["b"] and both["a"].startswith("sha256:")


def test_a_checkpoint_is_read_again_only_when_it_changed(folders, tmp_path, monkeypatch):
    import hashlib
    import os
    import shutil

    folder, runs = shutil.copytree(folders[0], tmp_path / "m"), RunDirectory(tmp_path / "run")
    size = im.family([folder]).members[0]
    first = weights_of({"m": size}, runs)
    read = []
    real = hashlib.file_digest
    monkeypatch.setattr("isp_mech.runs.fingerprints.hashlib.file_digest", lambda *a: read.append(1) or real(*a))
    assert weights_of({"m": size}, runs) == first and not read
    weights = folder / "model.safetensors"
    data, stamp = weights.read_bytes(), weights.stat()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(weights, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # of equal size, and the clock set back
    assert weights_of({"m": size}, runs) != first and read
    runs.folder.write("models.json", b"[1")  # damaged: found out again
    weights.write_bytes(data)
    assert weights_of({"m": size}, runs) == first


def test_a_hub_id_while_offline_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    text = "families = ['me/model', {family = 'pythia', sizes = ['70m'], revisions = ['step0']}]\ntasks = ['neqa']\n"
    with pytest.raises(InputError) as caught:
        parts_of(tmp_path, text)
    assert [p.split(":")[0] for p in caught.value.problems] == ["me/model (main)", "EleutherAI/pythia-70m (step0)"]
    assert all(
        "the hub cannot be reached (HF_HUB_OFFLINE is set)" in p and "not in the cache" in p
        for p in caught.value.problems
    )
    assert not (tmp_path / "out").exists()


def test_a_hub_ids_commit_is_pinned_in_the_run_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    ref = tmp_path / "cache" / "models--me--model" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text("a" * 40)
    text = "families = ['me/model']\ntasks = ['neqa']\n"
    (first,) = parts_of(tmp_path, text).values()
    assert first.jobs[0].weights == "commit:" + "a" * 40
    ref.write_text("b" * 40)  # the branch moves on
    assert files(parts_of(tmp_path, text)) == files({"": first})
    assert not files(parts_of(tmp_path, text, out="other")) & files({"": first})


def test_planning_needs_no_torch(tmp_path):
    path = write(tmp_path, LADDER)
    program = (
        "import sys; from isp_mech.cli.main import main; code = main(['run', sys.argv[1], '--out', sys.argv[2], "
        "'--status']); print(code, [m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 []" and lines[1].split() == ["results/ladder/neqa", "score", "and", "trace", "0", "of", "6"]


# --- what is written down twice agrees ----------------------------------------------------------------


def test_settings_are_declared_once_for_all_who_tell_of_them(tmp_path):
    """What the command line, a plan and Python say of every setting is the same setting."""
    from isp_mech.cli.parser import make_parser
    from isp_mech.cli.verbs import _settings

    said = {"seed": "3", "rule": "prize", "replacement": "plain,zero", "method": "attribution", "positions": "decision",
            "roles": "definition,question",
            "n_random": "7", "interventions": "scale,block", "share": "0.5", "tokens": "all",
            "intervention": __file__, "chat": "all",
            "system": "Be brief", "device": "cpu", "device_map": "auto", "dtype": "float16",
            "batch_size": "9", "threads": "2", "shard": "4"}  # fmt: skip
    assert list(said) == list(DECLARED)
    for verb in VERBS:
        own = [name for name in said if verb in DECLARED[name].verbs]
        words = [word for name in own for word in (DECLARED[name].flag, said[name])]
        settings = _settings(make_parser().parse_args([verb, "neqa", *words]))
        plan = "[settings]\n" + "".join(f"{name} = {_in_toml(said[name])}\n" for name in own)
        assert read_plan(write(tmp_path, LADDER + plan)).settings == settings
        assert {name: getattr(settings, name) for name in said if name not in own} == {
            name: DECLARED[name].default for name in said if name not in own}  # fmt: skip
        if verb in STEPS:
            again = make_parser().parse_args([verb, "neqa", "--seed", "3", *settings.words(verb)])
            assert _settings(again) == settings and ("shard" in own) and "shard" not in settings.key(verb)


def _in_toml(word: str) -> str:
    return json.dumps(word.split(",")) if "," in word else word if word[0].isdigit() else json.dumps(word)


def test_the_ways_of_locating_are_those_that_are_computed():
    from isp_mech import sites
    from isp_mech.causal.attribution_patching import GRADIENT_STEPS

    assert sites.METHODS == ("exact", "exhaustive", *GRADIENT_STEPS)


def test_summaries_of_rows_are_those_of_scoring_locating_and_verifying(make_model, pairs):
    import isp_mech.causal as locating

    verifying = locating

    models = [make_model("neox"), make_model("gpt2")]
    scores = [score(pairs, model, seed=3) for model in models]
    for each in scores:
        made = summaries.curve(each.items, each.scores, equally_likely=pairs.equally_likely, seed=3)
        assert made.frame.equals(each.curve.frame)
    likely = im.Task("t", tuple(im.Item(str(i), f"Q{i}", (" A", " B"), i % 2) for i in range(5)))
    told = score(likely, models[0], seed=1)
    assert summaries.curve(told.items, told.scores, equally_likely=True, seed=1).frame.equals(told.curve.frame)
    completions = im.Task("s", tuple(im.Item(str(i), f"Q{i}", (" A",)) for i in range(5)), "sequence_prob")
    valued = score(completions, models[0], seed=1)
    assert summaries.value_curve(valued.values, seed=1).frame.equals(valued.value_curve.frame)
    sites = [locating.locate(pairs, model) for model in models]
    assert summaries.join_sites([s.sites for s in sites]).frame.equals(locating.locate(pairs, models).sites.frame)
    checks = [verifying.verify(s, pairs, model, n_random=3) for s, model in zip(sites, models, strict=True)]
    together = verifying.verify(locating.locate(pairs, models), pairs, models, n_random=3)
    assert summaries.join_verification(checks).frame.equals(together.frame)
