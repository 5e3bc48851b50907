"""Plans carried out: stopped, harmed, shared, by each engine; the oracle is an undisturbed run of the same plan."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
from forks import start_command

from isp_mech.runs import worker as measuring
from isp_mech.errors import InputError, NotKept
from isp_mech.runs import ray_workers as clusters
from isp_mech.runs import scheduler as handing_out
from isp_mech.runs.engines import Engine, finish_with
from isp_mech.runs.execute import run_parts, status
from isp_mech.runs.plans import read_plan
from isp_mech.runs.process_workers import processes
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.tables import read_table

PLAN = """
families = [{{family = {folders}}}]
tasks = ["redefine-math", "neqa"]
[settings]
n = 6
n_random = 3
shard = 4
"""
KILLS = 8


@pytest.fixture(scope="session")
def plan(folders, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    path.write_text(PLAN.format(folders=json.dumps([str(folder) for folder in folders])))
    return path


def run(plan: Path, out: Path, **engine) -> list[str]:
    directory = RunDirectory(out)
    return run_parts(read_plan(plan).parts(directory), directory, engine=Engine(**engine))


def contents(out: Path, *folders: str) -> dict[str, bytes]:
    """All finished units and results, by name; what a killed process left half written is none of them."""
    there = [file for file in sorted(out.rglob("*")) if file.is_file() and not file.name.endswith(".tmp")]
    found = {str(file.relative_to(out)): file.read_bytes() for file in there}
    return {name: data for name, data in found.items() if name.split("/")[0] in (folders or ("units", "results"))}


def computed(out: Path) -> list[str]:
    """The units in the order in which they were computed to the end, as the log has it."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [unit for line in lines if line["event"] == "finished" for unit in line["units"]]


