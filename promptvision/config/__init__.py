"""Run configuration: the keys, and how a config is read, checked and written."""

from promptvision.config.files import find_config, read_files
from promptvision.config.load import (
    changed,
    config_of,
    dump,
    load_config,
    method_options,
    resolved,
    summary,
    with_defaults,
)

__all__ = [
    "changed",
    "config_of",
    "dump",
    "find_config",
    "load_config",
    "method_options",
    "read_files",
    "resolved",
    "summary",
    "with_defaults",
]
