"""A page as one HTML file: jinja2 escapes everything, and its policy allows no script and style but our own."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from promptvision.errors import one_line
from promptvision.report.tables.table import without_folders

FILES = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """Return the HTML of a page; its policy names our script and style by their hashes (CSP level 2)."""
    environment = Environment(
        loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.finalize = lambda value: one_line(value) if type(value) is str else value  # Markup is ours
    environment.filters["breakable"] = lambda text: Markup("_<wbr>").join(one_line(text).split("_"))
    environment.filters["without_folders"] = without_folders
    own = {name: (FILES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js")}
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in own.values())
    return environment.get_template(template).render(
        style=Markup(own["style.css"]),  # noqa: S704 - our own file
        script=Markup(own["script.js"]),  # noqa: S704 - our own file
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{script}'",
        **values,
    )
