"""Prompts that start from the class tokens of training images (VPT, arXiv:2203.12119, section 4.3, "CLS")."""

from __future__ import annotations

import torch
from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.errors import InputError, counted
from promptvision.method import Batches
from vpt.parts.thaw import class_token


def initial_prompts(embeddings: Tensor, init: str) -> Tensor:
    """Turn layerwise class tokens (P, L + 1, D) into the prompts (L, P, D) of all L blocks.

    "final-cls": the last vector for every block; "cls-nolastl": for each block the vector that enters it;
    "cls-nofirstl": the one that leaves it.
    """
    layers = embeddings.transpose(0, 1)
    if init == "final-cls":
        return layers[-1:].repeat(len(layers) - 1, 1, 1)
    return (layers[:-1] if init == "cls-nolastl" else layers[1:]).clone()


def layerwise_class_tokens(tower: ImageTower, images: Tensor) -> Tensor:
    """Return the class tokens (B, L + 1, D) that enter the first block and leave every block, before the final norm."""
    tokens = tower.enter(tower.embed(images))
    found = [tokens[:, 0]]
    for block in tower.blocks:
        tokens = block(tokens)
        found.append(tokens[:, 0])
    return torch.stack(found, dim=1)


@torch.no_grad()
def class_token_embeddings(tower: ImageTower, train: Batches, classes: int, count: int) -> Tensor:
    """Return P = `count` means of the training images' layerwise class tokens, (P, L + 1, D).

    The official code reads such vectors from a file and does not say how they were made. Here image j of class c
    goes into mean number (c + C j) modulo P: with P = C these are the class means, with P = k C the images of every
    class are divided among k means, and no two means are alike.
    """
    class_token(tower)  # refuses a tower without one
    device = next(tower.parameters()).device
    sums = torch.zeros(count, tower.depth + 1, tower.width, device=device)
    seen, members = [0] * classes, torch.zeros(count, device=device)
    for images, labels in train:
        rows = torch.empty(len(labels), dtype=torch.long)
        for index, label in enumerate(labels.tolist()):
            rows[index] = (label + classes * seen[label]) % count
            seen[label] += 1
        rows = rows.to(device)
        sums.index_add_(0, rows, layerwise_class_tokens(tower, images.to(device)).float())
        members += torch.bincount(rows, minlength=count)
    if not members.all():
        raise InputError(f"the training images are too few to start {counted(count, 'prompt')} from their class tokens")
    return sums / members[:, None, None]
