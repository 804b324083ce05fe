"""A random CLIP and a miniature DTD, as files."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

SIZES = dict(
    embed_dim=32,
    vision_cfg=dict(image_size=32, patch_size=16, layers=2, width=64),
    text_cfg=dict(width=32, heads=2, layers=2),
)


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    """A random CLIP of open_clip as a file that describes itself."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**SIZES)
    file = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_file(model.state_dict(), file, {"open_clip_config": json.dumps(SIZES)})
    return file


@pytest.fixture
def tiny_dtd(tmp_path):
    """Six noisy images in the layout of DTD, with a split file that lists each once."""
    lists = {"train": [], "val": [], "test": []}
    for number, (split, label) in enumerate((split, label) for split in lists for label in range(2)):
        path = f"{['banded', 'blotchy'][label]}/{number}.jpg"
        (tmp_path / "dtd/images" / path).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (90, 120 + number, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "dtd/images" / path)
        lists[split].append([path, label, path.partition("/")[0]])
    (tmp_path / "dtd/split_zhou_DescribableTextures.json").write_text(json.dumps(lists))
    return tmp_path
