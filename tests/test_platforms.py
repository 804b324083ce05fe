"""Systems without Unix's modules, functions and signals, such as Windows: everything loads."""

import builtins
import importlib
import os
import pkgutil
import runpy
import signal
import sys
from pathlib import Path

import pytest
import torch

import coop
import promptvision
import vpt
from promptvision import atomic

ROOT = Path(__file__).parents[1]
PACKAGES = (promptvision, coop, vpt)
MODULES = [module.name for each in PACKAGES for module in pkgutil.walk_packages(each.__path__, f"{each.__name__}.")]
UNIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "curses", "readline"}
FUNCTIONS = ("fork", "forkpty", "setsid", "getuid", "geteuid", "killpg", "sched_getaffinity", "statvfs", "mkfifo")
SIGNALS = ("SIGKILL", "SIGCHLD", "SIGALRM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGPIPE", "alarm", "pthread_sigmask")


@pytest.fixture
def windows(monkeypatch):
    """This project's modules find nothing of Unix; the libraries are imported before."""
    for name in MODULES:
        importlib.import_module(name)
    plain = builtins.__import__

    def without_unix(name, variables=None, *rest, **named):
        if name in UNIX and str((variables or {}).get("__file__", "")).startswith(str(ROOT)):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return plain(name, variables, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_unix)
    monkeypatch.setattr(sys, "platform", "win32")
    for module, names in ((os, FUNCTIONS), (signal, SIGNALS)):
        for name in names:
            monkeypatch.delattr(module, name, raising=False)


@pytest.mark.fault("versions")
def test_every_module_loads_without_unix(monkeypatch, windows):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("promptvision", "coop", "vpt")]:
        monkeypatch.delitem(sys.modules, name)
    for name in MODULES:
        importlib.import_module(name)
    assert importlib.import_module("promptvision.engine.device").peak_memory(torch.device("cpu")) == 0


@pytest.mark.fault("versions")
@pytest.mark.parametrize("tool", [path.stem for path in (ROOT / "tools").glob("*.py")])
def test_every_tool_loads_without_unix(tool, monkeypatch, windows):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    assert "main" in runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="loaded")


@pytest.mark.fault("versions")
def test_a_file_is_closed_before_it_is_moved(tmp_path, monkeypatch):
    """Windows moves no open file."""
    made, closed, temporary, replace = [], [], atomic.NamedTemporaryFile, os.replace
    monkeypatch.setattr(atomic, "NamedTemporaryFile", lambda **given: made.append(temporary(**given)) or made[-1])
    monkeypatch.setattr(os, "replace", lambda *paths: closed.append(made[-1].closed) or replace(*paths))
    atomic.write_atomically(tmp_path / "a", b"1")
    assert closed == [True] and (tmp_path / "a").read_bytes() == b"1"
