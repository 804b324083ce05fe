"""Runs an exported file in a process of its own: python run_file.py KIND FILE INPUTS.npz OUTPUT.npz FACTS.json

It needs what users of the file need, and nothing of promptvision.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

Arrays = list["np.ndarray[Any, Any]"]


def run_onnx(file: str, inputs: Arrays, facts: dict[str, Any]) -> Arrays:
    """Return the logits of normalised images by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [session.run(None, {"images": batch})[0] for batch in inputs]


def run_pt2(file: str, inputs: Arrays, facts: dict[str, Any]) -> Arrays:
    """Return the logits of normalised images by torch."""
    import torch

    program = torch.export.load(file).module()
    with torch.no_grad():
        return [program(torch.from_numpy(batch)).numpy() for batch in inputs]


def run_head(file: str, inputs: Arrays, facts: dict[str, Any]) -> Arrays:
    """Return the logits of image features by one matrix product, or of normalised images by a model of timm."""
    from safetensors.numpy import load_file

    if facts["kind"] == "timm":
        return run_timm(file, inputs, facts)
    head = load_file(file)
    found = []
    for features in inputs:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
        found.append(head["logit_scale"] * features @ head["class_features"].T)
    return found


def run_timm(file: str, inputs: Arrays, facts: dict[str, Any]) -> Arrays:
    """Return the logits of normalised images by a model of timm that holds the state dict."""
    import timm
    import torch
    from safetensors.torch import load_file

    model = timm.create_model(facts["architecture"], **facts["model_args"]).eval()
    model.load_state_dict(load_file(file))
    with torch.no_grad():
        return [model(torch.from_numpy(batch)).numpy() for batch in inputs]


if __name__ == "__main__":
    kind, file, source, target, described = sys.argv[1:]
    facts = json.loads(Path(described).read_text(encoding="utf-8"))
    inputs = list(np.load(source).values())
    found = {"onnx": run_onnx, "pt2": run_pt2, "classifier": run_head}[kind](file, inputs, facts)
    np.savez(target, *found)
