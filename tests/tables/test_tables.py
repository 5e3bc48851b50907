from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isp_mech.errors import InputError
from isp_mech.tables import (
    SCHEMAS,
    Column,
    Run,
    Table,
    checksum_of_bytes,
    concat,
    make_run,
    read_table,
    table,
    table_of_bytes,
)

RUN = make_run(
    model="tiny-1", task="neqa", method="score", seed=0, settings={"rule": "strict", "n": 3}, notes=["A note."]
)
HEAD = [("model", "string"), ("n_params", "int64"), ("task", "string")]
TRICKY = ["None", "NA", " 4", "", "nan", "null", "π\n\t\x00", "1e5", "'", "🙂"]
SAMPLE = {"string": "x", "bool": True, "int64": 3, "Int64": None, "float32": 0.5, "float64": 0.1}


def rows_of(name: str, n: int = 2) -> list[dict]:
    return [{c.name: SAMPLE[c.dtype] for c in SCHEMAS[name]} for _ in range(n)]


def stability(**columns) -> Table:
    whole = {
        "model": ["a"],
        "n_params": [1],
        "task": ["t"],
        "replacement_a": ["mean"],
        "replacement_b": ["zero"],
        "spearman": [0.5],
        **columns,
    }
    return table("stability", whole, RUN)


# ---- runs


def test_a_run_says_what_made_it():
    assert RUN.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert RUN.versions["numpy"] == np.__version__
    assert RUN.commit == "" or len(RUN.commit.removesuffix("-dirty")) == 40
    assert RUN.device == "cpu" and RUN.dtype == "float32" and RUN.revision is None


def test_a_run_goes_through_json_and_pickle():
    assert Run.from_json(RUN.to_json()) == RUN == pickle.loads(pickle.dumps(RUN))
    twin = make_run(
        model="tiny-1", task="neqa", method="score", seed=0, settings={"n": 3, "rule": "strict"}, notes=("A note.",)
    )
    assert twin.to_json() == RUN.to_json()
    assert type(make_run(model="", task="", method="", settings={"x": np.float64(0.5)}).settings["x"]) is float


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1], {"a": 1}, b"x"])
def test_a_setting_that_json_cannot_carry_is_refused(value):
    with pytest.raises(ValueError, match="setting 'x' = .*: expected text, a finite number, true, false or none"):
        make_run(model="m", task="t", method="x", settings={"x": value})


@pytest.mark.parametrize("text", ["[]", "{}", '{"model": 1}', "no", "[" * 100_000])
def test_a_run_that_is_none_is_refused(text):
    with pytest.raises(ValueError):
        Run.from_json(text)


# ---- schemas


def test_every_table_starts_the_same_and_says_what_its_numbers_mean():
    for name, columns in SCHEMAS.items():
        assert [(c.name, c.dtype) for c in columns[:3]] == HEAD
        names = [c.name for c in columns]
        assert len(set(names)) == len(names), name
        for column in columns:
            assert isinstance(column, Column) and column.meaning and column.dtype in SAMPLE
            assert column.nullable == (column.dtype == "Int64") or column.dtype.startswith("float")


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_table_can_be_made_saved_and_read(name, tmp_path):
    for rows in ([], rows_of(name)):
        made = table(name, rows, RUN)
        assert len(made) == len(rows)
        assert [str(t) for t in made.frame.dtypes] == [c.dtype for c in SCHEMAS[name]]
        assert read_table(made.save(tmp_path / "t.parquet")).equals(made)


# ---- making


def test_rows_columns_and_frames_give_the_same_table():
    rows = rows_of("items", 3)
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    frame = pd.DataFrame(columns)[list(reversed(columns))]  # order does not matter
    made = table("items", rows, RUN)
    assert made.equals(table("items", columns, RUN)) and made.equals(table("items", frame, RUN))
    assert made.equals(table("items", {k: np.array(v) for k, v in columns.items()}, RUN))


def test_types_are_brought_over_where_nothing_is_lost():
    made = stability(n_params=np.array([1e6]), spearman=pd.Series([None], dtype=object))
    assert made.frame.n_params.tolist() == [1_000_000] and made.frame.spearman.isna().all()
    heads = [
        {**row, "head": head, "effect": effect}
        for row, head, effect in zip(rows_of("effects", 3), [1, None, 2.0], [1, None, 0.1], strict=True)
    ]
    frame = table("effects", heads, RUN).frame
    assert frame["head"].dtype == "Int64" and frame["head"].tolist() == [1, pd.NA, 2]
    assert frame["effect"].tolist()[::2] == [1.0, np.float32(0.1)]


