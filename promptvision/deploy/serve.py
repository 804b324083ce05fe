"""A local web page on which images are dropped and named: Gradio, on loopback, without requests to elsewhere."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from promptvision.deploy.answers import MOST, Answers, neighbours_of
from promptvision.deploy.classifier import load
from promptvision.errors import InputError, counted

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""Content that the page may load: that of this server."""


@dataclass(frozen=True)
class Place:
    """Address and port that a server listens on, and the size of the files that it takes."""

    host: str = "127.0.0.1"
    port: int = 7860
    """0 for any free one."""
    megabytes: int = 20
    """Size of a file."""


def answers_of(run: str | Path, *, trust: bool = False) -> Answers:
    """Load a run, and its training images if they are here, to answer questions about images."""
    classifier = load(run, trust=trust, overrides=["COMPUTE.WAY", "plain"])
    return Answers(classifier, neighbours_of(classifier))


def serve(
    answers: Answers, place: Place, title: str, announce: Callable[[str], None], wait: Callable[[], None]
) -> None:
    """Serve the page until `wait` returns or is interrupted, then delete the uploads; `announce` gets its address."""
    port = free_port(place)
    with tempfile.TemporaryDirectory(prefix="promptvision-serve-") as uploads:
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=uploads, HF_HUB_OFFLINE="1")
        import gradio  # it reads these

        page = page_of(answers, title)
        _, address, _ = page.launch(
            server_name=place.host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            max_file_size=f"{place.megabytes}mb",
            app_kwargs={"middleware": [_policy()]},
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # of the system
            ssr_mode=False,
            mcp_server=False,
        )
        try:
            announce(address)
            wait()
        finally:
            page.close(verbose=False)


def check_gradio() -> None:
    """Raise InputError without Gradio."""
    if find_spec("gradio") is None:
        raise InputError("the page is made with Gradio: pip install 'promptvision[serve]'")


def free_port(place: Place) -> int:
    """Return the port of a place, or a free one for 0; InputError if it cannot be listened on."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    with socket.socket(family) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((place.host, place.port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise InputError(f"cannot listen on {place.host}:{place.port} ({why}); choose another --port") from error
        return int(found.getsockname()[1])


def page_of(answers: Answers, title: str) -> Any:
    """Return the page: a place to drop images, and what is found about them."""
    import gradio

    classes = answers.classifier.classes
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.HTML(f"<h1>{escape(title)}</h1>")
        files = gradio.File(file_count="multiple", label=f"Drop up to {MOST} images ({counted(len(classes), 'class')})")
        found = gradio.HTML(elem_id="answers")
        files.change(answers, files, found, api_visibility="private", show_progress="minimal")
    return page


def _policy() -> Any:
    """Return the middleware that forbids the page every request to elsewhere."""
    from starlette.middleware import Middleware

    class Policy:
        """Adds the policy to every answer."""

        def __init__(self, app: Any):
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def sent(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
                await send(message)

            await self.app(scope, receive, sent)

    return Middleware(Policy)