@pytest.fixture(scope="session")
def whole(plan, tmp_path_factory) -> Path:
    """An undisturbed run of the plan."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(plan, out) == ["results/small-large/redefine-math", "results/small-large/neqa"]
    return out


def _never(*_, **__):
    raise AssertionError("a model was loaded")


# --- what a run gives ---------------------------------------------------------------------------------


def test_a_plan_gives_the_tables_of_the_functions(whole, folders):
    import isp_mech as im

    pairs, family = im.contrast("redefine-math", n=6), im.family(folders)
    scores, sites = im.score(pairs, family), im.locate(pairs, family)
    traces, check = im.trace(pairs, family), im.verify(sites, pairs, family, n_random=3)
    folder = whole / "results" / "small-large" / "redefine-math"
    for name, table in (
        ("curve", scores.curve), ("shares", scores.shares), ("items", scores.items), ("onset", traces.onset),
        ("lens", traces.lens), ("sites", sites.sites), ("verification", check),
    ):  # fmt: skip
        ours = read_table(folder / "tables" / f"{name}.parquet")
        # six pairs scored as four and two: equal up to rounding
        pd.testing.assert_frame_equal(ours.frame, table.frame, rtol=1e-4, atol=1e-4, obj=name)
    assert im.read_pairs(folder / "pairs.jsonl") == pairs


METRICS = {
    "classification": {"classes": [" A", " B", " C"], "answer_index": 1},
    "sequence_prob": {"completion": " pango"},
    "logodds": {"other_prompt": "Q: other? A:", "classes": ["A", "B"], "answer_index": 1},
}


@pytest.mark.parametrize("metric", METRICS)
def test_a_task_in_shards_gives_the_tables_of_the_whole(folders, tmp_path, metric):
    rows = [{"prompt": f"Q: what is {i}? A:", **METRICS[metric]} for i in range(7)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = {}
    for shard in (0, 3):
        plan = tmp_path / f"plan{shard}.toml"
        plan.write_text(f"families = [{json.dumps(str(folders[0]))}]\ntasks = ['mine.jsonl']\n"
                        f"[settings]\nshard = {shard}\n")  # fmt: skip
        (folder,) = run(plan, tmp_path / "run")
        tables = sorted((tmp_path / "run" / folder / "tables").glob("*.parquet"))
        read[shard] = {path.stem: read_table(path).frame for path in tables}
    assert list(read[0]) == list(read[3]) and "scores" in read[0]
    for name, frame in read[0].items():
        pd.testing.assert_frame_equal(read[3][name], frame, rtol=1e-4, atol=1e-4, obj=name)
    assert len(set(computed(tmp_path / "run"))) == len(computed(tmp_path / "run"))


def test_figures_and_a_page_are_drawn_from_the_results(whole, tmp_path):
    from isp_mech.cli.main import main

    folder = shutil.copytree(whole / "results/small-large/redefine-math", tmp_path / "one")
    assert main(["report", str(folder)]) == 0
    assert "isp-mech locate redefine-math --n 6 --seed 0" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_finished_plan_loads_nothing_and_computes_nothing(whole, plan):
    before = contents(whole)
    program = ("import sys; from isp_mech.cli.main import main; code = main(['run', *sys.argv[1:]]); "
               "print(code, [m for m in ('torch', 'transformers') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", program, str(plan), "--out", str(whole)], capture_output=True,
                          text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []" and "6 of 6" not in done.stdout and "4 of 4" in done.stdout
    assert contents(whole) == before and len(computed(whole)) == len(set(computed(whole)))


def test_status_counts_what_is_done_and_writes_nothing(whole, plan, tmp_path):
    directory = RunDirectory(whole)
    rows = list(status(read_plan(plan).parts(directory), directory))
    assert rows[:3] == [("results/small-large/redefine-math", "score and trace", 4, 4),
                        ("results/small-large/redefine-math", "locate", 2, 2),
                        ("results/small-large/redefine-math", "verify", 2, 2)]  # fmt: skip
    (empty := tmp_path / "empty").mkdir()
    directory = RunDirectory(empty)
    parts = read_plan(plan).parts(directory)
    assert [done for _, _, done, _ in status(parts, directory)] == [0] * 6
    assert list(empty.iterdir()) == [empty / "models.json"]


def test_a_model_is_loaded_once_for_all_its_tasks(plan, tmp_path, monkeypatch):
    from isp_mech import models

    real, loaded = models.load_size, []
    monkeypatch.setattr(models, "load_size", lambda size, **o: loaded.append(size.name) or real(size, **o))
    run(plan, tmp_path / "run")
    assert loaded == ["small", "large"]


# --- stopped ------------------------------------------------------------------------------------------


def test_killed_at_random_moments_the_bytes_are_those_of_an_undisturbed_run(whole, plan, tmp_path):
    out, seconds = tmp_path / "run", random.Random(0)
    command = ["run", plan, "--out", out, "--quiet"]
    stamps: dict[Path, int] = {}
    for _ in range(KILLS):
        process = start_command(*command)
        before = len(computed(out)) if (out / "log.jsonl").exists() else 0
        while process.is_alive() and not ((out / "log.jsonl").exists() and len(computed(out)) > before):
            time.sleep(0.02)  # until it has got a step further
        time.sleep(seconds.random() * 0.2)  # and then at any moment
        process.kill()
        process.join()
        for file, stamp in stamps.items():
            assert file.stat().st_mtime_ns == stamp  # what is finished is never written again
        stamps = {file: file.stat().st_mtime_ns for file in (out / "units").glob("*.parquet")}
    last = start_command(*command)
    last.join()
    assert last.exitcode == 0
    assert contents(out) == contents(whole)
    done = computed(out)  # without those that a kill came upon between their writing and the log's line
    assert len(done) == len(set(done)) and set(done) <= set(computed(whole))


def test_two_processes_on_one_directory_share_the_work(whole, plan, tmp_path):
    out = tmp_path / "run"
    said = [tmp_path / "first", tmp_path / "second"]
    both = [start_command("run", plan, "--out", out, "--quiet", said=file) for file in said]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    one, two = (file.read_text().splitlines() for file in said)  # the steps and a hint, and no warning
    assert one == two and len(one) == 1 + 6 + 1 and "4 of 4" in one[1]
    assert contents(out) == contents(whole)
    assert sorted(computed(out)) == sorted(computed(whole))  # each once


def test_a_clock_that_jumps_changes_nothing(whole, plan, tmp_path):
    out = tmp_path / "run"
    run(plan, out)
    for i, file in enumerate(sorted(out.rglob("*.parquet"))):
        os.utime(file, (0, 0) if i % 2 else (4e9, 4e9))  # of 1970, and of 2096
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isp_mech.models.load_size", _never)
        run(plan, out)
    assert contents(out) == contents(whole)


# --- harmed -------------------------------------------------------------------------------------------


def _flip(file: Path, place: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    file.write_bytes(bytes(data))


def _swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def _altered(file: Path) -> None:
    """A whole parquet file with the key and Run of the unit, whose numbers somebody changed."""
    import pyarrow.parquet as pq

    found = pq.read_table(file)
    place = found.schema.names.index("n_params")
    changed = found.set_column(place, "n_params", pd.Series([7] * len(found)).to_numpy()[None])
    pq.write_table(changed.replace_schema_metadata(found.schema.metadata), file)


def unit(out: Path, name: str, place: int = 0) -> Path:
    return sorted((out / "units").glob(f"{name}-*.parquet"))[place]


HARMS = {
    "flip a bit at the beginning": lambda out: _flip(unit(out, "scores"), 0.0),
    "flip a bit in the data": lambda out: _flip(unit(out, "lens"), 0.3),
    "flip a bit in the metadata": lambda out: _flip(unit(out, "effects"), 0.9),
    "flip the last byte": lambda out: _flip(unit(out, "verification"), 1.0),
    "truncate to nothing": lambda out: unit(out, "items").write_bytes(b""),
    "truncate to half": lambda out: os.truncate(unit(out, "attention"), unit(out, "attention").stat().st_size // 2),
    "truncate by one byte": lambda out: os.truncate(unit(out, "sites"), unit(out, "sites").stat().st_size - 1),
    "swap two of a kind": lambda out: _swap(unit(out, "sites", 0), unit(out, "sites", 1)),
    "swap two kinds": lambda out: _swap(unit(out, "sites"), unit(out, "stability")),
    "alter numbers": lambda out: _altered(unit(out, "sites")),
    "delete one": lambda out: unit(out, "scores").unlink(),
    "delete what another step reads": lambda out: unit(out, "effects").unlink(),
    "delete all of a kind": lambda out: [f.unlink() for f in (out / "units").glob("verification-*")],
    "a file of zeros": lambda out: unit(out, "items").write_bytes(bytes(5000)),
    "a foreign parquet": lambda out: pd.DataFrame({"a": [1]}).to_parquet(unit(out, "stability")),
    "text in its place": lambda out: unit(out, "lens").write_text("<script>alert(1)</script>\x1b[2J"),
}
IN_RESULTS = {
    "a table flipped": lambda out: _flip(next(out.glob("results/*/*/tables/sites.parquet")), 0.5),
    "a table deleted": lambda out: next(out.glob("results/*/*/tables/curve.parquet")).unlink(),
    "a table of another task": lambda out: _swap(*list(out.glob("results/*/*/tables/sites.parquet"))[:2]),
    "pairs changed": lambda out: next(out.glob("results/*/*/pairs.jsonl")).write_text("{}\n"),
}
PASSED_OVER = {
    "a stale temporary file": lambda out: (out / "units" / ".sites-0.parquet.7.abc.tmp").write_bytes(b"half"),
    "a foreign file": lambda out: (out / "units" / "notes.txt").write_text("mine"),
    "models.json damaged": lambda out: (out / "models.json").write_text("[[["),
    "the log gone": lambda out: (out / "log.jsonl").unlink(),
}


@pytest.mark.parametrize("harm", [*HARMS, *IN_RESULTS, *PASSED_OVER])
def test_harm_is_found_and_only_what_was_harmed_is_computed_again(whole, plan, tmp_path, harm):
    out = shutil.copytree(whole, tmp_path / "run")
    before = contents(out)
    ({**HARMS, **IN_RESULTS, **PASSED_OVER})[harm](out)
    harmed = [name for name, data in before.items() if contents(out).get(name) != data]
    (out / "log.jsonl").unlink(missing_ok=True)
    with warnings.catch_warnings(record=True) as said, pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("always")
        if harm not in HARMS:
            patch.setattr("isp_mech.models.load_size", _never)
        run(plan, out)
    after = contents(out)
    assert {name: after[name] for name in before} == before
    units = {Path(name).name for name in harmed if name.startswith("units/")}
    assert {u for u in (computed(out) if (out / "log.jsonl").exists() else [])} == units
    damaged = {name for name in units if "delete" not in harm}
    assert damaged <= {part.split(":")[0].split("/")[-1] for part in (str(w.message) for w in said)}
    assert all("\x1b" not in str(w.message) for w in said)


def test_a_folder_in_a_units_place_is_refused_by_name(whole, plan, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    file = unit(out, "verification")
    file.unlink()
    file.mkdir()
    with warnings.catch_warnings(), pytest.raises(NotKept, match=f"{file.name}: cannot be written .Is a directory"):
        warnings.simplefilter("ignore")
        run(plan, out)


def test_a_full_disk_says_so_and_keeps_what_is_done(whole, plan, tmp_path):
    out = tmp_path / "run"
    program = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
               "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
               "from isp_mech.cli.main import main; sys.exit(main(['run', *sys.argv[2:], '--quiet']))")
    limit = max(len(data) for name, data in contents(whole, "units").items()) - 1  # room for all but the largest
    command = [sys.executable, "-c", program, str(limit), str(plan), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "cannot be written (File too large): what is finished is kept, and the same command goes on" in done.stderr
    kept = contents(out, "units")
    assert kept and all(contents(whole)[name] == data for name, data in kept.items())
    assert not list((out / "units").glob(".*.tmp"))
    run(plan, out)
    assert contents(out) == contents(whole)


def test_a_job_that_fails_does_not_keep_the_others_from_being_done(plan, tmp_path, monkeypatch, whole):
    from importlib import import_module

    locating = import_module("isp_mech.causal.locate")

    real = locating.locate

    def fails_once(pairs, model, **options):
        if (pairs.name, model.name) == ("neqa", "small"):
            raise RuntimeError("out of memory\nand more")
        return real(pairs, model, **options)

    monkeypatch.setattr(locating, "locate", fails_once)
    out = tmp_path / "run"
    with pytest.raises(InputError, match="small: locate: neqa: RuntimeError: out of memory$"):
        run(plan, out)
    missing = set(contents(whole)) - set(contents(out))
    assert {Path(name).name.rpartition("-")[0] for name in missing if name.startswith("units/")} == {
        "effects", "sites", "stability", "verification"}  # fmt: skip
    assert (out / "results/small-large/redefine-math/tables").exists()
    assert not (out / "results/small-large/neqa").exists()
    monkeypatch.setattr(locating, "locate", real)
    run(plan, out)
    assert contents(out) == contents(whole)


# --- engines ------------------------------------------------------------------------------------------


def test_several_processes_give_the_same_bytes_and_a_lost_worker_costs_its_job(whole, plan, tmp_path, monkeypatch):
    out = tmp_path / "run"
    directory = RunDirectory(out)
    parts = read_plan(plan).parts(directory)
    hire, hired = processes(directory), []

    def hire_and_kill_the_first(place):
        worker = hire(place)
        hired.append(worker)
        return _Dying(worker, directory, kill) if len(hired) == 1 else worker

    def kill(worker):
        for process in list(worker.pool._processes.values()):
            os.kill(process.pid, signal.SIGKILL)

    jobs = [job for part in parts.values() for job in part.jobs]
    finish_with(jobs, hire_and_kill_the_first, 2)
    assert len(hired) == 3
    run_parts(parts, directory)
    assert contents(out) == contents(whole)
    assert sorted(computed(out)) == sorted(computed(whole))


class _Dying:
    """A worker that is killed in the middle of its first job: when the log says that it is at it."""

    def __init__(self, worker, directory, kill):
        self.worker, self.directory, self.kill = worker, directory, kill

    def is_ready(self):
        return self.worker.is_ready()

    def submit(self, job):
        future, log = self.worker.submit(job), Path(self.directory.path) / "log.jsonl"
        while not log.exists() or not any(job.files[0] in line for line in log.read_text().splitlines()):
            time.sleep(0.01)
        self.kill(self.worker)
        return future

    def dismiss(self):
        self.worker.dismiss()


class _Answering:
    """A worker in this process that answers by a function."""

    def __init__(self, answer):
        self.answer = answer

    def is_ready(self):
        return True

    def submit(self, job):
        from concurrent.futures import Future

        future = Future()
        try:
            future.set_result(self.answer(job))
        except Exception as error:
            future.set_exception(error)
        return future

    def dismiss(self):
        pass


@pytest.mark.parametrize(("asked", "hirer"), [({"jobs": 2}, "processes"), ({"jobs": 3, "ray": "auto"}, "ray_actors")])
def test_the_engine_hires_as_many_workers_as_it_is_asked_for(whole, plan, tmp_path, monkeypatch, asked, hirer):
    out, places = tmp_path / "run", []

    def hiring(directory, *_, **__):
        def hire(place):
            places.append(place)
            return _Answering(measuring.Worker(directory).run)

        return hire

    monkeypatch.setattr(f"isp_mech.runs.engines.{hirer}", hiring)
    run(plan, out, **asked)
    assert places == list(range(asked["jobs"])) and contents(out) == contents(whole)


def _jobs(plan, tmp_path):
    parts = read_plan(plan).parts(RunDirectory(tmp_path / "none"))
    return [job for part in parts.values() for job in part.jobs]


def test_jobs_are_handed_out_by_model_and_after_what_they_need(plan, tmp_path):
    order: dict[int, list] = {0: [], 1: []}
    done = []

    def hire(place):
        def answer(job):
            assert job.needs is None or job.needs in done
            order[place].append(job)
            done.append(job)
            return measuring.DONE

        return _Answering(answer)

    finish_with(_jobs(plan, tmp_path), hire, 2)
    for mine in order.values():
        changes = sum(a.model != b.model for a, b in zip(mine, mine[1:], strict=False))
        assert changes <= 1
    assert len(done) == len(set(done)) == 16


def test_a_job_that_kills_its_workers_is_given_up_and_told(plan, tmp_path):
    asked = []

    def answer(job):
        asked.append(job)
        if job.steps == ("locate",) and job.size.name == "large":
            raise handing_out.Lost("killed")
        return measuring.DONE

    with pytest.raises(InputError) as caught:
        finish_with(_jobs(plan, tmp_path), lambda place: _Answering(answer), 2)
    assert caught.value.problems == tuple(
        f"large: locate: {task}: its worker died 3 times: killed, or out of memory (try a smaller batch size)"
        for task in ("redefine-math", "neqa"))  # fmt: skip
    assert not [job for job in asked if job.steps == ("verify",) and job.size.name == "large"]
    assert len(asked) == 16 - 2 + 4  # each once, the two deadly ones thrice, and what needs them never


def test_a_job_that_another_process_is_at_is_asked_for_again(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(handing_out, "PAUSE", 0)
    jobs, busy = _jobs(plan, tmp_path), []

    def answer(job):
        if job is jobs[0] and len(busy) < 3:
            busy.append(job)
            return measuring.BUSY
        return measuring.DONE

    finish_with(jobs, lambda place: _Answering(answer), 1)
    assert len(busy) == 3


def test_ray_gives_the_same_bytes_and_a_lost_actor_costs_its_job(whole, plan, tmp_path):
    ray = pytest.importorskip("ray")
    out = tmp_path / "run"
    directory = RunDirectory(out)
    parts = read_plan(plan).parts(directory)
    jobs = [job for part in parts.values() for job in part.jobs]
    try:
        hire, hired = clusters.ray_actors(directory, jobs, 2), []

        def hire_and_kill_the_first(place):
            hired.append(hire(place))
            return _Dying(hired[-1], directory, kill) if len(hired) == 1 else hired[-1]

        def kill(actor):
            ray.kill(actor.handle)

        finish_with(jobs, hire_and_kill_the_first, 2)
    finally:
        ray.shutdown()
    assert len(hired) == 3
    run_parts(parts, directory)
    assert contents(out) == contents(whole)
    assert sorted(computed(out)) == sorted(computed(whole))


def test_what_a_ray_worker_asks_for(plan, tmp_path):
    jobs = _jobs(plan, tmp_path)
    needs = clusters._needs(jobs, None)
    assert needs["num_cpus"] == 1 and "num_gpus" not in needs and needs["memory"] > 0
    assert clusters._needs(jobs, 4)["num_gpus"] == 4
    with pytest.raises(InputError, match="ray: 4 GPU for a worker: this machine has 1"):
        clusters._expect_room({"num_cpus": 1, "num_gpus": 4}, {"CPU": 2, "GPU": 1})


def test_where_ray_is_not_installed_it_is_said(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="ray: is not installed: pip install 'isp-mech.ray.'"):
        run(plan, tmp_path / "run", ray="")


def test_no_workers_are_refused():
    with pytest.raises(InputError, match="jobs: 0: expected 1 worker or more"):
        Engine(jobs=0)


def test_a_run_directory_may_be_a_url(whole, plan):
    pytest.importorskip("fsspec")
    directory = RunDirectory("memory://runs/mine")
    run_parts(read_plan(plan).parts(directory), directory)
    system = directory.folder.system
    there = {path.removeprefix("/runs/mine/"): system.cat_file(path) for path in system.find("/runs/mine")}
    there.pop("models.json")
    assert there == contents(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isp_mech.models.load_size", _never)
        run_parts(read_plan(plan).parts(directory), directory)
    (file,) = [path for path in there if path.startswith("units/verification")][:1]
    system.pipe_file(f"/runs/mine/{file}", b"PAR1")
    with pytest.warns(UserWarning, match=f"memory://runs/mine/{file}: not a parquet file .* computed again"):
        run_parts(read_plan(plan).parts(directory), directory)
    assert system.cat_file(f"/runs/mine/{file}") == there[file]
