"""What scoring costs: ours, plain transformers in two ways, and lm-evaluation-harness, in turn in one process.

    python experiments/bench_scoring.py             # writes runs/bench-scoring/*.csv and the figure in docs/images
    python experiments/bench_scoring.py 160m        # one shape only

Models have random weights in the shapes of Pythia; medians of interleaved repeats, one thread; ratios are given in
processor time, on which other work on the machine counts little, and by the clock. A memory figure is the peak of a
process of its own above the loaded model. The harness is measured where it is installed
(pip install 'isp-mech[bench]'). The prize's file is read from ../shared/data/prize, if it is there.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import transformers
from measuring import TOLD, peak_memory
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from isp_mech.models import Model, wrap_model
from isp_mech.scoring import cases_of, class_logprobs
from isp_mech.tasks import Item, Task, read_task

THREADS = 1
REPEATS = 3
SHAPES = {
    "160m": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
    "410m": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}
VOCABULARY = 50304
TOKENS, ITEMS = 128, 8
SHARED_ITEMS, SHOTS, TIMED_IN_FULL = 300, 860, 4  # prompts of SHOTS + 40 tokens; so many of them are timed in full
REAL_ITEMS = 4
MEASURED = {128: 8, 900: 4}  # tokens: prompts in one batch, for memory
PRIZE = Path(__file__).parents[1].parent / "shared" / "data" / "prize" / "hindsight-neglect_classification.jsonl"
OUT = Path("runs/bench-scoring")
FIGURE = Path("docs/images/bench-scoring")
OURS, LAST, EACH, HARNESS = "isp_mech", "plain, last logits", "plain, each class", "lm-evaluation-harness"


def byte_tokenizer(texts: Sequence[str] = ()) -> transformers.PreTrainedTokenizerFast:
    """A token is a byte, so that lengths are known; trained on ``texts`` where there are any."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if texts:
        trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="!", pad_token="!")


def make_models(shape: str, tokenizer) -> tuple[Model, transformers.PreTrainedModel]:
    """Ours, and the plain model with the same weights."""
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(vocab_size=VOCABULARY, attn_implementation="sdpa", **SHAPES[shape])
    plain = transformers.GPTNeoXForCausalLM(config).eval()
    ours = transformers.GPTNeoXForCausalLM(config)
    ours.load_state_dict(plain.state_dict())
    return wrap_model(ours, tokenizer, name=shape), plain


def letters(rng: np.random.Generator, n: int) -> str:
    return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz "), n))


def made_task(name: str, n_items: int, shots: int, own: int, classes: tuple[str, str]) -> Task:
    rng = np.random.default_rng(0)
    before = letters(rng, shots)
    items = [Item(str(i), before + letters(rng, own), classes, 0) for i in range(n_items)]
    return Task(name, tuple(items))


def plain_last(plain, tokenizer, task: Task) -> np.ndarray:
    """One batched forward; with classes of one token its last logits are all that is needed."""
    ids = tokenizer([i.prompt for i in task.items], return_tensors="pt", padding=True).input_ids
    with torch.no_grad():
        return plain(ids, logits_to_keep=1).logits[:, -1].log_softmax(-1).numpy()


def plain_each(plain, tokenizer, task: Task) -> np.ndarray:
    """A forward for every class of every item, as the prize's evaluator does."""
    out = []
    for item in task.items:
        start = len(tokenizer(item.prompt).input_ids)
        for text in item.classes:
            ids = torch.tensor([tokenizer(item.prompt + text).input_ids])
            with torch.no_grad():
                logprobs = plain(ids).logits[0].log_softmax(-1)
            out.append(sum(float(logprobs[i - 1, ids[0, i]]) for i in range(start, ids.shape[1])))
    return np.array(out)


def harness(plain, tokenizer, task: Task, at_once: int | None = None) -> Callable[[], np.ndarray] | None:
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        return None
    lm = HFLM(pretrained=plain, tokenizer=tokenizer, batch_size=at_once or len(task.items), max_length=2048)

    def run() -> np.ndarray:
        requests = [
            Instance("loglikelihood", {}, (item.prompt, text), j)
            for item in task.items
            for j, text in enumerate(item.classes)
        ]
        return np.array([value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)])

    return run


