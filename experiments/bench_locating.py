"""What the effects of all sites cost: packed, a forward for each site, and by gradients.

    python experiments/bench_locating.py            # 128 and 900 tokens; writes runs/bench-locating/time.csv
    python experiments/bench_locating.py --quick    # one prompt of 128 tokens, two repeats

One process and one thread, paths in turn, medians of ratios to one plain forward of the conflict prompts in the same
turn, in processor time. The model has Pythia 160m's shape (156 sites) and random weights. A forward for each site is
timed on ``SAMPLED`` sites, a twelfth of all, and multiplied; those effects must equal the sweep's.
"""

from __future__ import annotations

import argparse
import csv
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_tracing import bridge_of, byte_model, byte_pairs

from isp_mech.causal.activation_patching import patched_margins
from isp_mech.causal.attribution_patching import GRADIENT_STEPS, approximate_effects
from isp_mech.causal.replacements import SiteOutputs, observe
from isp_mech.inference.batches import plan_batches
from isp_mech.inference.contrast_prompts import place_prompts
from isp_mech.sites import Site, all_sites
from isp_mech.stats import spearman

THREADS, REPEATS = 1, 3
LAYERS, HEADS = 12, 12
SAMPLED = [Site(layer, "head", layer) for layer in range(LAYERS)] + [Site(5, "mlp")]
PROMPTS = {128: (1, 4), 900: (1,)}  # tokens: so many conflict prompts at once
OUT = Path("runs/bench-locating")
PLAIN = "plain forward, last logits"
SWEEP, EACH, LENS = "packed sweep of all sites", "a forward for each site", "TransformerLens, a forward for each site"


def put_head(module: object, args: tuple, site: Site, value: torch.Tensor) -> tuple:
    z = args[0].clone()
    z.unflatten(-1, (HEADS, -1))[:, -1, site.head] = value
    return (z, *args[1:])


def put_mlp(module: object, args: tuple, out: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    out = out.clone()
    out[:, -1] = value
    return out


def forward_with(plain, ids: torch.Tensor, site: Site, values: SiteOutputs) -> torch.Tensor:
    """The last logits with one site replaced, by a hook of our own."""
    layer = plain.gpt_neox.layers[site.layer]
    if site.head is None:
        handle = layer.mlp.register_forward_hook(partial(put_mlp, value=values.mlps[:, site.layer]))
    else:
        value = values.heads[:, site.layer, site.head]
        handle = layer.attention.dense.register_forward_pre_hook(partial(put_head, site=site, value=value))
    with torch.no_grad():
        logits = plain(ids, logits_to_keep=1).logits[:, -1]
    handle.remove()
    return logits


def by_bridge(bridge, ids: torch.Tensor, site: Site, values: SiteOutputs) -> torch.Tensor:
    """The same by TransformerLens."""

    def put(x: torch.Tensor, hook: object) -> torch.Tensor:
        if site.head is None:
            x[:, -1] = values.mlps[:, site.layer]
        elif x.dim() == 4:
            x[:, -1, site.head] = values.heads[:, site.layer, site.head]
        else:
            x.unflatten(-1, (HEADS, -1))[:, -1, site.head] = values.heads[:, site.layer, site.head]
        return x

    name = f"blocks.{site.layer}." + ("hook_mlp_out" if site.head is None else "attn.hook_z")
    with torch.no_grad():
        return bridge.run_with_hooks(ids, fwd_hooks=[(name, put)])[:, -1]


def measure(tokens: int, n: int, repeats: int) -> list[tuple[int, int, str, float, float]]:
    """Rows: tokens, prompts, path, seconds, plain forwards."""
    model, plain = byte_model()
    bridge = bridge_of(plain, model)
    pairs = byte_pairs(tokens, n + 1)  # one more, so that resampling has another
    plan, placed = plan_batches(model), place_prompts(model, pairs, ("conflict",))
    observed = observe(placed, plan)
    other, own = observed.outputs.map(lambda x: x.roll(1, 0)[:n]), observed.outputs.of(range(n), "cpu")
    prompts = placed.prompts[:n]
    ids = torch.tensor([model.tokenizer(prompt.prompt.text).input_ids for prompt in prompts])
    sites = all_sites(LAYERS, HEADS)
    sets = [frozenset({site}) for site in sites]
    answer, lure = (model.tokenizer(c).input_ids[0] for c in "43")

    def forward() -> object:
        with torch.no_grad():
            return plain(ids, logits_to_keep=1).logits

    def each(run: Callable[..., torch.Tensor], of: object) -> np.ndarray:
        logits = [run(of, ids, site, other) for site in SAMPLED]
        return torch.stack([x[:, answer] - x[:, lure] for x in logits], 1).numpy()

    def gradients(steps: int) -> np.ndarray:
        return approximate_effects(prompts, own, other, plan, steps=steps)

    paths: dict[str, Callable[[], np.ndarray | object]] = {
        PLAIN: forward,
        SWEEP: lambda: patched_margins(prompts, other, sets, plan),
        EACH: lambda: each(forward_with, plain),
        LENS: lambda: each(by_bridge, bridge),
        **{f"gradients, {name}": partial(gradients, steps) for name, steps in GRADIENT_STEPS.items()},
    }
    share = {name: len(sites) / len(SAMPLED) if name in (EACH, LENS) else 1.0 for name in paths}
    exact = patched_margins(prompts, other, sets, plan)
    check(exact[:, [sites.index(site) for site in SAMPLED]], {name: paths[name]() for name in (EACH, LENS)})
    for name, steps in GRADIENT_STEPS.items():
        rho = spearman((observed.margins[:n, None] - exact).mean(0), gradients(steps).mean(0))
        print(f"{tokens} tokens, {n} prompts: rank correlation of {name} with exact effects {rho:.3f}")
    times: dict[str, list[float]] = {name: [] for name in paths}
    for repeat in range(repeats + 1):
        for name, run in paths.items():
            gc.collect()
            began = time.process_time()
            run()
            if repeat:  # the first is a warm-up
                times[name].append((time.process_time() - began) * share[name])
    rows = []
    for name, took in times.items():
        ratio = statistics.median(a / b for a, b in zip(took, times[PLAIN], strict=True))
        rows.append((tokens, n, name, statistics.median(took), ratio))
        print(f"{tokens:4} tokens, {n} prompts  {name:42} {1000 * rows[-1][3]:9.0f} ms {ratio:8.2f} x", flush=True)
    return rows


def check(exact: np.ndarray, others: dict[str, object]) -> None:
    for name, found in others.items():
        gap = np.abs(exact - np.asarray(found)).max()
        print(f"{name}: largest difference to the sweep {gap:.1e} nats")
        if gap > 1e-4:
            raise SystemExit("the paths do not compute the same")


def save(rows: Sequence[tuple]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "time.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("tokens", "prompts", "path", "seconds", "plain forwards"), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one prompt of 128 tokens, two repeats")
    quick = parser.parse_args().quick
    torch.set_num_threads(THREADS)
    rows: list[tuple] = []
    for tokens, prompts in ({128: (1,)} if quick else PROMPTS).items():
        for n in prompts:
            rows += measure(tokens, n, 2 if quick else REPEATS)
            save(rows)


if __name__ == "__main__":
    main()
