"""Everything that the method families `vpt` and `coop` share: backbones, data, training, configs, reports."""

__version__ = "0.2.0"
