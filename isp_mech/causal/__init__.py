"""Where a prompt is overridden: what changes when a site is replaced, scaled or cut off, and whether that restores it.

sites = locate(pairs, family)
check = verify(sites, pairs, family)
"""

from __future__ import annotations

from isp_mech.causal.attach import attach
from isp_mech.causal.edges import edges
from isp_mech.causal.faithfulness import keep
from isp_mech.causal.intervention_values import (
    Intervention,
    block,
    load_intervention,
    parse_intervention,
    replacing,
    replay,
    reweight,
    scale,
    steer,
    swap,
)
from isp_mech.causal.interventions import intervene, knock_out, scale_sites
from isp_mech.causal.locate import Sites, locate
from isp_mech.causal.restoration import Restored, restoration
from isp_mech.causal.role_blocking import HeadRoles, block_heads
from isp_mech.causal.verify import verify

__all__ = [
    "HeadRoles",
    "Intervention",
    "Restored",
    "Sites",
    "attach",
    "block",
    "block_heads",
    "edges",
    "intervene",
    "keep",
    "knock_out",
    "load_intervention",
    "locate",
    "parse_intervention",
    "replacing",
    "replay",
    "restoration",
    "reweight",
    "scale",
    "scale_sites",
    "steer",
    "swap",
    "verify",
]
