"""Plans carried out: stopped, harmed, shared, by each engine; the oracle is an undisturbed run of the same plan."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path

import pandas as pd
import pytest
from forks import start, start_command

from isp_mech.cli.main import main
from isp_mech.errors import InputError, NotKept
from isp_mech.runs import ray_workers, scheduler
from isp_mech.runs.execute import run_parts, status
from isp_mech.runs.plans import read_plan
from isp_mech.runs.process_workers import process_starter
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.runs.scheduler import JobQueue, Workers, by_model, hand_out, run_jobs
from isp_mech.runs.worker import Worker
from isp_mech.tables import read_table

PLAN = """
families = [{{family = {folders}}}]
tasks = ["redefine-math", "neqa"]
[settings]
n = 6
n_random = 3
shard = 4
interventions = "none"
"""
FOLDERS = ["results/small-large/redefine-math", "results/small-large/neqa"]


@pytest.fixture(scope="session")
def plan(folders, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    path.write_text(PLAN.format(folders=json.dumps([str(folder) for folder in folders])))
    return path


def run(plan: Path, out: Path, **workers) -> None:
    directory = RunDirectory(out)
    run_parts(read_plan(plan).parts(directory), directory, workers=Workers(**workers))


def jobs_of(plan: Path, directory: RunDirectory) -> list:
    return [job for part in read_plan(plan).parts(directory).values() for job in part.jobs]


def contents(out: Path, *folders: str) -> dict[str, bytes]:
    """All finished units and results, by name; what a killed process left half written is none of them."""
    there = [file for file in sorted(out.rglob("*")) if file.is_file() and not file.name.endswith(".tmp")]
    found = {str(file.relative_to(out)): file.read_bytes() for file in there}
    return {name: data for name, data in found.items() if name.split("/")[0] in (folders or ("units", "results"))}


def computed(out: Path) -> list[str]:
    """The units in the order in which they were computed to the end, as the log has it."""
    return [unit for line in events(out) if line["event"] == "finished" for unit in line["units"]]


def events(out: Path) -> list[dict]:
    """The log's lines; one that a kill cut off is none."""
    lines = []
    for line in (out / "log.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


@pytest.fixture(scope="session")
def whole(plan, tmp_path_factory) -> Path:
    """An undisturbed run of the plan."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(plan, out)
    assert all((out / folder / "tables").is_dir() for folder in FOLDERS)
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
        run(plan, tmp_path / "run")
        folder = sorted((tmp_path / "run" / "results" / "small").iterdir())[-1]  # mine, and then mine-2
        tables = sorted((folder / "tables").glob("*.parquet"))
        read[shard] = {path.stem: read_table(path).frame for path in tables}
    assert list(read[0]) == list(read[3]) and "scores" in read[0]
    for name, frame in read[0].items():
        pd.testing.assert_frame_equal(read[3][name], frame, rtol=1e-4, atol=1e-4, obj=name)
    assert len(set(computed(tmp_path / "run"))) == len(computed(tmp_path / "run"))


def test_a_page_is_made_from_the_results(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("isp_mech.runs.explain.make_figures", lambda tables, folder: {})
    folder = shutil.copytree(whole / FOLDERS[0], tmp_path / "one")
    assert main(["report", str(folder)]) == 0
    assert "isp-mech locate redefine-math --n 6 --seed 0" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_finished_plan_loads_nothing_and_computes_nothing(whole, plan):
    before = contents(whole)
    program = (
        "import sys; from isp_mech.cli.main import main; code = main(['run', *sys.argv[1:]]); "
        "print(code, [m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(plan), "--out", str(whole)], capture_output=True, text=True, check=True
    )
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


def test_a_model_is_loaded_once_for_all_its_tasks(plan, whole, tmp_path, monkeypatch):
    from isp_mech import models

    real, loaded = models.load_size, []
    monkeypatch.setattr(models, "load_size", lambda size, **o: loaded.append(size.name) or real(size, **o))
    out = shutil.copytree(whole, tmp_path / "run")
    for file in [*out.glob("units/scores-*"), *out.glob("units/sites-*")]:  # of both models and tasks
        file.unlink()
    run(plan, out)
    assert loaded == ["small", "large"]


# --- stopped ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_bytes_are_those_of_an_undisturbed_run(whole, plan, tmp_path, unlocated, kills):
    out, seconds = unlocated if kills < 3 else tmp_path / "run", random.Random(kills)
    command = ["run", plan, "--out", out, "--quiet"]
    stamps: dict[Path, int] = {}
    for _ in range(kills):
        process = start_command(*command)
        before = len(computed(out)) if (out / "log.jsonl").exists() else 0
        while process.is_alive() and not ((out / "log.jsonl").exists() and len(computed(out)) > before):
            time.sleep(0.005)  # until it has got a step further
        time.sleep(seconds.random() * 0.2)  # and then at any moment
        process.kill()
        process.join()
        for file, stamp in stamps.items():
            assert file.stat().st_mtime_ns == stamp  # what is finished is never written again
        stamps = {file: file.stat().st_mtime_ns for file in (out / "units").glob("*.parquet")}
    run(plan, out)
    assert contents(out) == contents(whole)
    done = computed(out)  # without those that a kill came upon between their writing and the log's line
    assert len(done) == len(set(done)) and set(done) <= set(computed(whole))


def test_two_processes_on_one_directory_share_the_work(whole, plan, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    for file in [*out.glob("units/*-*"), *out.glob("results/**/*.parquet"), out / "log.jsonl"]:
        if not file.name.startswith(("effects", "sites", "stability", "token_attention", "verification")):
            file.unlink()  # scoring and tracing is to be done
    said = [tmp_path / "first", tmp_path / "second"]
    both = [start_command("run", plan, "--out", out, "--quiet", said=file) for file in said]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    one, two = (file.read_text().splitlines() for file in said)  # the steps and a hint, and no warning
    assert one == two and len(one) == 1 + 6 + 1 and "4 of 4" in one[1]
    assert contents(out) == contents(whole)
    done = computed(out)
    assert len(done) == len(set(done)) == 8 * (3 + 3) and set(done) < set(computed(whole))  # each once


def test_a_clock_that_jumps_changes_nothing(whole, plan, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
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


HARMS = {  # each to another unit
    "flip a bit at the beginning": lambda out: _flip(unit(out, "scores"), 0.0),
    "flip a bit in the data": lambda out: _flip(unit(out, "lens"), 0.3),
    "flip a bit in the metadata": lambda out: _flip(unit(out, "effects"), 0.9),
    "flip the last byte": lambda out: _flip(unit(out, "verification"), 1.0),
    "truncate to nothing": lambda out: unit(out, "items").write_bytes(b""),
    "truncate to half": lambda out: os.truncate(unit(out, "attention"), unit(out, "attention").stat().st_size // 2),
    "truncate by one byte": lambda out: os.truncate(unit(out, "sites"), unit(out, "sites").stat().st_size - 1),
    "swap two of a kind": lambda out: _swap(unit(out, "sites", 1), unit(out, "sites", 2)),
    "swap two kinds": lambda out: _swap(unit(out, "sites", 3), unit(out, "stability", 3)),
    "alter numbers": lambda out: _altered(unit(out, "scores", 1)),
    "delete one": lambda out: unit(out, "scores", 2).unlink(),
    "a file of zeros": lambda out: unit(out, "items", 2).write_bytes(bytes(5000)),
    "a foreign parquet": lambda out: pd.DataFrame({"a": [1]}).to_parquet(unit(out, "stability", 1)),
    "text in its place": lambda out: unit(out, "lens", 2).write_text("<script>alert(1)</script>\x1b[2J"),
}
DELETED = {
    "what another step reads": lambda out: unit(out, "effects").unlink(),
    "all of a kind": lambda out: [f.unlink() for f in (out / "units").glob("verification-*")],
}
IN_RESULTS = {
    "a table flipped": lambda out: _flip(out / FOLDERS[0] / "tables" / "effects.parquet", 0.5),
    "a table deleted": lambda out: (out / FOLDERS[0] / "tables" / "curve.parquet").unlink(),
    "a table of another task": lambda out: _swap(*(out / f / "tables" / "sites.parquet" for f in FOLDERS)),
    "pairs changed": lambda out: (out / FOLDERS[1] / "pairs.jsonl").write_text("{}\n"),
}
PASSED_OVER = {
    "a stale temporary file": lambda out: (out / "units" / ".sites-0.parquet.7.abc.tmp").write_bytes(b"half"),
    "a foreign file": lambda out: (out / "units" / "notes.txt").write_text("mine"),
    "models.json damaged": lambda out: (out / "models.json").write_text("[[["),
    "the log gone": lambda out: (out / "log.jsonl").unlink(),
}


@pytest.mark.parametrize("harms", [HARMS, DELETED, IN_RESULTS, PASSED_OVER],
                         ids=["units", "deleted", "results", "passed over"])  # fmt: skip
def test_harm_is_found_and_only_what_was_harmed_is_computed_again(whole, plan, tmp_path, harms):
    out = shutil.copytree(whole, tmp_path / "run")
    before = contents(out)
    harmed_by = {}
    for name, harm in harms.items():
        was = contents(out)
        harm(out)
        harmed_by[name] = {Path(file).name for file, data in was.items() if contents(out).get(file) != data}
    (out / "log.jsonl").unlink(missing_ok=True)
    with warnings.catch_warnings(record=True) as said, pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("always")
        if harms in (IN_RESULTS, PASSED_OVER):
            patch.setattr("isp_mech.models.load_size", _never)
        run(plan, out)
    after = contents(out)
    assert {name: after[name] for name in before} == before
    again = set(computed(out)) if (out / "log.jsonl").exists() else set()
    named = {part.split(":")[0].split("/")[-1] for part in (str(w.message) for w in said)}
    assert all("\x1b" not in str(w.message) for w in said)
    if harms in (HARMS, DELETED):
        for name, files in harmed_by.items():
            assert files and files <= again, name
            assert harms is DELETED or name == "delete one" or files <= named, name
        assert again == set().union(*harmed_by.values())
    else:
        assert not again and all(harmed_by.values()) == (harms is IN_RESULTS)


def test_a_folder_in_a_units_place_is_refused_by_name(whole, plan, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    file = unit(out, "verification")
    file.unlink()
    file.mkdir()
    with warnings.catch_warnings(), pytest.raises(NotKept, match=f"{file.name}: cannot be written .Is a directory"):
        warnings.simplefilter("ignore")
        run(plan, out)


def _with_little_room(limit, *words):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit,) * 2)
    return main([*map(str, words), "--quiet"])


def test_a_full_disk_says_so_and_keeps_what_is_done(whole, plan, tmp_path, unlocated):
    said, before = tmp_path / "said", contents(unlocated, "units")
    new = [len(data) for name, data in contents(whole, "units").items() if name not in before]
    process = start(_with_little_room, max(new) - 1, "run", plan, "--out", unlocated, said=said)  # not for the largest
    process.join()
    assert process.exitcode == 2 and "Traceback" not in said.read_text()
    assert "cannot be written (File too large): what is finished is kept, and the same command goes" in said.read_text()
    kept = contents(unlocated, "units")
    assert len(kept) > len(before) and all(contents(whole)[name] == data for name, data in kept.items())
    assert not list((unlocated / "units").glob(".*.tmp"))


class Unforeseen(Exception):
    """One that does not survive being sent from process to process."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


@pytest.fixture
def failing(monkeypatch):
    """``failing(error)``: from then on locating on one model and one task raises it."""
    from importlib import import_module

    locating = import_module("isp_mech.causal.locate")
    real = locating.locate

    def fail_with(error):
        def locate(pairs, model, **options):
            if (pairs.name, model.name) == ("neqa", "small"):
                raise error
            return real(pairs, model, **options)

        monkeypatch.setattr(locating, "locate", locate)

    return fail_with


@pytest.fixture
def unlocated(whole, tmp_path) -> Path:
    """A run in which all is done but locating and verifying, and no result is written."""
    out = shutil.copytree(whole, tmp_path / "unlocated")
    for name in ("effects", "sites", "stability", "token_attention", "verification"):
        for file in out.glob(f"units/{name}-*"):
            file.unlink()
    shutil.rmtree(out / "results")
    (out / "log.jsonl").unlink()
    return out


ERRORS = [IndexError("list index out of range"), KeyError("x"), ValueError("bad"), TypeError("no"), ZeroDivisionError(),
          MemoryError(), RuntimeError("out of memory\nand more"), Unforeseen("a", "b"),
          InputError("small", ["of the user's"])]  # fmt: skip


def test_a_job_that_fails_does_not_keep_the_others_from_being_done(plan, unlocated, whole, failing):
    failing(IndexError("list index\nout of range"))
    with pytest.raises(InputError) as caught:
        run(plan, unlocated)
    assert str(caught.value) == "small: locate: neqa: IndexError: list index (its traceback is in log.jsonl)"
    (failed,) = [line for line in events(unlocated) if line["event"] == "failed"]
    assert failed["job"] == "small: locate: neqa" and "in locate\n" in failed["traceback"]
    missing = set(contents(whole)) - set(contents(unlocated))
    assert {Path(name).name.rpartition("-")[0] for name in missing if name.startswith("units/")} == {
        "effects", "sites", "stability", "token_attention", "verification"}  # fmt: skip
    assert len([name for name in missing if name.startswith("units/")]) == 5
    assert (unlocated / FOLDERS[0] / "tables").exists()
    tables = {path.stem: read_table(path) for path in (unlocated / FOLDERS[1] / "tables").glob("*.parquet")}
    assert {"scores", "curve", "lens", "effects", "verification", "story"} <= set(tables)
    of_models = {name: set(table.frame["model"]) for name, table in tables.items()}
    assert of_models["curve"] == {"small", "large"} and of_models["sites"] == of_models["verification"] == {"large"}
    assert "small: locate: neqa: not done" in tables["sites"].run.notes


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_failure_of_any_kind_is_the_outcome_of_its_job(plan, tmp_path, monkeypatch, error):
    worker = Worker(RunDirectory(tmp_path / "run"))
    monkeypatch.setattr(Worker, "_model", _raising(error))
    job = jobs_of(plan, worker.directory)[0]
    outcome = worker.run(job)
    assert isinstance(outcome, InputError) and type(error).__name__ in (str(outcome) + type(outcome).__name__)
    assert outcome.problems == pickle.loads(pickle.dumps(outcome)).problems  # as a worker elsewhere sends it
    assert [line["event"] for line in events(worker.directory.path)] == ["computing", "failed"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), NotKept("units/x", ["no room"])])
