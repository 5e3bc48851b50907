"""Planted models: GPT-NeoX models in which prompt-following and override stand in known sites, by construction.

    python -m isp_mech.ladder.planted_models --out DIR      # a checkpoint folder for each, with its planted.json

A prompt defines a word anew ("Redefine lamp as 462.") and asks for its first digit; each word has another digit
in the models' memory. A planted head attends from the last token to the definition's digit, or to the word, and
writes the digit it finds there towards the answer; a planted MLP does so with what stands at the last token, or
what a planted head moved there. What a site writes times its strength is all that decides: where memory's sites
are stronger together, the definition is overridden. Every other head and MLP has random weights, which read
nothing of digits and of words, and write on the answer only as noise does. What a locator finds is held against
``Plant.sites``, and on ``null_model`` against nothing.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from tokenizers import Tokenizer
from torch import Tensor

from isp_mech.ladder.tokenizer import end_token, load_tokenizer, write_json, write_tokenizer
from isp_mech.ladder.train import make_model
from isp_mech.sites import parse_site
from isp_mech.tasks import Pair, PairSet, compose

WIDTH, HEADS, D_HEAD, DIGITS = 96, 6, 16, 10
ASKS, IS_DEFINITION, IS_WORD, BALANCE = 0, 1, 2, 3
DEFINED, REMEMBERED, HELD_DEFINED, HELD_REMEMBERED, OUT = (slice(a, a + DIGITS) for a in range(4, 54, DIGITS))
PAD, NOISE = (54, 55), slice(56, WIDTH)
NORM, NOISE_NORM = 4.0, 2.0  # of every token's embedding, and of the part of it that the other sites read
SCALE = WIDTH**0.5 / NORM  # what the first LayerNorm multiplies with
SHARP = 6.0  # of a planted head's query and key: it sees nothing but what it looks for
NOISE_WRITE, NOISE_OUT = 0.15, 0.05  # of the other sites: on each other, and on the answer
LOGIT = 4.0
N_WORDS, LEAST_LETTERS = 120, 4

READS = {  # what a planted site reads: the tokens a head looks for, and the coordinates it copies
    "definition": (IS_DEFINITION, DEFINED),
    "memory": (IS_WORD, REMEMBERED),
    "held definition": (None, HELD_DEFINED),
    "held memory": (None, HELD_REMEMBERED),
}
HOLDS = {"definition": HELD_DEFINED, "memory": HELD_REMEMBERED}


@dataclass(frozen=True)
class Wire:
    """One planted site: what it reads, and how strongly it writes it towards the answer.

    A head with ``holds`` moves it to the last token instead, for an MLP further up to read. An MLP reads what
    is held there, or ``memory`` of the last token itself.
    """

    site: str
    reads: str
    strength: float = 1.0
    holds: bool = False


@dataclass(frozen=True)
class Plant:
    """A planted model. ``ends_with_word``: its prompts end with the word that is asked for, not with " A:"."""

    name: str
    layers: int
    wires: tuple[Wire, ...]
    ends_with_word: bool = False
    seed: int = 0

    @property
    def sites(self) -> frozenset[str]:
        """Names of the sites in which all of it stands."""
        return frozenset(wire.site for wire in self.wires)

    @property
    def override(self) -> frozenset[str]:
        """Names of the sites that carry memory."""
        return frozenset(wire.site for wire in self.wires if wire.reads.endswith("memory"))


def _read_plants(path: Path) -> tuple[Plant, ...]:
    """Plants from a table: name, layers, whether prompts end with the word, and the wires (site, reads, strength)."""
    plants = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        name, layers, ends_with_word, *cells = line.split("\t")
        wires = []
        for cell in cells:
            site, reads, strength = cell.split(", ")
            wires.append(Wire(site, reads.removesuffix(" (holds)"), float(strength), reads.endswith("(holds)")))
        plants.append(Plant(name, int(layers), tuple(wires), ends_with_word == "yes"))
    return tuple(plants)


PLANTED = _read_plants(Path(__file__).with_name("planted_models.tsv"))
FOLLOW = PLANTED[0].wires[0]


def planted(name: str) -> Plant:
    """The plant of this name; ``ValueError`` names those there are."""
    named = {plant.name: plant for plant in PLANTED}
    if name not in named:
        raise ValueError(f"planted model {name!r}: expected one of {', '.join(named)}")
    return named[name]


def word_lists() -> tuple[list[str], list[str]]:
    """Words of one token each, from the ladder's tokenizer, none of the question's own: those that are asked for, and
    those that only stand about."""
    vocabulary = load_tokenizer().get_vocab()
    words = [token[1:] for token in vocabulary if token.startswith("Ġ") and token[1:].isalpha() and token[1:].islower()]
    words = sorted(word for word in words if len(word) >= LEAST_LETTERS and word not in ("first", "digit"))
    random.Random("words").shuffle(words)
    return words[:N_WORDS], words[N_WORDS:]


def remembered_digit(word: str) -> int:
    """The first digit that the planted models remember of a word, 1 to 9."""
    return random.Random(f"digit of {word}").randint(1, 9)


def planted_pairs(n: int, *, seed: int = 0, ends_with_word: bool = False) -> PairSet:
    """Pairs for the planted models: the word defined anew (conflict) or not (plain), among other words."""
    rng = random.Random(f"planted {seed}")
    words, others = word_lists()
    made = []
    for i in range(n):
        word = rng.choice(words)
        lure = remembered_digit(word)
        digit = rng.choice([d for d in range(1, 10) if d != lure])
        new = f"{digit}{rng.randint(0, 9)}{rng.randint(0, 9)}"
        before = f"Note: {' '.join(rng.choice(others) for _ in range(rng.randint(2, 8)))}. "
        asks = f"The first digit of {word}" if ends_with_word else f"Q: What is the first digit of {word}? A:"
        rest = [(asks, "question")]
        plain = compose([(before, ""), *rest])
        conflict = compose([(before, ""), (f"Redefine {word} as {new}. ", "definition"), *rest])
        made.append(Pair(f"planted-{i}", plain, conflict, f" {digit}", f" {lure}", "definition"))
    return PairSet("planted", tuple(made), seed=seed)


def plant_model(plant: Plant, folder: Path) -> Path:
    """Writes the model as a checkpoint folder that transformers reads, with the plant itself in ``planted.json``."""
    tokenizer = load_tokenizer()
    hf = _make(plant.layers, plant.seed)
    rng = torch.Generator().manual_seed(plant.seed)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        hf.gpt_neox.embed_in.weight[:] = _embeddings(tokenizer, rng)
        for digit in range(1, DIGITS):
            hf.lm_head.weight[tokenizer.encode(f" {digit}").ids[0], OUT.start + digit] = LOGIT
        for layer in hf.gpt_neox.layers:
            _noise(layer, rng)
        for wire in plant.wires:
            site = parse_site(wire.site)
            layer = hf.gpt_neox.layers[site.layer]
            if site.head is None:
                _wire_mlp(layer.mlp, wire)
            else:
                _wire_head(layer.attention, site.head, wire)
    _write(hf, folder)
    write_json(folder / "planted.json", asdict(plant))
    return folder


def null_model(folder: Path, *, seed: int, layers: int = 3) -> Path:
    """Writes a model with nothing in it: random weights, large enough that heads look at different tokens."""
    hf = _make(layers, seed)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if parameter.ndim == 2 and "layers" in name:
                parameter.mul_(4.0)
    return _write(hf, folder)


def _make(layers: int, seed: int) -> Any:
    tokenizer = load_tokenizer()
    return make_model(layers, WIDTH, tokenizer.get_vocab_size(), end_token(tokenizer), seed).eval()


def _write(hf: Any, folder: Path) -> Path:
    hf.save_pretrained(folder)
    write_tokenizer(load_tokenizer(), folder)
    return folder


def _embeddings(tokenizer: Tokenizer, rng: torch.Generator) -> Tensor:
    """(vocab, d_model): features and noise, each row of mean zero and norm ``NORM``, so that all are scaled alike."""
    rows = torch.zeros(tokenizer.get_vocab_size(), WIDTH)
    noise = torch.randn(len(rows), NOISE.stop - NOISE.start, generator=rng)
    noise -= noise.mean(1, keepdim=True)
    rows[:, NOISE] = NOISE_NORM * noise / noise.norm(dim=1, keepdim=True)
    for digit in range(1, DIGITS):
        token = tokenizer.encode(f" {digit}").ids[0]
        rows[token] = 0.0  # no noise, by which the other sites could tell one digit from another
        rows[token, IS_DEFINITION] = rows[token, DEFINED.start + digit] = 1.0
    for word in word_lists()[0]:
        token = tokenizer.encode(f" {word}").ids[0]
        rows[token] = 0.0
        rows[token, IS_WORD] = rows[token, REMEMBERED.start + remembered_digit(word)] = rows[token, ASKS] = 1.0
    rows[tokenizer.encode(":").ids[0], ASKS] = 1.0
    rows[:, BALANCE] = -rows.sum(1)
    rest = ((NORM**2 - rows.square().sum(1)) / 2).sqrt()
    rows[:, PAD[0]], rows[:, PAD[1]] = rest, -rest
    return rows


def _noise(layer: Any, rng: torch.Generator) -> None:
    """Random weights for all heads and the MLP of a layer, from noise to noise, and a little on the answer."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    width = NOISE.stop - NOISE.start
    layer.attention.query_key_value.weight[:, NOISE] = normal(3 * WIDTH, width) / width**0.5
    layer.mlp.dense_h_to_4h.weight[:, NOISE] = normal(4 * WIDTH, width) / width**0.5
    for out in (layer.attention.dense.weight, layer.mlp.dense_4h_to_h.weight):
        out[NOISE] = NOISE_WRITE * normal(width, out.shape[1]) / D_HEAD**0.5
        out[OUT] = NOISE_OUT * normal(DIGITS, out.shape[1]) / D_HEAD**0.5


