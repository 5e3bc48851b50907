"""What a reader can ask the page, packed out of the tables: a JSON head, and per-pair values as small whole numbers.

    base64(gzip(length of the head, 4 bytes | head | arrays, each from a multiple of 4 bytes))

An array in the head is ``{"at": byte, "n": values, "kind": "int16" or "uint8", "step": value of 1}``; a missing value
is the lowest int16 or the highest uint8. ``explorer_data.js`` reads it.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from isp_mech.errors import visible
from isp_mech.figures.frames import site_name
from isp_mech.figures.restored_rows import best_change
from isp_mech.report.change_words import change_words
from isp_mech.report.explorer_tokens import cut_prompt
from isp_mech.report.task_rows import TaskRows
from isp_mech.tables import Table
from isp_mech.tables.site_tables import pairs_in_turn
from isp_mech.tasks import Pair, Prompt

MOST = 13_500_000  # characters; with its figures the page stays under 15 MB
OF_SITE = "name layer kind head effect effect_lo effect_hi direct_effect write_conflict write_plain q significant"
NO_HEAD = -1  # an MLP's place among the heads
Json: TypeAlias = "str | float | int | bool | None | Sequence[Json] | Mapping[str, Json]"
Sides: TypeAlias = "dict[str, np.ndarray]"


def packed(tables: Iterable[Table], parts: Sequence[TaskRows], pairs: Sequence[Pair], *, most: int = MOST) -> str:
    """Base64 text of all that ``tables`` tell of ``pairs``; empty where none of the tasks, ``parts``, has their scores.

    The same input gives the same text. Margins and prompts are there for every pair. What is known of a pair's sites
    (effects, attention, lens) is there for every pair too if the text has at most ``most`` characters so, else for as
    many pairs of each size as fit: those that the strongest sites move most. Attention token by token is there for the
    pairs of its table, and of these for the same share. The head says how many.
    """
    asked = [of for of in parts if len(of.rows("items")) and set(of.rows("items")["item"]) & {p.id for p in pairs}]
    if not asked:
        return ""
    # what tracing and what locating left are both tables of this name; by size as the other rows
    effects = pd.concat([table.frame for table in tables if table.name == "effects"] or [pd.DataFrame()])
    kept, text = len(pairs), _text(asked, effects, pairs, len(pairs))
    while len(text) > most and kept > 1:
        kept = max(1, min(kept - 1, int(0.98 * kept * most / len(text))))
        text = _text(asked, effects, pairs, kept)
    return text


def _text(asked: Sequence[TaskRows], effects: pd.DataFrame, pairs: Sequence[Pair], kept: int) -> str:
    arrays = _Arrays()
    head = json.dumps({"tasks": [_task(of, effects, pairs, kept, arrays) for of in asked]}, allow_nan=False).encode()
    head += b" " * (-len(head) % 4)
    whole = len(head).to_bytes(4, "little") + head + arrays.content
    return base64.b64encode(gzip.compress(whole, compresslevel=6, mtime=0)).decode("ascii")


class _Arrays:
    """The bytes of all arrays, one behind the other."""

    def __init__(self) -> None:
        self.content = bytearray()

    def add(self, values: np.ndarray, kind: Literal["int16", "uint8"] = "int16") -> Json:
        """Where ``values`` stand: signed ones to 1/32767 of the largest, shares 0..1 to 1/250."""
        known = np.isfinite(values)
        largest = float(np.abs(values[known]).max(initial=0.0)) or 1.0
        step, missing = (1 / 250, 255) if kind == "uint8" else (largest / 32767, -32768)
        whole = np.where(known, np.rint(np.where(known, values, 0) / step), missing)
        at = len(self.content)
        self.content += whole.astype(np.dtype(kind).newbyteorder("<")).tobytes()
        self.content += b"\0" * (-len(self.content) % 4)
        return {"at": at, "n": int(values.size), "kind": kind, "step": step}


# --- a task, its pairs, its curve -----------------------------------------------------------------


def _task(of: TaskRows, effects: pd.DataFrame, pairs: Sequence[Pair], kept: int, arrays: _Arrays) -> Json:
    sizes = of.rows("items")[["model", "n_params"]].drop_duplicates()
    effects = effects[effects["task"] == of.task] if len(effects) else effects
    return {
        "task": visible(of.task),
        "pairs": [_pair(pair) for pair in pairs],
        "curve": _rows(of.rows("curve"), "model side accuracy accuracy_lo accuracy_hi n"),
        "shares": _rows(of.rows("shares"), "model follows overridden contrary lost n"),
        "sizes": [
            {
                "model": visible(model),
                "label": visible(of.labels[model]),
                "n_params": int(n_params),
                **_size(of, effects, str(model), pairs, kept, arrays),
            }
            for model, n_params in sizes.itertuples(index=False)
        ],
    }


def _pair(pair: Pair) -> Json:
    return {
        "id": visible(pair.id),
        "factor": visible(pair.factor),
        "prompts": {
            each.side: {"pieces": _pieces(each.prompt), "right": visible(each.right), "wrong": visible(each.wrong)}
            for each in pair.sides()
        },
    }


def _pieces(prompt: Prompt) -> list[list[str]]:
    """``[text, role]`` of every piece in order: browsers count characters otherwise than Python."""
    pieces, at = [], 0
    for start, stop, role in sorted((a, b, role) for role, spans in prompt.roles.items() for a, b in spans):
        pieces += [[prompt.text[at:start], ""], [prompt.text[start:stop], role]]
        at = stop
    pieces.append([prompt.text[at:], ""])
    return [[visible(text, keep="\n\t"), visible(role)] for text, role in pieces if text]


def _rows(frame: pd.DataFrame, columns: str) -> list[Json]:
    names = [name for name in columns.split() if name in frame]
    return [{name: _plain(row[name]) for name in names} for _, row in frame.iterrows()] if names else []


def _plain(value: object) -> Json:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return None if value is pd.NA else visible(value)


# --- a size: its sites, and what each pair has there -----------------------------------------------


def _size(
    of: TaskRows, effects: pd.DataFrame, model: str, pairs: Sequence[Pair], kept: int, arrays: _Arrays
) -> dict[str, Json]:
    ids = pd.Index([pair.id for pair in pairs])
    effects = effects[effects["model"] == model] if len(effects) else effects
    replaced = effects[effects["replacement"] != ""] if len(effects) else effects
    if len(replaced):  # the first of several replacements, as in the table of sites
        replaced = replaced[replaced["replacement"] == replaced["replacement"].iloc[0]]
    written = effects[effects["replacement"] == ""] if len(effects) else effects  # what tracing left
    items, sites = of.rows("items", model=model), _sites(of.rows("sites", model=model), written)
    by_side = {str(side): rows.set_index("item").reindex(ids) for side, rows in items.groupby("side", sort=False)}
    by_site = (len(pairs), len(sites))
    keys = pd.Index(_keys(sites)) if len(sites) else pd.Index([])
    values = {
        **_dense(written, ids, keys, by_site, "direct_effect"),
        "total": _dense(replaced, ids, keys, by_site, "effect").get("conflict"),
        "direct": _dense(replaced, ids, keys, by_site, "direct_effect").get("conflict"),
    }
    known = {by: each for by, each in values.items() if each is not None and np.isfinite(each).any()}
    sites = sites.assign(**{f"write_{side}": _mean(known[side]) for side in ("conflict", "plain") if side in known})
    order = pairs_in_turn(known["total"]) if "total" in known else np.arange(len(pairs))
    sample = np.sort(order[:kept])
    return {
        "replacement": visible(replaced["replacement"].iloc[0]) if len(replaced) else "",
        "margins": {side: [_plain(v) for v in rows["margin"].astype(float)] for side, rows in by_side.items()},
        "right": {side: [_plain(v) for v in rows["correct"].astype(object)] for side, rows in by_side.items()},
        "sites": _rows(sites, OF_SITE),
        "sample": sample.tolist(),
        "values": {by: arrays.add(each[sample]) for by, each in known.items()},
        "lens": _lens(of.rows("lens", model=model), ids, sample, arrays),
        "attention": _attention(of.rows("attention", model=model), ids, sample, arrays),
        "tokens": _tokens(of.rows("token_attention", model=model), pairs, order[:kept], kept / len(pairs), arrays),
        "verification": _rows(
            of.rows("verification", model=model),
            "sites split replacement n_sites accuracy_before accuracy_after plain_before plain_after p_random",
        ),
        "restoration": _rows(
            _in_words(of.rows("restoration", model=model)),
            "kind split intervention words conflict_before conflict_after plain_before plain_after restored q "
            "restoring",
        ),
        "saved": _saved(of, model),
        "restored": _restored(of.rows("restored_pairs", model=model), ids),
    }


def _sites(rows: pd.DataFrame, written: pd.DataFrame) -> pd.DataFrame:
    """Heads and MLPs of a model, layer by layer: with their effects, or as tracing alone knows them."""
    if not len(rows) and len(written):
        rows = written[["layer", "kind", "head"]].drop_duplicates()
    rows = rows[rows["kind"].isin(["head", "mlp"])] if len(rows) else rows
    rows = rows.sort_values(["layer", "kind", "head"]) if len(rows) else rows
    return rows.assign(name=[site_name(row) for _, row in rows.iterrows()]) if len(rows) else rows


def _keys(rows: pd.DataFrame) -> np.ndarray:
    """One whole number for each site, the same in every table."""
    heads = rows["head"].astype("Float64").fillna(NO_HEAD).to_numpy(np.int64)
    return rows["layer"].to_numpy(np.int64) * 100_000 + heads


def _dense(rows: pd.DataFrame, ids: pd.Index, keys: pd.Index, shape: tuple[int, int], column: str) -> Sides:
    """``{side: values [pair, site]}``, NaN where the table has none."""
    rows = rows[rows["kind"].isin(["head", "mlp"])] if len(rows) else rows
    found = {}
    for side, here in rows.groupby("side", sort=False) if len(rows) else ():
        values = np.full(shape, np.nan)
        _put(values, [(ids, here["pair"]), (keys, _keys(here))], here[column])
        found[str(side)] = values
    return found


def _put(
    values: np.ndarray, axes: Sequence[tuple[pd.Index, pd.Series | pd.Index | np.ndarray]], given: pd.Series
) -> None:
    """Writes ``given`` where its labels stand on each axis; rows with a label that no axis has are left out."""
    places = [index.get_indexer(pd.Index(labels)) for index, labels in axes]
    known = np.all([place >= 0 for place in places], axis=0)
    values[tuple(place[known] for place in places)] = given.to_numpy(float)[known]


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis, pairs, of what is known; NaN where nothing is."""
    known = np.isfinite(values).sum(axis=0)
    return np.where(known > 0, np.nansum(values, axis=0) / np.maximum(known, 1), np.nan)


