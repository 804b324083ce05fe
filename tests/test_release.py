"""Files that state the same fact: the version, and the checks before a commit."""

import re
from pathlib import Path

import yaml

import promptvision

ROOT = Path(__file__).parents[1]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version():
    newest = re.search(r"^## (\S+)", text("CHANGELOG.md"), re.M)[1]
    packaged = re.search(r'version="(.+)"', text("setup.py"))[1]
    assert {promptvision.__version__, packaged, newest, yaml.safe_load(text("CITATION.cff"))["version"]} == {newest}


def test_what_is_checked_before_a_commit_is_make_lint():
    (repository,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    recipe = re.search(r"^lint: install\n((?:\t.+\n)+)", text("Makefile"), re.M)[1]
    assert [hook["entry"] for hook in repository["hooks"]] == re.findall(r"^\t\$\(BIN\)/(.+)$", recipe, re.M)
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in repository["hooks"])
