"""Trains the ladder: one recipe, six sizes, the same tokens in the same order.

    python -m isp_mech.ladder.train                                  # the whole family, into the package
    python -m isp_mech.ladder.train --sizes ladder-25k --seed 1      # another seed, into runs/ladder/seed-1
    python -m isp_mech.ladder.train --null                           # three sizes without lures, beside the others

A training that was stopped goes on where it was; the same seed gives the same weights on the same device.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.utils import logging as transformers_logging

from isp_mech.errors import InputError
from isp_mech.ladder import corpus, evaluation, training_batches, weights_folder
from isp_mech.ladder.corpus import SHIPPED, Recipe
from isp_mech.ladder.optimizers import Optimiser, is_embedding, settings
from isp_mech.ladder.tokenizer import end_token, load_tokenizer, write_json, write_tokenizer

SIZES = {  # name: layers, width
    "ladder-25k": (2, 32),
    "ladder-100k": (2, 64),
    "ladder-335k": (3, 96),
    "ladder-800k": (4, 128),
    "ladder-1.8m": (4, 192),
    "ladder-4m": (5, 256),
}
NULL_SIZES = ("ladder-25k", "ladder-100k", "ladder-335k")
HEAD, HEADS = 16, 4  # dimensions of a head, all of them rotary, and the fewest heads: two heads of 16 copy badly
CONTEXT = 2048  # the prize's ten-shot prompts take about 700 tokens
STEPS = 2400
LOG_EVERY = 50  # steps, and then the state is saved: no more are lost where a training is stopped
EVALUATE_EVERY = 200  # a multiple of it
ATTENTION = "isp_mech_ladder"


def head_size(width: int) -> int:
    """Dimensions of a head: ``HEAD``, or fewer where that would leave fewer than ``HEADS`` heads."""
    return min(HEAD, width // HEADS)


def make_model(layers: int, width: int, vocabulary: int, end: int, seed: int) -> GPTNeoXForCausalLM:
    """A freshly initialised model: full rotary embedding, untied embeddings."""
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // head_size(width),
        intermediate_size=4 * width,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        bos_token_id=end,
        eos_token_id=end,
        use_cache=False,
        tie_word_embeddings=False,
    )
    return GPTNeoXForCausalLM(config)


def count_non_embedding(model: nn.Module) -> int:
    """Parameters but those of the embedding and the unembedding."""
    return sum(p.numel() for name, p in model.named_parameters() if not is_embedding(name))


def best_precision(device: str) -> str:
    """``bfloat16`` where the processor multiplies it natively (four times as fast), else ``float32``."""
    if device != "cpu":
        return "bfloat16"
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bfloat16" if has.get("avx512_bf16") or has.get("amx_bf16") else "float32"


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **others: object
) -> tuple[Tensor, None]:
    """Causal attention in float32 whatever the matrix products are in: on a CPU that is also the fastest."""
    with torch.autocast(query.device.type, enabled=False):
        out = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attend)


def products(kind: str, half: bool) -> AbstractContextManager[Any]:
    """Within it, matrix products on a device of this kind are in bfloat16 if ``half``."""
    return torch.autocast(kind, torch.bfloat16) if half else nullcontext()


def loss_of(model: GPTNeoXForCausalLM, tokens: Tensor, weights: Tensor, *, half: bool = False) -> Tensor:
    """Cross entropy in nats a token, of ``tokens`` (rows, positions + 1), averaged with their ``weights``."""
    with products(tokens.device.type, half):
        logits = model.lm_head(model.gpt_neox(tokens[:, :-1]).last_hidden_state)
    losses = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
    counts = weights[:, 1:].flatten()
    return (losses * counts).sum() / counts.sum()


def recipe_hash(tokenizer: Tokenizer, end: int, *, steps: int, precision: str, recipe: Recipe) -> str:
    """Twelve hex digits of the optimiser's settings and of the tokens of seven steps (so of corpus and tokenizer)."""
    digest = hashlib.sha256(repr((HEAD, HEADS, CONTEXT, steps, precision, recipe, settings())).encode())
    last_long = steps - steps % corpus.LONG_EVERY - 1
    for step in (0, steps // 4, steps // 3, 2 * steps // 5, steps // 2, last_long, steps - 1):
        for made in training_batches.batch(max(step, 0), tokenizer, end, recipe):
            digest.update(made.tobytes())
    return digest.hexdigest()[:12]


@dataclass
class Course:
    """How far a training has come: steps and tokens done, the log's rows, the latest losses."""

    step: int = 0
    tokens: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def note(self, measure: str, value: float, task: str = "", side: str = "") -> None:
        row = {"step": self.step, "tokens": self.tokens, "measure": measure, "task": task, "side": side, "value": value}
        self.log.append(row)

    def latest(self) -> dict[str, float]:
        """``{"task side": accuracy}`` of the last evaluation."""
        last = max((row["step"] for row in self.log if row["measure"] == "accuracy"), default=None)
        rows = (row for row in self.log if row["measure"] == "accuracy" and row["step"] == last)
        return {f"{row['task']} {row['side']}": row["value"] for row in rows}


def train_one(
    name: str,
    *,
    steps: int = STEPS,
    recipe: Recipe = SHIPPED,
    out: Path,
    device: str = "cpu",
    precision: str | None = None,
) -> Path:
    """Trains one size, or goes on with it; returns its folder ``out/name`` with weights, tokenizer and card.

    A folder that a training of the same recipe finished is left as it is. ``out/name.state`` (deleted at the
    end) is what a stopped training goes on from, bit for bit on one device; ``out/name/training.parquet`` has
    the course: loss, and accuracy of each task's sides. ``InputError`` where the state is one of another recipe.
    """
    layers, width = SIZES[name]
    tokenizer = load_tokenizer()
    end = end_token(tokenizer)
    precision = precision or best_precision(device)
    digest = recipe_hash(tokenizer, end, steps=steps, precision=precision, recipe=recipe)
    identity = {"recipe": digest, "steps": steps, "precision": precision, **asdict(recipe)}
    folder, state, course = out / name, out / f"{name}.state", Course()
    if _is_done(folder, identity):
        print(f"{name}: trained already, in {folder}", flush=True)
        return folder
    model = make_model(layers, width, tokenizer.get_vocab_size(), end, recipe.seed).to(device).train()
    model.config._attn_implementation = ATTENTION
    half = precision == "bfloat16"
    optimiser = Optimiser(model, steps=steps, width=width, head=head_size(width), half=half)
    out.mkdir(parents=True, exist_ok=True)
    if state.exists():
        saved = torch.load(state, weights_only=True, map_location=device)
        if saved["identity"] != identity:
            of = f"a training of {saved['identity']}"
            raise InputError(str(state), [f"{of}, expected {identity}; delete it to begin anew"])
        model.load_state_dict(saved["model"])
        optimiser.load(saved["optimiser"])
        course = Course(**saved["course"])
    pairs = evaluation.evaluation_pairs(tasks=evaluation.TASKS)
    since, began = course.tokens, time.time()
    for step in range(course.step, steps):
        tokens, weights = (torch.from_numpy(x).to(device) for x in training_batches.batch(step, tokenizer, end, recipe))
        loss = loss_of(model, tokens, weights, half=half)
        loss.backward()
        optimiser.step(step)
        course.step, course.tokens = step + 1, course.tokens + tokens[:, 1:].numel()
        course.losses = [*course.losses[1 - LOG_EVERY :], loss.item()]
        ended = course.step == steps
        if course.step % LOG_EVERY and not ended:
            continue
        mean = float(np.mean(course.losses))
        course.note("loss", mean)
        speed = (course.tokens - since) / (time.time() - began)
        done = f"{course.step}/{steps} {course.tokens / 1e6:.2f}M"
        print(f"{name} {done} loss {mean:.3f} {speed:.0f} tokens/s", flush=True)
        if course.step % EVALUATE_EVERY == 0 or ended:
            with products(torch.device(device).type, half):
                rows = evaluation.evaluate(model, pairs, lambda text: tokenizer.encode(text).ids, device)
            for row in rows:
                course.note("accuracy", row["accuracy"], row["task"], row["side"])
            print(f"{name} " + ", ".join(f"{key} {value:.2f}" for key, value in course.latest().items()), flush=True)
        trained = {"model": model.state_dict(), "optimiser": optimiser.state()}
        _save(state, {"identity": identity, "course": asdict(course), **trained})
    _export(model, folder, identity, course)
    state.unlink(missing_ok=True)
    return folder


def _is_done(folder: Path, identity: dict[str, Any]) -> bool:
    card = folder / "card.json"
    if not (card.is_file() and (folder / "model.safetensors").is_file()):
        return False
    trained = json.loads(card.read_text(encoding="utf-8"))
    return all(trained.get(key) == value for key, value in identity.items())


def _save(path: Path, state: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def _export(model: GPTNeoXForCausalLM, folder: Path, identity: dict[str, Any], course: Course) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().to(torch.float16).contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = model.config.to_dict() | {"architectures": ["GPTNeoXForCausalLM"], "dtype": "float16", "use_cache": True}
    write_json(folder / "config.json", config, sort_keys=True)
    write_tokenizer(load_tokenizer(), folder)
    pd.DataFrame(course.log).to_parquet(folder / "training.parquet", index=False)
    card = {
        "name": folder.name,
        "n_params_non_embedding": count_non_embedding(model),
        "n_params": sum(p.numel() for p in model.parameters()),
        "layers": model.config.num_hidden_layers,
        "width": model.config.hidden_size,
        "tokens": course.tokens,
        "loss": next(row["value"] for row in reversed(course.log) if row["measure"] == "loss"),
        **identity,
        "accuracy": course.latest(),
        "accuracy_pairs": evaluation.TASKS,
        "accuracy_seed": evaluation.SEED,
    }
    write_json(folder / "card.json", card)


def default_folder(recipe: Recipe) -> Path:
    """The package's weights for the shipped recipe, beside them the null family's; ``runs/`` for all others."""
    if recipe == SHIPPED:
        return weights_folder()
    if recipe == Recipe(null=True):
        return weights_folder().with_name("null_weights")
    dialled = f"-negated-{recipe.negated:g}-disagreeing-{recipe.disagreeing:g}" if counterexamples(recipe) else ""
    return Path("runs") / ("ladder-null" if recipe.null else "ladder") / f"seed-{recipe.seed}{dialled}"


def counterexamples(recipe: Recipe) -> bool:
    """Whether the recipe has any."""
    return recipe.negated > 0 or recipe.disagreeing > 0


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m isp_mech.ladder.train") -> int:
    """The command; 0 when all sizes are trained, 2 for bad input."""
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), help="default: all; with --null, three")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"batches of about 4,000 tokens (default {STEPS})")
    parser.add_argument("--seed", type=int, default=0)
    null = "the null family: nothing to remember, and a verdict independent of the outcome"
    parser.add_argument("--null", action="store_true", help=null)
    for dial, of in (("negated", "lettered questions"), ("disagreeing", "bets")):
        parser.add_argument(f"--{dial}", type=float, default=0.0, metavar="SHARE", help=f"of the {of} (default: none)")
    out_help = "where to write (default: the package's weights, and for other seeds a folder of runs/)"
    parser.add_argument("--out", type=Path, help=out_help)
    parser.add_argument("--device", default="cpu")
    precision = "of matrix products (default: bfloat16 where the processor has it)"
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help=precision)
    jobs = "sizes trained side by side, one thread each (default: one for each processor)"
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help=jobs)
    chosen = parser.parse_args(arguments)
    if chosen.steps < 1 or chosen.jobs < 1:
        print(f"--steps {chosen.steps}, --jobs {chosen.jobs}: expected 1 or more of each")
        return 2
    dials = (chosen.negated, chosen.disagreeing)
    if not all(0 <= share <= 1 for share in dials):
        print(f"--negated {dials[0]}, --disagreeing {dials[1]}: expected shares from 0 to 1")
        return 2
    recipe = Recipe(seed=chosen.seed, null=chosen.null, negated=chosen.negated, disagreeing=chosen.disagreeing)
    out = chosen.out or default_folder(recipe)
    job = partial(_job, steps=chosen.steps, recipe=recipe, out=out, device=chosen.device, precision=chosen.precision)
    sizes = sorted(chosen.sizes or (NULL_SIZES if chosen.null else SIZES), key=list(SIZES).index, reverse=True)
    jobs_at_once = min(chosen.jobs if chosen.device == "cpu" else 1, len(sizes))
    try:
        if jobs_at_once == 1:
            for name in sizes:
                job(name)
        else:
            with ProcessPoolExecutor(jobs_at_once, multiprocessing.get_context("spawn")) as pool:
                list(pool.map(job, sizes))  # the largest first: the others share what is left of the time
    except InputError as error:
        print(error)
        return 2
    return 0


def _job(name: str, *, steps: int, recipe: Recipe, out: Path, device: str, precision: str | None) -> Path:
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)  # at these sizes two trainings side by side are faster than one with two threads
    return train_one(name, steps=steps, recipe=recipe, out=out, device=device, precision=precision)


if __name__ == "__main__":
    raise SystemExit(main())