def test_everything_that_does_not_fit_is_said_at_once():
    rows = rows_of("effects", 2)
    rows[1] |= {"layer": 1.5, "kind": 7, "effect": 1e39, "side": None, "pair": True, "extra": 0}
    del rows[0]["direct_effect"], rows[1]["direct_effect"]
    with pytest.raises(InputError) as caught:
        table("effects", rows, RUN)
    assert caught.value.problems == (
        "missing column 'direct_effect'",
        "unexpected column 'extra'",
        "column 'pair': row 1 has True: expected text",
        "column 'side': row 1 is missing: expected string",
        "column 'layer': row 1 has 1.5: expected a whole number",
        "column 'kind': row 1 has 7: expected text",
        "column 'effect': row 1 has 1e+39: beyond float32",
    )
    assert str(caught.value).startswith("table 'effects':\n  missing column 'direct_effect'\n")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("n_params", [None], "row 0 is missing: expected int64"),
        ("n_params", [2**63], "row 0 has 9223372036854775808: expected a whole number"),
        ("n_params", [float("inf")], "row 0 has inf: expected a whole number"),
        ("n_params", ["3"], "row 0 has '3': expected a number"),
        ("n_params", [True], "row 0 has True: expected a number"),
        ("spearman", ["0.5"], "row 0 has '0.5': expected a number"),
        ("spearman", np.array([True]), "row 0 has True: expected a number"),
        ("spearman", [10**400], "a number is beyond float64"),
        ("task", ["\ud800"], "row 0 has a lone surrogate, which is not text"),
        ("task", [b"t"], "row 0 has b't': expected text"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_row(column, values, message):
    with pytest.raises(InputError) as caught:
        stability(**{column: values})
    assert caught.value.problems == (f"column '{column}': {message}",)


def test_truth_values_are_not_numbers():
    with pytest.raises(InputError, match="column 'tie': row 0 has 1: expected true or false"):
        table("items", [{**rows_of("items", 1)[0], "tie": 1}], RUN)


def test_unknown_and_repeated():
    with pytest.raises(InputError, match="unknown table: expected one of scores, items, curve"):
        table("score", [], RUN)
    frame = stability().frame
    with pytest.raises(InputError, match="column 'task' is repeated"):
        Table("stability", pd.concat([frame, frame["task"]], axis=1), RUN)


def test_the_frame_is_a_copy_and_shows_itself():
    frame = stability().frame
    made = Table("stability", frame, RUN)
    frame.loc[0, "spearman"] = -1.0
    assert made.frame.spearman[0] == 0.5
    assert repr(made) == "Table('stability', 1 rows x 6 columns, model='tiny-1', task='neqa')"
    assert "&lt;b&gt;" in stability(task=["<b>"])._repr_html_()


# ---- files


def test_texts_stay_texts_and_numbers_stay_exact(tmp_path):
    numbers = np.array([0.1, -0.0, 5e-324, 1.7976931348623157e308, np.nan, 1 / 3, -1e-9, 2.0, 3.0, 4.0])
    made = table(
        "stability",
        {
            "model": TRICKY,
            "n_params": range(10),
            "task": TRICKY[::-1],
            "replacement_a": TRICKY,
            "replacement_b": ["x"] * 10,
            "spearman": numbers,
        },
        RUN,
    )
    back = read_table(made.save(tmp_path / "deep" / "t.parquet"))
    assert back.equals(made) and back.run == RUN
    assert back.frame["model"].tolist() == TRICKY
    assert back.frame["spearman"].to_numpy().tobytes() == numbers.tobytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.text(),
            st.integers(-(2**63), 2**63 - 1),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(width=32),
        ),
        max_size=6,
    )
)
def test_any_table_is_read_back_equal(tmp_path, values):
    rows = [{**rows_of("effects", 1)[0], "pair": a, "layer": b, "head": c, "effect": d} for a, b, c, d in values]
    made = table("effects", rows, RUN)
    assert read_table(made.save(tmp_path / "t.parquet")).equals(made)


def test_equal_tables_give_equal_bytes_and_no_temporary_file_stays(tmp_path):
    one, two = (table("scores", rows_of("scores", 50), RUN).save(tmp_path / f"{i}.parquet") for i in range(2))
    again = read_table(one).save(tmp_path / "again.parquet")
    assert one.read_bytes() == two.read_bytes() == again.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.parquet", "1.parquet", "again.parquet"]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = stability().save(tmp_path / "t.parquet")
    before = path.read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        stability(spearman=[0.9]).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_files_that_are_not_ours(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="not a parquet file that can be read"):
        read_table(tmp_path)
    (tmp_path / "text.parquet").write_text("model,task\n")
    with pytest.raises(InputError, match="text.parquet: not a parquet file that can be read"):
        read_table(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="no table of isp_mech: its metadata names no run"):
        read_table(tmp_path / "other.parquet")


