"""Tables of two sizes and five pairs in which every value is known, for the page that can be asked."""

from __future__ import annotations

import re

import numpy as np

from isp_mech.tables import make_run, table
from isp_mech.tasks import Pair, compose

TASK = "quote-repetition"
HOSTILE = (
    "</script><script>document.title='ran'</script><!-- <img src=x onerror=\"document.title='ran'\"> \x1b[31m\u202e ="
)
MODELS = [("tiny-1k", 1_000), ("tiny-2k", 2_000)]
SITES = [("a0.h0", 0, "head", 0), ("a0.h1", 0, "head", 1), ("m0", 0, "mlp", None), ("a1.h0", 1, "head", 0)]
SITES += [("a1.h1", 1, "head", 1), ("m1", 1, "mlp", None)]
NAMES = ["p0", "p1", "p2", "=3+4", "p4"]
N = len(NAMES)
RUN = make_run(model="tiny", task=TASK, method="synthetic", seed=0)
START = "<start>"  # a token that stands for no character
TRACED = 4  # pairs whose attention is known token by token: all but the last
# of these interventions block is the one that is saved
KINDS = {"block": "block(instruction; layers=all; heads=all)", "scale": "scale(a0.h1; alpha=0.0; at=onward)"}


def pair(i):
    def prompt(word):
        return compose([("𝛑 Repeat. ", "instruction"), (f"{HOSTILE} Input {i}: ", ""), (word, "modified_word")])

    return Pair(
        NAMES[i], prompt("well"), prompt(f"green{i}"), answer=f" green{i}", lure=" well", factor="modified_word"
    )


PAIRS = [pair(i) for i in range(N)]


def effect(model, i, site, scale=1.0):
    """A known value for every model, pair and site, none of them the same."""
    return scale * (-1.0) ** site * (1 + model + 0.1 * ((i * 7 + site) % 5) + 0.01 * (site % 5) + 0.001 * i)


def margin(model, i, side):
    """In the larger model pair 0 is overridden."""
    right = not (model == 1 and i == 0 and side == "conflict")
    return (1 if right else -1) * (1.5 + i) * (1 if side == "conflict" else -1)


def tokens(prompt):
    """A start token, then words with what stands before them: (start, stop, text)."""
    words = [(*match.span(), match[0]) for match in re.finditer(r"\s*\S+|\s+$", prompt.text)]
    return [(0, 0, START), *words]


def looks(model, head, n):
    """Where a head looks: 0.6 at its own place (one a head), the rest at the last token; nowhere else."""
    weights = np.zeros(n)
    weights[(model + head) % (n - 1)] = 0.6
    weights[-1] = 0.4
    return weights


def made():
    """The tables by name."""
    names = "curve shares items sites effects direct_effects lens attention token_attention restoration restored_pairs"
    tables = {name: [] for name in names.split()}
    for m, (model, n_params) in enumerate(MODELS):
        head = {"model": model, "n_params": n_params, "task": TASK}
        for side in ("conflict", "plain"):
            between = {"accuracy_lo": 0.1, "accuracy_hi": 0.95, "loss": 1.0, "loss_lo": 0.9, "loss_hi": 1.1}
            more = {"coverage": 0.5, "ties": 0, "n": N, "baseline": None}
            tables["curve"].append({**head, "side": side, "accuracy": 0.9 - 0.4 * m, **between, **more})
        shares = {"follows": 0.8, "overridden": 0.2, "contrary": 0.0, "lost": 0.0}
        ends = {f"{name}_{end}": 0.1 for name in shares for end in ("lo", "hi")}
        tables["shares"].append({**head, **shares, **ends, "n": N})
        for i in range(N):
            for side in ("conflict", "plain"):
                right = not (m == 1 and i == 0 and side == "conflict")
                row = {"item": NAMES[i], "side": side, "correct": right, "predicted_index": 0, "loss": 0.5}
                known = {"total_logprob": -1.0, "margin": margin(m, i, side), "tie": False}
                tables["items"].append({**head, **row, **known})
                for layer, sublayer, depth in ((-1, "embed", 0.0), (0, "mlp", 0.5), (1, "mlp", 1.0)):
                    where = {"pair": NAMES[i], "side": side, "layer": layer, "sublayer": sublayer, "depth": depth}
                    tables["lens"].append({**head, **where, "margin": margin(m, i, side) * depth})
                for s, (_, layer, kind, number) in enumerate(SITES):
                    where = {"pair": NAMES[i], "side": side, "layer": layer, "kind": kind, "head": number}
                    direct = {"replacement": "", "effect": None, "direct_effect": effect(m, i, s, 0.5)}
                    tables["direct_effects"].append({**head, **where, **direct, "measured": "exact"})
                    if side == "conflict":
                        total = {
                            "replacement": "mean",
                            "effect": effect(m, i, s),
                            "direct_effect": effect(m, i, s, 0.25),
                        }
                        tables["effects"].append({**head, **where, **total, "measured": "exact"})
                    if kind == "head":
                        looked = {"pair": NAMES[i], "side": side, "layer": layer, "head": number}
                        for role, weight in (("instruction", 0.7), ("modified_word", 0.2), ("other", 0.1)):
                            tables["attention"].append({**head, **looked, "role": role, "weight": weight})
                        if i < TRACED:
                            tables["token_attention"] += [head | looked | row for row in token_rows(m, i, side, s)]
                for kind, after in (("block", 2.5), ("scale", 0.5)):
                    split = {"kind": kind, "split": "half_a" if i % 2 else "half_b", "pair": NAMES[i], "side": side}
                    was = {"margin_before": margin(m, i, side), "margin_after": margin(m, i, side) + after}
                    tables["restored_pairs"].append({**head, **split, **was})
        for s, (_, layer, kind, number) in enumerate(SITES):
            mean = float(np.mean([effect(m, i, s) for i in range(N)]))
            known = {"effect": mean, "effect_lo": mean - 0.1, "effect_hi": mean + 0.1, "direct_effect": mean / 4}
            tested = {"p": 0.01, "q": 0.02, "significant": s == 0, "measured": "exact"}
            tables["sites"].append({**head, "layer": layer, "kind": kind, "head": number, **known, **tested})
        tables["restoration"] += [head | row for kind in KINDS for row in restoration_rows(kind)]
    names = {"direct_effects": "effects"}
    return {name: table(names.get(name, name), rows, RUN) for name, rows in tables.items()}


def token_rows(model, i, side, site):
    found = tokens(getattr(PAIRS[i], side))
    for place, weight in enumerate(looks(model, site, len(found))):
        if weight:
            start, stop, text = found[place]
            yield {"token": place, "start": start, "stop": stop, "text": text, "weight": weight}


def restoration_rows(kind):
    means = "conflict_before conflict_after gain plain_before plain_after neutral_before neutral_after neutral_kl"
    known = dict.fromkeys([*means.split(), "restored", "broken"], 0.5)
    ends = {f"{name}_{end}": 0.5 for name in known for end in ("lo", "hi")}
    needs = {"block": "spans of instruction", "scale": "nothing"}
    told = {"kind": kind, "intervention": KINDS[kind], "needs": needs[kind],
            "saved": "{}", "n_sites": 1, "n_layers": 1, "n_tokens": 1.0, "n": 3, "n_overridden": 1, "n_random": 20,
            "restored_random": 0.0, "p": 0.01, "q": 0.02, "restoring": kind == "block"}  # fmt: skip
    return [{**known, **ends, **told, "split": split} for split in ("half_b", "half_a")]


TABLES = made()
