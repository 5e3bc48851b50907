"""What tracing costs beside a plain forward and beside the field's tools: time, and peak memory.

    python experiments/bench_tracing.py             # prints the tables, writes runs/bench-tracing/*.csv
                                                    # and the figure in docs/images
    python experiments/bench_tracing.py --quick     # 128 tokens alone, fewer repeats

One process and one thread for all times, paths in turn, medians of ratios to the plain forward of the same turn;
times are the processor's, so that other work on the machine tells little.
A memory figure is the peak of a process of its own above the loaded model. The model has Pythia 160m's shape and
random weights. nnsight is measured where it is installed.
"""

from __future__ import annotations

import argparse
import copy
import csv
import gc
import importlib.util
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import transformers
from measuring import TOLD, peak_memory
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge

from isp_mech.models import Model, wrap_model
from isp_mech.scoring import score
from isp_mech.tasks import Pair, PairSet, compose
from isp_mech.tracing.trace import trace

THREADS, REPEATS = 1, 5
SHAPE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SIZES = {128: 4, 900: 2}  # tokens: pairs, of two prompts each
SHARED, PAIRS_SHARED = 860, 64
KEPT = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z", "attn.hook_pattern")
DEFINITION = 8  # bytes
OUT = Path("runs/bench-tracing")
FIGURE = Path("docs/images/bench-tracing")


def byte_model() -> tuple[Model, transformers.PreTrainedModel]:
    """The model as ours and as transformers' own, with the same weights; a token is a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(vocab_size=50304, max_position_embeddings=2048, **SHAPE)
    plain = transformers.GPTNeoXForCausalLM(config).eval()
    own = transformers.GPTNeoXForCausalLM(copy.deepcopy(config)).eval()  # models of one config share its attention
    for a, b in zip(own.parameters(), plain.parameters(), strict=True):
        a.data = b.data
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return wrap_model(own, fast, name="160m shape"), plain


def byte_pairs(tokens: int, n: int, shared: int = 0) -> PairSet:
    """Prompts of ``tokens`` random letters, of which all begin with ``shared`` that are the same."""
    rng = random.Random(tokens)
    begin = "".join(rng.choices("abcdefgh", k=shared))
    made = []
    for i in range(n):
        rest = "".join(rng.choices("abcdefgh", k=tokens - shared - DEFINITION))
        conflict, plain = (
            compose([(begin, "shots"), (f"{word}{rng.randrange(10**6):06d}.", "definition"), (rest, "question")])
            for word in "xy"
        )
        made.append(Pair(f"p{i}", plain, conflict, "4", "3", "definition"))
    return PairSet("bytes", tuple(made))


def ids_of(model: Model, pairs: PairSet) -> torch.Tensor:
    return torch.tensor([model.tokenizer(p.text).input_ids for pair in pairs for p in (pair.conflict, pair.plain)])


def from_cache(bridge, cache, answer: int, lure: int) -> list[torch.Tensor]:
    """Margin lens after every sublayer, direct effects, attention to the definition: of a compatibility-mode cache."""
    layers, direction = bridge.cfg.n_layers, bridge.W_U[:, answer] - bridge.W_U[:, lure]
    stream = [cache[f"blocks.{i}.hook_resid_pre"][:, -1] for i in range(layers)]
    final = cache[f"blocks.{layers - 1}.hook_resid_post"][:, -1]
    stream += [cache[f"blocks.{i}.hook_attn_out"][:, -1] + stream[i] for i in range(layers)] + [final]
    lens = bridge.ln_final(torch.stack(stream, 1)) @ direction
    scale = (final - final.mean(-1, keepdim=True)).square().mean(-1).sqrt()
    heads = [
        torch.einsum("n h d, h d m, m -> n h", cache[f"blocks.{i}.attn.hook_z"][:, -1].unflatten(-1, (12, -1))
                     if cache[f"blocks.{i}.attn.hook_z"].dim() == 3 else cache[f"blocks.{i}.attn.hook_z"][:, -1],
                     bridge.W_O[i], direction) / scale[:, None]
        for i in range(layers)
    ]  # fmt: skip
    mlps = [cache[f"blocks.{i}.hook_mlp_out"][:, -1] @ direction / scale for i in range(layers)]
    weights = [cache[f"blocks.{i}.attn.hook_pattern"][:, :, -1, :DEFINITION].sum(-1) for i in range(layers)]
    return [lens, torch.stack(heads), torch.stack(mlps), torch.stack(weights)]


def bridge_of(plain: transformers.PreTrainedModel, model: Model) -> TransformerBridge:
    """A bridge as one boots it, over transformers' own modules (``model.bridge`` would have our linear layers)."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.init_kwargs |= {"name_or_path": "", "add_bos_token": True}
    name = "EleutherAI/pythia-160m"  # for its shape alone; the weights are those of ``plain``
    return TransformerBridge.boot_transformers(name, hf_model=copy.deepcopy(plain), tokenizer=tokenizer, device="cpu")


