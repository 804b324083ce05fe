"""Run configuration: the keys, and how a config is read, checked and written."""

from promptvision.config.files import find_config
from promptvision.config.load import changed, dump, load_config, method_options, resolved, summary

__all__ = ["changed", "dump", "find_config", "load_config", "method_options", "resolved", "summary"]
