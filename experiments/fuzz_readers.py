"""100,000 fuzzed task files and plans: does any raise what is not an InputError, take over a second, or fill memory?

    python experiments/fuzz_readers.py [--runs 100000] [--seed 0]

Half of the inputs atheris grows by what they reach in the readers' code, where it is installed (pip install atheris);
the others are mutations of good files, drawn from the seed. Prints how many were read and refused, the slowest and the
peak of memory; an input that raises anything else is written beside, and ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # no input is asked for on the hub

try:
    import atheris
except ImportError:
    atheris = None

READERS = ["isp_mech.runs.plans", "isp_mech.tasks"]
with atheris.instrument_imports(include=READERS) if atheris else contextlib.nullcontext():
    from isp_mech import tasks
    from isp_mech.contrasts import pair_files as files
    from isp_mech.runs import plans
from isp_mech.errors import InputError  # noqa: E402
from isp_mech.tables import checksum_of_bytes, make_run, table, table_of_bytes  # noqa: E402

RUN = make_run(model="m", task="t", method="fuzz")
ROW = {"model": "m", "n_params": 1, "task": "t", "replacement_a": "a", "replacement_b": "b", "spearman": 0.5}
GOOD = {
    ".jsonl": b'{"prompt": "Q: 1? A:", "classes": [" Y", " N"], "answer_index": 0}\n',
    ".csv": b'prompt,classes,answer_index\n"Q, ""1""?","[\' A\', \' B\']",0\n',
    ".pairs": b'{"format": "isp_mech pairs 1", "name": "x"}\n{"id": "0", "answer": " 4", "lure": " 3", "factor": "d", '
    b'"plain": {"text": "Q", "roles": {}}, "conflict": {"text": "D. Q", "roles": {"d": [[0, 3]]}}}\n',
    ".toml": b'families = ["ladder", {family = "pythia", sizes = ["70m"], revisions = ["step0"]}]\n'
    b'tasks = [{task = "neqa", n = 2}]\nsteps = ["score"]\n[settings]\nseed = 1\nshare = 0.5\nreplacement = ["mean"]\n',
    ".parquet": table("stability", [ROW], RUN).to_bytes(key="k"),
}
SUFFIXES = tuple(GOOD)
WORDS = [b"'", b'"', b"\\", b"[", b"]", b"{", b"}", b",", b"\n", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\\ud800",
         b"\\u0000", b"1e999", b"NaN", b"-1", b"9" * 400, b"true", b"null", b"=", b"#", b"..", b"../", b"~", b"[[",
         b'"""', b"[" * 2000, b'{"a":' * 1000, b"a." * 2000, b"1970-01-01T00:00:00Z", b"settings"]  # fmt: skip


class Tally:
    """What became of the inputs."""

    def __init__(self, runs: int, folder: Path) -> None:
        self.runs, self.folder = runs, folder
        self.counts = dict.fromkeys(("read", "refused"), 0)
        self.slowest, self.slowest_kind = 0.0, ""

    def one(self, suffix: str, data: bytes) -> None:
        path = self.folder / f"x{suffix}"
        path.write_bytes(data)
        began = time.perf_counter()
        try:
            read(suffix, path, data)
            self.counts["read"] += 1
        except InputError:
            self.counts["refused"] += 1
        except BaseException:
            Path(f"broken{suffix}").write_bytes(data)
            raise
        took = time.perf_counter() - began
        if took > self.slowest:
            self.slowest, self.slowest_kind = took, suffix
        if sum(self.counts.values()) == self.runs:
            self.report()
            os._exit(0)  # atheris does not return

    def report(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        by = "atheris" if atheris else "mutations"
        print(json.dumps({**self.counts, "by": by, "slowest_s": round(self.slowest, 3),
                          "slowest_kind": self.slowest_kind, "peak_mb": round(peak)}), flush=True)  # fmt: skip


def read(suffix: str, path: Path, data: bytes) -> None:
    if suffix == ".toml":
        plans.read_plan(path)
    elif suffix == ".pairs":
        files.read_pairs(path)
    elif suffix == ".parquet":
        checksum_of_bytes(data, "x")
        table_of_bytes(data, "x")
    else:
        tasks.read_task(path)


def mutated(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data * draw.choice((1, 1, 1, 2, 50)))
    for _ in range(draw.choice((1, 1, 2, 3, 8))):
        place, length = draw.randrange(len(changed) + 1), draw.choice((0, 1, 1, 2, 8, 40))
        what = draw.choice((draw.choice(WORDS), draw.randbytes(draw.choice((1, 2, 9))), b"", bytes(changed[:60])))
        changed[place : place + length] = what
    return bytes(changed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        tally, draw = Tally(given.runs, Path(folder)), random.Random(given.seed)
        if atheris is None:
            while True:
                suffix = draw.choice(SUFFIXES)
                tally.one(suffix, mutated(draw, GOOD[suffix]))
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        for i, suffix in enumerate(SUFFIXES):
            (seeds / f"{i}").write_bytes(bytes([i]) + GOOD[suffix])

        def from_bytes(data: bytes) -> None:
            suffix = SUFFIXES[data[0] % len(SUFFIXES)] if data else ".jsonl"
            tally.one(suffix, data[1:] if draw.random() < 0.5 else mutated(draw, GOOD[suffix]))

        atheris.Setup([sys.argv[0], str(seeds), f"-seed={given.seed + 1}", "-max_len=4000", "-verbosity=0"], from_bytes)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
