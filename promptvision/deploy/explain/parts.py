"""The parts of an explanation: each shows one thing, and says what that does not mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from promptvision.deploy.explain.attention import ClassAttention, class_attention
from promptvision.deploy.explain.figures import attention_figure, plane_figure, share_figure, similarity_figure
from promptvision.deploy.explain.plane import in_plane, neighbours_agree
from promptvision.deploy.explain.similarity import patch_similarity
from promptvision.deploy.explain.subject import Seen, Subject, first_view
from promptvision.deploy.explain.words import NearWords, near_words
from promptvision.errors import InputError, counted
from promptvision.experiment.loaders import image_tower
from promptvision.report.figures.style import Drawing

COMPARED = 3
"""Classes that the patches of an image are compared with: its own, and the most likely."""
PLANES = {"tsne": "t-SNE", "pca": "The first two principal components"}
ATTENTION = (
    "Attention of the class token to the patches in each block, a mean over heads, each map scaled to its own largest "
    "value. It shows where a block reads, not why the image gets its class."
)
SIMILARITY = (
    "Cosine of each patch with the text features of a class; a patch is its token after the last block, through the "
    "tower's final norm and projection. CLIP was trained to compare the class token with texts, never patches: large "
    "values often lie beside the object, and only differences between classes say something."
)


@dataclass
class Part:
    """A part of the explanation; without words and drawings, its sentences say why there are none."""

    title: str
    sentences: list[str]
    words: list[NearWords] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)


def explain(subject: Subject, words: int = 5, plane: str = "tsne") -> list[Part]:
    """Return the parts of the explanation of a run; one that its method has nothing to show for says so.

    `words`: nearest words of each vector. `plane`: "tsne" or "pca", the map of features.
    """
    makers: dict[str, Callable[[], Part]] = {
        "Nearest words": partial(words_part, subject, words),
        "Attention of the class token": partial(attention_part, subject),
        "Patches and class texts": partial(similarity_part, subject),
        "Features before and after": partial(features_part, subject, plane),
    }
    found = []
    for title, make in makers.items():
        try:
            found.append(make())
        except InputError as error:
            found.append(Part(title, [as_sentence(error)]))
    return found


def words_part(subject: Subject, count: int) -> Part:
    """Return the nearest words of the context vectors (CoOp, table 4)."""
    found, spacing = near_words(subject.method, count)
    nearest = [row[0][1] for table in found for row in table.rows]
    sentences = [
        "The words whose token embeddings are nearest to each learned context vector, with Euclidean distances, by the "
        "run's own tokenizer.",
        f"They need not mean anything: vectors lie {min(nearest):.3g} to {max(nearest):.3g} away from their nearest "
        f"word, while a typical word has its nearest other word at {spacing:.3g}, and a context works in the blocks "
        "above as a whole.",
    ]
    return Part("Nearest words", sentences, words=found)


def attention_part(subject: Subject) -> Part:
    """Return maps of the class token's attention, without and with the method, and its share on prompts."""
    before = class_attention(subject.frozen, subject.frozen, subject.batch())
    rows, said = {"backbone": before}, ""
    if subject.method.frozen_images:
        said = "The method leaves the image tower as it is, so its maps are those of the backbone."
    else:
        try:
            rows["trained"] = adapted_attention(subject, before)
        except InputError as error:
            said = as_sentence(error)
    drawings = []
    for number, seen in enumerate(subject.images):
        maps = {name: row.patches[:, number].cpu().numpy() for name, row in rows.items()}
        about = f"Attention of the class token in each block: {titled(seen)}"
        make = partial(attention_figure, titled(seen), seen.pixels, maps)
        drawings.append(Drawing("attention", f"attention {number + 1}", about, make))
    sentences = [ATTENTION, *([said] if said else [])]
    if "trained" in rows:
        sentences.append(share_sentence(rows["trained"]))
        if any(rows["trained"].prompt_counts):
            about = "Share of the class token's attention on prompts and on itself in each block, mean over the images"
            drawings.append(Drawing("attention", "prompt share", about, partial(share_figure, rows["trained"])))
    return Part("Attention of the class token", sentences, drawings=drawings)


