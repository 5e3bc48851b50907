"""The keys and values of a forward that is done, for copies of each row's last tokens to run over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isp_mech.models.activations import ActivationRecord
from isp_mech.models.batch import Batch


@dataclass(frozen=True)
class ScoreBias:
    """What is added to attention scores of copies in one layer, after scaling and a soft cap, before the softmax.

    ``prefix`` is for the tokens that stand before the copies, by copy, head and the copy's own token (``t``) that
    looks; any of these is 1 where it makes no difference. ``within`` is for a copy's own tokens as keys. Minus
    infinity takes a token away; a copy's tokens always see themselves.
    """

    prefix: Float[Tensor, "row copies_or_one head_or_one t_or_one pos"]
    within: Float[Tensor, "row copies_or_one head_or_one t t"] | None = None


@dataclass(frozen=True)
class PrefixCache:
    """What copies of a row's last tokens run over.

    Each copy has ``t`` tokens: ``visible_within[row, c, i, j]`` is True where token ``i`` of copy c sees its token
    ``j`` (one copy stands for all that are alike). All of them see the earlier tokens where ``visible_prefix`` is
    True, and nothing of other copies. ``depth`` are the earlier tokens' position ids. ``resid`` holds each layer's
    input at the ``t`` tokens of the copy that nothing was changed in, so that a run may start at any layer.
    ``score_bias`` has, by layer, what is added to the attention scores there; ``length`` is the batch's.
    """

    keys: Sequence[Float[Tensor, "row kv pos d_head"]]
    values: Sequence[Float[Tensor, "row kv pos d_head"]]
    visible_prefix: Bool[Tensor, "row pos"]
    depth: Int[Tensor, "row pos"]
    visible_within: Bool[Tensor, "row copies_or_one t t"]
    resid: Sequence[Float[Tensor, "row t d_model"]]
    score_bias: Mapping[int, ScoreBias] = field(default_factory=dict)
    length: int | None = None

    @classmethod
    def before(
        cls,
        ends: Sequence[int],
        record: ActivationRecord,
        batch: Batch,
        visible_within: Tensor,
        resid: Sequence[Tensor] = (),
    ) -> PrefixCache:
        """What stands before node ``ends[row]`` of each row of a forward that recorded its keys and values."""
        pos, device = max(1, *ends), record.keys[0].device  # one that none sees, where all copies begin at the start
        visible = torch.arange(pos, device=device) < torch.tensor(list(ends), device=device)[:, None]
        keys, values = ([x[:, :, :pos] for x in kept] for kept in (record.keys, record.values))
        depth, within = batch.depth[:, :pos].to(device), visible_within.to(device)
        return cls(keys, values, visible, depth, within, resid, length=batch.length)

    @classmethod
    def along(
        cls,
        rows: Int[Tensor, " n"],
        paths: Sequence[Sequence[int]],
        record: ActivationRecord,
        batch: Batch,
        visible_within: Tensor,
        resid: Sequence[Tensor] = (),
    ) -> PrefixCache:
        """What stands at the nodes of each of ``n`` paths, the i-th in row ``rows[i]`` of a forward that recorded its
        keys and values; paths may have nodes in common."""
        ends = [len(path) for path in paths]
        if rows.tolist() != list(range(len(batch.ids))) or any(list(p) != list(range(len(p))) for p in paths):
            pos = max(1, *ends)
            nodes = torch.tensor([[*path, *[0] * (pos - len(path))] for path in paths])
            row = rows[:, None].expand(-1, pos)
            keys, values = (
                [x[row.to(x.device), :, nodes.to(x.device)].transpose(1, 2) for x in kept]
                for kept in (record.keys, record.values)
            )
            record, batch = (
                ActivationRecord(keys=keys, values=values),
                Batch(batch.ids[row, nodes], batch.depth[row, nodes], length=batch.length),
            )
        return cls.before(ends, record, batch, visible_within, resid)