def nnsight_path(plain: transformers.PreTrainedModel) -> Callable[[torch.Tensor], object]:
    from nnsight import NNsight

    eager = type(plain)(copy.deepcopy(plain.config)).eval()
    eager.load_state_dict(plain.state_dict())
    eager.set_attn_implementation("eager")
    wrapped = NNsight(eager)

    def run(ids: torch.Tensor) -> object:
        kept = []
        with torch.no_grad(), wrapped.trace(input_ids=ids, logits_to_keep=1):
            for layer in wrapped.gpt_neox.layers:
                kept.append(layer.attention.dense.input[:, -1].save())
                kept.append(layer.attention.output[1][:, :, -1, :DEFINITION].sum(-1).save())
                kept.append(layer.mlp.output[:, -1].save())
                kept.append(layer.output[:, -1].save())
        return kept

    return run


def paths_of(names: tuple[str, ...], tokens: int) -> tuple[dict[str, Callable[[], object]], int]:
    """The paths by name, each over the same prompts, and how many those are."""
    model, plain = byte_model()
    pairs = byte_pairs(tokens, SIZES[tokens])
    ids = ids_of(model, pairs)
    answer, lure = (model.tokenizer(c).input_ids[0] for c in "43")
    made: dict[str, Callable[[], object]] = {}

    def forward() -> object:
        with torch.no_grad():
            return plain(ids, logits_to_keep=1).logits

    def cached(bridge, filtered: bool, outputs: bool) -> Callable[[], object]:
        keep = (lambda name: name.endswith(KEPT)) if filtered else None

        def run() -> object:
            with torch.no_grad():
                _, cache = bridge.run_with_cache(ids, names_filter=keep)
                return from_cache(bridge, cache, answer, lure) if outputs else cache

        return run

    made["plain forward, last logits"] = forward
    made["trace"] = lambda: trace(pairs, model)
    made["score and trace"] = lambda: score(pairs, model, trace=True)
    if any("run_with_cache" in name for name in names):
        native = bridge_of(plain, model)
        made["run_with_cache"] = cached(native, False, False)
        made["run_with_cache, filtered"] = cached(native, True, False)
        compatible = bridge_of(plain, model)
        compatible.enable_compatibility_mode()
        made["run_with_cache, compatibility mode"] = cached(compatible, False, True)
        made["run_with_cache, compatibility mode, filtered"] = cached(compatible, True, True)
    if "nnsight" in names:
        run = nnsight_path(plain)
        made["nnsight"] = lambda: run(ids)
    return {name: made[name] for name in names}, len(ids)


def names_here() -> tuple[str, ...]:
    modes = ("", ", filtered", ", compatibility mode", ", compatibility mode, filtered")
    names = ("plain forward, last logits", "trace", "score and trace", *(f"run_with_cache{mode}" for mode in modes))
    return (*names, "nnsight") if importlib.util.find_spec("nnsight") else names