def test_what_stops_a_run_is_no_failure_of_a_job(plan, tmp_path, monkeypatch, error):
    directory = RunDirectory(tmp_path / "run")
    monkeypatch.setattr(Worker, "_model", _raising(error))
    with pytest.raises(type(error)):
        run_jobs(jobs_of(plan, directory), directory, Workers())
    assert [line["event"] for line in events(directory.path)] == ["computing"]
    answer = ray_workers._Actor(Worker(directory)).submit(jobs_of(plan, directory)[0])
    assert answer.stop is error  # raised, it would end the actor alone


def _raising(error):
    def does(*_, **__):
        raise error

    return does


# --- workers ------------------------------------------------------------------------------------------


class _Dying:
    """A worker that is killed in the middle of its first job: when the log says that it is at it."""

    def __init__(self, worker, log, kill):
        self.worker, self.log, self.kill = worker, log, kill

    def is_ready(self):
        return self.worker.is_ready()

    def submit(self, job):
        future = self.worker.submit(job)
        while not self.log.exists() or not any(job.files[0] in line for line in self.log.read_text().splitlines()):
            time.sleep(0.01)
        self.kill(self.worker)
        return future

    def stop(self):
        self.worker.stop()


class _Answering:
    """A worker in this process that answers by a function."""

    def __init__(self, answer):
        self.answer = answer

    def is_ready(self):
        return True

    def submit(self, job):
        future = Future()
        try:
            future.set_result(self.answer(job))
        except Exception as error:
            future.set_exception(error)
        return future

    def stop(self):
        pass


