"""Every key of a config: its default, its allowed values and one sentence of help.

The default config, `promptvision help` and docs/config.md are made from this table. The keys of METHOD.OPTIONS are not
here: they are the keyword-only arguments of the method's class.
"""

from __future__ import annotations

from promptvision.config.data_keys import DATA
from promptvision.config.key import Key
from promptvision.config.training_keys import TRAINING

KEYS = (
    Key(
        "SEED",
        1,
        "Seed of everything random: few-shot images, initial values, order of images, augmented views, dropout.",
        low=0,
        high=2**32 - 1,
    ),
    Key(
        "OUTPUT_DIR",
        "out",
        "Folder of the run: config, metrics, result, learned tensors, checkpoint and log.",
        place=True,
    ),
    Key(
        "CACHE_DIR",
        "auto",
        "Folder of image features of frozen towers, kept for later runs. auto is $PROMPTVISION_CACHE, or "
        "promptvision in the user's cache (~/.cache). Empty disables it, and every epoch encodes every image again. "
        "eval takes it from its own command line, not from the run.",
        place=True,
    ),
    Key(
        "LOG.WANDB",
        "",
        "Project at Weights & Biases that also receives the curves (pip install 'promptvision[wandb]'); empty for "
        "none.",
        place=True,
    ),
    Key(
        "METHOD.FAMILY", "coop", "Family of the method: coop for methods on a CLIP, vpt for methods on an image tower."
    ),
    Key(
        "METHOD.NAME",
        "coop",
        "Name of a method of the family (promptvision methods lists them), or your own as `module:Class`, which "
        "extends promptvision.method.Method. If the config of an existing run names a class, it is used only if the "
        "command line repeats it or says --trust.",
        code="class",
        pattern=r"\w+(\.\w+)*:\w+",
    ),
    Key(
        "METHOD.WEIGHTS",
        "",
        "File of learned tensors to start from: a learned.safetensors, or a checkpoint of the official code of CoOp, "
        "CoCoOp, DAPL, CLIP-LoRA, TaskRes or CLIP-Adapter.",
    ),
    Key(
        "BACKBONE.NAME",
        "embedded",
        "A timm or open_clip model, a weights file, your own `module:function`, or the shipped `embedded`. If the "
        "config of an existing run names a function, it is called only if the command line repeats it or says "
        "--trust.",
        code="function",
    ),
    Key(
        "BACKBONE.PRETRAINED",
        "default",
        "Weights of the backbone: `default` (the library's), `none` (random), a tag of open_clip, or a file.",
    ),
    Key(
        "BACKBONE.RESIZE",
        "timm",
        "Interpolation of position embeddings to INPUT.SIZE: timm (bicubic, antialiased), bicubic (without "
        "antialiasing, as in DINO and MAE), or official (as in VPT's and Google's code: linear, corners aligned).",
        choices=("timm", "bicubic", "official"),
    ),
    Key(
        "BACKBONE.POOL",
        "default",
        "Feature of a timm ViT: default (the model's own), token (class token), or avg (mean of the patches, then a "
        "norm, as in MAE's fine-tuning).",
        choices=("default", "token", "avg"),
    ),
    *DATA,
    *TRAINING,
    Key(
        "COMPUTE.WAY",
        "auto",
        "Encoding of prompts and images. plain runs every block of a tower unchanged. fast computes only once what "
        "prompts share, and the last block for the class token only; results are equal up to rounding. auto is fast "
        "wherever the tower allows it.",
        choices=("auto", "fast", "plain"),
    ),
    Key(
        "COMPUTE.CHUNK",
        0,
        "Classes whose prompts are encoded at once: 0 for all, auto for as many as half of the free memory holds. "
        "Fewer need less memory and a second forward pass. A run that ran out of memory can be resumed with another "
        "value, as with all of COMPUTE.",
        low=0,
        words=("auto",),
    ),
    Key(
        "COMPUTE.IMAGES_AT_ONCE",
        0,
        "Images that are encoded at once, for methods with prompts of each image (cocoop, tpt); 0 for 1 in cocoop, 4 "
        "in tpt.",
        low=0,
    ),
    Key(
        "COMPUTE.GRAPH",
        "auto",
        "Training steps as a CUDA graph. auto captures one on a GPU after three steps; if a step needs the host "
        "(random draws, several processes or batches, fp16), it does not, and a line of the log says why. off never "
        "does.",
        choices=("auto", "off"),
    ),
    Key(
        "COMPUTE.CHECKPOINT",
        False,
        "Keep only the input of each block of an image tower for the backward pass, which computes the blocks again: "
        "far less memory, about a third more work, the same result. For a text tower, see COMPUTE.CHUNK.",
    ),
    Key("TEST.SPLIT", "test", "Images to evaluate on.", choices=("train", "val", "test")),
    Key("TEST.BATCH_SIZE", 100, "Test images per step.", low=1),
    Key(
        "CONTINUAL.TASKS",
        0,
        "Number of tasks that the classes are split into, to learn them one after another; 0 for no stream of tasks.",
        low=0,
    ),
    Key(
        "CONTINUAL.SEED",
        -1,
        "Seed of the class order, as in LAMDA-PILOT; -1 for the order of the labels, as in L2P.",
        low=-1,
        high=2**32 - 1,
    ),
    Key("CONTINUAL.ORDER", [], "All labels in the order of learning, instead of SEED.", items=int),
    Key("CONTINUAL.DATASETS", [], "Datasets to learn one after another, instead of DATASET.NAME.", items=str),
    Key("CONTINUAL.CLASS_MASK", True, "Restrict training to the classes of the current task."),
    Key(
        "CONTINUAL.COMPETE",
        "seen",
        "Classes among which a test image is classified: seen, those of all tasks so far (class-incremental); task, "
        "those of its own task (task-incremental); all, including future ones (the official code of L2P).",
        choices=("seen", "task", "all"),
    ),
    Key("CONTINUAL.JOINT", False, "Train once on all tasks together: the reference without forgetting."),
)
