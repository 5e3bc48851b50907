"""Which head's attention to which part of the prompt decides: one head and one role blocked at a time.

effect = margin as it is - margin with the head's attention to the role's tokens blocked: from the decision position and
the completions' tokens after it, before the softmax, so that its other weights grow to sum to 1 again. A positive
effect: what the head takes from there pushes towards the prompt's answer; a negative one: towards the lure. It is what
``intervene(block(role, layers=[l], heads=[h]))`` gives. Source: Geva et al. 2023, arXiv 2304.14767, who block all heads
of several layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isp_mech.causal.activation_patching import Block, Change, changed_margins
from isp_mech.causal.intervention_changes import Bound
from isp_mech.causal.screening import EXACT, FIRST_TOKEN, is_costly, screened
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, BatchSize, each_model
from isp_mech.inference.contrast_prompts import SIDES, head_of, place_prompts, run_of
from isp_mech.inference.margin import ContrastPrompt
from isp_mech.inference.tokenization import OTHER, role_names
from isp_mech.models import ChatSetting, Models
from isp_mech.scaling.summaries import join_sites
from isp_mech.stats import LEVEL, MATTERS, benjamini_hochberg, spearman
from isp_mech.tables import Run, Table, concat, table
from isp_mech.tables.columns import crossed, flip_p, mean_columns
from isp_mech.tasks import PairSet, Side
from isp_mech.tracing.trace import Head

ALL_ROLES = "all roles"  # of stability: the places of every role together
TOGETHER = "+"  # between roles that are blocked at once


@dataclass(frozen=True)
class HeadRoles:
    """Tables ``role_effects`` (pair x side x head x role), ``head_roles`` (side x head x role: means over pairs) and
    ``role_stability`` (how alike two halves of the pairs rank heads and roles)."""

    role_effects: Table
    head_roles: Table
    role_stability: Table


def block_heads(
    pairs: PairSet,
    models: Models,
    *,
    roles: str | Sequence[str] | None = None,
    sides: Sequence[Side] = ("conflict",),
    chat: ChatSetting | None = None,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = False,
) -> HeadRoles:
    """Effect, in nats, of every head's attention to every role on the margin (answer less lure on both sides).

    ``roles`` defaults to all that the prompts of ``sides`` (conflict, plain) have, but ``other``, the tokens of no
    role; ``definition+question`` blocks two at once. A head that may not look at one role may find the same word in
    another one: what stands in two roles is seen where both are blocked. A pair whose prompt has no token of a role
    before the decision position counts as zero; a role that no prompt of a side has there has no rows.

    Each effect is the one that a forward of its own would give; where completions have several tokens and the
    vocabulary is large, that holds of the strongest ones and of a random tenth of the others, as in ``locate``: the
    column ``measured`` says which, the Run what that tenth missed. Means have 95 % bootstrap intervals over pairs, p
    is a two-sided sign-flip p, and q is by Benjamini-Hochberg over all heads, roles, sides and models together.

    In ``role_stability`` the rank correlation is Spearman's between the mean effects of two halves of the pairs: over
    all heads and roles, and over those that matter, which in either half are beyond a tenth of that half's largest
    effect of any role; halves that share nothing but noise have 0 on average.

    ``chat`` is as in ``score``. ``InputError`` for a role that no prompt has, for side neutral, and for a model whose
    attention does not accept custom masks. On the ladder's largest size it takes about 3 x as long as ``locate``.
    """
    asked = None if roles is None else tuple(dict.fromkeys((roles,) if isinstance(roles, str) else roles))
    _check(pairs, asked, sides)
    parts = []
    for plan in each_model(models, batch_size, chat=chat, progress=progress):
        parts += [part for side in dict.fromkeys(sides) if (part := _of_side(pairs, side, plan, asked, seed))]
    if not parts:
        raise InputError("block", ["no role that stands before the decision position of any prompt"])
    return HeadRoles(
        concat([part.role_effects for part in parts]),
        join_sites([part.head_roles for part in parts]),
        concat([part.role_stability for part in parts]),
    )


def _check(pairs: PairSet, roles: Sequence[str] | None, sides: Sequence[Side]) -> None:
    problems = [f"side {side!r}: expected some of {', '.join(SIDES)}" for side in sides if side not in SIDES]
    if not sides:
        problems.append(f"no sides: expected some of {', '.join(SIDES)}")
    if not problems:
        known = role_names([getattr(pair, side) for pair in pairs for side in sides])
        problems = [
            f"role {role!r}: expected some of {', '.join(known)}" for role in roles or () if not _parts(role, known)
        ]
        if not (known[:-1] if roles is None else roles):
            problems.append("no roles: expected prompts that have some" if roles is None else "no roles: expected some")
    if problems:
        raise InputError("block", problems)


def _parts(role: str, known: Sequence[str]) -> list[str]:
    """A role, or those that are blocked together; none where one of them is not known."""
    parts = [role] if role in known else role.split(TOGETHER)
    return parts if all(part in known for part in parts) else []


@dataclass(frozen=True)
class _Measured:
    """Effects (pair, place) on one side: the places are heads x roles, heads of a layer together; ``n`` is how many
    pairs have tokens of each role, ``how`` how each place's effects were measured."""

    side: Side
    roles: Sequence[str]
    heads: Sequence[tuple[int, int]]
    effects: np.ndarray
    how: np.ndarray
    n: Sequence[int]


