"""Published Pythia accuracies on twelve tasks: curves over training, shapes, and the study's regressions.

Michaelov and Bergen 2023, Emergent inabilities? Inverse scaling over the course of pretraining (arXiv 2305.14681);
numbers from the repository jmichaelov/emergent-inabilities, results/all_results.tsv.

    python experiments/pythia_published.py accuracies.tsv       # writes runs/pythia-published/
"""

from __future__ import annotations

import sys
from pathlib import Path

import isp_mech as im
from isp_mech.scaling import regressions, shapes

TABLE = Path("../shared/data/published/pythia-prize-accuracy.tsv")
LAST = "step143000"
SIZE = "nominal_params"  # as in the study: 70 million for pythia-70m
OUT = Path("runs/pythia-published")


def main(path: str | Path = TABLE) -> None:
    read = im.published(path)
    fits = regressions(read.observations, size=SIZE)
    over_size, over_tokens = (shapes(read.observations, over=over) for over in ("parameters", "tokens"))
    for name, made in (("regressions", fits), ("shapes-over-size", over_size), ("shapes-over-tokens", over_tokens)):
        made.save(OUT / f"{name}.parquet")
    training = im.figures.published_curves(read, over="tokens", same_scale=False)
    im.figures.save(training, OUT / "over-tokens", read.observations)
    last = im.published(path, revision=LAST)
    im.figures.save(im.figures.published_curves(last, same_scale=False), OUT / "over-size", last.observations)

    frame = fits.frame
    frame["told"] = [f"{t:+.2f}{'*' if yes else ''}" for t, yes in zip(frame["t"], frame["significant"], strict=True)]
    wide = frame.pivot(index="task", columns="term", values="told")[["size", "tokens", "interaction"]]
    ends = over_size.frame.query("held == @LAST").set_index("task")["name"]
    trained = over_tokens.frame.query("model == 'pythia-12b'").set_index("task")["name"]
    print(f"t({frame['df'].iloc[0]}) of log size, log tokens and their interaction; * q <= 0.05")
    print(wide.assign(over_size=ends, over_training_12b=trained).to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
