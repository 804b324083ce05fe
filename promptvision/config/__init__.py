"""Run configuration: the keys, and how a config is read, checked and written."""

from promptvision.config.load import changed, dump, load_config, method_options, resolved, summary

__all__ = ["changed", "dump", "load_config", "method_options", "resolved", "summary"]
