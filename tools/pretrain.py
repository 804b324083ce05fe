"""Train the embedded CLIP from scratch on the miniature world, in minutes on one thread.

    python tools/pretrain.py --out embedded.safetensors

Contrastive as CLIP (arXiv:2103.00020), with one important addition: linear heads on the image feature also learn
the scene's attributes (weights in HEADS) and are discarded afterwards. Without them these few steps learn shapes only
in part. With one thread the file is reproduced bit for bit.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.transformer import text_global_pool
from safetensors.torch import save_file
from torch import Tensor, nn

from promptvision.data.world.captions import captions, vocabulary
from promptvision.data.world.render import render
from promptvision.data.world.scene import COLOURS, PRETRAINING, SIZES, STYLES, TEXTURES, Scenes, held_out, sample
from promptvision.data.world.shapes import SHAPES
from promptvision.engine.progress import log_to_terminal, track

MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
    "quick_gelu": False,
}
BATCH, PEAK, WARM_UP, DECAY, BETAS, CLIP_NORM = 64, 1e-3, 50, 0.05, (0.9, 0.98), 1.0
HEADS = {
    "shape": (SHAPES, 2.0),
    "colour": (COLOURS, 0.5),
    "texture": (TEXTURES, 0.5),
    "background": (COLOURS, 0.25),
    "style": (STYLES, 0.25),
}


class Words:
    """CLIP's BPE tokenizer, mapped to the few rows of its table that the world's words use; EOT is the last row."""

    def __init__(self) -> None:
        self.tokenize = open_clip.get_tokenizer("ViT-B-32")
        self.ids = self.tokenize(vocabulary()).unique()
        self.ids = self.ids[self.ids != 0]
        self.row = torch.full((49408,), -1)
        self.row[self.ids] = torch.arange(len(self.ids))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the rows (n, L) of n texts, cut after the longest."""
        tokens = self.tokenize(list(texts))
        length = int(tokens.argmax(1).max()) + 1
        rows = self.row[tokens[:, :length]]
        assert (rows[tokens[:, :length] != 0] >= 0).all(), "a caption has a word outside the vocabulary"
        return rows.clamp(min=0)


def sin_cos(side: int, width: int) -> Tensor:
    """Return 2D sine-cosine positions after a zero row for the class token, (1 + side^2, width)."""
    rates = 1e4 ** -(torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [axis.flatten()[:, None] * rates for axis in (x, y)]
    return F.pad(torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1), (0, 0, 1, 0))


def build(rows: int) -> CLIP:
    """Return an untrained CLIP with a token table of `rows`."""
    text = {**MODEL["text_cfg"], "vocab_size": rows}
    model = CLIP(MODEL["embed_dim"], MODEL["vision_cfg"], text, quick_gelu=MODEL["quick_gelu"])
    vision = MODEL["vision_cfg"]
    model.visual.positional_embedding.data = 0.5 * sin_cos(
        vision["image_size"] // vision["patch_size"], vision["width"]
    )
    nn.init.normal_(model.visual.conv1.weight, std=math.sqrt(2 / (3 * vision["patch_size"] ** 2)))
    return model


def encode_text(model: CLIP, rows: Tensor) -> Tensor:
    """Encode texts as open_clip, cut after the longest (exact, the tower is causal); (n, 128), unit length."""
    length = rows.shape[1]
    x = model.token_embedding(rows) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return F.normalize(text_global_pool(x, rows, "argmax") @ model.text_projection, dim=-1)


def normalize(images: Tensor) -> Tensor:
    """Normalize uint8 images by CLIP's mean and standard deviation, to float32."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return (images / 255 - mean) / std


def losses(model: CLIP, heads: nn.ModuleDict, scenes: Scenes, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the contrastive loss, and the weighted sum of the attribute heads' cross-entropies."""
    features = model.encode_image(normalize(render(scenes)))
    logits = model.logit_scale.exp() * F.normalize(features, dim=-1) @ encode_text(model, rows).T
    same = torch.arange(len(scenes))
    contrast = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
    named = [
        weight * F.cross_entropy(heads[name](features), torch.as_tensor(getattr(scenes, name)))
        for name, (_, weight) in HEADS.items()
    ]
    return contrast, torch.stack(named).sum()


