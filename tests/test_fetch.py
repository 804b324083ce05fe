"""Fetching a file: whole, resumed, checked, and nothing is left where it fails."""

import hashlib
import shutil
from types import SimpleNamespace

import pytest
from archive_server import CONTENT, SHA, refused, zipped

from promptvision.data.prepare.fetch import fetch
from promptvision.data.prepare.unpack import unpack
from promptvision.errors import InputError


def test_a_file_is_fetched_once_and_checked(server, tmp_path):
    server.files["a.zip"] = CONTENT
    steps = []
    args = (f"{server.url}/a.zip", tmp_path / "inner/a.zip")
    assert fetch(*args, sha256=SHA.upper(), size=len(CONTENT), progress=lambda have, of: steps.append((have, of)))
    assert args[1].read_bytes() == CONTENT and [file.name for file in args[1].parent.iterdir()] == ["a.zip"]
    assert steps[0] == (0, len(CONTENT)) and steps[-1] == (len(CONTENT), len(CONTENT))
    assert not fetch(*args, md5=hashlib.md5(CONTENT).hexdigest()) and len(server.asked) == 1


def test_broken_connections_are_taken_up_where_they_ended(server, tmp_path):
    server.files["a.zip"], server.breaks = CONTENT, [1_000_000, 500_000]
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)
    assert [asked for _, asked in server.asked] == ["", "bytes=1000000-", "bytes=1500000-"]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_an_interrupted_fetch_goes_on_in_the_next_call(server, tmp_path):
    server.files["a.zip"], server.breaks = CONTENT, [1_000_000, 0]
    message = refused(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)
    assert "broke off after 1,000,000 of 3,000,000 bytes; these are kept" in message
    assert (tmp_path / "a.zip.part").stat().st_size == 1_000_000 and not (tmp_path / "a.zip").exists()
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)
    assert server.asked[-1][1] == "bytes=1000000-" and not (tmp_path / "a.zip.part").exists()


def test_ctrl_c_keeps_what_there_is(server, tmp_path):
    server.files["a.zip"] = CONTENT

    def impatient(have, of):
        if have > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip", progress=impatient)
    assert 1_000_000 < (tmp_path / "a.zip.part").stat().st_size < len(CONTENT)
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    server.files["a.zip"], server.ranges = CONTENT, False
    (tmp_path / "a.zip.part").write_bytes(b"something else")
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)


@pytest.mark.parametrize("size", [0, len(CONTENT)])
def test_a_part_that_is_whole_already_is_checked_and_named(server, tmp_path, size):
    server.files["a.zip"] = CONTENT
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA, size=size)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.fault("results")
def test_a_part_longer_than_the_file_is_removed(server, tmp_path):
    server.files["a.zip"] = CONTENT
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    assert "a.zip.part is no part of http" in refused(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)


@pytest.mark.fault("results")
def test_wrong_checksums_and_sizes_are_named_and_nothing_stays(server, tmp_path):
    server.files["a.zip"] = CONTENT
    wrong = {"sha256": "0" * 64, "md5": "0" * 32, "size": 7}
    for key, value in wrong.items():
        message = refused(f"{server.url}/a.zip", tmp_path / "a.zip", **{key: value})
        assert "a.zip.part has" in message and "expected" in message and "it was removed" in message
        assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("files")
def test_a_file_that_is_there_and_wrong_is_left_alone(server, tmp_path):
    (tmp_path / "a.zip").write_text("mine")
    message = refused(f"{server.url}/a.zip", tmp_path / "a.zip", sha256=SHA)
    assert f"file {tmp_path / 'a.zip'} has sha256" in message and "move it away" in message
    assert (tmp_path / "a.zip").read_text() == "mine" and not server.asked


def test_a_full_disk_is_said_before_anything_is_written(server, tmp_path, monkeypatch):
    server.files["a.zip"] = CONTENT
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    message = refused(f"{server.url}/a.zip", tmp_path / "new/a.zip")
    assert "a.zip needs 3,000,000 bytes, but" in message and "has 1,000 free: make room" in message
    assert not (tmp_path / "new").exists()
    zipped(tmp_path / "b.zip", {"d/1.bin": CONTENT[:2000]})
    with pytest.raises(InputError, match=r"archive .*b.zip needs 2,\d+ bytes, but .* has 1,000 free"):
        unpack(tmp_path / "b.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_download_leaves_no_empty_folder(server, tmp_path):
    (tmp_path / "mine").mkdir()
    for url in (f"{server.url}/gone.zip", "http://127.0.0.1:9/a.zip", "file:///etc/passwd"):
        refused(url, tmp_path / "new/inner/a.zip")
        refused(url, tmp_path / "mine/a.zip")
        assert [path.name for path in tmp_path.iterdir()] == ["mine"] and not list((tmp_path / "mine").iterdir())
