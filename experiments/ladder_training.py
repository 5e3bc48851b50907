"""How the override comes in the course of training: conflict accuracy over tokens, for every size of the ladder.

python experiments/ladder_training.py      # writes runs/ladder-training/{conflict,plain}.parquet|pdf|svg|png
"""

from __future__ import annotations

from pathlib import Path

import isp_mech as im
from isp_mech.ladder.training_course import read_course

FOLDER = None  # the shipped family; or a folder that `isp-mech ladder train --out` wrote
OUT = Path("runs/ladder-training")


def main() -> None:
    training = read_course(FOLDER)
    for side in ("conflict", "plain"):
        im.figures.save(im.figures.training_course(training, side=side), OUT / side, training)
    print(f"figures: {OUT}")


if __name__ == "__main__":
    main()
