"""Every kind of decoder that transformers has and TransformerLens knows, small, held against plain transformers.

    python experiments/architectures.py [--out FOLDER] [--docs docs/models.md] [NAME ...]

For each: scores of both completions, the lens after every sublayer, direct effects, attention by role, and the total
effects of six sites. A row says, for each of these, the largest gap or the message by which it was refused.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd
import torch
from pages import put
from plain_transformers import Plain, Seen
from tiny_architectures import ARCHITECTURES, byte_tokenizer, make
from torch import Tensor
from transformers import AutoTokenizer

import isp_mech as im
from isp_mech.tasks import Pair, PairSet, compose

OUT = Path("reports/architectures")
PAIRS = 3
LIMIT = 1e-4  # nats (weights of attention: shares), or that part of the values' size where they are larger than one
MEASURED = ("scores", "lens", "direct effects", "attention", "total effects")
WORDS = {"attention": "attention by role"}  # how notes call what is measured
COMPLETIONS = ((" 4", " 3"), (" pango", " man plays"), (" a man", " many men"))
MARKS = "<!-- architectures -->", "<!-- end of architectures -->"

Values = dict[tuple[Any, ...], float]


def make_pairs(n: int = PAIRS) -> PairSet:
    """Pairs with completions of one token and of several, and prompts of several lengths."""
    made = []
    for i in range(n):
        answer, lure = COMPLETIONS[i % len(COMPLETIONS)]
        question = [("Q: What is ", ""), ("the first digit", "question"), (f" of pi{'!' * (5 * i)}? A:", "")]
        conflict = compose([(f"Redefine pi as {462 + i}. ", "definition"), *question])
        made.append(Pair(f"p{i}", compose(question), conflict, answer, lure, "definition"))
    return PairSet("redefine", tuple(made))


# --- by plain transformers ----------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A prompt with both completions as tokens: where they begin, the first that differs, the prompt's roles."""

    answer: list[int]
    lure: list[int]
    start: int
    cut: int
    roles: list[str]

    @property
    def at(self) -> int:
        """The decision position: it predicts the first token that differs."""
        return self.cut - 1


class Reference:
    """One model's numbers by plain transformers, on the same pairs."""

    def __init__(self, hf: Any, tokenizer: Any, pairs: PairSet) -> None:
        self.plain, self.pairs = Plain(hf), pairs
        self.asked = {(p.id, side): _asked(tokenizer, p, side) for p in pairs for side in ("plain", "conflict")}
        self.layers = range(len(self.plain.blocks))

    def conflict(self, *, weights: bool = False) -> Iterator[tuple[str, Asked, Seen]]:
        """Each pair's conflict prompt, run with its answer: what is read stands before the first token that differs."""
        for pair in self.pairs:
            asked = self.asked[pair.id, "conflict"]
            yield pair.id, asked, self.plain.run(asked.answer, weights=weights)

    def scores(self) -> Values:
        return {
            (*key, right): self.plain.logprob(ids, asked.start)
            for key, asked in self.asked.items()
            for right, ids in (("answer", asked.answer), ("lure", asked.lure))
        }

    def lens(self) -> Values:
        out: Values = {}
        for pair, asked, seen in self.conflict():
            ids, at = asked.answer, asked.at
            stream = {(-1, "embed"): seen.before[0]}
            for layer in self.layers:
                stream[layer, "attn"] = seen.after[layer] - self.plain.mlp_write(ids, layer, seen)
                stream[layer, "mlp"] = seen.after[layer]
            for (layer, sublayer), states in stream.items():
                logits = self.plain.lens(states[at][None], seen)[0]
                out[pair, layer, sublayer] = float(logits[asked.answer[asked.cut]] - logits[asked.lure[asked.cut]])
        return out

    @torch.no_grad()
    def direct(self) -> Values:
        out: Values = {}
        for pair, asked, seen in self.conflict():
            ids, at, weight = asked.answer, asked.at, self.plain.head.weight
            read = (weight[asked.answer[asked.cut]] - weight[asked.lure[asked.cut]]) * self.plain.logit_scale(seen)
            whole = seen.after[self.layers[-1]][at]
            for layer in self.layers:
                mlp = self.plain.mlp_write(ids, layer, seen)
                out[pair, "mlp", layer, -1] = float(read @ self.plain.linear(mlp[at], whole))
                if layer in seen.heads:
                    attn = seen.after[layer] - seen.before[layer] - mlp
                    for head, write in enumerate(self.plain.head_writes(seen, attn, layer, at)):
                        out[pair, "head", layer, head] = float(read @ self.plain.linear(write, whole))
        return out

    def attention(self) -> Values:
        out: Values = {}
        for pair, asked, seen in self.conflict(weights=True):
            names = list(dict.fromkeys([*asked.roles, "other"]))
            roles = [*asked.roles, *["other"] * (len(asked.answer) - asked.start)]
            for layer, weights in seen.weights.items():
                for head, row in enumerate(weights[:, asked.at]):
                    for role in names:
                        inside = torch.tensor([r == role for r in roles])
                        out[pair, layer, head, role] = float(row[inside].sum())
        return out

    def total(self) -> Values:
        """Of two heads and an MLP in the first and the last layer that has attention, replaced by the others' mean."""
        seen = {pair: (asked, run) for pair, asked, run in self.conflict()}
        having = [layer for layer in self.layers if layer in next(iter(seen.values()))[1].heads]
        ends = dict.fromkeys((having[0], having[-1]))
        sites = [(layer, head) for layer in ends for head in (0, self.plain.n_heads - 1, None)]
        out: Values = {}
        for layer, head in sites:
            own = {pair: self._output(layer, head, *both) for pair, both in seen.items()}
            for pair, (asked, _) in seen.items():
                others = torch.stack([value for other, value in own.items() if other != pair]).mean(0)
                change = self.plain.replace(layer, head, asked.at, others, own[pair])
                before, after = (self._margin(asked, c) for c in (None, change))
                out[pair, "mlp" if head is None else "head", layer, -1 if head is None else head] = before - after
        return out

    def _output(self, layer: int, head: int | None, asked: Asked, seen: Seen) -> Tensor:
        if head is not None:
            return seen.heads[layer][asked.at].view(self.plain.n_heads, -1)[head]
        return self.plain.mlp_value(asked.answer, layer, seen)[asked.at]

    def _margin(self, asked: Asked, change: Callable[[Plain], list[Any]] | None) -> float:
        answer, lure = (self.plain.logprob(ids, asked.cut, change) for ids in (asked.answer, asked.lure))
        return answer - lure


