"""Files that appear whole or not at all, and locks that end with their process."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from promptvision.atomic import locked, read_json, write_atomically, write_json
from promptvision.errors import InputError


def test_only_the_file_is_left_and_it_has_ordinary_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"1")
        write_atomically(tmp_path / "a", b"2")
    finally:
        os.umask(before)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"2"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.fault("files")
def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="a cannot be written: No space left on device"):
        write_atomically(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.fault("files")
def test_a_write_that_fails_again_when_the_file_is_closed_leaves_nothing_behind(tmp_path):
    code = f"""import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
from promptvision.atomic import write_json
write_json({str(tmp_path / "a")!r}, {{}})"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "a cannot be written: File too large" in found.stderr and not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="none/a cannot be written: No such file or directory"):
        write_json(tmp_path / "none" / "a", {})


def test_json_comes_back_and_wrong_json_is_named(tmp_path):
    write_json(tmp_path / "a.json", {"ü": [1, None]})
    assert read_json(tmp_path / "a.json") == {"ü": [1, None]}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="a.json is not JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="b.json cannot be read: No such file"):
        read_json(tmp_path / "b.json")


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock, and a child that it forked; both are killed in the end."""
    ready, told = os.pipe()
    process = os.fork()
    if process == 0:
        with locked(tmp_path / ".lock", "busy"):
            if os.fork() == 0:
                os.write(told, f"{os.getpid()}\n".encode())
            time.sleep(60)
        os._exit(1)
    child = int(os.read(ready, 20))
    yield process
    os.kill(child, signal.SIGKILL)
    for descriptor in (ready, told):
        os.close(descriptor)


def kill(process):
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_a_lock_is_refused_while_its_process_lives_and_not_held_by_its_children(holder, tmp_path):
    with pytest.raises(InputError, match="^it is busy$"), locked(tmp_path / ".lock", "it is busy"):
        pass
    kill(holder)
    with locked(tmp_path / ".lock", "it is busy") as waited:
        assert not waited


def test_a_lock_is_waited_for_when_asked(holder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    waiting = os.fork()
    if waiting == 0:
        with locked(tmp_path / ".lock", "it is busy", wait=True) as waited:
            os._exit(7 if waited and caplog.messages == ["it is busy"] else 1)
    time.sleep(0.3)
    assert os.waitpid(waiting, os.WNOHANG) == (0, 0)
    kill(holder)
    assert os.waitstatus_to_exitcode(os.waitpid(waiting, 0)[1]) == 7


def test_a_lock_that_is_free_again_is_taken_in_the_same_process(tmp_path):
    for _ in range(2):
        with locked(tmp_path / ".lock", "busy") as waited:
            assert not waited
