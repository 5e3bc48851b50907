from __future__ import annotations

import errno
import os
import pickle
import time

import pytest
from forks import start

from isp_mech.errors import InputError, NotKept
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.runs.storage import open_folder


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        return open_folder(tmp_path / "run")
    pytest.importorskip("fsspec")
    return open_folder(f"memory://{tmp_path}/run")


def test_what_is_written_is_read(folder):
    assert folder.read("units/a.parquet") is None and folder.names("units") == []
    folder.write("units/b.parquet", b"two")
    folder.write("units/a.parquet", b"one")
    folder.write("units/a.parquet", b"three")
    assert folder.read("units/a.parquet") == b"three" and folder.names("units") == ["a.parquet", "b.parquet"]
    assert folder.where("units/a.parquet").endswith("run/units/a.parquet")


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../b", "a//b", ".hidden", "a/.b", "a\x00", "a\n", "a b",
                                  "~x", "C:x", "a\\b", "é", "a" * 300, "a/"])  # fmt: skip
def test_no_name_leads_out(folder, name):
    for act in (folder.read, folder.where, folder.names, lambda n: folder.write(n, b"x")):
        with pytest.raises(ValueError, match="expected letters, digits and ._\\+=- in each part, no dot first"):
            act(name)


def test_urls_and_paths_are_told_apart(tmp_path):
    assert str(open_folder("some/where").local) == "some/where" and open_folder(tmp_path).local == tmp_path
    pytest.importorskip("fsspec")
    assert open_folder("memory://x").local is None
    with pytest.raises(InputError, match="nosuch://x: cannot be reached: Protocol not known: nosuch"):
        open_folder("nosuch://x")


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    folder = open_folder(tmp_path)
    folder.write("a.txt", b"old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotKept) as caught:
        folder.write("a.txt", b"new")
    assert str(caught.value) == (f"{tmp_path}/a.txt: cannot be written (No space left on device): what is finished is "
                                 "kept, and the same command goes on from there")  # fmt: skip
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"] and folder.read("a.txt") == b"old"
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), NotKept)  # as a worker sends it back


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    RunDirectory(tmp_path).log("finished", job="x")


def _claim(folder, what, said, seconds):
    with RunDirectory(folder).claim(what) as ours:
        said.write_text(str(ours))
        time.sleep(seconds)


def claiming(folder, what, seconds=0.0):
    """A process that claims something and keeps it for so long; and whether it got it."""
    said = folder / f"said-{time.monotonic_ns()}"
    process = start(_claim, folder, what, said, seconds)
    while not (said.exists() and said.read_text()):
        time.sleep(0.001)
    return process, said.read_text()


def test_a_claim_is_one_process_own_until_it_dies(tmp_path):
    pytest.importorskip("fcntl")
    first, has_it = claiming(tmp_path, "job", 600)
    assert has_it == "True"
    with RunDirectory(tmp_path).claim("job") as ours, RunDirectory(str(tmp_path)).claim("other") as another:
        assert not ours and another
    assert claiming(tmp_path, "job")[1] == "False"
    first.kill()
    first.join()
    with RunDirectory(tmp_path).claim("job") as ours:
        assert ours
        with RunDirectory(tmp_path).claim("other"):
            pass  # giving one up keeps the other
        assert claiming(tmp_path, "job")[1] == "False"
    assert claiming(tmp_path, "job")[1] == "True"


def test_where_files_cannot_be_locked_everybody_gets_the_claim(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with RunDirectory(tmp_path).claim("job") as ours:
        assert ours
