"""What the bookkeeping of runs costs: resuming a finished plan of over 500 units, and its share of a plan's time.

    python experiments/bench_runs.py [--out runs/bench]

Prints one line of JSON: units, seconds of three resumptions (whole processes, from start to end), whether any of them
imported torch, and of the first run the seconds in all, in computing and in keeping units.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

PLAN = """
families = ["ladder"]
tasks = ["neqa", "quote-repetition", "redefine-math", "hindsight-neglect", "heavier-object", "linear-expressions",
         "neqa:twin"]
[settings]
n = 60
"""
PROGRAM = "import sys; from isp_mech.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"


def carried_out(plan: Path, run: Path) -> tuple[float, bool]:
    """Seconds, and whether torch was imported."""
    began = time.perf_counter()
    command = [sys.executable, "-c", PROGRAM, "run", str(plan), "--out", str(run), "--quiet"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - began, done.stdout.splitlines()[-1] == "True"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    out = parser.parse_args().out
    out.mkdir(parents=True)  # a new one
    plan, run = out / "plan.toml", out / "run"
    plan.write_text(PLAN)
    first, _ = carried_out(plan, run)
    again = [carried_out(plan, run) for _ in range(3)]
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    computing, keeping = (sum(e.get(what, 0) for e in events) for what in ("seconds", "keeping"))
    print(json.dumps({
        "units": len(list((run / "units").glob("*.parquet"))),
        "resumed_s": [round(seconds, 2) for seconds, _ in again],
        "resuming_imports_torch": any(torch for _, torch in again),
        "first_run_s": round(first, 1), "computing_s": round(computing, 1), "keeping_s": round(keeping, 2),
        "bookkeeping_share": round(1 - computing / first, 4),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
