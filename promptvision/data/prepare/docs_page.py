"""The page docs/datasets.md: every card in a table, and how to add one."""

from __future__ import annotations

from promptvision.data.cards import card_names, load_card

INTRODUCTION = """# Datasets

Generated from the cards in `datasets/` by `python tools/docs.py`.

A dataset is described by a *card*, a YAML file: where its images and lists are, how to read them, its prompt, its
counts and its pitfalls. `DATASET.NAME` takes the name of a card, or the path of your own; `DATASET.ROOT` is the folder
of all datasets (`data` by default). For your own images without a card, see [images.md](images.md).

## Getting one

```
# not run by the tests: downloads a dataset
promptvision data list --root data             # all cards, and which of them are here
promptvision data show dtd --root data         # one card: source, licence, where to get it
promptvision data download dtd --root data     # from its official address; --source hub: from the Hugging Face Hub
promptvision data prepare dtd --root data      # unpacks the archives into the layout of the reader
promptvision data check dtd --root data        # every file, count, broken image and duplicate
```

Not every dataset can be downloaded by a command, because of its licence or a dead link. The error, and *Where* below,
then say how to get it by hand.

## Adding one

A dataset needs a card and no code. Choose the reader for its layout and write down the facts:

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

| reader | layout |
|---|---|
| `folder`, `list`, `hub_folder`, `shards` | your own images ([images.md](images.md)) |
| `coop_split` | CoOp: one JSON file with train, val and test lists |
| `text_lists` | text files with lines `path label`, one for each split: VTAB-1k, DomainNet, VisDA |
| `json_lists` | `train.json`, `val.json` and `test.json`: VPT's FGVC |
| `class_folders` | a folder per class in a folder for each split or domain: Office-Home, Office-31 |
| `synsets` | ImageNet and its variants |
| `torchvision`, `digits` | torchvision's downloads, scikit-learn's digits |
| `aircraft`, `world` | FGVC-Aircraft, the embedded world |

The cards in `datasets/` are examples of each. A card with domains gives each domain its own keys:
`domains: {garden: {lists: {train: garden.txt}}, forest: {lists: {train: forest.txt}}}`. `promptvision data check`
compares the card with the images.

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
    return "\n".join([INTRODUCTION, *header, *rows, "", "## Sources, where to get them, pitfalls", *sections]) + "\n"