def _wire_head(attention: Any, head: int, wire: Wire) -> None:
    """From the token that asks to those it looks for: their digits, copied to the answer or held for an MLP."""
    sees, source = READS[wire.reads]
    q, k, v = attention.query_key_value.weight.view(HEADS, 3, D_HEAD, WIDTH)[head]
    out = attention.dense.weight[:, head * D_HEAD : (head + 1) * D_HEAD]
    for part in (q, k, v, out):
        part.zero_()
    slowest = D_HEAD // 2 - 1  # the pair of dimensions that rotates least
    q[slowest, ASKS] = k[slowest, sees] = SHARP
    v[:DIGITS, source] = torch.eye(DIGITS) / SCALE
    out[HOLDS[wire.reads] if wire.holds else OUT, :DIGITS] = wire.strength * torch.eye(DIGITS)


def _wire_mlp(mlp: Any, wire: Wire) -> None:
    """Digits at its own token, copied to the answer: gelu(x) - gelu(-x) = x."""
    _, source = READS[wire.reads]
    into, out = mlp.dense_h_to_4h.weight, mlp.dense_4h_to_h.weight
    into[: 2 * DIGITS], out[:, : 2 * DIGITS] = 0.0, 0.0
    for half, sign in ((slice(DIGITS), 1.0), (slice(DIGITS, 2 * DIGITS), -1.0)):
        into[half, source] = sign * torch.eye(DIGITS)
        out[OUT, half] = sign * wire.strength / SCALE * torch.eye(DIGITS)


