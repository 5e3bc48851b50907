"""Tables: a tidy frame with declared columns, and the ``Run`` that made it.

    >>> run = make_run(model="tiny", task="t", method="example")
    >>> agreement = table("stability", [dict(model="tiny", n_params=10, task="t", replacement_a="mean",
    ...                                      replacement_b="zero", spearman=0.5)], run)
    >>> agreement
    Table('stability', 1 rows x 6 columns, model='tiny', task='t')

``SCHEMAS`` declares every table's columns with type, unit and sign. A Table is checked when it is
made, saved as one parquet file that carries its Run and checksums, and read back exactly: texts stay texts
("None", "NA", " 4" and "" included), missing numbers stay missing.
"""

from __future__ import annotations

from isp_mech.tables.atomic_write import write_whole
from isp_mech.tables.run import Run, Setting, make_run
from isp_mech.tables.schemas import SCHEMAS, Column
from isp_mech.tables.site_tables import AnySites, sites_of
from isp_mech.tables.table import Table, checksum_of_bytes, concat, read_table, table, table_of_bytes

__all__ = [
    "SCHEMAS", "AnySites", "Column", "Run", "Setting", "Table", "checksum_of_bytes", "concat", "make_run", "read_table",
    "sites_of", "table", "table_of_bytes", "write_whole",
]  # fmt: skip