def test_an_altered_run_or_name_is_noticed(tmp_path):
    path = stability().save(tmp_path / "t.parquet")
    found = pq.read_table(path)
    run = json.loads(found.schema.metadata[b"isp_mech.run"])
    run["seed"] = 1
    meta = {**found.schema.metadata, b"isp_mech.run": json.dumps(run, sort_keys=True).encode()}
    pq.write_table(found.replace_schema_metadata(meta), path)
    with pytest.raises(InputError, match="damaged: the checksum of its metadata does not fit"):
        read_table(path)
    pq.write_table(found.slice(0, 0), path)
    with pytest.raises(InputError, match="damaged"):
        read_table(path)


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path):
    made = table("stability", rows_of("stability", 20), RUN)
    whole = made.save(tmp_path / "t.parquet", key="k").read_bytes()
    assert table_of_bytes(whole, "t", key="k").equals(made) and made.to_bytes(key="k") == whole
    for place in range(len(whole)):
        with pytest.raises(InputError, match="^t: (not a parquet file|a parquet file, but no table|damaged: )"):
            table_of_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :], "t")
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        with pytest.raises(InputError):
            checksum_of_bytes(whole[:length], "t")


def test_what_another_program_wrote_again_is_noticed(tmp_path):
    """With the same columns and metadata, but without the checksum of the whole."""
    path = stability().save(tmp_path / "t.parquet")
    pq.write_table(pq.read_table(path), path)
    with pytest.raises(InputError, match="damaged: the checksum of its metadata does not fit"):
        read_table(path)


def test_the_checksum_is_of_the_content_and_the_key(tmp_path):
    sums = {checksum_of_bytes(made.to_bytes(key=key), "t") for made in (stability(), stability(spearman=[0.25]))
            for key in ("a", "b")}  # fmt: skip
    assert len(sums) == 4 and all(len(s) == 64 for s in sums)
    assert checksum_of_bytes(stability().to_bytes(key="a"), "t", key="a") in sums
    with pytest.raises(InputError, match="t: holds another unit: found the key 'a', expected 'b'"):
        checksum_of_bytes(stability().to_bytes(key="a"), "t", key="b")


def test_files_of_before_are_read(tmp_path):
    """They have no checksum of the whole, and one of their metadata that does not count on it."""
    made, path = stability(), tmp_path / "t.parquet"
    check = hashlib.sha256("\n".join(("stability", "1", "k", RUN.to_json())).encode()).hexdigest()
    head = {"isp_mech.table": "stability", "isp_mech.run": RUN.to_json(), "isp_mech.key": "k", "isp_mech.check": check}
    found = pq.read_table(made.save(path))
    pq.write_table(found.replace_schema_metadata(head), path, write_page_checksum=True)
    assert read_table(path, key="k").equals(made)


# ---- joining


def test_concat_joins_rows_and_runs():
    other = make_run(
        model="tiny-2",
        task="neqa",
        method="score",
        seed=1,
        settings={"rule": "strict", "n": 4},
        notes=["A note.", "Another."],
    )
    one, two = table("items", rows_of("items", 2), RUN), table("items", rows_of("items", 1), other)
    both = concat([one, two])
    assert len(both) == 3 and both.frame.index.tolist() == [0, 1, 2]
    assert both.run.model == "tiny-1, tiny-2" and both.run.task == "neqa" and both.run.seed is None
    assert both.run.settings == {"rule": "strict", "n": "3, 4"}
    assert both.run.notes == ("A note.", "Another.", "Made with different seeds: 0, 1.")
    assert concat([both, one]).run.model == "tiny-1, tiny-2"
    assert concat([one]).equals(one) and concat([one, one]).run == RUN


def test_concat_keeps_types_of_empty_and_missing_columns():
    rows = [{**rows_of("effects", 1)[0], "head": None, "effect": None}]
    parts = [table("effects", [], RUN), table("effects", rows, RUN), table("effects", rows_of("effects"), RUN)]
    for order in itertools.permutations(parts):
        assert [str(t) for t in concat(order).frame.dtypes] == [c.dtype for c in SCHEMAS["effects"]]


def test_concat_refuses_a_mixture():
    with pytest.raises(InputError, match="expected tables of one name, found items, stability"):
        concat([table("items", [], RUN), stability()])
    with pytest.raises(InputError, match="found none"):
        concat([])
