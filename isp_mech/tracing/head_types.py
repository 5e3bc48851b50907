"""Head classes: which heads follow the context, which recall, which write against what the context says.

On the plain prompt context and memory agree on the lure, on the conflict prompt they do not. So the signs of a head's
direct effect on the two sides (margin: answer less lure, on both) tell whom it follows (Yu et al. 2023, arXiv
2310.15910):

======== ======== ==========================================================================================
conflict plain    class
======== ======== ==========================================================================================
+        - or 0   it pushes what the context says: ``induction`` where its induction score is 0.1 or more,
                  else ``copying``
-        -        ``recall``: it pushes the lure, also where the prompt says something else
-        + or 0   ``suppression``, if it also writes against the tokens it attends to (``copying`` under one half)
+        +        ``opposing``: it pushes the answer, whether the prompt asks for it or not
======== ======== ==========================================================================================

A sign counts where the effect is significant; 0 on the plain side is what a head has that finds nothing there to
copy. All other heads are ``none``. What a head does on random tokens repeated once is measured beside it:
``induction`` (Olsson et al. 2022, arXiv 2209.11895) and ``copying`` (Elhage et al. 2021, A mathematical framework for
transformer circuits; negative for copy suppression, McDougall et al. 2023, arXiv 2310.04625).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, BatchSize, each_model
from isp_mech.inference.contrast_prompts import SIDES, head_of, run_of
from isp_mech.inference.prefix_tree import PrefixTree
from isp_mech.models import Batch, Model, Models, RecordSpec, norm_of
from isp_mech.stats import LEVEL, benjamini_hochberg
from isp_mech.tables import Table, concat, table
from isp_mech.tables.columns import crossed, flip_p, mean_columns
from isp_mech.tasks import PairSet
from isp_mech.tracing.trace import trace_model

CLASSES = ("copying", "induction", "recall", "suppression", "opposing", "none")
INDUCTION = 0.1  # four times what even attention has; in small models heads that do it have 0.2 to 0.5, others 0.02
SEQUENCES, HALF = 64, 25  # random sequences, and tokens before the repeat
ALPHABET = 256  # tokens at most of a sequence's own draw, among which the percentiles are taken


def head_classes(
    pairs: PairSet,
    models: Models,
    *,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Table:
    """Table ``heads``: each head's class, scores and direct effects, one row per model and head.

    ``induction``, 0..1: mean attention from a repeated token to the token after its earlier occurrence. ``copying``,
    0..1, by chance 0.5: mean percentile, weighted by attention, that an attended token's logit has among those of 256
    random tokens in what the head writes, read through the final norm (its scale frozen) and the unembedding; the
    first position, on which heads rest, is left out. Both are means over 64 sequences of random tokens repeated once.
    ``conflict_direct`` and ``plain_direct``, nats: mean direct effect on the margin answer less lure on either side,
    positive to the answer. Intervals are 95 %, by bootstrap over pairs (for ``copying`` over sequences), p two-sided
    by sign flips, q by Benjamini-Hochberg over heads x models x sides. ``InputError`` for a model whose attention
    does not accept custom masks: its patterns are not seen.
    """
    plans = each_model(models, batch_size, progress=progress)
    joined = concat([_heads_of(plan, pairs, seed) for plan in plans])
    frame = joined.frame
    q = benjamini_hochberg(frame[[f"{side}_p" for side in SIDES]].to_numpy())
    frame = frame.assign(conflict_q=q[:, 0], plain_q=q[:, 1])
    signs = (np.where(frame[f"{s}_q"] <= LEVEL, np.sign(frame[f"{s}_direct"]), 0).astype(int) for s in SIDES)
    copies_less = frame["copying_hi"] < 0.5
    named = [
        class_of(int(conflict), int(plain), float(score), bool(less))
        for conflict, plain, score, less in zip(*signs, frame["induction"], copies_less, strict=True)
    ]
    return replace(joined, frame=frame.assign(**{"class": named}))


def class_of(conflict: int, plain: int, induction: float, copies_less: bool) -> str:
    """The class of a head by the signs of its significant direct effects (0: not significant), its induction score,
    and whether it writes tokens it attends to lower than by chance.

    >>> class_of(1, -1, 0.9, False), class_of(1, 0, 0.0, False), class_of(-1, 1, 0.0, True), class_of(-1, 1, 0.0, False)
    ('induction', 'copying', 'suppression', 'none')
    """
    if conflict > 0:
        follows = "induction" if induction >= INDUCTION else "copying"
        return "opposing" if plain > 0 else follows
    if conflict < 0 and plain < 0:
        return "recall"
    return "suppression" if conflict < 0 and copies_less else "none"


def class_shares(heads: Table, sites: Table) -> Table:
    """Table ``head_shares``: what each class of heads has of every model's override, MLPs being a class of their own.

    The override mass of a model, nats, 0 or less, is the sum of the significant negative total effects of all its heads
    and MLPs at the decision position (``locate``'s table ``sites``). ``share``, 0..1, sums to 1 over a model's classes;
    it is missing where there is no override. ``InputError`` names the models of which one table has other heads, or
    another task.
    """
    if (sites.frame["kind"] == "resid").any():
        raise InputError("sites", ["found the residual stream: expected sites at the decision position"])
    keys = ["model", "task", "layer", "head"]
    of_heads, of_mlps = (sites.frame[sites.frame["kind"] == kind] for kind in ("head", "mlp"))
    joined = of_heads.merge(heads.frame[[*keys, "class"]], "outer", keys, indicator=True)
    wrong = sorted(set(joined.loc[joined["_merge"] != "both", "model"])) or ([] if len(joined) else ["no model"])
    if wrong:
        raise InputError(
            "sites", [f"{name}: expected the heads that the table of heads has, each once" for name in wrong]
        )
    rows = []
    for (model, n_params, task), mine in joined.groupby(["model", "n_params", "task"], sort=False):
        mlps = of_mlps[(of_mlps["model"] == model) & (of_mlps["task"] == task)]
        groups = {name: mine[mine["class"] == name] for name in CLASSES} | {"mlp": mlps}
        found = {name: group[group["significant"] & (group["effect"] < 0)]["effect"] for name, group in groups.items()}
        mass = sum(effects.sum() for effects in found.values())
        rows += [
            {
                "model": model,
                "n_params": n_params,
                "task": task,
                "class": name,
                "n_sites": len(groups[name]),
                "n_override": len(effects),
                "override": float(effects.sum()),
                "share": abs(float(effects.sum() / mass)) if mass < 0 else np.nan,
            }
            for name, effects in found.items()
        ]
    return table("head_shares", rows, replace(sites.run, method=f"{sites.run.method}; shares of head classes"))


def _heads_of(plan: BatchPlan, pairs: PairSet, seed: int) -> Table:
    """One model's rows, without what is known of all models together only: q and class."""
    model, shape = plan.model, plan.model.architecture
    scores = head_scores(plan, seed=seed)
    effects = trace_model(pairs, plan, seed=seed).traces.effects.frame
    n = shape.n_layers * shape.n_heads
    columns = crossed(head_of(model, pairs.name), {"layer": range(shape.n_layers)}, {"head": range(shape.n_heads)})
    columns |= {"class": np.full(n, "none", dtype=object), "induction": scores.induction.mean(0).ravel()}
    columns |= mean_columns("copying", scores.copying.reshape(-1, n), seed)
    for side in SIDES:
        here = effects[(effects["side"] == side) & (effects["kind"] == "head")]
        direct = here["direct_effect"].to_numpy(dtype=float).reshape(len(pairs), -1)
        columns |= mean_columns(f"{side}_direct", direct, seed)
        columns |= {f"{side}_p": flip_p(direct, seed), f"{side}_q": np.full(n, np.nan)}
    run = run_of(
        model,
        task=pairs.name,
        method="head_classes: by direct effects on both sides; scores on random tokens repeated once",
        seed=seed,
        settings={"n_pairs": len(pairs), "n_sequences": SEQUENCES, "induction_from": INDUCTION, "level": LEVEL},
        notes=plan.notes(),
    )
    return table("heads", columns, run)


# ---------------------------------------------------------------------------------------------
# On random tokens repeated once
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RepeatedTokens:
    """Random sequences: behind the start token, where the tokenizer sets one, ``half`` plain tokens of the vocabulary,
    all different, twice over. ``alphabets`` (sequence, token) has these first, then others that they are ranked among.
    """

    sequences: Int[Tensor, "sequence pos"]
    alphabets: Int[Tensor, "sequence token"]
    half: int


@dataclass(frozen=True)
class HeadScores:
    """Scores of every head on every sequence, 0..1."""

    induction: Float[np.ndarray, "sequence layer head"]
    copying: Float[np.ndarray, "sequence layer head"]


def repeated_random_tokens(model: Model, *, seed: int = 0) -> RepeatedTokens:
    """The sequences that ``head_scores`` runs; the same seed and vocabulary give the same ones."""
    special = {*model.tokenizer.all_special_ids, *model.tokenizer.added_tokens_decoder}
    n_known = model.n_tokens
    plain = sorted({i for i in model.tokenizer.get_vocab().values() if i < n_known} - special)
    first = model.added.before
    room = len(plain) if model.max_tokens is None else (model.max_tokens - len(first)) // 2
    half = min(HALF, len(plain), room)
    if half < 2:
        raise InputError(
            model.name, [f"{len(plain)} plain tokens in the vocabulary, room for {room}: expected two each"]
        )
    rng = np.random.default_rng(seed)
    alphabets = np.array([rng.permutation(plain)[:ALPHABET] for _ in range(SEQUENCES)])
    sequences = [[*first, *tokens[:half], *tokens[:half]] for tokens in alphabets.tolist()]
    return RepeatedTokens(torch.tensor(sequences), torch.from_numpy(alphabets), half)


def head_scores(plan: BatchPlan, *, seed: int = 0) -> HeadScores:
    """Induction and copying scores of every head on every sequence. See ``head_classes``."""
    model = plan.model
    if not model.accepts_custom_masks:
        raise InputError(model.name, ["attention patterns need an attention that accepts custom masks"])
    asked = repeated_random_tokens(model, seed=seed)
    shape, (n, pos) = model.architecture, asked.sequences.shape
    norm = shape.norm()
    scores = HeadScores(*(np.zeros((n, shape.n_layers, shape.n_heads), dtype=np.float32) for _ in range(2)))
    trees = [PrefixTree() for _ in range(n)]
    for tree, tokens in zip(trees, asked.sequences.tolist(), strict=True):
        for i, token in enumerate(tokens):
            tree.branch(token, i - 1)

    def run(rows: list[int], batch: Batch) -> None:
        at = torch.arange(len(rows) * pos, device=model.device)
        everywhere = torch.eye(pos, device=model.device).expand(len(at), -1, -1)  # each token is a role of its own
        spec = RecordSpec(at // pos, at % pos, at // pos, at % pos, everywhere)
        record = model.forward(batch, record=spec).record
        alphabets = asked.alphabets[rows].to(model.device)
        for layer in range(shape.n_layers):
            pattern = record.attention[layer].float().view(len(rows), pos, shape.n_heads, pos).transpose(1, 2)
            z = record.heads[layer].float().view(len(rows), pos, shape.n_heads, shape.d_head)
            scores.induction[rows, layer] = _induction(pattern, asked.half).cpu()
            with torch.no_grad():
                read = norm.pull_back(shape.unembed.weight[alphabets].float())
                scores.copying[rows, layer] = _copying(model, layer, pattern, z, read, asked.half).cpu()

    plan.run_trees(trees, run, "head scores")
    return scores


def _induction(pattern: Float[Tensor, "row head q pos"], half: int) -> Float[Tensor, "row head"]:
    """Mean attention of the last ``half`` tokens to the token after their earlier occurrence."""
    return pattern.diagonal(1 - half, -2, -1)[..., -half:].mean(-1)


def _copying(
    model: Model,
    layer: int,
    pattern: Float[Tensor, "row head q pos"],
    z: Float[Tensor, "row pos head d_head"],
    read: Float[Tensor, "row token d_model"],
    half: int,
) -> Float[Tensor, "row head"]:
    """Mean percentile, in what a head writes, of the tokens it attends to; ``read`` gives the alphabet's logits."""
    block, pos = model.architecture.blocks[layer], z.shape[1]
    if block.attn_write is not block.attn_out:
        read = norm_of(block.attn_write, model.architecture.d_model).pull_back(read)  # its scale, too, is positive
    place = (torch.arange(1, pos, device=z.device) - pos % 2) % half  # in the alphabet; an odd token starts the text
    out = []
    for head, matrix in enumerate(model.architecture.head_matrix(layer).float()):
        logits = einsum(z[:, 1:, head] @ matrix, read, "row q d_model, row token d_model -> row q token")
        weight = pattern[:, head, 1:, 1:]
        out.append((_percentiles(logits, place) * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-12))
    return torch.stack(out, 1)


def _percentiles(values: Float[Tensor, "row q token"], place: Int[Tensor, " k"]) -> Float[Tensor, "row q k"]:
    """The share of the other values that the value at each place is above, ties counted half."""
    ordered, own = values.sort(-1).values.contiguous(), values[..., place].contiguous()
    below, up_to = (torch.searchsorted(ordered, own, right=right) for right in (False, True))
    return (below + up_to - 1) / (2 * (values.shape[-1] - 1))
