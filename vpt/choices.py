"""Which options of prompt tuning go together; the others are refused with one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from promptvision.errors import InputError, unknown

CHOICES = {
    "location": ("prepend", "add", "add_one", "pixel"),
    "init": ("uniform", "gaussian", "final-cls", "cls-nolastl", "cls-nofirstl"),
    "pool": ("backbone", "cls", "image", "prompt", "image_prompt"),
    "also": ("", "bias", "cls", "cls-reinit"),
}
Options = Mapping[str, Any]
Findings = Iterator[tuple[bool, str]]


def check_choices(options: Options) -> None:
    """Refuse values that are no choice, and options of `Prompt` that exclude each other."""
    for name, choices in CHOICES.items():
        if options[name] not in choices:
            raise unknown(name, options[name], choices)
    for check in (_numbers, _pixel, _added, _from_cls, _layers, _prefix):
        for wrong, sentence in check(options):
            if wrong:
                raise InputError(sentence)


def edits_only(options: Options) -> bool:
    """Whether these options need the plain way: tokens edited between whole blocks."""
    added = options["location"] in ("add", "add_one")
    return added or options["pool"] != "backbone" or options["delete_patches"]


def _numbers(options: Options) -> Findings:
    tokens, dropout = options["num_tokens"], options["dropout"]
    yield tokens < 1, f"num_tokens is {tokens}; prompt tuning needs at least one prompt token"
    yield not 0 <= dropout < 1, f"dropout is {dropout}; it is a share of the prompts' entries, from 0 to below 1"
    fast = options["way"] == "fast" and edits_only(options)
    yield fast, "the fast way knows prepended prompts and the backbone's own pool only; set way to auto or plain"


def _pixel(options: Options) -> Findings:
    pixel = options["location"] == "pixel"
    yield pixel and options["deep"], "a strip of pixels enters at the first block only; set deep to false"
    yield pixel and options["dropout"] > 0, "dropout is on tokens, not on a strip of pixels; set dropout to 0"
    yield pixel and options["project"] > 0, "a strip of pixels is embedded by the patches; set project to -1"
    yield options["normalize"] and not pixel, "only a strip of pixels can be normalised; take location: pixel"


def _added(options: Options) -> Findings:
    added, pool = options["location"] in ("add", "add_one"), options["pool"]
    yield added and "prompt" in pool, f"added prompts are no tokens of their own (pool: {pool}); take pool: image"
    yield added and not options["keep"], "added prompts cannot be removed; set keep to true"


def _from_cls(options: Options) -> Findings:
    init = options["init"]
    cls = "cls" in init
    yield cls and options["project"] > 0, f"prompts that start from class tokens ({init}) have no projection: set -1"
    yield cls and options["location"] != "prepend", f"only prepended prompts start from class tokens ({init})"
    yield cls and options["prefix"], f"keys and values (prefix) do not start from class tokens ({init})"
    yield cls and options["shared"], f"shared prompts have no layers to start from class tokens ({init})"


def _layers(options: Options) -> Findings:
    yield options["shared"] and not options["deep"], "shared prompts stand at every block; set deep to true"
    frozen = options["frozen"] and options["project"] > 0
    yield frozen, "frozen prompts have no projection, as it would not learn either; set project to -1"
    deletes = options["delete_patches"] and not options["last"]
    yield deletes, "delete_patches repeats what the official code does with the last layers; set last"


def _prefix(options: Options) -> Findings:
    if not options["prefix"]:
        return
    yield not options["deep"], "keys and values (prefix) are learned layer by layer; set deep to true"
    yield options["way"] == "plain", "keys and values (prefix) reach into the blocks, which way: plain does not"
    other = edits_only(options) or options["location"] != "prepend" or options["shared"] or not options["keep"]
    yield (
        other,
        "keys and values (prefix) have no outputs: location, pool, shared, keep and delete_patches stay as given",
    )
