"""200 times SIGKILL over a small plan on the ladder: are the finished tables those of an undisturbed run, and was
nothing computed twice after it was finished? Prints what was found, and writes it as JSON beside the runs.

    python experiments/kill_runs.py [--kills 200] [--out runs/killed]

Each run that is killed is a fork of this process, which has torch imported already: so the kills fall into the work,
and not into the start of Python.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import isp_mech.models  # noqa: F401  (before forking)
from isp_mech.cli.main import main as isp_mech_main

SEED = 0
LONGEST = 3.0  # seconds after which the latest kill comes
PLAN = """
families = [{family = "ladder", sizes = ["25k", "100k"]}]
tasks = ["neqa", "redefine-math", "quote-repetition"]
[settings]
n = 12
n_random = 5
shard = 3
"""


def finished(run: Path) -> list[str]:
    """Units that were computed to the end, in that order."""
    log = run / "log.jsonl"
    events = []
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            events.append(json.loads(line))
        except ValueError:  # the process was killed while it wrote the line
            continue
    return [unit for event in events if event["event"] == "finished" for unit in event["units"]]


def contents(run: Path) -> dict[str, bytes]:
    files = [*(run / "units").glob("*-*.parquet"), *run.glob("results/**/*.*")]
    return {str(f.relative_to(run)): f.read_bytes() for f in files if f.is_file() and not f.name.startswith(".")}


def start(plan: Path, run: Path) -> int:
    """The process id of a fork that carries out the plan."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(isp_mech_main(["run", str(plan), "--out", str(run), "--quiet"]))
    return child


def is_done(child: int) -> bool:
    """Whether the fork came to its end by itself, with success; ``RuntimeError`` where it failed."""
    ended, code = os.waitpid(child, os.WNOHANG)
    if ended and code:
        raise RuntimeError(f"the run failed with code {code}")
    return bool(ended)


def to_the_end(plan: Path, run: Path) -> None:
    child = start(plan, run)
    while not is_done(child):
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/killed"))
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    plan = given.out / "plan.toml"
    plan.write_text(PLAN)
    to_the_end(plan, given.out / "whole")
    whole = contents(given.out / "whole")
    draw = random.Random(SEED)
    found = dict.fromkeys(("kills", "kills_after_progress", "runs", "runs_with_other_bytes", "units_computed_twice",
                           "units_written_twice", "temporary_files_left"), 0)  # fmt: skip
    while found["kills"] < given.kills:
        run, stamps, done = given.out / f"run-{found['runs']}", {}, False
        while not done and found["kills"] < given.kills:
            before, child = len(finished(run)), start(plan, run)
            until = time.monotonic() + draw.uniform(0, LONGEST)
            while not (done := is_done(child)) and time.monotonic() < until:
                time.sleep(0.002)
            if not done:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                found["kills"] += 1
                found["kills_after_progress"] += len(finished(run)) > before
            now = {file.name: file.stat().st_mtime_ns for file in (run / "units").glob("*-*.parquet")}
            found["units_written_twice"] += sum(now.get(name) != stamp for name, stamp in stamps.items())
            stamps = now
        to_the_end(plan, run)
        found["runs"] += 1
        found["runs_with_other_bytes"] += contents(run) != whole
        found["units_computed_twice"] += len(finished(run)) - len(set(finished(run)))
        found["temporary_files_left"] += len(list((run / "units").glob(".*.tmp")))
        print(json.dumps(found), flush=True)
    (given.out / "result.json").write_text(json.dumps({**found, "files": len(whole)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
