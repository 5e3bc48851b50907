"""Where a prompt is overridden: what changes when a site is replaced, scaled or cut off, and whether that restores it.

sites = locate(pairs, family)
check = verify(sites, pairs, family)
"""

from __future__ import annotations

from isp_mech.causal.edges import edges
from isp_mech.causal.faithfulness import keep
from isp_mech.causal.interventions import knock_out, scale_sites
from isp_mech.causal.locate import Sites, locate
from isp_mech.causal.verify import verify

__all__ = ["Sites", "edges", "keep", "knock_out", "locate", "scale_sites", "verify"]
