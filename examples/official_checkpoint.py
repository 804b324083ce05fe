"""Classify images with a checkpoint of the official CoOp, without a config:

    python examples/official_checkpoint.py prompt_learner/model.pth.tar-50 photo.jpg --classes cat dog

The file's tensors are read, and no code in it is run. `--backbone` is the CLIP that it was trained on.
"""

import argparse

import torch

import coop
from promptvision.backbones import load_clip
from promptvision.data.decode import open_image
from promptvision.data.transforms import test_transform


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--classes", nargs="+", required=True, help="class names, in the order of training")
    parser.add_argument("--backbone", default="ViT-B-16")
    args = parser.parse_intermixed_args()

    clip = load_clip(args.backbone)
    learned = coop.load_checkpoint(args.checkpoint)
    class_specific = learned["ctx"].dim() == 3
    model = coop.build("coop", clip, args.classes, n_ctx=learned["ctx"].shape[-2], csc=class_specific).eval()
    model.load_learned_state(learned)

    transform = test_transform("coop", clip.image.image_size, clip.image.mean, clip.image.std)
    with torch.no_grad():
        images = torch.stack([transform(open_image("", path)) for path in args.images])
        probabilities = model(images).softmax(dim=1)
    for path, row in zip(args.images, probabilities, strict=True):
        label = int(row.argmax())
        print(f"{path}: {args.classes[label]} ({row[label]:.1%})")


if __name__ == "__main__":
    main()
