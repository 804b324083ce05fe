"""The keys of the data: which images, of which classes (DATASET), and how they are prepared (INPUT)."""

from __future__ import annotations

from promptvision.config.key import Key

DATA = (
    Key(
        "DATASET.NAME",
        "world_backgrounds",
        "Name of a card in datasets/ (promptvision data list), or the path of your own card file.",
    ),
    Key(
        "DATASET.ROOT",
        "",
        "Folder that holds all datasets (empty: `data`), or your own images. Some datasets need none.",
    ),
    Key("DATASET.SHOTS", 16, "Training images per class; 0 for all.", low=0),
    Key(
        "DATASET.TRAIN",
        "train",
        "Images to train on. train+val leaves no validation images (final runs of VTAB-1k).",
        choices=("train", "train+val"),
    ),
    Key(
        "DATASET.CLASSES",
        "all",
        "Classes to use: all, the first half (base), or the second half (new).",
        choices=("all", "base", "new"),
    ),
    Key(
        "DATASET.TRAIN_CLASSES",
        "same",
        "Classes to train on: same (those of CLASSES), or all, which without labels is PromptKD's base to new. Tests "
        "and validation stay with CLASSES.",
        choices=("same", "all"),
    ),
    Key(
        "DATASET.FEW_SHOT",
        "coop",
        "Rule that picks the few-shot images: coop (CoOp's published index files) or clip_lora (that of CLIP-LoRA's "
        "code, other images for the same seed).",
        choices=("coop", "clip_lora"),
    ),
    Key(
        "DATASET.IMBALANCE",
        1.0,
        "Number of training images of the first class divided by that of the last; images are dropped to reach it. 1 "
        "for none.",
        low=1,
        high=1e6,
    ),
    Key(
        "DATASET.IMBALANCE_SHAPE",
        "exponential",
        "Decline of the class sizes from the first class to the last: exponential (long-tailed), or one step at "
        "half of the classes.",
        choices=("exponential", "step"),
    ),
    Key(
        "DATASET.VALIDATION",
        "own",
        "Validation images: own (the dataset's, with SHOTS a few per class), all (all of these), none, held_out "
        "(training images that were not picked), or test (the test images, as in some official codes; every table "
        "marks it).",
        choices=("own", "all", "none", "held_out", "test"),
    ),
    Key(
        "DATASET.VALIDATION_SHOTS",
        4,
        "Maximum of validation images per class, own or held_out, with SHOTS; never more than SHOTS.",
        low=1,
    ),
    Key(
        "DATASET.FOLDS",
        0,
        "Folds of a cross-validation over the training and validation images; 0 for none. Seed s validates on fold "
        "(s - 1) mod FOLDS and trains on the others, so seeds 1 to FOLDS are one cross-validation and the next ones "
        "another. The only image of a class is always trained on.",
        low=0,
    ),
    Key("DATASET.SOURCE", "", "Domains to train and validate on, separated by commas; empty for all."),
    Key(
        "DATASET.TARGET",
        "",
        "Domains to test on, separated by commas; empty for all. Their images without labels are available in "
        "training.",
    ),
    Key(
        "DATASET.HELD_OUT",
        0.0,
        "Share of the target images that is reserved for the test, if the target has no test list. 0 uses all of "
        "them both without labels and for the test, as published.",
        low=0,
        high=1,
    ),
    Key("DATASET.TEMPLATE", "", "Prompt template with {} for the class name; empty for the dataset's own."),
    Key(
        "INPUT.SIZE",
        0,
        "Side of the square input in pixels; 0 takes the backbone's. A size given beside a backbone's name is "
        "dropped if a file with this _BASE_, or the command line, names another backbone but no size.",
        low=0,
        high=10_000,
    ),
    Key("INPUT.MEAN", [], "Mean of the three colour channels; empty takes the backbone's.", lengths=(0, 3)),
    Key(
        "INPUT.STD",
        [],
        "Standard deviation of the three colour channels; empty takes the backbone's.",
        lengths=(0, 3),
        low=1e-6,
    ),
    Key(
        "INPUT.CACHE",
        "",
        "Folder of decoded images to read instead of the files, made by `promptvision data cache`. Smaller copies "
        "give other views than the files unless the recipe begins with the same resizing.",
    ),
    Key(
        "INPUT.RESIZE",
        "pillow",
        "Library that resizes images: pillow, as in the published codes, or tensor, torchvision's resize of uint8 "
        "tensors, which is several times as fast but rounds a few values to the next grey level (docs/images.md). "
        "Random crops are the same; vtab resizes floats, the same in both.",
        choices=("pillow", "tensor"),
    ),
    Key(
        "INPUT.EXIF",
        "ignore",
        "EXIF orientation of images (photos of phones): ignore, as in the published codes, or apply.",
        choices=("ignore", "apply"),
    ),
    Key(
        "INPUT.ON_BAD_IMAGE",
        "stop",
        "Effect of an unreadable image. stop ends the run with the image's name. skip checks all images first, "
        "leaves unreadable ones out, and lists them in result.json.",
        choices=("stop", "skip"),
    ),
    Key(
        "INPUT.TRAIN",
        "coop",
        "Recipe for training images (docs/images.md): coop, fgvc, vtab, petl, l2p, coda, tip_adapter, randaugment or "
        "center.",
    ),
    Key(
        "INPUT.TEST",
        "coop",
        "Recipe for test images (docs/images.md): coop, fgvc, vtab, petl, l2p, coda, tip_adapter or center.",
    ),
)
