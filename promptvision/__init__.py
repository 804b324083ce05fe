"""Everything that the method families `vpt` and `coop` share: backbones, data, training, configs, reports."""

__version__ = "0.1.0"
