"""Files of a published run: its classifier and a model card, without private paths, images or code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub.utils import validate_repo_id

from promptvision.atomic import read_json, write_atomically, write_json
from promptvision.deploy.classifier import Classifier, load
from promptvision.deploy.hub import answered
from promptvision.deploy.model_card import model_card
from promptvision.engine.checkpoint import load_learned, save_learned
from promptvision.errors import InputError
from promptvision.own_code import names_code
from promptvision.report.tables.table import PATH
from promptvision.safe_yaml import as_yaml, parse, read_yaml

NAMES_OF_IMAGES = "left_out"
"""Entry of a result that names images."""


def write_publication(run: str | Path, folder: str | Path, name: str, licence: str) -> Classifier:
    """Write config, result, learned tensors and a model card of a run to a new folder; return its classifier.

    `name`: of the model, user/name. Absolute paths lose their folders. InputError for a run that cannot be loaded from
    these files alone.
    """
    with answered(name):
        validate_repo_id(name)
    config = read_yaml(Path(run, "config.yaml"), "config")
    for code in (config["BACKBONE"]["NAME"], config["METHOD"]["NAME"]):
        if names_code(code):
            raise InputError(f"{run} needs your own code ({code}), which is not published with it")
    place = load(run).save(folder).resolve()
    result = public(read_json(place / "result.json")) if (place / "result.json").exists() else {}
    result.pop(NAMES_OF_IMAGES, None)
    state, metadata = load_learned(place / "learned.safetensors")
    written = _public_config(parse((place / "config.yaml").read_text(encoding="utf-8")), metadata)
    learned_with = _public_config(parse(metadata["config"]), metadata)
    write_atomically(place / "config.yaml", as_yaml(written).encode())
    save_learned(place / "learned.safetensors", state, {**public(metadata), "config": as_yaml(learned_with)})
    if result:
        write_json(place / "result.json", result)
    classifier = loaded_elsewhere(place, run)
    write_atomically(place / "README.md", model_card(name, licence, classifier, result).encode())
    return classifier


def public(value: Any) -> Any:
    """Return plain data in which absolute paths have lost their folders."""
    if isinstance(value, dict):
        return {key: public(each) for key, each in value.items()}
    if isinstance(value, list):
        return [public(each) for each in value]
    return PATH.sub("", value) if isinstance(value, str) else value


def _public_config(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without private paths, and with the template of a card that others do not have."""
    dataset = dict(config["DATASET"])
    if dataset["NAME"].endswith((".yaml", ".yml")):
        dataset["TEMPLATE"] = dataset["TEMPLATE"] or metadata.get("template", "")
    return public({**config, "DATASET": dataset})


def loaded_elsewhere(place: Path, run: str | Path) -> Classifier:
    """Load a publication as another user would, in a folder without the files of this one."""
    here = Path.cwd()
    with TemporaryDirectory() as elsewhere:
        os.chdir(elsewhere)
        try:
            return load(place)
        except InputError as error:
            raise InputError(f"{run} cannot be published, because others could not load it: {error}") from error
        finally:
            os.chdir(here)