@dataclass(frozen=True)
class Found:
    """What a locator found of a plant. ``first`` is the planted site's name that ranks highest by absolute effect,
    ``rank`` its rank (1 is the best); ``recall`` the share of planted sites that are significant, ``false_alarms``
    the share of the others; ``roc_auc`` the area under the ROC of absolute effects over all sites."""

    first: str
    rank: int
    recall: float
    false_alarms: float
    roc_auc: float


def held_against(plant: Plant, sites: Sequence[str], effect: ArrayLike, significant: ArrayLike) -> Found:
    """A locator's sites, their effects and which of them it calls significant, held against the plant."""
    size, called = np.abs(np.asarray(effect, dtype=float)), np.asarray(significant, dtype=bool)
    true = np.array([site in plant.sites for site in sites])
    order = np.argsort(-size, kind="stable")
    rank = int(np.flatnonzero(true[order])[0])
    above = (size[true][:, None] > size[~true]) + 0.5 * (size[true][:, None] == size[~true])
    return Found(
        sites[order[rank]], rank + 1, float(called[true].mean()), float(called[~true].mean()), float(above.mean())
    )


def main(arguments: Sequence[str] | None = None) -> int:
    about = "Writes the planted models."
    parser = argparse.ArgumentParser(prog="python -m isp_mech.ladder.planted_models", description=about)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the checkpoint folders")
    out = parser.parse_args(arguments).out
    for plant in PLANTED:
        print(plant_model(plant, out / plant.name))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
