"""A trained run as a file for other programs: ONNX, torch.export, a zero-shot head, or a timm state dict."""

KINDS = {"onnx": "model.onnx", "pt2": "model.pt2", "classifier": "classifier.safetensors"}
"""Kinds of files, each with the name that it has in the run folder if no other is given."""
