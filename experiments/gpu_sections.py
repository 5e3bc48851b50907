"""What is measured on a GPU: a function for each section, which gives rows."""

from __future__ import annotations

import gc
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Thread
from typing import Any

import gpu_peers
import numpy as np
import torch
import transformers
from bench_scoring import byte_tokenizer, letters, made_task

from isp_mech.causal import parse_intervention
from isp_mech.causal.activation_patching import changed_margins, patched_margins
from isp_mech.causal.intervention_changes import bind_side, observe_streams
from isp_mech.causal.locate import locate
from isp_mech.causal.replacements import SiteOutputs, observe
from isp_mech.inference.batches import BatchPlan, plan_batches
from isp_mech.inference.contrast_prompts import place_prompts
from isp_mech.models import Model, free_bytes, load_model, wrap_model
from isp_mech.models.prefix_attention import attend_over_prefix
from isp_mech.scoring import cases_of, class_logprobs
from isp_mech.sites import Site, all_sites
from isp_mech.tasks import Pair, PairSet, Task, compose
from isp_mech.tracing.trace import trace_model

SHAPES = {  # layers, heads, width, vocabulary
    "tiny": (2, 4, 64, 512),
    "1b": (16, 8, 2048, 50304),
    "6.9b": (32, 32, 4096, 50432),
    "12b": (36, 40, 5120, 50688),
}
OURS, PLAIN = "isp_mech", "transformers"
EACH_KIND = [  # one intervention of each kind
    "replace(a0.h0 m1; with=zero; at=decision)",
    "scale(a0.h0 m1; alpha=0.5; at=onward)",
    "block(definition; layers=all; heads=all)",
    "reweight(definition; factor=2.0; layers=all; heads=all)",
    "replay(a0.h0 m1; alpha=1.0; at=decision)",
    "steer(r0; vector=conflict-plain; alpha=1.0; at=decision)",
    "swap(r0; subspace=conflict-plain; at=decision)",
]
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured, in so many ``seconds``: ``items`` of ``shots`` + 40 tokens, the harness and vLLM on ``few``
    of them; ``prompts`` of ``tokens``; ``exact`` items in float32 too; ``sampled`` sites by a forward of their own;
    what is asked once, on the ``small`` shape; a product of square matrices of ``matrix`` rows."""

    shapes: tuple[str, ...]
    small: str
    seconds: float
    items: int
    shots: int
    few: int
    prompts: int
    tokens: int
    exact: int
    sampled: int
    matrix: int
    repeats: int


FULL = Sizes(
    shapes=("6.9b", "1b", "12b"), small="1b", seconds=440, items=300, shots=860, few=32, prompts=64, tokens=128,
    exact=50, sampled=8, matrix=8192, repeats=2,
)  # fmt: skip
TINY = Sizes(
    shapes=("tiny",), small="tiny", seconds=100, items=12, shots=300, few=3, prompts=3, tokens=48,
    exact=6, sampled=3, matrix=256, repeats=1,
)  # fmt: skip


@dataclass
class Clock:
    """What is left of the time."""

    seconds: float
    began: float = field(default_factory=time.perf_counter)

    def left(self) -> float:
        return self.began + self.seconds - time.perf_counter()


@dataclass(frozen=True)
class Bench:
    """A shape's model as ours and as transformers' own, over the same weights; ``rate`` is of matrix
    products, FLOP/s."""

    shape: str
    ours: Model
    plain: Any
    sizes: Sizes
    clock: Clock
    rate: float

    @property
    def device(self) -> str:
        return self.ours.device

    def row(self, path: str, measure: str, value: float = float("nan"), unit: str = "", **more: str) -> Row:
        return {"shape": self.shape, "path": path, "measure": measure, "value": float(value), "unit": unit, **more}

    def flops(self, tokens: int) -> float:
        """Of the matrix products of one prompt's forward, all layers at all tokens."""
        shape = self.ours.architecture
        return 2.0 * self.ours.n_params * tokens + 2.0 * shape.n_layers * shape.d_model * tokens**2


