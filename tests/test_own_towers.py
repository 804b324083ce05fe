"""Your own towers: blocks that a subclass sets are used, and every mistake is one sentence that names the attribute."""

import inspect

import pytest
import torch
from torch import nn

import coop
import vpt
from promptvision.backbones import CLIP, ImageTower, TextTower, load_clip, load_vit
from promptvision.backbones.compute import Compute
from promptvision.backbones.image import insert
from promptvision.errors import InputError, OwnCodeFailed


class Blocks(ImageTower):
    """Four pixel patches, two blocks, no class token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16)
        layers = [nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True) for _ in range(2)]
        self.blocks = nn.ModuleList(layers)
        self.width, self.feature_dim, self.image_size, self.patch_size, self.prefix = 16, 16, 8, 4, 0

    def embed(self, images):
        return self.patches(images).flatten(2).transpose(1, 2)

    def pool(self, tokens):
        return self.norm(tokens).mean(dim=1)


class Whole(ImageTower):
    """A network without tokens."""

    feature_dim, image_size = 5, 8

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def untouched(self, images):
        return self.conv(images).mean(dim=(2, 3))


class Words(TextTower):
    """Token ids are letters; one causal block."""

    width, context_length, starts, marks = 8, 24, 0, 1

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = nn.Embedding(128, 8), nn.Linear(8, 5)
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)])

    def tokenize(self, texts):
        return torch.tensor([[*text.encode(), 127, *[0] * (self.context_length - 1 - len(text))] for text in texts])

    def count(self, text):
        return len(text)

    def embed(self, ids):
        return self.table(ids)

    def eot(self, ids):
        return ids.argmax(dim=-1)

    def encode(self, embeddings, eot, blocks=None):
        length = embeddings.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1)
        for block in self.blocks if blocks is None else blocks:
            embeddings = block(embeddings, mask)
        return self.out(embeddings[torch.arange(len(eot)), eot])


def clip(image=None, text=None, scale=None):
    return CLIP("own", image or Whole(), text or Words(), nn.Parameter(torch.zeros(())) if scale is None else scale)


def test_blocks_that_a_subclass_sets_are_its_blocks():
    tower, images = load_vit(Blocks()), torch.randn(3, 3, 8, 8)
    assert tower.depth == 2 and Whole().depth == 0
    method = vpt.build("prompt", tower, ["a", "b"], num_tokens=3, deep=True)
    first, second = method.prompts(3)
    tokens = tower.blocks[0](insert(tower.embed(images), first, 0))
    tokens = tower.blocks[1](insert(tokens[:, 3:], second, 0))
    torch.testing.assert_close(method(images), method.head(tower.pool(tokens[:, 3:])), atol=1e-5, rtol=1e-5)


def test_a_clip_of_own_towers_learns_contexts_and_deep_prompts():
    own = load_clip(clip())
    for way in ("auto", "plain"):
        own.compute = Compute(way)
        method = coop.build("coop", own, ["cat", "dog"], n_ctx=2)
        method(torch.randn(2, 3, 8, 8)).sum().backward()
        assert method.ctx.grad.abs().sum() > 0


def changed(kind, **changes):
    """An instance of a class with other attributes or methods."""
    tower = kind()
    for name, value in changes.items():
        if inspect.isfunction(value):
            setattr(type(tower), name, value)
        elif value is None:
            delattr(tower, name)
        else:
            setattr(tower, name, value)
    return tower


def own(kind):
    return type(kind.__name__, (kind,), {})


IMAGES = {
    "missing": (Blocks, {"feature_dim": None}, "Blocks.feature_dim is missing; set it to a whole number of 1 or more"),
    "type": (Blocks, {"image_size": "8"}, "Blocks.image_size is '8'; set it to a whole number"),
    "width": (Blocks, {"width": 0}, "Blocks.width is 0; set it to a whole number of 1 or more, the length D"),
    "mean": (Blocks, {"mean": 0.5}, "Blocks.mean is 0.5; it must be three numbers"),
    "blocks": (
        Whole,
        {"blocks": 3, "width": 3},
        "Whole.blocks is a int; set it to an nn.ModuleList of transformer blocks",
    ),
    "a list of others": (
        Whole,
        {"blocks": [nn.Linear(5, 5)], "width": 5},
        r"Whole.blocks\[0\] has parameters that the tower has not",
    ),
    "no module": (Whole, {"blocks": ["a"], "width": 3}, r"Whole.blocks\[0\] is a str; every block must be a module"),
    "no embed": (Whole, {"blocks": nn.ModuleList([nn.Linear(5, 5)]), "width": 5}, "Whole has blocks but no embed"),
    "feature": (
        Blocks,
        {"feature_dim": 10},
        r"Blocks.forward returns a tensor of shape \(2, 16\); it must be \(2, 10\)",
    ),
    "tokens": (
        Blocks,
        {"width": 15},
        r"Blocks.embed returns a tensor of shape \(2, 4, 16\); it must be \(2, any, 15\)",
    ),
    "prefix": (Blocks, {"prefix": 9}, "Blocks.prefix is 9, but embed.images. returns 4 tokens"),
    "no tensor": (Whole, {"untouched": lambda self, x: [x]}, "Whole.forward returns a list; it must return a tensor"),
    "steps": (
        Blocks,
        {"untouched": lambda self, x: self.pool(self.embed(x))},
        r"Blocks: pool\(blocks\(enter\(embed\(images\)\)\)\) is not what the tower returns",
    ),
    "first": (
        Blocks,
        {"pools_first": True},
        "pools_first is True, but pool reads more than the first token",
    ),
}
TEXTS = {
    "context": (Words, {"context_length": 0}, "Words.context_length is 0; set it to a whole number of 1 or more"),
    "count": (Words, {"count": lambda self, text: 1.0}, "Words.count.text. returns a float; it must be a whole number"),
    "ids": (Words, {"tokenize": lambda self, texts: [1]}, "Words.tokenize returns a list; it must return a tensor"),
    "eot": (Words, {"eot": lambda self, ids: ids[:, 0] + 99}, "Words.eot.ids. returns .*; it must be positions among"),
    "encode": (Words, {"encode": lambda self, x, eot: x}, r"Words.encode returns a tensor of shape \(2, 24, 8\)"),
    "causal": (Words, {"encode": lambda self, x, eot: x.mean(1)}, "Words.causal is True, but later tokens change"),
    "third": (
        Words,
        {"encode": lambda self, x, eot, blocks=None: x[:, 0] * len(blocks or "")},
        "Words.encode does not",
    ),
}


@pytest.mark.parametrize("case", IMAGES)
def test_mistakes_in_an_image_tower(case):
    kind, changes, sentence = IMAGES[case]
    with pytest.raises(InputError, match=sentence) as error:
        load_vit(changed(own(kind), **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", TEXTS)
def test_mistakes_in_a_text_tower(case):
    kind, changes, sentence = TEXTS[case]
    with pytest.raises(InputError, match=sentence) as error:
        load_clip(clip(text=changed(own(kind), **changes)))
    assert "\n" not in str(error.value)


CLIPS = {
    "image": (lambda: clip(image=nn.Linear(2, 2)), "the CLIP's image is a Linear; it must be a ImageTower"),
    "text": (lambda: clip(text=nn.Linear(2, 2)), "the CLIP's text is a Linear; it must be a TextTower"),
    "scale": (lambda: clip(scale=nn.Parameter(torch.zeros(2))), "logit_scale must be a parameter of one number"),
    "space": (lambda: clip(image=Blocks()), "encode returns features of length 5, but Blocks has feature_dim 16"),
    "none": (lambda: nn.Linear(2, 2), "load_clip is given a Linear; it must be a promptvision.backbones.CLIP, or"),
}


@pytest.mark.parametrize("case", CLIPS)
def test_mistakes_in_a_clip(case):
    make, sentence = CLIPS[case]
    with pytest.raises(InputError, match=sentence):
        load_clip(make())


def test_an_empty_class_says_what_it_lacks():
    class Empty(ImageTower):
        feature_dim, image_size = 3, 8

    class Mute(TextTower):
        width, context_length = 3, 8

    with pytest.raises(InputError, match="Empty defines no untouched .images to features., nor blocks with embed and"):
        load_vit(Empty())
    for step in ("tokenize", "count", "embed", "eot"):
        with pytest.raises(InputError, match=f"Mute defines no {step}: "):
            getattr(Mute(), step)(None)
    with pytest.raises(InputError, match="Mute defines no encode: "):
        Mute().encode(None, None)


def test_an_error_in_a_step_keeps_its_traceback():
    with pytest.raises(OwnCodeFailed, match="Whole.forward raised ZeroDivisionError"):
        load_vit(changed(own(Whole), untouched=lambda self, x: x / (1 // 0)))