def _kill(worker):
    for process in list(worker.pool._processes.values()):
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_several_processes_give_the_same_bytes_and_a_lost_worker_costs_its_job(whole, plan, unlocated, method):
    directory = RunDirectory(unlocated)
    jobs = [job for job in jobs_of(plan, directory) if job.steps[0] in ("locate", "verify")]
    start_worker, started = process_starter(Worker(directory), method), []

    def kill_the_first(place):
        started.append(start_worker(place))
        return _Dying(started[-1], unlocated / "log.jsonl", _kill) if len(started) == 1 else started[-1]

    hand_out(JobQueue(by_model(jobs)), kill_the_first, 2)
    assert len(started) == 3
    run(plan, unlocated)
    assert contents(unlocated) == contents(whole)
    assert sorted(computed(unlocated)) == sorted(file for job in jobs for file in job.files)


def test_a_failure_in_a_process_is_that_jobs_and_an_exit_ends_the_run(whole, plan, unlocated, failing):
    directory = RunDirectory(unlocated)
    jobs = [
        job for job in jobs_of(plan, directory) if job.size.name == "small" and job.steps[0] in ("locate", "verify")
    ]
    failing(Unforeseen("a", "b"))
    queue = JobQueue(by_model(jobs))
    hand_out(queue, process_starter(Worker(directory), "fork"), 1)
    with pytest.raises(InputError, match="small: locate: neqa: Unforeseen: a b .its traceback is in log.jsonl."):
        queue.report()
    assert {line["job"] for line in events(unlocated) if line["event"] == "finished"} == {
        "small: locate: redefine-math", "small: verify: redefine-math"}  # fmt: skip
    failing(SystemExit(3))
    with pytest.raises(SystemExit):
        hand_out(JobQueue(by_model(jobs)), process_starter(Worker(directory), "fork"), 1)


