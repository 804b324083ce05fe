"""Runs on the Hugging Face Hub: their files by name, and the refusals of the Hub in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub.constants as hub

from promptvision.errors import InputError
from promptvision.network import Source

PREFIX = "hf-hub:"
"""Beginning of the name of a run on the Hub: hf-hub:user/name, or hf-hub:user/name@revision."""
RUN_FILES = ("config.yaml", "result.json", "learned.safetensors")
"""Files of a run folder that a classifier is made of; the result, which describes the run, may be missing."""
FILES = (*RUN_FILES, "README.md")
"""All that is uploaded, and all that is downloaded."""


def fetched(name: str) -> Path:
    """Download the files of hf-hub:user/name, or find them in the Hub's cache, and return their folder."""
    from huggingface_hub import snapshot_download

    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    with Source.hub(repo).use(name, "give the folder of a run"), answered(repo):
        return Path(
            snapshot_download(repo, revision=revision or None, allow_patterns=list(FILES), endpoint=hub.ENDPOINT)
        )


@contextmanager
def answered(name: str) -> Iterator[None]:
    """Turn the refusals of the Hub into InputError: a wrong name, a missing model, no permission."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise InputError(
            f"{name!r} is no name of a model on the Hub: it is user/name, of letters, digits, . _ -"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{name} on the Hub has no such revision; leave out @... for the newest") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"the Hub has no model {name}, or it is private: `hf auth login` says who you are") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else ""
        advice = "; `hf auth login` with a token that may write" if status in (401, 403) else ""
        raise InputError(f"the Hub refuses {name} (status {status}){advice}") from error