def in_turn(paths: dict[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, tuple[float, float]]:
    """Median seconds of each path, of the processor and of the clock, in turn; the first round is a warm-up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
    for repeat in range(repeats + 1):
        for name, run in paths.items():
            began = time.process_time(), time.perf_counter()
            run()
            if repeat:
                times[name].append((time.process_time() - began[0], time.perf_counter() - began[1]))
    return {
        name: (statistics.median(p for p, _ in took), statistics.median(c for _, c in took))
        for name, took in times.items()
    }


def compare(shape: str, ours: Model, plain, tokenizer, task: Task, per: int = 1) -> list[dict]:
    """All ways to score one task; the unit is one batched forward with last logits."""
    cases = cases_of(task)
    paths: dict[str, Callable[[], object]] = {
        LAST: lambda: plain_last(plain, tokenizer, task),
        OURS: lambda: class_logprobs(ours, cases),
        EACH: lambda: plain_each(plain, tokenizer, task),
    }
    theirs = harness(plain, tokenizer, task)
    if theirs is not None:
        paths[HARNESS] = theirs
        gap = np.abs(theirs() - np.concatenate(class_logprobs(ours, cases).logprobs)).max()
        print(f"{shape}, {task.name}: largest difference to lm-evaluation-harness {gap:.1e} nats")
    return rows_of(shape, task.name, in_turn(paths))


def shared(shape: str, ours: Model, plain, tokenizer) -> list[dict]:
    """Many items with the same shots, against scoring each prompt in full (timed on a few)."""
    task = made_task("300 items, same ten shots", SHARED_ITEMS, SHOTS, 40, ("Y", "N"))
    few = task.take(range(TIMED_IN_FULL))
    each = [few.take([i]) for i in range(len(few))]
    cases, alone = cases_of(task), [cases_of(one) for one in each]
    seconds = in_turn(
        {
            LAST: lambda: [plain_last(plain, tokenizer, one) for one in each],
            "isp_mech, each in full": lambda: [class_logprobs(ours, one) for one in alone],
            OURS: lambda: class_logprobs(ours, cases),
        },
        repeats=2,
    )
    count = {name: len(task) if name == OURS else len(few) for name in seconds}
    per_item = {name: (processor / count[name], clock / count[name]) for name, (processor, clock) in seconds.items()}
    own = per_item[OURS][0] / per_item["isp_mech, each in full"][0]
    print(f"{shape}: same ten shots, {own:.3f} x of scoring each prompt in full by ourselves")
    return rows_of(shape, task.name, per_item)


def real(shape: str) -> list[dict]:
    """The prize's own file: each item has its own ten shots."""
    if not PRIZE.is_file():
        return []
    whole = read_task(PRIZE)
    tokenizer = byte_tokenizer([i.prompt for i in whole.items[:100]])
    ours, plain = make_models(shape, tokenizer)
    task = Task("hindsight-neglect as released", whole.items[:REAL_ITEMS])
    return compare(shape, ours, plain, tokenizer, task)


def rows_of(shape: str, task: str, seconds: dict[str, tuple[float, float]]) -> list[dict]:
    """Table rows, printed too; the unit of both ratios is one batched forward with last logits."""
    rows = []
    for name, (processor, clock) in seconds.items():
        ratios = processor / seconds[LAST][0], clock / seconds[LAST][1]
        print(
            f"{shape:5} {task:32} {name:24} {clock:8.3f} s {ratios[0]:6.3f} x, by the clock {ratios[1]:6.3f} x",
            flush=True,
        )
        values = {"seconds": clock, "ratio": ratios[0], "ratio_by_the_clock": ratios[1]}
        rows.append({"shape": shape, "task": task, "path": name} | {key: f"{v:.4f}" for key, v in values.items()})
    return rows


def peak_of(shape: str, tokens: int, path: str) -> float:
    """GB above the loaded model at the peak of scoring one batch, in this process."""
    tokenizer = byte_tokenizer()
    ours, plain = make_models(shape, tokenizer)
    task = made_task("memory", MEASURED[tokens], 0, tokens, ("A", "B"))
    cases = cases_of(task)
    if path == OURS:
        class_logprobs(ours, cases_of(made_task("warm-up", 1, 0, 8, ("A", "B"))))
        return peak_memory(lambda: class_logprobs(ours, cases))
    return peak_memory(lambda: plain_last(plain, tokenizer, task))


def memory(shape: str) -> list[dict]:
    """Peak memory of both paths, each in a process of its own."""
    rows = []
    for tokens, prompts in MEASURED.items():
        for path in (LAST, OURS):
            command = [sys.executable, __file__, shape, "--peak-of", path, "--tokens", str(tokens)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            gigabytes = float(done.stdout.split()[-1])
            print(
                f"{shape:5} {prompts} prompts of {tokens} tokens, {path:20} {gigabytes:6.3f} GB above the model",
                flush=True,
            )
            rows.append({"shape": shape, "tokens": tokens, "prompts": prompts, "path": path, "GB": f"{gigabytes:.4f}"})
    return rows


def draw(rows: Sequence[dict]) -> None:
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    shapes = list(dict.fromkeys(r["shape"] for r in rows))
    figure, axes = plt.subplots(1, len(tasks), figsize=(3.1 * len(tasks), 2.6), squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        here = [r for r in rows if r["task"] == task]
        names = list(dict.fromkeys(r["path"] for r in here))[::-1]
        for k, shape in enumerate(shapes):
            ratio = {r["path"]: float(r["ratio"]) for r in here if r["shape"] == shape}
            at = np.arange(len(names)) + (k - (len(shapes) - 1) / 2) * 0.36
            bars = axis.barh(at, [ratio.get(n, np.nan) for n in names], 0.34, color=("#0072B2", "#E69F00")[k % 2])
            axis.bar_label(bars, fmt="%.2f", fontsize=6, padding=2)
            bars.set_label(shape)
        axis.set_yticks(range(len(names)), names, fontsize=6)
        axis.set_title(task, fontsize=7)
        axis.set_xlabel("time, plain batched forward = 1", fontsize=6)
        axis.tick_params(axis="x", labelsize=6)
        axis.margins(x=0.15)
    axes[0][0].legend(fontsize=6, frameon=False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("svg", "png"):
        figure.savefig(FIGURE.with_suffix(f".{suffix}"), dpi=200, metadata={"Date": None} if suffix == "svg" else None)


def save(rows: Sequence[dict], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", help=f"of {', '.join(SHAPES)} (default: all)")
    parser.add_argument("--peak-of", choices=(LAST, OURS), help="print one path's peak memory, and nothing else")
    parser.add_argument("--tokens", type=int, choices=tuple(MEASURED), default=128, help="for --peak-of")
    chosen = parser.parse_args()
    torch.set_num_threads(THREADS)
    if chosen.peak_of:
        print(peak_of(chosen.shapes[0], chosen.tokens, chosen.peak_of))
        return
    tokenizer = byte_tokenizer()
    rows, peaks = [], []
    for shape in chosen.shapes or SHAPES:
        ours, plain = make_models(shape, tokenizer)
        for name, classes in (("one-token classes", ("A", "B")), ("three-token classes", (" xy", " zw"))):
            task = made_task(f"128 tokens, {name}", ITEMS, 0, TOKENS, classes)
            rows += compare(shape, ours, plain, tokenizer, task)
        rows += shared(shape, ours, plain, tokenizer)
        del ours, plain
        rows += real(shape)
        peaks += memory(shape) if TOLD else []
    save(rows, OUT / "bench.csv")
    if peaks:
        save(peaks, OUT / "memory.csv")
    draw(rows)


if __name__ == "__main__":
    main()