def test_a_worker_can_be_sent_to_another_process(tmp_path):
    worker = pickle.loads(pickle.dumps(Worker(RunDirectory(tmp_path / "run"), True, 3, True)))
    assert worker == Worker(RunDirectory(tmp_path / "run"), True, 3, True)


@pytest.mark.parametrize(("asked", "starter"), [({"jobs": 2}, "process_starter"),
                                                ({"jobs": 3, "ray": "auto"}, "actor_starter")])  # fmt: skip
def test_as_many_workers_start_as_are_asked_for(plan, tmp_path, monkeypatch, asked, starter):
    places, done, directory = [], [], RunDirectory(tmp_path / "run")

    def starting(worker, *_, **__):
        assert worker.directory == directory and worker.trust_remote_code
        return lambda place: places.append(place) or _Answering(lambda job: done.append(job) or "done")

    monkeypatch.setattr(scheduler, starter, starting)
    jobs = jobs_of(plan, directory)
    run_jobs(jobs, directory, Workers(**asked, trust_remote_code=True))
    assert places == list(range(asked["jobs"])) and set(done) == set(jobs)


def test_jobs_are_handed_out_by_model_and_after_what_they_need(plan, tmp_path):
    order: dict[int, list] = {0: [], 1: []}
    done = []

    def start_worker(place):
        def answer(job):
            assert job.needs is None or job.needs in done
            order[place].append(job)
            done.append(job)
            return "done"

        return _Answering(answer)

    hand_out(JobQueue(by_model(jobs_of(plan, RunDirectory(tmp_path / "none")))), start_worker, 2)
    for mine in order.values():
        changes = sum(a.model != b.model for a, b in zip(mine, mine[1:], strict=False))
        assert changes <= 1
    assert len(done) == len(set(done)) == 16


