"""One page that says what was found: ``report.html``, a single file that needs no network."""

from __future__ import annotations

from isp_mech.report.findings import findings
from isp_mech.report.notebook import report_file, show
from isp_mech.report.page import write_report
from isp_mech.report.size_by_size import size_by_size
from isp_mech.report.task_rows import task_rows

__all__ = ["findings", "report_file", "show", "size_by_size", "task_rows", "write_report"]