def _lens(rows: pd.DataFrame, ids: pd.Index, sample: np.ndarray, arrays: _Arrays) -> Json:
    if not len(rows):
        return None
    places = rows[["layer", "sublayer", "depth"]].drop_duplicates().sort_values("depth", kind="stable")
    order = pd.MultiIndex.from_frame(places[["layer", "sublayer"]])
    sides: dict[str, Json] = {}
    for side, here in rows.groupby("side", sort=False):
        values = np.full((len(ids), len(places)), np.nan)
        at = pd.MultiIndex.from_frame(here[["layer", "sublayer"]])
        _put(values, [(ids, here["pair"]), (order, at)], here["margin"])
        sides[str(side)] = arrays.add(values[sample])
    return {"places": _rows(places, "layer sublayer depth"), "sides": sides}


def _attention(rows: pd.DataFrame, ids: pd.Index, sample: np.ndarray, arrays: _Arrays) -> Json:
    """From the last position to each role, by head: of the pairs in the sample, and the mean over all pairs."""
    if not len(rows):
        return None
    heads = rows[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"])
    keys, roles = pd.Index(_keys(heads)), pd.Index(rows["role"].unique())
    sides: dict[str, Json] = {}
    mean: dict[str, Json] = {}
    for side, here in rows.groupby("side", sort=False):
        values = np.full((len(ids), len(heads), len(roles)), np.nan)
        _put(values, [(ids, here["pair"]), (keys, _keys(here)), (roles, here["role"])], here["weight"])
        sides[str(side)] = arrays.add(values[sample], "uint8")
        mean[str(side)] = arrays.add(_mean(values), "uint8")
    names = [site_name(row) for _, row in heads.assign(kind="head").iterrows()]
    return {"heads": names, "roles": [visible(role) for role in roles], "sides": sides, "mean": mean}


def _tokens(rows: pd.DataFrame, pairs: Sequence[Pair], order: np.ndarray, share: float, arrays: _Arrays) -> Json:
    """From the last position to each token, by head: of this share of the table's pairs, the first in ``order``."""
    there = set(rows["pair"]) if len(rows) else set()
    chosen = np.sort([i for i in order if pairs[i].id in there][: math.ceil(share * len(there))])
    if not len(chosen):
        return None
    heads = pd.MultiIndex.from_frame(rows[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"]))
    of_prompt = dict(iter(rows.groupby(["pair", "side"], sort=False)))
    sides: dict[str, Json] = {}
    for side in rows["side"].unique():
        prompts = [{each.side: each.prompt for each in pairs[i].sides()}[side] for i in chosen]
        cut = [
            cut_prompt(prompt, of_prompt.get((pairs[i].id, side), rows.iloc[:0]), heads)
            for i, prompt in zip(chosen, prompts, strict=True)
        ]
        starts = np.cumsum([0, *(each.weights.size for each in cut)])
        sides[str(side)] = {
            "prompts": [
                {"pieces": each.pieces, "roles": each.roles, "at": int(at)}
                for each, at in zip(cut, starts[:-1], strict=True)
            ],
            "weights": arrays.add(np.concatenate([each.weights.ravel() for each in cut]), "uint8"),
        }
    names = [site_name(row) for _, row in heads.to_frame().assign(kind="head").iterrows()]
    return {"pairs": chosen.tolist(), "of": len(there), "heads": names, "sides": sides}


def _in_words(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(words=[change_words(text) for text in rows["intervention"]]) if len(rows) else rows


def _saved(of: TaskRows, model: str) -> list[Json]:
    """The kinds of which the run saved an intervention: the best that needs the spans of roles, the best other one."""
    if of.restored is None:
        return []
    rows = of.restored[of.restored["model"] == model]
    best = [best_change(rows, "roles"), best_change(rows, "nothing")]
    return [str(row["kind"]) for row in best if row is not None]


def _restored(rows: pd.DataFrame, ids: pd.Index) -> list[Json]:
    """Of each kind of intervention and half of the pairs: both margins of every pair, as they are and with it."""
    found: list[Json] = []
    for (kind, split), here in rows.groupby(["kind", "split"], sort=False) if len(rows) else ():
        both = here.pivot(index="pair", columns="side", values=["margin_before", "margin_after"])
        both = both.loc[ids[ids.isin(both.index)]]
        margins: dict[str, Json] = {
            str(side): [[_plain(was), _plain(now)] for was, now in both.xs(side, level="side", axis=1).to_numpy()]
            for side in here["side"].unique()
        }
        places = ids.get_indexer(both.index).tolist()
        found.append({"kind": str(kind), "split": str(split), "pairs": places, "margins": margins})
    return found