def test_a_job_that_kills_its_workers_is_given_up_and_reported(plan, tmp_path):
    asked = []

    def answer(job):
        asked.append(job)
        if job.steps == ("locate",) and job.size.name == "large":
            raise BrokenExecutor("killed")
        return "done"

    queue = JobQueue(by_model(jobs_of(plan, RunDirectory(tmp_path / "none"))))
    hand_out(queue, lambda place: _Answering(answer), 2)
    with pytest.raises(InputError) as caught:
        queue.report()
    assert caught.value.problems == tuple(
        f"large: locate: {task}: its worker died 3 times: killed, or out of memory (try a smaller batch size)"
        for task in ("redefine-math", "neqa"))  # fmt: skip
    assert not [job for job in asked if job.steps == ("verify",) and job.size.name == "large"]
    assert len(asked) == 16 - 2 + 4  # each once, the two deadly ones thrice, and what needs them never


def test_a_job_that_another_process_is_at_is_asked_for_again(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "PAUSE", 0)
    jobs, busy = jobs_of(plan, RunDirectory(tmp_path / "none")), []

    def answer(job):
        if job is jobs[0] and len(busy) < 3:
            busy.append(job)
            return "busy"
        return "done"

    hand_out(JobQueue(by_model(jobs)), lambda place: _Answering(answer), 1)
    assert len(busy) == 3


