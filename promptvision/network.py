"""Weights and data from the network: one quick check, before a library that would try again and again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener

import huggingface_hub.constants as hub

from promptvision.errors import InputError, lacks_memory

TIMEOUT = 5.0
"""Seconds after which a server that did not answer counts as unreachable."""


def unreachable(url: str) -> str:
    """Return why no server answers at this address, or "" if one does; through the proxies of the environment."""
    reasons = [f"no answer within {TIMEOUT:g} seconds"]

    def ask() -> None:
        try:
            build_opener().open(Request(url, method="HEAD"), timeout=TIMEOUT).close()
            reasons.append("")
        except HTTPError as error:
            reasons.append(f"a gateway says {error.code} {error.reason}" if error.code in (502, 503, 504) else "")
        except (HTTPException, ValueError):
            reasons.append("")  # some answer
        except OSError as error:
            reason = getattr(error, "reason", error)
            if not isinstance(reason, TimeoutError):
                reasons.append(str(getattr(reason, "strerror", None) or reason))

    thread = threading.Thread(target=ask, daemon=True)  # a look-up of names knows no timeout
    thread.start()
    thread.join(TIMEOUT)
    return reasons[-1]


@dataclass(frozen=True)
class Source:
    """The address of weights ("" if unknown), and the file or folder in which a library keeps them."""

    url: str
    place: Path

    @classmethod
    def hub(cls, repo: str) -> Source:
        """Return the source of a model on the Hugging Face Hub."""
        name = repo.partition("@")[0]
        return cls(f"{hub.ENDPOINT}/{name}", Path(hub.HF_HUB_CACHE, f"models--{name.replace('/', '--')}"))

    @classmethod
    def torch(cls, url: str) -> Source:
        """Return the source of a file that torch.hub downloads."""
        import torch  # which lists of datasets and help do without

        return cls(url, Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name))

    @contextmanager
    def use(self, what: str, advice: str) -> Iterator[None]:
        """Let a library load `what` from its place, or download it to there; InputError, with `advice`, if it cannot.

        Without a connection this fails at once if the place does not exist; else the Hub's client works offline.
        """
        reason = "" if self.place.is_file() or not self.url else unreachable(self.url)
        host = urlsplit(self.url).netloc
        if reason and not self.place.exists():
            state = f"{self.place} does not exist, and {host} cannot be reached ({reason})"
            raise InputError(f"{what} could not be downloaded: {state}; {advice}")
        hub.HF_HUB_OFFLINE, before = hub.HF_HUB_OFFLINE or bool(reason), hub.HF_HUB_OFFLINE
        try:
            yield
        except (OSError, RuntimeError) as error:
            if lacks_memory(error):
                raise
            first = (str(error).strip().splitlines() or [""])[0]
            state = f"{self.place} lacks it, and {host} cannot be reached ({reason})" if reason else first
            raise InputError(f"{what} could not be downloaded: {state or type(error).__name__}; {advice}") from error
        finally:
            hub.HF_HUB_OFFLINE = before
