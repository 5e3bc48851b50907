"""Everything on one GPU, in eight minutes: what is right, and what scoring, tracing, locating and interventions cost.

    python experiments/bench_gpu.py                         # on a GPU: writes runs/bench-gpu/bench.parquet and page.md
    python experiments/bench_gpu.py --tiny                  # the same in small, on a CPU, in two minutes at most
    python experiments/bench_gpu.py --docs docs/gpu.md      # puts the page of bench.parquet into the documentation

A machine with torch, transformers and a checkout is enough (PYTHONPATH=. where the package is not installed); what else
is not there has a row that says so. Models have Pythia's shapes, random weights, bfloat16; a token is a byte. A section
is a function that gives rows. Rows are written after every section, and when time is up it stops with those it has.
"""

from __future__ import annotations

import argparse
import gc
import signal
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
import transformers
from gpu_page import into_docs, page
from gpu_sections import FULL, ONCE, SECTIONS, SHAPES, TINY, Bench, Clock, Row, Sizes, made_bench, now

from isp_mech.models import free_bytes

OUT = Path("runs/bench-gpu")


def machine(sizes: Sizes, device: str) -> list[Row]:
    """The device, and what it does at most."""
    on_gpu = device.startswith("cuda")
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    a, b = (torch.randn(sizes.matrix, sizes.matrix).to(device, torch.bfloat16) for _ in range(2))
    took = []
    for _ in range(13 if on_gpu else 3):
        began = now(device)
        a @ b
        took.append(now(device) - began)
    rate = 2 * sizes.matrix**3 / statistics.median(took[len(took) // 4 :])
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    row: Row = {"section": "machine", "shape": "", "path": name, "note": versions}
    return [
        {**row, "measure": "matrix products, bfloat16", "value": rate / 1e12, "unit": "TFLOP/s"},
        {**row, "measure": "free memory", "value": free_bytes(device) / 1e9, "unit": "GB"},
    ]


def attempt(name: str, bench: Bench) -> list[Row]:
    """A section's rows; of one that fails a row that says how, since the others are worth their time."""
    run, least = SECTIONS[name]
    if bench.clock.left() < least * bench.sizes.seconds / FULL.seconds:
        return [bench.row("", "", note="not reached in time")]
    try:
        return run(bench)
    except Exception as error:
        return [bench.row("", "", note=f"failed: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}")]


def measure(sizes: Sizes, device: str, out: Path) -> pd.DataFrame:
    """All sections of all shapes, written as they come."""
    clock, rows = Clock(sizes.seconds), machine(sizes, device)
    rate = 1e12 * rows[0]["value"]
    for shape in sizes.shapes:
        layers, _, width, vocabulary = SHAPES[shape]
        needed = 2 * (12 * layers * width**2 + 2 * width * vocabulary)
        why = "" if free_bytes(device) > 1.5 * needed else "memory does not hold it"
        why = why or ("" if clock.left() > sizes.seconds / 8 else "not reached in time")
        if why:
            rows.append({"section": "model", "shape": shape, "path": "", "measure": "", "note": why})
            continue
        bench = made_bench(shape, sizes, clock, rate, device)
        for name in SECTIONS:
            if name not in ONCE or shape == sizes.small:
                began = clock.left()
                rows += [{"section": name, **row} for row in attempt(name, bench)]
                print(f"{shape:5} {name:14} {began - clock.left():6.1f} s, {clock.left():5.0f} s left", flush=True)
                save(rows, out)
        del bench
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    return save(rows, out)


def save(rows: Sequence[Row], out: Path) -> pd.DataFrame:
    columns = ["section", "shape", "path", "measure", "value", "unit", "bar", "note"]
    frame = pd.DataFrame(rows).reindex(columns=columns).astype({"value": float})
    texts = [name for name in columns if name != "value"]
    frame[texts] = frame[texts].astype(object).fillna("").astype("str")
    out.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(out / "bench.parquet")
    (out / "page.md").write_text(page(frame), encoding="utf-8")
    return frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="in small, on a CPU")
    parser.add_argument("--seconds", type=float, help=f"the time there is (default: {FULL.seconds:g})")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--docs", type=Path, help="measure nothing: put the page of what was measured there")
    chosen = parser.parse_args()
    if chosen.docs:
        into_docs(pd.read_parquet(chosen.out / "bench.parquet"), chosen.docs)
        return
    if not chosen.tiny and not torch.cuda.is_available():
        sys.exit("no GPU is available here: expected one, or --tiny")
    sizes = TINY if chosen.tiny else FULL
    sizes = replace(sizes, seconds=chosen.seconds or sizes.seconds)
    if hasattr(signal, "SIGALRM"):  # what does not come to an end is left: what was measured before is written
        signal.signal(signal.SIGALRM, lambda *_: sys.exit("time is up: what was measured is written"))
        signal.alarm(int(sizes.seconds) + 30)
    print(page(measure(sizes, "cpu" if chosen.tiny else "cuda", chosen.out)))


if __name__ == "__main__":
    main()
