"""A model made by hand in which an override stands in a known head.

The stream has a coordinate for each of a few features, and a direction ``u`` on which the margin is
read. Tokens: ``m``/``n`` define x/y, ``p``/``q`` are cues that memory links to x/y, ``:`` asks.
Head a0.h1 attends to the definition and writes it on u, a0.h3 attends to the cue and writes it at half
the strength: so a definition is followed, and without one the cue decides. Head a1.h2 writes the cue
once more, as strongly as wanted: the override. Every other head and every MLP writes nothing.
"""

from __future__ import annotations

import torch
from small_models import make_hf

from isp_mech.models import Model, wrap_model
from isp_mech.tasks import Pair, PairSet, compose

ASKS, IS_DEFINITION, IS_CUE, DEFINES, CUES = range(5)
U = (8, 9)  # u = e8 - e9, which a LayerNorm's centring leaves alone
BALANCE, PAD = 10, (12, 13)
FEATURES = {
    ":": {ASKS: 1.0},
    "m": {IS_DEFINITION: 1.0, DEFINES: 1.0},
    "n": {IS_DEFINITION: 1.0, DEFINES: -1.0},
    "p": {IS_CUE: 1.0, CUES: 1.0},
    "q": {IS_CUE: 1.0, CUES: -1.0},
}


def overridden(tokenizer, *, strength: float, name: str) -> Model:
    """The model of the docstring, its override ``strength`` times as strong as the definition."""
    hf = make_hf("neox-serial", layers=2)
    with torch.no_grad():
        for parameter_name, parameter in hf.named_parameters():
            parameter.fill_(1.0 if "norm" in parameter_name and parameter_name.endswith("weight") else 0.0)
        hf.gpt_neox.embed_in.weight[:] = embedding({})
        for letter, features in FEATURES.items():
            (token,) = tokenizer(letter).input_ids
            hf.gpt_neox.embed_in.weight[token] = embedding(features)
        for letter, sign in (("x", 1.0), ("y", -1.0)):
            (token,) = tokenizer(letter).input_ids
            hf.lm_head.weight[token, U[0]], hf.lm_head.weight[token, U[1]] = sign, -sign
        wire(hf, layer=0, head=1, sees=IS_DEFINITION, reads=DEFINES, gain=1.0)
        wire(hf, layer=0, head=3, sees=IS_CUE, reads=CUES, gain=0.5)
        wire(hf, layer=1, head=2, sees=IS_CUE, reads=CUES, gain=strength)
    return wrap_model(hf, tokenizer, name=name)


def embedding(features: dict[int, float]) -> torch.Tensor:
    """Mean zero and norm 4 whatever the features, so that a LayerNorm scales every token alike."""
    vector = torch.zeros(32)
    for place, value in features.items():
        vector[place] = value
    vector[BALANCE] = -vector.sum()
    rest = (16 - vector.square().sum()) / 2
    vector[PAD[0]], vector[PAD[1]] = rest.sqrt(), -rest.sqrt()
    return vector


def wire(hf, *, layer: int, head: int, sees: int, reads: int, gain: float) -> None:
    """One head that attends from the asking token to tokens with feature ``sees`` and writes ``reads`` on u."""
    attention = hf.gpt_neox.layers[layer].attention
    q, k, v = (attention.query_key_value.weight.view(4, 3, 8, 32)[head, part] for part in range(3))
    q[3, ASKS] = k[3, sees] = 6.0  # the pair of dimensions that rotates least
    v[0, reads] = 1.0
    attention.dense.weight[U[0], 8 * head], attention.dense.weight[U[1], 8 * head] = gain, -gain


def letter_pairs(n: int) -> PairSet:
    """Prompts such as "00m1p:", in which m defines x and p is the cue for x; plain ones lack the definition."""
    made = []
    for i in range(n):
        cue, lure = ("p", "x") if i % 2 else ("q", "y")
        definition, answer = ("n", "y") if i % 2 else ("m", "x")
        rest = [("0" * (1 + i % 7), ""), (f"1{cue}", "question"), ("2" * (i // 7), ""), (":", "")]
        made.append(
            Pair(f"p{i}", compose(rest), compose([(definition, "definition"), *rest]), answer, lure, "definition")
        )
    return PairSet("letters", tuple(made))
