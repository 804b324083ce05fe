"""The embedded backbones with two blocks, which are traced twice as fast."""

from promptvision.backbones import load_clip, load_vit


def clip():
    found = load_clip("embedded")
    for tower in (found.image.model, found.text):
        del tower.transformer.resblocks[2:]
    return found


def vit():
    found = load_vit("embedded")
    del found.model.transformer.resblocks[2:]
    return found
