"""The page docs/datasets.md: every card in a table, and how to add one."""

from __future__ import annotations

from promptvision.data.cards import card_names, load_card

INTRODUCTION = """# Datasets

Generated from the cards in `datasets/` by `python tools/docs.py`. `DATASET.NAME` takes a name, or the path of a card
of your own; `DATASET.ROOT` is the folder that holds all datasets.

## Adding one

A dataset is one card, a YAML file, without code. Choose the reader of its layout (below) and write down its facts:

```yaml
# mushrooms.yaml: DATASET.NAME mushrooms.yaml
title: Mushrooms of our garden
source: "us, 2026"
licence: CC0
where: "ask us for mushrooms.zip and unpack it into ROOT, and set DATASET.ROOT to ROOT"
reader: text_lists            # lines `path label`
template: "a photo of a {}, a type of mushroom."
classes: 3
counts: {train: 48, val: 12, test: 60}
traps:
  - "Images of one mushroom are next to each other in the lists."
folders: [mushrooms]          # ROOT/mushrooms
lists: {train: train.txt, val: val.txt, test: test.txt}
names: [fly agaric, cep, chanterelle]      # or names: names/mushrooms.txt, a file beside the card
```

A card with domains gives each domain its own keys:
`domains: {garden: {lists: {train: garden.txt}}, forest: {lists: {train: forest.txt}}}`. `tools/data.py check` compares
the card with the images. Images of your own need no card at all: `DATASET.NAME folder`, or `list`.

## The cards
"""


COLUMNS = ("name", "dataset", "reader", "classes", "train / val / test", "template", "protocols", "licence")


def datasets_page() -> str:
    """Return docs/datasets.md: one row per card, then the source and the traps of each."""
    rows, sections = [], []
    for card in map(load_card, card_names()):
        counts = " / ".join(f"{card.counts[part]:,}" for part in ("train", "val", "test")) if card.counts else ""
        facts = [f"`{card.name}`", card.title, card.reader, f"{card.classes or ''}", counts, f"`{card.template}`"]
        rows.append(f"| {' | '.join([*facts, ', '.join(card.protocols), card.licence])} |")
        domains = [f"- Domains: {', '.join(card.domains)}."] if card.domains else []
        about = [f"- Source: {card.source}.", f"- Where: {card.where}.", *domains]
        sections += ["", f"### `{card.name}`", "", *about, *[f"- {trap}" for trap in card.traps]]
    header = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([INTRODUCTION, *header, *rows, "", "## Sources, where to get them, traps", *sections]) + "\n"