def adapted_attention(subject: Subject, before: ClassAttention) -> ClassAttention:
    """Return the class token's attention within the method; InputError if its patches are not those of the image."""
    method = subject.method
    if method.options.get("delete_patches"):
        raise InputError("prompts take the places of patches (delete_patches), so the method's maps have holes")
    found = class_attention(image_tower(method), method.features_of, subject.batch())
    if found.patches.shape != before.patches.shape:
        grids = [f"{each.patches.shape[-2]} x {each.patches.shape[-1]}" for each in (found, before)]
        raise InputError(
            f"{type(method).__name__} encodes {grids[0]} patches, the backbone {grids[1]}: its maps do not fit the "
            "image"
        )
    return found


def share_sentence(found: ClassAttention) -> str:
    """Return what the class token's attention does to prompts, in words."""
    if not any(found.prompt_counts):
        return "The method puts no prompts among the tokens, so none draw attention."
    shares = [f"{share:.0%}" for share in found.prompts.mean(dim=1).tolist()]
    return f"Share of the class token's attention on prompts, block by block: {', '.join(shares)}."


def similarity_part(subject: Subject) -> Part:
    """Return maps of the cosines of an image's patches and the texts of a few classes."""
    method = subject.method
    cosines = patch_similarity(method, subject.batch()).cpu().numpy()
    with torch.no_grad():
        likely = method.predictor()(subject.batch()).argsort(dim=1, descending=True).tolist()
    drawings = []
    for number, seen in enumerate(subject.images):
        own = [method.classes.index(seen.label)] if seen.label in method.classes else []
        chosen = list(dict.fromkeys([*own, *likely[number]]))[:COMPARED]
        maps = {method.classes[label]: cosines[number, label] for label in chosen}
        make = partial(similarity_figure, titled(seen), seen.pixels, maps)
        about = f"Cosines of patches and class texts: {titled(seen)}"
        drawings.append(Drawing("similarity", f"similarity {number + 1}", about, make))
    return Part("Patches and class texts", [SIMILARITY], drawings=drawings)


def features_part(subject: Subject, kind: str) -> Part:
    """Return the features of test images in a plane, of the backbone and of the method, coloured by class."""
    if not subject.tests:
        raise InputError("The test images of the run are not here, so there is no map of their features")
    labels, features = encoded(subject)
    if subject.method.frozen_images and torch.equal(*features.values()):
        features.popitem()
    agree = {name: neighbours_agree(rows, labels) for name, rows in features.items()}
    planes = {name: in_plane(rows, kind, subject.cfg.SEED) for name, rows in features.items()}
    told = " and ".join(f"{share:.0%} ({name})" for name, share in agree.items())
    sentences = [
        f"{PLANES[kind]} of the features of {counted(len(labels), 'test image')}, coloured by class.",
        f"In all dimensions, the nearest neighbour has the same class for {told} of them: distances in a plane say "
        "less.",
    ]
    if len(features) == 1:
        sentences.append("The method classifies the features of the frozen image tower: before and after are the same.")
    names = {label: name for _, label, name in subject.tests}
    make = partial(plane_figure, planes, labels.numpy(), [names[label] for label in sorted(names)])
    drawing = Drawing("features", "features", f"{PLANES[kind]} of image features, coloured by class", make)
    return Part("Features before and after", sentences, drawings=[drawing])


@torch.no_grad()
def encoded(subject: Subject) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the labels of the test images, numbered from 0, and their features by the backbone and by the method."""
    order = sorted({label for _, label, _ in subject.tests})
    found: dict[str, list[Tensor]] = {"backbone": [], "trained": []}
    for start in range(0, len(subject.tests), subject.cfg.TEST.BATCH_SIZE):
        batch = subject.tests[start : start + subject.cfg.TEST.BATCH_SIZE]
        pixels = [first_view(subject.transform.pixels(subject.open(path))) for path, _, _ in batch]
        images = subject.transform.finish(torch.stack(pixels).to(subject.device))
        found["backbone"].append(subject.frozen(images).float().cpu())
        found["trained"].append(subject.method.features_of(images).float().cpu())
    labels = torch.tensor([order.index(label) for _, label, _ in subject.tests])
    return labels, {name: torch.cat(rows) for name, rows in found.items()}


def as_sentence(error: InputError) -> str:
    """Return an error as a sentence of the page: why there is nothing to show."""
    return f"{str(error)[:1].upper()}{str(error)[1:]}."


def titled(seen: Seen) -> str:
    """Return the name of an image, and its class if that is known."""
    return f"{Path(seen.name).name}" + (f" ({seen.label})" if seen.label else "")
