"""Which interventions count as restoring prompt-following, over all kinds, halves and models; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from isp_mech.stats import LEVEL, benjamini_hochberg
from isp_mech.tables import Table, concat

PLAIN_COST, NEUTRAL_COST = 0.05, 0.1  # what a change may cost: plain accuracy, a share; neutral loss, nats a token
LEAST_GAIN = 0.1  # of conflict accuracy, a share: less is no restoring, however sure it is
MOST_ALIKE = 0.9  # of all prompts, a share: more answered alike is a constant answer
ROUNDING = 1e-9


def join_restoration(parts: Sequence[Table]) -> Table:
    """Several models' restoration as one: q is over all of them, and with it which interventions count as restoring.

    One does where, on the half that is judged, conflict accuracy rises by 10 points or more, with a 95 % interval above
    zero; where q against random changes is at most 0.05, and more is restored than by them; where it costs at most 5
    points of plain accuracy and 0.1 nats a token on neutral text; and where the model is not broken: at most nine in
    ten prompts are answered alike, and the next token of neutral text is told otherwise by no more than what is known
    of it (a model that has forgotten the text is as far off), or by 0.1 nats. Tables from before these
    two were measured pass them.
    """
    joined = concat(parts)
    f = joined.frame
    q = benjamini_hochberg(f["p"].to_numpy(dtype=float))
    clear = (f["gain"] >= LEAST_GAIN - ROUNDING) & (f["gain_lo"] > 0)
    better = f["restored"].astype(float) > f["restored_random"].astype(float)
    cheap = (f["plain_after"] >= f["plain_before"] - PLAIN_COST - ROUNDING) & (
        f["neutral_after"] <= f["neutral_before"] + NEUTRAL_COST
    )
    constant = f["same_answer"].astype(float) > MOST_ALIKE
    forgetting = f["neutral_kl"] > f["neutral_information"].astype(float).clip(lower=NEUTRAL_COST)
    restoring = (clear & better & cheap & ~constant & ~forgetting).to_numpy(dtype=bool) & (q <= LEVEL)
    return replace(joined, frame=f.assign(q=q, restoring=restoring))