def build_optimizer(model: CLIP, heads: nn.ModuleDict) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on all matrices except the embeddings."""
    named = [*model.named_parameters(), *heads.named_parameters()]
    decayed = [p for name, p in named if p.ndim >= 2 and "embedding" not in name]
    plain = [p for name, p in named if p.ndim < 2 or "embedding" in name]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK, betas=BETAS, eps=1e-6)


def rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to 2 % of the peak."""
    return PEAK * min(1, (step + 1) / WARM_UP) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


def train(words: Words, steps: int, seed: int) -> CLIP:
    """Train a CLIP from scratch on `steps` batches, which are rendered one by one."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    model = build(len(words.ids)).train()
    heads = nn.ModuleDict({name: nn.Linear(MODEL["embed_dim"], len(values)) for name, (values, _) in HEADS.items()})
    adamw = build_optimizer(model, heads)
    for step in track(range(steps), "pretraining", "step"):
        scenes = sample(rng, BATCH, PRETRAINING)
        loss = sum(losses(model, heads, scenes, words(captions(rng, scenes))))
        adamw.param_groups[0]["lr"] = adamw.param_groups[1]["lr"] = rate(step, steps)
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], CLIP_NORM)
        adamw.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
    return model.eval()


@torch.no_grad()
def accuracy(
    model: CLIP, words: Words, scenes: Scenes, labels: np.ndarray, template: str, names: Sequence[str]
) -> float:
    """Return the zero-shot accuracy in percent."""
    features = torch.cat([model.encode_image(normalize(part)) for part in render(scenes).split(256)])
    chosen = (features @ encode_text(model, words([template.format(name) for name in names])).T).argmax(1)
    return round(100 * float(np.mean(chosen.numpy() == labels)), 1)


def quality(model: CLIP, words: Words) -> dict[str, float]:
    """Return zero-shot accuracies on new images, which belong to no task."""
    rng = np.random.default_rng(99)
    photos = sample(rng, 2000, style=np.zeros(2000, int))
    sketches = sample(rng, 1000, style=np.ones(1000, int))
    unseen = photos[held_out(photos.colour, photos.shape)]
    asked = {
        "shape": (photos, photos.shape, "a photo of a {}.", SHAPES),
        "shape of held-out pairs": (unseen, unseen.shape, "a photo of a {}.", SHAPES),
        "shape of sketches": (sketches, sketches.shape, "a sketch of a {}.", SHAPES),
        "colour": (photos, photos.colour, "a photo of a {} shape.", COLOURS),
        "texture": (photos, photos.texture, "a photo of a {} shape.", TEXTURES),
        "size": (photos, photos.size, "a photo of a {} shape.", SIZES),
        "background": (photos, photos.background, "a photo of a shape on a {} background.", COLOURS),
    }
    return {name: accuracy(model, words, *question) for name, question in asked.items()}


def save(path: Path, model: CLIP, words: Words, recipe: dict[str, object]) -> None:
    """Write half-precision safetensors under open_clip's names; the used token rows and their ids replace the table."""
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    tensors["token_embedding.rows"] = tensors.pop("token_embedding.weight")
    tensors["token_embedding.ids"] = words.ids
    save_file(tensors, path, {"open_clip_config": json.dumps(MODEL), "recipe": json.dumps(recipe)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=2000, help=f"batches of {BATCH} images (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more than one is faster, but not bit-identical")
    arguments = parser.parse_args()
    log_to_terminal()
    torch.set_num_threads(arguments.threads)
    words, start = Words(), time.perf_counter()
    model = train(words, arguments.steps, arguments.seed)
    measured = quality(model, words)
    settings = {"steps": arguments.steps, "seed": arguments.seed, "batch": BATCH}
    rates = {
        "learning_rate": PEAK,
        "weight_decay": DECAY,
        "heads": {name: weight for name, (_, weight) in HEADS.items()},
    }
    save(arguments.out, model, words, {**settings, **rates, "zero_shot": measured})
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB, {time.perf_counter() - start:.0f} s")
    for name, value in measured.items():
        print(f"{name:>24} {value:5.1f} %")


if __name__ == "__main__":
    main()
