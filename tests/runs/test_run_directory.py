from __future__ import annotations

import time
from pathlib import Path

import pytest
from forks import start
from hypothesis import given
from hypothesis import strategies as st

from isp_mech.errors import InputError
from isp_mech.runs.run_directory import RunDirectory, _digest
from isp_mech.tables import Table, make_run, table

RUN = make_run(model="tiny", task="t", method="example")


def made(spearman: float) -> Table:
    return table(
        "stability",
        [
            {
                "model": "tiny",
                "n_params": 1,
                "task": "t",
                "replacement_a": "mean",
                "replacement_b": "zero",
                "spearman": spearman,
            }
        ],
        RUN,
    )


def never() -> Table:
    raise AssertionError("computed again")


def test_what_is_done_is_not_done_again(tmp_path):
    runs = RunDirectory(tmp_path / "run")
    first = runs.unit("stability", {"model": "tiny", "seed": 0}, lambda: made(0.5))
    again = RunDirectory(str(tmp_path / "run")).unit("stability", {"seed": 0, "model": "tiny"}, never)
    assert again.equals(first) and first.equals(made(0.5))
    other = runs.unit("stability", {"model": "tiny", "seed": 1}, lambda: made(0.7))
    assert {t.frame.spearman[0] for t in runs.tables("stability")} == {0.5, 0.7} and other.equals(made(0.7))
    names = [p.name for p in (tmp_path / "run" / "units").iterdir()]
    assert len(names) == 2 and all(len(n) == len("stability-") + 16 + len(".parquet") for n in names)


def test_what_fails_leaves_nothing(tmp_path):
    runs = RunDirectory(tmp_path)
    with pytest.raises(ZeroDivisionError):
        runs.unit("stability", {}, lambda: made(1 / 0))
    assert list(tmp_path.iterdir()) == [] and runs.tables("stability") == ()
    assert runs.unit("stability", {}, lambda: made(0.1)).equals(made(0.1))


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "foreign", "swap", "folder"])
def test_a_damaged_file_is_reported_and_computed_again(tmp_path, harm):
    runs = RunDirectory(tmp_path)
    key = {"seed": 0}
    runs.unit("stability", key, lambda: made(0.5))
    file = runs.file("stability", key)
    whole = file.read_bytes()
    if harm == "swap":
        runs.unit("stability", {"seed": 1}, lambda: made(0.9))
        file.write_bytes(runs.file("stability", {"seed": 1}).read_bytes())
        with pytest.warns(UserWarning, match="holds another unit: found the key 'stability-.*: left out"):
            assert len(runs.tables("stability")) == 1
    elif harm == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(
            {
                "truncate": whole[:-20],
                "flip": whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
                "empty": b"",
                "foreign": b"model,task\n",
            }[harm]
        )
    with pytest.warns(UserWarning, match=f"{file.name}: .*computed again"):
        if harm == "folder":
            with pytest.raises(InputError, match=f"{file.name}: cannot be written .Is a directory.: what is finished"):
                runs.unit("stability", key, lambda: made(0.5))
            return
        assert runs.unit("stability", key, lambda: made(0.5)).equals(made(0.5))
    assert file.read_bytes() == whole
    assert runs.unit("stability", key, never).equals(made(0.5))


def test_tables_passes_over_what_is_no_unit_and_reports_the_damaged(tmp_path):
    runs = RunDirectory(tmp_path)
    runs.unit("sites", {"a": 1}, lambda: made(0.5))
    runs.unit("sites-old", {"a": 1}, lambda: made(0.6))
    units = tmp_path / "units"
    (units / ".sites-0123456789abcdef.parquet.7.tmp").write_bytes(b"half")
    made(0.7).save(units / "sites-mine.parquet")  # of no unit's name
    assert [t.frame.spearman[0] for t in runs.tables("sites")] == [0.5]
    (units / "sites-0123456789abcdef.parquet").write_bytes(b"PAR1")
    with pytest.warns(UserWarning, match="sites-0123456789abcdef.parquet: not a parquet file.*: left out"):
        assert len(runs.tables("sites")) == 1


@pytest.mark.parametrize("name", ["", "../x", "a/b", "/etc/x", "A", "a.b", "a\x00", "..", "a" * 101, "-a"])
def test_no_name_leaves_the_directory(tmp_path, name):
    with pytest.raises(ValueError, match="expected small letters, digits, - and _"):
        RunDirectory(tmp_path).unit(name, {}, lambda: made(0.5))
    assert list(tmp_path.iterdir()) == [] and RunDirectory(tmp_path).tables(name) == ()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ({"a": float("nan")}, r"key\['a'\]: found nan, expected text, finite numbers"),
        ({"a": [1, Path("x")]}, r"key\['a'\]\[1\]: found PosixPath\('x'\)"),
        ({"a": {1: 2}}, r"key\['a'\]: the field 1: expected a text"),
        ({"a": {1, 2}}, r"key\['a'\]: found \{1, 2\}"),
    ],
)
def test_a_key_that_json_cannot_carry_is_refused(tmp_path, key, message):
    with pytest.raises(ValueError, match=message):
        RunDirectory(tmp_path).unit("stability", key, lambda: made(0.5))


def test_a_file_is_no_run_directory(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(InputError, match="x: a file: expected a folder"):
        RunDirectory(tmp_path / "x")


keys = st.dictionaries(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
)


@given(keys, keys)
def test_different_keys_are_different_files(one, two):
    assert _digest(one) == _digest(dict(reversed(one.items())))
    if repr(sorted(one.items(), key=str)) != repr(sorted(two.items(), key=str)) and one != two:
        assert _digest(one) != _digest(two)


def _units(folder, told):
    runs = RunDirectory(folder)
    for i in range(40):
        rows = dict(model=["m"] * 2000, n_params=[1] * 2000, task=["t"] * 2000, replacement_a=["a"] * 2000,
                    replacement_b=["b"] * 2000, spearman=[i / 100] * 2000)  # fmt: skip
        runs.unit("stability", {"i": i}, lambda rows=rows: table("stability", rows, RUN))
        with open(told, "a") as file:
            file.write(f"{i}\n")


def test_killed_at_any_moment_the_rest_is_done_and_the_bytes_are_the_same(tmp_path):
    told = tmp_path / "told"
    _units(tmp_path / "whole", told)
    for wait in (3, 9, 20):
        told.write_text("")
        process = start(_units, tmp_path / "killed", told)
        while len(told.read_text().split()) < wait:  # after so many units, somewhere in the next one
            time.sleep(0.001)
        process.kill()
        process.join()
    stamps = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed" / "units").glob("stability-*.parquet")}
    assert len(stamps) >= 20
    _units(tmp_path / "killed", told)
    before, after = ({p.name: p.read_bytes() for p in (tmp_path / folder / "units").glob("stability-*.parquet")}
                     for folder in ("whole", "killed"))  # fmt: skip
    assert len(before) == 40 and before == after
    assert all((tmp_path / "killed" / "units" / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