def _asked(tokenizer: Any, pair: Pair, side: str) -> Asked:
    prompt = getattr(pair, side)
    answer, lure, alone = (list(tokenizer(prompt.text + c)["input_ids"]) for c in (pair.answer, pair.lure, ""))
    spans = tokenizer(prompt.text, return_offsets_mapping=True)["offset_mapping"]
    of_character = ["other"] * len(prompt.text)
    for role, inside in prompt.roles.items():
        for a, b in inside:
            of_character[a:b] = [role] * (b - a)
    roles = [max(dict.fromkeys(of_character[a:b]), key=of_character[a:b].count) for a, b in spans]
    cut = next(i for i, (x, y) in enumerate(zip(answer, lure, strict=False)) if x != y)
    return Asked(answer, lure, len(alone), cut, roles)


# --- by the library -----------------------------------------------------------------------------


class Ours:
    """The same numbers by the library, keyed alike."""

    def __init__(self, folder: Path, pairs: PairSet) -> None:
        self.model, self.pairs = im.load_model(folder), pairs

    def scores(self) -> Values:
        frame = im.score(self.pairs, self.model).scores.frame
        lures = {pair.lure for pair in self.pairs}
        return {(r.item, r.side, "lure" if r.class_text in lures else "answer"): r.logprob for r in frame.itertuples()}

    @cached_property
    def traces(self) -> im.tracing.Traces:
        return im.trace(self.pairs, self.model)

    def reason(self, what: str) -> str:
        """Why nothing is in a table, by its Run's notes."""
        return next((n for n in self.traces.lens.run.notes if WORDS.get(what, what) in n), "nothing, without a word")

    def lens(self) -> Values:
        frame = self.traces.lens.frame.query("side == 'conflict'")
        return {(r.pair, r.layer, r.sublayer): r.margin for r in frame.itertuples()}

    def direct(self) -> Values:
        frame = self.traces.effects.frame.query("side == 'conflict'")
        return _by_site(frame[frame["kind"].isin(("head", "mlp"))], "direct_effect")

    def attention(self) -> Values:
        frame = self.traces.attention.frame.query("side == 'conflict'")
        return {(r.pair, r.layer, r.head, r.role): r.weight for r in frame.itertuples()}

    def total(self) -> Values:
        return _by_site(im.locate(self.pairs, self.model).effects.frame, "effect")


