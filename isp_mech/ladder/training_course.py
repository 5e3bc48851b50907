"""The course of the ladder's training, as a Table: no torch, no model."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from isp_mech.errors import InputError
from isp_mech.ladder import weights_folder
from isp_mech.tables import Table, make_run, table


def read_course(folder: str | Path | None = None) -> Table:
    """Table ``training`` of every size trained into ``folder`` (default: the shipped family), smallest first.

    ``InputError`` where the folder holds no trained size.
    """
    folder = weights_folder() if folder is None else Path(folder)
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/card.json")]
    if not cards:
        raise InputError(str(folder), ["found no */card.json, expected a folder that the ladder's training wrote"])
    parts = []
    for card in sorted(cards, key=lambda card: card["n_params_non_embedding"]):
        rows = pd.read_parquet(folder / card["name"] / "training.parquet")
        head = {"model": card["name"], "n_params": card["n_params_non_embedding"]}
        parts.append(rows.assign(**head))
    frame = pd.concat(parts, ignore_index=True)
    recipes = ", ".join(dict.fromkeys(card["recipe"] for card in cards))
    run = make_run(
        model=", ".join(card["name"] for card in cards),
        task=", ".join(task for task in dict.fromkeys(frame["task"]) if task),
        method="accuracy and loss in the course of training",
        seed=cards[0]["seed"],
        settings={"recipe": recipes},
    )
    names = ("model", "n_params", "task", "side", "step", "tokens", "measure", "value")
    return table("training", {name: frame[name].to_numpy() for name in names}, run)
