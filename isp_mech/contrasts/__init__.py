"""Tasks as contrasting pairs, one file for each: four of the prize's first round, two that readers asked for."""

from __future__ import annotations

from isp_mech.contrasts.catalogue import contrast, contrast_names, contrast_variants, task_lines

__all__ = ["contrast", "contrast_names", "contrast_variants", "task_lines"]
