# %% [markdown]
# # Plug in a backbone
#
# A backbone is a name that timm or open_clip knows, a weight file, or your own function that returns a network. This
# tutorial writes two networks, one that only makes features and one that takes prompts. Then it checks that the fast
# encoding of prompts is exact. It needs no download and takes about half a minute.

# %% commands
import shlex
import subprocess
from pathlib import Path


def run(command):
    """Run a command line, which prints what it does."""
    print(f"$ {command}", flush=True)
    subprocess.run(shlex.split(command), check=True)


# %% [markdown]
# ## Any network that makes features
#
# A module that maps normalised images (B, 3, H, W) to features (B, E) is enough for heads, such as a linear head or
# k-nearest neighbours. This one has no weights at all: it counts how often each of 4 x 4 x 4 colours occurs in the
# image.

# %%
Path("own_networks.py").write_text('''\
import torch
from torch import nn


class ColourHistogram(nn.Module):
    """Shares of the image's pixels in 64 boxes of the RGB cube, (B, 64)."""

    def forward(self, images):
        levels = ((images * 0.25 + 0.5).clamp(0, 0.999) * 4).long()
        boxes = (levels * torch.tensor([16, 4, 1], device=images.device)[None, :, None, None]).sum(dim=1).flatten(1)
        return nn.functional.one_hot(boxes, 64).float().mean(dim=1) * 8


def histogram():
    return ColourHistogram()
''')

# %%
run("promptvision backbone --name own_networks:histogram --size 32")

# %% [markdown]
# The table describes the network and says which methods work on it. A head on the histogram can tell colours apart, but
# not shapes: compare the accuracies of the next two runs. (The embedded ViT, pretrained on images like these, does
# both.)

# %%
run("""promptvision train --config vpt/embedded_linear.yaml BACKBONE.NAME own_networks:histogram INPUT.SIZE 32 \
    DATASET.NAME world_colours OUTPUT_DIR out/colours""")

# %%
run("""promptvision train --config vpt/embedded_linear.yaml BACKBONE.NAME own_networks:histogram INPUT.SIZE 32 \
    DATASET.NAME world_shapes OUTPUT_DIR out/shapes""")

# %% [markdown]
# ## A network that takes prompts
#
# Prompts are tokens beside those of the image, so the network has to expose its tokens and blocks. It does so as an
# `ImageTower`: `embed` turns images into tokens, `blocks` are called one after another, and `pool` turns the last
# tokens into a feature. An error names whatever is missing or has the wrong shape. Models of timm, torchvision and
# transformers need none of this: return the model itself.

# %%
Path("own_tower.py").write_text('''\
from torch import nn

from promptvision.backbones import ImageTower


class Tiny(ImageTower):
    """A transformer of two blocks on patches of 8 x 8 pixels, without pretraining."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 64, 8, stride=8), nn.LayerNorm(64)
        layers = [nn.TransformerEncoderLayer(64, 4, batch_first=True, norm_first=True) for _ in range(2)]
        self.blocks = nn.ModuleList(layers)
        self.width, self.feature_dim, self.image_size, self.patch_size, self.prefix = 64, 64, 32, 8, 0

    def embed(self, images):
        return self.patches(images).flatten(2).transpose(1, 2)

    def pool(self, tokens):
        return self.norm(tokens).mean(dim=1)
''')

# %%
run("""promptvision train --config vpt/embedded.yaml BACKBONE.NAME own_tower:Tiny OPTIM.EPOCHS 2 \
    OUTPUT_DIR out/tiny""")

# %% [markdown]
# A network without pretraining has nothing that a prompt could use, so the accuracy means nothing here. What counts is
# that the prompts train, that the run resumes, and that `eval`, `predict` and `sweep` accept it like any other run.
#
# ## Check it
#
# Prompts are encoded in one of two ways. The plain way inserts tokens and calls the blocks as they are. The fast way
# skips what no prompt changes, for blocks that it knows; unknown blocks, like those above, always take the plain way.
# Both must agree on your weights too. Here is the check on the embedded ViT. Put your own model in place of
# `"embedded"`, and run it first.

# %%
import torch

import vpt
from promptvision.backbones import load_vit
from promptvision.backbones.compute import Compute

images = torch.randn(4, 3, 32, 32)
logits = []
for way in ("plain", "fast"):
    backbone = load_vit("embedded")
    backbone.compute = Compute(way)
    torch.manual_seed(0)
    method = vpt.build("prompt", backbone, ["cat", "dog"], num_tokens=5, deep=True).eval()
    with torch.no_grad():
        logits.append(method(images))
difference = (logits[0] - logits[1]).abs().max().item()
print(f"largest difference between the ways: {difference:.1e}")
assert difference < 1e-5

# %% [markdown]
# `promptvision verify --backbone NAME` checks more: weights, tokenizer, both ways in half precision, datasets
# ([verify.md](../verify.md)). [adding.md](../adding.md#a-backbone) lists what a function may return.
