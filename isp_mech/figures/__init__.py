"""Figures from Tables: nothing is computed here beyond means and intervals over pairs.

A figure function takes a Table and gives a matplotlib Figure; a panel function draws on an Axes of
yours. ``save`` writes PDF, SVG and PNG with the data beside. No torch, no pyplot, no global state.

    figure = override_map(read_table("sites.parquet"))
    save(figure, "figures/override-map")
"""

from __future__ import annotations

from isp_mech.figures.attention_by_role import attention_by_role, attention_panel
from isp_mech.figures.direct_vs_total import direct_vs_total
from isp_mech.figures.dose_response import dose_response
from isp_mech.figures.flip_traces import flip_traces, flip_traces_panel
from isp_mech.figures.flips_over_size import flips_over_size, flips_panel, steps_panel
from isp_mech.figures.head_role_map import head_role_map, head_role_panel
from isp_mech.figures.head_shares_over_size import head_shares_over_size
from isp_mech.figures.lens_over_depth import lens_over_depth, lens_panel
from isp_mech.figures.onset_over_size import onset_over_size
from isp_mech.figures.override_map import effect_panel, override_map
from isp_mech.figures.paper_figure import PaperFigure, save
from isp_mech.figures.published_curves import observations_panel, published_curves
from isp_mech.figures.restored_over_size import restored_over_size, restored_panel
from isp_mech.figures.restored_vs_cost import cost_panel, restored_vs_cost
from isp_mech.figures.rules_over_size import rules_over_size
from isp_mech.figures.scaling_curve import curve_panel, scaling_curve
from isp_mech.figures.shares_over_size import shares_over_size, shares_panel
from isp_mech.figures.story_over_size import story_over_size
from isp_mech.figures.style import ONE_COLUMN, TWO_COLUMNS, size_label
from isp_mech.figures.training_course import training_course, training_panel
from isp_mech.figures.variants_over_size import variants_over_size
from isp_mech.figures.verification import verification, verification_panel

__all__ = [
    "ONE_COLUMN", "TWO_COLUMNS", "PaperFigure", "attention_by_role", "attention_panel", "cost_panel", "curve_panel",
    "direct_vs_total", "dose_response", "effect_panel", "flip_traces", "flip_traces_panel", "flips_over_size",
    "flips_panel", "head_role_map", "head_role_panel", "head_shares_over_size",
    "lens_over_depth", "lens_panel", "observations_panel", "onset_over_size",
    "override_map", "published_curves", "restored_over_size", "restored_panel", "restored_vs_cost",
    "rules_over_size", "save", "scaling_curve", "shares_over_size", "shares_panel",
    "size_label", "steps_panel", "story_over_size", "training_course", "training_panel", "variants_over_size",
    "verification", "verification_panel",
]  # fmt: skip
