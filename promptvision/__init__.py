"""What the prompt-learning families `vpt` and `coop` share: backbones, data, engine, configuration, reports."""

__version__ = "0.1.0"
