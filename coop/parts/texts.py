"""Your own texts for every class, read from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from coop.parts.context import class_text
from promptvision.atomic import read_json
from promptvision.errors import InputError, counted
from promptvision.safe_yaml import read_yaml


def given_templates(templates: Sequence[str]) -> list[str]:
    """Return templates with `{}` for the class name as a list; without any, "a photo of a {}."."""
    given = [templates] if isinstance(templates, str) else list(templates)
    return given or ["a photo of a {}."]


def read_texts(path: str | Path, classes: Sequence[str]) -> list[list[str]]:
    """Read the texts of each class from a YAML or JSON file, {class name: text, or list of texts}.

    Names can have spaces or underscores; the file can contain other classes too.
    """
    path = Path(path)
    content = read_json(path) if path.suffix == ".json" else read_yaml(path, "texts:", 1 << 26)
    if not isinstance(content, dict) or not content:
        raise InputError(f"texts: {path} should hold lines 'class name: text', or 'class name: [text, text]'")
    for name in content:
        if not isinstance(name, str):
            raise InputError(f"texts: class name {name!r} in {path} is no text; put it in quotes")
    given = {class_text(name): value for name, value in content.items()}
    return [texts_of(name, given, path) for name in classes]


def texts_of(name: str, given: Mapping[str, Any], path: Path) -> list[str]:
    """Return the texts of a class, or raise InputError that names the nearest class of the file."""
    key = class_text(name)
    if key not in given:
        near = get_close_matches(key, given, n=1)
        hint = f"; did you mean its {near[0]!r}?" if near else f"; it has {counted(len(given), 'other class')}"
        raise InputError(f"texts: {path} has no text for class {name!r}{hint}")
    texts = [given[key]] if isinstance(given[key], str) else given[key]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"texts: class {name!r} in {path} takes a text or a list of texts, none of them empty")
    return texts