def time_paths(tokens: int, repeats: int) -> list[tuple[int, str, float, float]]:
    """Rows: tokens, path, seconds a prompt, plain forwards a prompt."""
    paths, n = paths_of(names_here(), tokens)
    times: dict[str, list[float]] = {name: [] for name in paths}
    for repeat in range(repeats + 1):
        for name, run in paths.items():
            gc.collect()
            began = time.process_time()
            run()
            if repeat:  # the first is a warm-up
                times[name].append(time.process_time() - began)
    plain = times["plain forward, last logits"]
    return [
        (tokens, name, statistics.median(took) / n,
         statistics.median(a / b for a, b in zip(took, plain, strict=True)))
        for name, took in times.items()
    ]  # fmt: skip


def time_shared() -> list[tuple[int, str, float, float]]:
    """Tracing prompts that have most of their tokens in common, against plain forwards of each in full."""
    model, plain = byte_model()
    pairs = byte_pairs(900, PAIRS_SHARED, SHARED)
    few = ids_of(model, pairs)[:4]
    plain_each, traced = [], []
    for repeat in range(3):
        began = time.process_time()
        with torch.no_grad():
            plain(few, logits_to_keep=1)
        between = time.process_time()
        trace(pairs, model)
        if repeat:
            plain_each.append((between - began) / len(few))
            traced.append((time.process_time() - between) / (2 * PAIRS_SHARED))
    each = statistics.median(traced)
    return [(900, f"trace, {SHARED} tokens shared by {PAIRS_SHARED} pairs", each, each / statistics.median(plain_each))]


def peak_of(name: str) -> float:
    """GB above the loaded model at the peak of one run, in this process."""
    paths, _ = paths_of((name,), 900)
    return peak_memory(paths[name])


def draw(rows: list[tuple[int, str, float, float]], peaks: list[tuple[str, float]]) -> None:
    """Time at each length, in plain forwards, and peak memory: ours in colour."""
    panels = [
        (f"{tokens} tokens", "time, plain forward = 1", {name: x for at, name, _, x in rows if at == tokens})
        for tokens in SIZES
    ]
    panels.append(("4 x 900 tokens", "peak memory above the model, GB", dict(peaks)))
    names = [name for name, _ in peaks][::-1]
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 2.6), sharey=True, layout="constrained")
    for axis, (title, unit, value) in zip(axes, panels, strict=True):
        colours = ["#0072B2" if "trace" in name else "#999999" for name in names]
        bars = axis.barh(range(len(names)), [value[name] for name in names], 0.7, color=colours)
        axis.bar_label(bars, fmt="%.2f", fontsize=7, padding=2)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.set_title(title, fontsize=8)
        axis.set_xlabel(unit, fontsize=7)
        axis.tick_params(axis="x", labelsize=7)
        axis.margins(x=0.15)
    for suffix in ("svg", "png"):
        figure.savefig(FIGURE.with_suffix(f".{suffix}"), dpi=200, metadata={"Date": None} if suffix == "svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="128 tokens alone, fewer repeats")
    parser.add_argument("--peak-of", metavar="PATH", help="print one path's peak memory, and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.peak_of:
        print(peak_of(arguments.peak_of))
        return
    OUT.mkdir(parents=True, exist_ok=True)
    rows = []
    for tokens in (128,) if arguments.quick else SIZES:
        rows += time_paths(tokens, 2 if arguments.quick else REPEATS)
    if not arguments.quick:
        rows += time_shared()
    with (OUT / "time.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("tokens", "path", "seconds a prompt", "plain forwards a prompt"), *rows])
    for tokens, name, seconds, ratio in rows:
        print(f"{tokens:4}  {name:46} {1000 * seconds:8.1f} ms a prompt  {ratio:6.3f} x")
    if not TOLD or arguments.quick:
        return
    peaks = []
    for name in names_here():
        command = [sys.executable, __file__, "--peak-of", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        peaks.append((name, float(done.stdout.split()[-1]) if done.returncode == 0 else float("nan")))
        print(f"{name:52} {peaks[-1][1]:6.3f} GB above the model, 4 x 900 tokens")
    with (OUT / "memory.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "GB above the loaded model, 4 x 900 tokens"), *peaks])
    draw(rows, peaks)


if __name__ == "__main__":
    main()