def _by_site(frame: pd.DataFrame, column: str) -> Values:
    heads = frame["head"].fillna(-1).astype(int)
    keys = zip(frame["pair"], frame["kind"], frame["layer"], heads, strict=True)
    return dict(zip(keys, frame[column], strict=True))


# --- the table ----------------------------------------------------------------------------------


@dataclass
class Row:
    """What came of one architecture: by what was measured, the largest gap, or a message."""

    name: str
    gaps: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.broken:
            return "traceback"
        return "wrong" if self.wrong else "refused" if not self.gaps else "in part" if self.refused else "right"


def measure(name: str, pairs: PairSet) -> Row:
    """One architecture."""
    row = Row(name)
    try:
        hf = make(name)
    except ImportError as error:
        row.refused |= dict.fromkeys(MEASURED, f"not made here: {str(error).strip().splitlines()[0]}")
        return row
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / name.replace(":", "-")
        hf.save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        plain = type(hf).from_pretrained(folder, dtype=torch.float32)
        reference = Reference(plain, AutoTokenizer.from_pretrained(folder), pairs)
        ours = _attempt(row, MEASURED, lambda: Ours(folder, pairs))
        if ours is None:
            return row
        names = ("scores", "lens", "direct", "attention", "total")
        for what, method in zip(MEASURED, names, strict=True):
            found = _attempt(row, (what,), getattr(ours, method))
            if found == {}:
                row.refused[what] = ours.reason(what)
            elif found is not None:
                _compare(row, what, found, getattr(reference, method)())
    return row


def _attempt(row: Row, whats: Sequence[str], run: Callable[[], Any]) -> Any:
    try:
        return run()
    except im.InputError as error:
        row.refused |= dict.fromkeys(whats, str(error))
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__} in {Path(at.filename).name}:{at.lineno}: {str(error).splitlines()[:1]}"
        row.broken |= dict.fromkeys(whats, text)
    return None


def _compare(row: Row, what: str, found: Mapping[tuple[Any, ...], float], want: Values) -> None:
    missing = [key for key in want if key not in found]
    if missing or not want:
        row.wrong[what] = f"{len(missing)} of {len(want)} are missing, {missing[:1]}"
        return
    ours, plain = (np.array([float(values[key]) for key in want]) for values in (found, want))
    gap = float(np.abs(ours - plain).max())
    row.gaps[what] = gap
    if not gap <= LIMIT * max(1.0, float(np.abs(plain).max())):
        worst = list(want)[int(np.abs(ours - plain).argmax())]
        row.wrong[what] = f"{gap:.2g} at {worst}: {found[worst]:.5g}, plain {want[worst]:.5g}"


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """A line for each architecture and thing measured."""
    return pd.DataFrame(
        {
            "architecture": row.name,
            "verdict": row.verdict,
            "measured": what,
            "gap": row.gaps.get(what, np.nan),
            "message": row.broken.get(what) or row.wrong.get(what) or row.refused.get(what) or "",
        }
        for row in rows
        for what in MEASURED
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table of docs/models.md."""
    lines = ["| architecture | " + " | ".join(MEASURED) + " |", "|---" * (1 + len(MEASURED)) + "|"]
    reasons: dict[str, int] = {}
    for row in rows:
        cells = []
        for what in MEASURED:
            if what in row.gaps and what not in row.wrong:
                cells.append(f"{row.gaps[what]:.0e}")
            else:
                said = row.broken.get(what) or row.wrong.get(what) or row.refused[what]
                said = re.sub(r"^(trace: |locate: )?([\w-]+: )?", "", said, count=1)  # without the model's name
                cells.append(f"[{reasons.setdefault(said, len(reasons) + 1)}]")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{n}. {said}" for said, n in reasons.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in args.names:
        row = measure(name, make_pairs())
        rows.append(row)
        told = {**{k: f"{v:.1e}" for k, v in row.gaps.items()}, **row.refused, **row.wrong, **row.broken}
        print(f"{row.verdict:10} {name}: {told}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    frame_of(rows).to_parquet(args.out / "architectures.parquet")
    counts = pd.Series([row.verdict for row in rows]).value_counts().to_dict()
    print(counts)
    if args.docs:
        put(args.docs, MARKS, [markdown(rows)])


if __name__ == "__main__":
    main()