def _with_ray(directory, jobs, kill, n_workers):
    """Does the jobs with Ray, the first actor killed when ``kill`` says so; how many actors were started."""
    ray = pytest.importorskip("ray")
    started = []
    try:
        start_worker = ray_workers.actor_starter(Worker(directory), jobs, n_workers)

        def kill_the_first(place):
            started.append(start_worker(place))
            return kill(ray, started[-1]) if len(started) == 1 else started[-1]

        hand_out(JobQueue(by_model(jobs)), kill_the_first, n_workers)
    finally:
        ray.shutdown()
    return len(started)


@pytest.mark.slow
def test_ray_gives_the_same_bytes_and_a_lost_actor_costs_its_job(whole, plan, tmp_path):
    out = tmp_path / "run"
    directory = RunDirectory(out)
    jobs = jobs_of(plan, directory)

    def kill(ray, worker):
        return _Dying(worker, out / "log.jsonl", lambda worker: ray.kill(worker.handle))

    assert _with_ray(directory, jobs, kill, 2) == 3
    run(plan, out)
    assert contents(out) == contents(whole)
    assert sorted(computed(out)) == sorted(computed(whole))


def test_ray_does_jobs_and_a_lost_actor_costs_its_job(whole, plan, tmp_path, monkeypatch):
    """The same without computing, which would import torch in each actor: all but one job are done already."""
    pytest.importorskip("ray")
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    out = shutil.copytree(whole, tmp_path / "run")
    directory = RunDirectory(out)
    jobs = jobs_of(plan, directory)[:3]

    def kill(ray, worker):
        assert worker.is_ready() or ray.get(worker.ready) is not None
        ray.kill(worker.handle)
        return worker

    (out / "log.jsonl").unlink()
    assert _with_ray(directory, jobs, kill, 1) == 2
    assert not (out / "log.jsonl").exists() and contents(out) == contents(whole)


def test_what_a_ray_worker_asks_for(plan, tmp_path):
    jobs = jobs_of(plan, RunDirectory(tmp_path / "none"))
    needs = ray_workers._needs(jobs, None)
    assert needs["num_cpus"] == 1 and "num_gpus" not in needs and needs["memory"] > 0
    assert ray_workers._needs(jobs, 4)["num_gpus"] == 4
    with pytest.raises(InputError, match="ray: 4 GPU for a worker: this machine has 1"):
        ray_workers._expect_room({"num_cpus": 1, "num_gpus": 4}, {"CPU": 2, "GPU": 1})


def test_where_ray_is_not_installed_it_is_said(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="ray: is not installed: pip install 'isp-mech.ray.'"):
        run(plan, tmp_path / "run", ray="")


def test_no_workers_are_refused():
    with pytest.raises(InputError, match="jobs: 0: expected 1 worker or more"):
        Workers(jobs=0)


def test_a_run_directory_may_be_a_url(whole, plan):
    directory = RunDirectory("memory://runs/mine")
    for name, data in contents(whole).items():  # all but one unit, and what is made of it
        if name != f"units/{unit(whole, 'verification', 3).name}" and "large/neqa" not in name:
            directory.folder.write(name, data)
    run_parts(read_plan(plan).parts(directory), directory)
    system = directory.folder.system
    there = {path.removeprefix("/runs/mine/"): system.cat_file(path) for path in system.find("/runs/mine")}
    there.pop("models.json")
    assert there == contents(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isp_mech.models.load_size", _never)
        run_parts(read_plan(plan).parts(directory), directory)
    (file,) = [path for path in there if path.startswith("units/stability")][:1]
    system.pipe_file(f"/runs/mine/{file}", b"PAR1")
    with pytest.warns(UserWarning, match=f"memory://runs/mine/{file}: not a parquet file .* computed again"):
        run_parts(read_plan(plan).parts(directory), directory)
    assert system.cat_file(f"/runs/mine/{file}") == there[file]