def now(device: str) -> float:
    """Seconds, when the device has done what it was asked."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def in_turn(paths: dict[str, Callable[[], object]], bench: Bench) -> dict[str, float]:
    """Median seconds of each path, in turn after a round of warming up; fewer rounds where time runs short."""
    took: dict[str, list[float]] = {name: [] for name in paths}
    for repeat in range(bench.sizes.repeats + 1):
        if repeat > 1 and bench.clock.left() < bench.sizes.seconds / 7:
            break
        for name, run in paths.items():
            gc.collect()
            began = now(bench.device)
            run()
            if repeat:
                took[name].append(now(bench.device) - began)
    return {name: statistics.median(times) for name, times in took.items()}


@dataclass
class TimedPlan(BatchPlan):
    """A plan that knows how long its batches took: without tables and statistics."""

    took: float = 0.0

    def run(self, *args: Any, **kwargs: Any) -> None:
        began = now(self.model.device)
        super().run(*args, **kwargs)
        self.took += now(self.model.device) - began


def made_pairs(n: int, tokens: int, completions: tuple[str, str] = ("4", "3")) -> PairSet:
    """Pairs of prompts of ``tokens`` bytes that have nothing in common at their beginning."""
    rng, made = np.random.default_rng(0), []
    for i in range(n):
        rest = letters(rng, tokens - 9)
        conflict, plain = (
            compose([(f"{letters(rng, 1)}{i:06d}{sign}", "definition"), (" ", ""), (rest, "question")]) for sign in ".,"
        )
        made.append(Pair(f"p{i}", plain, conflict, *completions, "definition"))
    return PairSet("bytes", tuple(made))


def made_bench(shape: str, sizes: Sizes, clock: Clock, rate: float, device: str) -> Bench:
    layers, heads, width, vocabulary = SHAPES[shape]
    config = transformers.GPTNeoXConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width, max_position_embeddings=2048, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        plain = transformers.GPTNeoXForCausalLM(config).eval()
    torch.set_default_dtype(before)
    ours = wrap_model(plain, byte_tokenizer(), name=shape, dtype="bfloat16", device=device)
    return Bench(shape, ours, plain, sizes, clock, rate)


def ids_of(bench: Bench, prompts: Sequence[str]) -> torch.Tensor:
    return torch.tensor([bench.ours.tokenizer(prompt).input_ids for prompt in prompts], device=bench.device)


def last_logits(bench: Bench, prompts: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """(prompt, class): log p by transformers, in batches of as many tokens as ours."""
    token = torch.tensor([bench.ours.tokenizer(c).input_ids[0] for c in classes], device=bench.device)
    out, at_once = [], max(1, plan_batches(bench.ours).tokens // len(prompts[0]))
    for start in range(0, len(prompts), at_once):
        ids = ids_of(bench, prompts[start : start + at_once])
        with torch.no_grad():
            logits = bench.plain(ids, logits_to_keep=1, use_cache=False).logits[:, -1].float()
            out.append(logits.log_softmax(-1)[:, token].cpu().numpy())
    return np.concatenate(out)


def ours_of(model: Model, task: Task) -> np.ndarray:
    return np.stack(class_logprobs(model, cases_of(task)).logprobs)


def correctness(bench: Bench) -> list[Row]:
    """Which ways of running hold, and how far numbers are from transformers' and from float32's."""
    shape, sizes = bench.ours.architecture, bench.sizes
    ways = ("accepts_custom_masks", "accepts_trees", "selects_tokens")
    rows = [bench.row(OURS, way, getattr(shape, way), "1 = holds", bar="1") for way in ways]
    rows.append(bench.row("attention over a prefix", "fused to written out", _fused_gap(bench), bar="at most 0.04"))
    task = made_task("right", sizes.exact, 0, sizes.tokens, ("Y", "N"))
    half, prompts = ours_of(bench.ours, task), [item.prompt for item in task.items]
    rows.append(bench.row(OURS, "to transformers", np.abs(half - last_logits(bench, prompts, "YN")).max(), "nats"))
    if free_bytes(bench.device) < 5 * sum(p.numel() for p in bench.plain.parameters()):
        return [*rows, bench.row("float32", "margins", note="memory does not hold a copy in float32")]
    exact = wrap_model(bench.plain, bench.ours.tokenizer, name="exact", dtype="float32", device=bench.device)
    gap = np.abs(np.diff(ours_of(exact, task)) - np.diff(half)).max()
    return [*rows, bench.row("float32", f"margins of {sizes.exact} items", gap, "nats", bar="at most 0.05")]


def _fused_gap(bench: Bench) -> float:
    """The largest difference, of random numbers near 1."""
    d, m, dtype = bench.ours.architecture.d_head, 24, torch.bfloat16
    generator = torch.Generator().manual_seed(0)

    def some(n: int) -> torch.Tensor:
        return torch.randn(2, 4, n, d, generator=generator).to(bench.device, dtype)

    far = torch.arange(m, device=bench.device) < torch.tensor([[m], [0]], device=bench.device)
    near = torch.ones(2, 1, 4, 4, dtype=torch.bool, device=bench.device).tril()
    given = (some(20), some(20), some(20), (some(m), some(m)), far[:, None], near, d**-0.5, None)
    with torch.no_grad():
        fused = attend_over_prefix(*given)
        os.environ["ISP_MECH_PLAIN"] = "1"
        written = attend_over_prefix(*given)
        del os.environ["ISP_MECH_PLAIN"]
    return float((fused.float() - written.float()).abs().max())


def scoring(bench: Bench) -> list[Row]:
    """Items with shots of their own and with shared ones; beside transformers, the harness and vLLM."""
    sizes, tokens, rows = bench.sizes, bench.sizes.shots + 40, []
    own = made_task("own shots", sizes.items, 0, tokens, ("Y", "N"))
    shared = made_task("same shots", sizes.items, sizes.shots, 40, ("Y", "N"))
    prompts = [item.prompt for item in own.items]
    paths: dict[str, Callable[[], object]] = {
        PLAIN: lambda: last_logits(bench, prompts, "YN"),
        OURS: lambda: ours_of(bench.ours, own),
        f"{OURS}, same shots": lambda: ours_of(bench.ours, shared),
    }
    few = own.take(range(sizes.few))
    peers = gpu_peers.scoring(bench.plain, bench.ours.tokenizer, few, with_vllm=bench.shape == sizes.small)
    seconds = in_turn(paths | {name: run for name, run in peers.items() if not isinstance(run, str)}, bench)
    for name, took in seconds.items():
        n = len(few) if name in peers else sizes.items
        rows.append(bench.row(name, "items", n / took, "a second"))
        rows.append(bench.row(name, "tokens", n * tokens / took, "a second"))
        bar = {"bar": "at least 0.6"} if name == OURS else {}
        if "same" not in name:
            share = n * bench.flops(tokens) / took / bench.rate
            rows.append(bench.row(name, "share of the matrix rate", share, "", **bar))
    return rows + [bench.row(name, "items", note=why) for name, why in peers.items() if isinstance(why, str)]


def tracing(bench: Bench) -> list[Row]:
    """Against one plain forward of the same prompts."""
    pairs = made_pairs(bench.sizes.prompts, bench.sizes.tokens)
    prompts = [prompt.text for pair in pairs for prompt in (pair.conflict, pair.plain)]
    plans: list[TimedPlan] = []

    def traced() -> object:
        plans.append(TimedPlan(bench.ours, plan_batches(bench.ours).tokens))
        return trace_model(pairs, plans[-1])

    seconds = in_turn({PLAIN: lambda: last_logits(bench, prompts, "43"), OURS: traced}, bench)
    forwards = statistics.median(plan.took for plan in plans[1:])
    rows = [
        bench.row(PLAIN, "forward", 1000 * seconds[PLAIN], "ms"),
        bench.row("trace", "forwards", forwards / seconds[PLAIN], "plain forwards", bar="at most 1.1"),
        bench.row("trace", "with its tables", seconds[OURS] / seconds[PLAIN], "plain forwards"),
    ]
    for name, run in ((PLAIN, lambda: last_logits(bench, prompts, "43")), ("trace", traced)):
        rows.append(bench.row(name, "memory above the weights", *_peak(bench, run)))
    return rows


def _peak(bench: Bench, run: Callable[[], object]) -> tuple[float, str]:
    if not bench.device.startswith("cuda"):
        return float("nan"), "GB (told on a GPU)"
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 1e9, "GB"


def locating(bench: Bench) -> list[Row]:
    """The exact sweep over all heads and MLPs, against one plain forward and against one forward a site."""
    shape, sizes = bench.ours.architecture, bench.sizes
    pairs = made_pairs(sizes.prompts, sizes.tokens)
    plan, placed = plan_batches(bench.ours), place_prompts(bench.ours, pairs, ("conflict",))
    other = observe(placed, plan).outputs.map(lambda x: x.roll(1, 0))
    texts = [prompt.prompt.text for prompt in placed.prompts]
    sites = all_sites(shape.n_layers, shape.n_heads)
    sets, step = [frozenset({site}) for site in sites], max(1, len(sites) // sizes.sampled)
    few, ids = sites[:: step + step % 2 + 1], ids_of(bench, texts)  # an odd step: heads and MLPs of all layers
    answer, lure = (bench.ours.tokenizer(c).input_ids[0] for c in "43")

    def each(run: Callable[[Site, SiteOutputs], torch.Tensor]) -> np.ndarray:
        logits = torch.stack([run(site, other).float() for site in few], 1)
        return (logits[..., answer] - logits[..., lure]).cpu().numpy()

    peers = gpu_peers.one_forward_a_site(bench.plain, bench.ours, ids)
    runs = {name: partial(each, run) for name, run in peers.items() if not isinstance(run, str)}
    sweep = patched_margins(placed.prompts, other, sets, plan)[:, [sites.index(site) for site in few]]
    rows = [bench.row(name, "to the sweep", np.abs(run() - sweep).max(), "nats") for name, run in runs.items()]
    paths: dict[str, Callable[[], object]] = {PLAIN: lambda: last_logits(bench, texts, "43")}
    paths[OURS] = lambda: patched_margins(placed.prompts, other, sets, plan)
    seconds = in_turn(paths | runs, bench)
    for name, took in seconds.items():
        if name != PLAIN:
            whole = took * (1 if name == OURS else len(sites) / len(few))
            bar = {"bar": "at most 12"} if name == OURS else {}
            rows.append(bench.row(name, f"all {len(sites)} sites", whole / seconds[PLAIN], "plain forwards", **bar))
            rows.append(bench.row(name, "sites and prompts", len(sites) * len(texts) / whole, "a second"))
    return rows + [bench.row(name, "all sites", note=why) for name, why in peers.items() if isinstance(why, str)]


def screen(bench: Bench) -> list[Row]:
    """Completions of four tokens: all sites at the first token, those that matter on all tokens."""
    pairs = made_pairs(max(2, bench.sizes.prompts // 4), bench.sizes.tokens, ("abcd", "wxyz"))
    texts, found = [pair.conflict.text for pair in pairs], []

    def run() -> None:
        found[:] = [locate(pairs, bench.ours).sites.frame]

    seconds = in_turn({PLAIN: lambda: last_logits(bench, texts, "aw"), OURS: run}, bench)
    exact = (found[0]["measured"] == "exact").mean()
    return [
        bench.row("locate, four tokens", "with its tables", seconds[OURS] / seconds[PLAIN], "plain forwards"),
        bench.row("locate, four tokens", "sites on all tokens", exact, "of all"),
    ]


def interventions(bench: Bench) -> list[Row]:
    """One of each kind, and all of them in the same forwards, against one plain forward of the same prompts."""
    pairs, plan = made_pairs(bench.sizes.prompts, bench.sizes.tokens), plan_batches(bench.ours)
    asked = [parse_intervention(text) for text in EACH_KIND]
    bound = bind_side(pairs, "conflict", plan, observe_streams(asked, pairs, plan), asked, seed=0)
    changes = {one.kinds: [bound.changes(one)] for one in asked}
    changes["all of them"] = [change for some in changes.values() for change in some]
    texts = [prompt.prompt.text for prompt in bound.prompts]
    paths: dict[str, Callable[[], object]] = {PLAIN: lambda: last_logits(bench, texts, "43")}
    paths |= {kind: partial(changed_margins, bound.prompts, some, plan) for kind, some in changes.items()}
    seconds = in_turn(paths, bench)
    return [bench.row(kind, "margins", seconds[kind] / seconds[PLAIN], "plain forwards") for kind in changes]


def side_by_side(bench: Bench) -> list[Row]:
    """Two models of one shape: one after the other, and at once, each in a thread of its own."""
    task = made_task("beside", bench.sizes.items // 2, 0, bench.sizes.tokens, ("Y", "N"))
    both = [bench.ours, wrap_model(bench.plain, bench.ours.tokenizer, name="b", dtype="bfloat16", device=bench.device)]
    made: dict[int, np.ndarray] = {}

    def score(i: int, stream: Any = None) -> None:
        with torch.cuda.stream(stream):  # None: the stream that all work shares
            made[i] = ours_of(both[i], task)

    def at_once() -> None:
        on_gpu = bench.device.startswith("cuda")
        threads = [Thread(target=score, args=(i, torch.cuda.Stream() if on_gpu else None)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    at_once()
    gap = np.abs(made[0] - made[1]).max()
    seconds = in_turn({"in turn": lambda: [score(0), score(1)], "at once": at_once}, bench)
    rows = [bench.row(name, "two models", 2 * len(task) / took, "items a second") for name, took in seconds.items()]
    return [*rows, bench.row("at once", "one model to the other", gap, "nats", bar="at most 0.001")]


def spread(bench: Bench) -> list[Row]:
    """Half of the layers on the GPU and half on the CPU, by ``device_map``; without a GPU all of them on the CPU."""
    if importlib.util.find_spec("accelerate") is None:
        return [bench.row("device_map", "items", note="accelerate is not installed")]
    task = made_task("spread", bench.sizes.few, 0, bench.sizes.tokens, ("Y", "N"))
    places: Any = "auto"
    if bench.device.startswith("cuda"):
        n = bench.ours.architecture.n_layers
        places = {f"gpt_neox.layers.{i}": 0 if i < n // 2 else "cpu" for i in range(n)}
        ends = ("gpt_neox.embed_in", "gpt_neox.rotary_emb", "gpt_neox.emb_dropout", "gpt_neox.final_layer_norm")
        places |= {name: 0 for name in (*ends, "embed_out", "lm_head") if name in dict(bench.plain.named_modules())}
    with tempfile.TemporaryDirectory() as folder:
        bench.plain.save_pretrained(folder)
        bench.ours.tokenizer.save_pretrained(folder)
        model = load_model(folder, dtype="bfloat16", device_map=places)
        gap = np.abs(ours_of(model, task) - ours_of(bench.ours, task)).max()
        took = in_turn({"device_map": lambda: ours_of(model, task)}, bench)["device_map"]
    return [
        bench.row("device_map", "items", len(task) / took, "a second"),
        bench.row("device_map", "to all on one device", gap, "nats", bar="at most 0.02"),
    ]


SECTIONS: dict[str, tuple[Callable[[Bench], list[Row]], float]] = {  # and the least seconds that it is begun with
    "correctness": (correctness, 20),
    "locating": (locating, 30),
    "tracing": (tracing, 15),
    "scoring": (scoring, 60),
    "interventions": (interventions, 20),
    "screen": (screen, 20),
    "side by side": (side_by_side, 20),
    "spread": (spread, 40),
}
ONCE = ("side by side", "spread")  # with the small shape alone
