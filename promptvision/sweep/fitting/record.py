"""fit.json: the settings and findings of a fit; the same command resumes it, and no other replaces it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptvision.atomic import read_json, write_json
from promptvision.errors import InputError

NAME = "fit.json"


class Record:
    """The contents of fit.json: `settings`, and what was decided or found by name; each is written at once."""

    def __init__(self, output: Path, settings: Mapping[str, Any]):
        self.path = output / NAME
        if not self.path.exists():
            present = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
            if present:
                raise InputError(f"--output {output} holds {present[0]}, which no fit wrote; choose another --output")
            self.content: dict[str, Any] = {"settings": dict(settings)}
            return
        self.content = read_json(self.path)
        earlier = self.content.get("settings", {})
        for key, value in settings.items():
            if earlier.get(key) != value:
                raise InputError(
                    f"--output {output} holds another fit: {key} was {earlier.get(key)!r}, here it is {value!r}; "
                    "choose another --output"
                )

    def get(self, name: str) -> Any:
        """Return what was decided before, None if it was not."""
        return self.content.get(name)

    def note(self, name: str, value: Any) -> None:
        """Keep a decision or a finding."""
        self.content[name] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.content)
