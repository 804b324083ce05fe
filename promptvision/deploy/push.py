"""The upload of a run to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import huggingface_hub.constants as hub

from promptvision.deploy.hub import FILES, answered
from promptvision.deploy.publication import write_publication
from promptvision.errors import InputError
from promptvision.network import unreachable


def push(run: str | Path, name: str, licence: str, *, private: bool = False, overwrite: bool = False) -> str:
    """Upload a run as the model `name`, user/name, and return its address.

    InputError for a name that exists, unless it is to be overwritten, and where the Hub refuses or does not answer. The
    token is that of `hf auth login`, or HF_TOKEN.
    """
    from huggingface_hub import HfApi

    if reason := unreachable(hub.ENDPOINT):
        raise InputError(f"{hub.ENDPOINT} cannot be reached ({reason}); --output FOLDER writes the files without it")
    api = HfApi(endpoint=hub.ENDPOINT)
    with TemporaryDirectory() as folder, answered(name):
        held = api.model_info(name).siblings if api.repo_exists(name) else None
        if not overwrite and "learned.safetensors" in {file.rfilename for file in held or ()}:
            raise InputError(f"{name} on the Hub holds a model: --overwrite replaces it")
        place = Path(folder, "model")
        write_publication(run, place, name, licence)
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=place, allow_patterns=list(FILES), commit_message="Upload by promptvision"
        )
    return f"{hub.ENDPOINT}/{name}"