def _of_side(pairs: PairSet, side: Side, plan: BatchPlan, roles: Sequence[str] | None, seed: int) -> HeadRoles | None:
    """One model's tables of one side; None where no prompt has any of the roles."""
    model, shape = plan.model, plan.model.architecture
    prompts = place_prompts(model, pairs, (side,)).prompts
    bound = Bound(model, prompts)
    asked = roles if roles is not None else [r for r in role_names([p.prompt for p in prompts]) if r != OTHER]
    tokens = {role: _tokens(bound, role) for role in asked}
    there = [role for role in asked if any(tokens[role])]
    if not there:
        return None
    heads = [(layer, head) for layer in range(shape.n_layers) for head in range(shape.n_heads)]
    blocks = [Block(tokens[role], frozenset({layer}), frozenset({head})) for layer, head in heads for role in there]
    has = np.array([[bool(mine) for mine in tokens[role]] for role in there]).T

    def measure(some_prompts: Sequence[ContrastPrompt], some: Sequence[int]) -> np.ndarray:
        changes: list[Change | tuple[Change, ...]] = [(), *(blocks[i] for i in some)]
        margins = changed_margins(some_prompts, changes, plan, doing="block")
        return np.where(np.tile(has, len(heads))[:, list(some)], margins[:, :1] - margins[:, 1:], 0.0)[None]

    notes = []
    if is_costly(prompts, model):
        found = screened(measure, prompts, len(blocks), model=model.name, places="heads x roles", seed=seed)
        effects, how, notes = found.effects[0], found.how, [found.note]
    else:
        effects, how = measure(prompts, range(len(blocks)))[0], np.full(len(blocks), EXACT, dtype=object)
    run = run_of(
        model,
        task=pairs.name,
        method="block: no attention of one head to one role's tokens",
        seed=seed,
        settings={"roles": ", ".join(there), "n_pairs": len(pairs), "level": LEVEL},
        notes=[*notes, *plan.notes()],
    )
    measured = _Measured(side, there, heads, effects, how, has.sum(0).tolist())
    head = head_of(model, pairs.name)
    return HeadRoles(
        _effects_table(head, [pair.id for pair in pairs], measured, run),
        _means_table(head, measured, seed, run),
        _stability_table(head, measured, seed, run),
    )


def _tokens(bound: Bound, role: str) -> list[list[int]]:
    """The tokens of a role, or of several, before each prompt's decision position."""
    of_parts = [bound.tokens(part, early=True) for part in (role, *role.split(TOGETHER))]
    return [sorted({i for tokens in mine for i in tokens}) for mine in zip(*of_parts, strict=True)]


def _effects_table(head: Head, ids: Sequence[str], measured: _Measured, run: Run) -> Table:
    axes = {"pair": ids, "side": [measured.side] * len(ids)}, *_axes(measured)
    columns = crossed(head, *axes) | {
        "effect": measured.effects.ravel().astype(np.float32),
        "measured": np.tile(measured.how, len(ids)),
    }
    return table("role_effects", columns, run)


def _means_table(head: Head, measured: _Measured, seed: int, run: Run) -> Table:
    p = np.where(measured.how == FIRST_TOKEN, np.nan, flip_p(measured.effects, seed))
    q = benjamini_hochberg(p)
    columns = crossed(head, {"side": [measured.side]}, *_axes(measured))
    columns |= mean_columns("effect", measured.effects, seed)
    columns |= {"p": p, "q": q, "significant": q <= LEVEL, "n": np.tile(measured.n, len(measured.heads))}
    return table("head_roles", columns | {"measured": measured.how}, run)


def _axes(measured: _Measured) -> tuple[dict[str, list[int]], dict[str, Sequence[str]]]:
    layers, numbers = (list(each) for each in zip(*measured.heads, strict=True))
    return {"layer": layers, "head": numbers}, {"role": measured.roles}


def _stability_table(head: Head, measured: _Measured, seed: int, run: Run) -> Table:
    """Rows for all roles together and for each; none of a single pair."""
    n = len(measured.effects)
    if n < 2:
        return table("role_stability", [], run)
    order = np.random.default_rng(seed).permutation(n)
    halves = np.stack([measured.effects[some].mean(0) for some in (order[: n // 2], order[n // 2 :])])
    size = np.abs(halves)
    matters = (size > MATTERS * size.max(1, keepdims=True)).any(0)
    of_role, rows = np.tile(np.arange(len(measured.roles)), len(measured.heads)), []
    for number, role in enumerate((ALL_ROLES, *measured.roles), start=-1):
        here = (of_role == number) | (number < 0)
        rows.append(
            {
                **head,
                "side": measured.side,
                "role": role,
                "n_places": int(here.sum()),
                "spearman": spearman(*halves[:, here]),
                "n_matter": int((here & matters).sum()),
                "spearman_matter": spearman(*halves[:, here & matters]),
            }
        )
    return table("role_stability", rows, run)
