"""Attention token by token: where each head looks from the decision position, of the pairs that its sites move most.

Attention to every token of every prompt would be by far the largest of all tables; so a sample of the pairs is taken,
and of it what is at least ``LEAST``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from isp_mech.inference.batches import BatchPlan, BatchSize, each_model
from isp_mech.inference.contrast_prompts import PlacedPrompts, head_of, place_prompts, run_of
from isp_mech.inference.margin import ContrastPrompt
from isp_mech.models import Batch, ChatSetting, Model, Models, RecordSpec, TokenPlaces
from isp_mech.tables import Setting, Table, concat, table
from isp_mech.tables.site_tables import pairs_in_turn
from isp_mech.tasks import PairSet

LEAST = 0.002  # share of a head's attention
N_PAIRS = 40  # or more, so that each site's strongest pair is among them
MOST = 2_000_000  # weights of a model that are looked at: with long prompts and many heads the pairs are fewer
ALWAYS = 3  # pairs


def token_attention(
    pairs: PairSet,
    models: Models,
    effects: Table,
    *,
    n_pairs: int | None = None,
    chat: ChatSetting | None = None,
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> Table:
    """Table ``token_attention``: each head's attention from the last position that both completions share to each
    token up to it, shares 0..1; those under 0.002 are left out, all together what is missing to 1.

    Of ``n_pairs`` pairs of each model: by ``effects``, as ``locate`` or ``trace`` gave them, of every site the pair
    that it moves most, the strongest site first, then of every site the second. Without a number: 40, or as many as it
    takes to have every site's first pair, and fewer, but at least three, where prompts are long and heads many. Of a
    model that has no effects there: the first pairs. ``chat`` is as in ``score``. A model whose attention is not
    defined has no rows, and its Run says why.
    """
    plans = each_model(models, batch_size, chat=chat, progress=progress)
    return concat([_of_model(pairs, plan, effects, n_pairs) for plan in plans])


def _of_model(pairs: PairSet, plan: BatchPlan, effects: Table, n_pairs: int | None) -> Table:
    model, shape = plan.model, plan.model.architecture
    if shape.no_attention:
        return _table(pairs, plan, {}, {}, f"{model.name}: attention by token is not shown: {shape.no_attention}")
    order, first = _in_turn(effects, model, pairs)
    wanted = pairs.take(order[: n_pairs or max(N_PAIRS, first)])
    placed = place_prompts(model, wanted)
    if n_pairs is None:
        each = np.mean([prompt.shared for prompt in placed.prompts]) * 2 * len(shape.attention_layers) * shape.n_heads
        fit = max(ALWAYS, int(MOST / each))
        placed = placed if fit >= len(wanted) else place_prompts(model, wanted.take(range(fit)))
    kept: list[np.ndarray] = [np.empty(0)] * len(placed.prompts)  # (layer, head, token) of each prompt

    def run(rows: Sequence[int], batch: Batch) -> None:
        asked = [(row, i) for row, t in enumerate(rows) for i in placed.owners[t]]
        paths = [placed.paths[i][0].path[: placed.prompts[i].shared] for _, i in asked]
        seen = np.zeros((len(asked), batch.ids.shape[1], max(map(len, paths))), dtype=np.float32)
        for q, path in enumerate(paths):
            seen[q, list(path), range(len(path))] = 1  # each token is a role of its own
        at = torch.tensor([(row, path[-1]) for (row, _), path in zip(asked, paths, strict=True)], device=model.device)
        spec = RecordSpec(at[:, 0], at[:, 1], at[:, 0], at[:, 1], torch.from_numpy(seen).to(model.device))
        with torch.no_grad():
            record = model.forward(batch, at=TokenPlaces(at[:, 0], at[:, 1]), record=spec).record
        weights = torch.stack(record.attention, 1).float().cpu().numpy()
        for (_, i), path, of_prompt in zip(asked, paths, weights, strict=True):
            kept[i] = of_prompt[:, :, : len(path)].copy()

    plan.run_trees(placed.trees, run, "attention by token")
    settings: dict[str, Setting] = {"n_pairs": len(dict.fromkeys(placed.pairs)), "least": LEAST}
    return _table(pairs, plan, settings, _rows(model, pairs.name, placed, kept, shape.attention_layers))


def _table(
    pairs: PairSet, plan: BatchPlan, settings: Mapping[str, Setting], rows: Mapping[str, np.ndarray], *notes: str
) -> Table:
    method, told = "attention from the last position, token by token", [*notes, *plan.notes()]
    run = run_of(plan.model, task=pairs.name, method=method, seed=None, settings=settings, notes=told)
    return table("token_attention", rows or [], run)


def _in_turn(effects: Table, model: Model, pairs: PairSet) -> tuple[list[int], int]:
    """The pairs' numbers in the order in which they are taken, and how many it takes to have every site's first."""
    frame = effects.frame
    here = frame[(frame["model"] == model.name) & (frame["side"] == "conflict") & frame["kind"].isin(["head", "mlp"])]
    replaced = here[here["replacement"] != ""]
    if len(replaced):
        here = replaced[replaced["replacement"] == replaced["replacement"].iloc[0]]
    if not len(here):
        return list(range(len(pairs))), 0
    site = here["layer"] * 100_000 + here["head"].fillna(-1).astype(int)
    wide = here.assign(site=site).pivot(
        index="pair", columns="site", values="effect" if len(replaced) else "direct_effect"
    )
    values = wide.reindex([pair.id for pair in pairs]).to_numpy(dtype=float)
    order = pairs_in_turn(values)
    return order.tolist(), len(set(np.nan_to_num(np.abs(values)).argmax(axis=0).tolist()))


def _rows(
    model: Model, task: str, placed: PlacedPrompts, kept: Sequence[np.ndarray], layers: Sequence[int]
) -> dict[str, np.ndarray]:
    """The columns of the table; a token that stands for none of the prompt's characters has an empty span."""
    parts: list[dict[str, np.ndarray]] = []
    for prompt, side, pair, weights in zip(placed.prompts, placed.sides, placed.pairs, kept, strict=True):
        layer, head, token = np.nonzero(weights >= LEAST)
        spans, texts = _tokens(model, prompt)
        columns = {name: np.full(len(token), value, dtype=object) for name, value in (("pair", pair), ("side", side))}
        columns |= {"layer": np.array(layers)[layer], "head": head, "token": token}
        columns |= {"start": spans[token, 0], "stop": spans[token, 1], "text": texts[token]}
        parts.append(columns | {"weight": weights[layer, head, token]})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    n = len(joined["weight"])
    head_columns = head_of(model, task).items()
    same = {name: np.full(n, value, dtype=object if isinstance(value, str) else None) for name, value in head_columns}
    return same | joined


def _tokens(model: Model, prompt: ContrastPrompt) -> tuple[np.ndarray, np.ndarray]:
    """Of each token up to the decision position: its characters in the prompt (token, 2), and its text."""
    whole, spans, texts = prompt.prompt.text, [], []
    ids = prompt.answer.tokens[: prompt.shared]
    for number, (start, stop) in zip(ids, prompt.encoding.spans, strict=False):
        inside = start < stop <= len(whole)
        spans.append((start, stop) if inside else (0, 0))
        texts.append(whole[start:stop] if inside else str(model.tokenizer.decode([number])))
    return np.array(spans, dtype=np.int64), pd.Series(texts, dtype=object).to_numpy()
