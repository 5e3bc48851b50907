"""200 times SIGKILL over a small plan on the ladder: are the finished tables those of an undisturbed run, and was
nothing computed twice after it was finished? Prints what was found, and writes it as JSON beside the runs.

    python experiments/kill_runs.py [--kills 200] [--out runs/killed]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SEED = 0
LONGEST = 8.0  # seconds after which the latest kill comes
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/killed"))
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    plan = given.out / "plan.toml"
    plan.write_text(PLAN)

    def command(run: Path) -> list[str]:
        return [sys.executable, "-m", "isp_mech", "run", str(plan), "--out", str(run), "--quiet"]

    subprocess.run(command(given.out / "whole"), check=True, stdout=subprocess.DEVNULL)
    whole = contents(given.out / "whole")
    draw = random.Random(SEED)
    found = {"kills": 0, "runs": 0, "runs_with_other_bytes": 0, "units_computed_twice": 0, "units_written_twice": 0,
             "temporary_files_left": 0, "kills_after_which_more_was_finished": 0}  # fmt: skip
    while found["kills"] < given.kills:
        run, stamps, done = given.out / f"run-{found['runs']}", {}, False
        while not done and found["kills"] < given.kills:
            before = len(finished(run))
            process = subprocess.Popen(command(run), stdout=subprocess.DEVNULL)
            until = time.monotonic() + draw.uniform(0, LONGEST)
            wait_for_progress = draw.random() < 0.7  # else it is mostly the start that is killed
            while process.poll() is None and (
                time.monotonic() < until or (wait_for_progress and len(finished(run)) == before)
            ):
                time.sleep(0.005)
            done = process.poll() is not None
            process.send_signal(signal.SIGKILL)
            process.wait()
            found["kills"] += not done
            found["kills_after_which_more_was_finished"] += not done and len(finished(run)) > before
            now = {file.name: file.stat().st_mtime_ns for file in (run / "units").glob("*-*.parquet")}
            found["units_written_twice"] += sum(now.get(name) != stamp for name, stamp in stamps.items())
            stamps = now
        subprocess.run(command(run), check=True, stdout=subprocess.DEVNULL)
        found["runs"] += 1
        found["runs_with_other_bytes"] += contents(run) != whole
        found["units_computed_twice"] += len(finished(run)) - len(set(finished(run)))
        found["temporary_files_left"] += len(list((run / "units").glob(".*.tmp")))
        print(json.dumps(found), flush=True)
    (given.out / "result.json").write_text(json.dumps({**found, "files": len(whole)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
