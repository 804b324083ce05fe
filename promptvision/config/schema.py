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
        "Seed of all random choices: picked images, initial values, order of images, augmented views, dropout.",
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
        "Folder where image features of frozen towers are kept for later runs: auto is $PROMPTVISION_CACHE, or "
        "promptvision in the user's cache (~/.cache); empty disables it, and every epoch encodes every image "
        "again. eval takes it from its own command line, not from the run.",
        place=True,
    ),
    Key(
        "LOG.WANDB",
        "",
        "Project at Weights & Biases that also receives the curves (pip install 'promptvision[wandb]'); empty for "
        "none.",
        place=True,
    ),
    Key("METHOD.FAMILY", "coop", "Family of the method: coop prompts a CLIP, vpt prompts an image tower."),
    Key(
        "METHOD.NAME",
        "coop",
        "Name of the method within its family, or your own, `module:Class`, which extends promptvision.method.Method. "
        "A class in the config of an existing run is used only if the command line repeats it or says --trust.",
        code="class",
        pattern=r"\w+(\.\w+)*:\w+",
    ),
    Key(
        "METHOD.WEIGHTS",
        "",
        "Learned tensors to start from: a learned.safetensors, or a checkpoint of the official code of CoOp, CoCoOp, "
        "DAPL, CLIP-LoRA, TaskRes or CLIP-Adapter.",
    ),
    Key(
        "BACKBONE.NAME",
        "embedded",
        "A timm or open_clip model, a weights file, `module:function`, or the shipped `embedded`. A function in the "
        "config of an existing run is called only if the command line repeats it or says --trust.",
        code="function",
    ),
    Key("BACKBONE.PRETRAINED", "default", "Weights: `default` (the library's), `none` (random), a tag, or a file."),
    Key(
        "BACKBONE.RESIZE",
        "timm",
        "Interpolation of position embeddings to INPUT.SIZE: timm (bicubic, antialiased), bicubic (without "
        "antialiasing, as DINO and MAE), or official (VPT's and Google's: linear, corners aligned).",
        choices=("timm", "bicubic", "official"),
    ),
    Key(
        "BACKBONE.POOL",
        "default",
        "Feature of a timm ViT: default (the model's own), token (class token), or avg (mean of the patches, then "
        "a norm, as MAE is fine-tuned).",
        choices=("default", "token", "avg"),
    ),
    *DATA,
    *TRAINING,
    Key(
        "COMPUTE.WAY",
        "auto",
        "Encoding of prompts and images: plain runs every block of a tower unchanged, fast computes what prompts share "
        "only once and the last block for the class token only (equal up to rounding), auto is fast wherever the tower "
        "allows it.",
        choices=("auto", "fast", "plain"),
    ),
    Key(
        "COMPUTE.CHUNK",
        0,
        "Classes whose prompts are encoded at once, 0 for all, auto for as many as half of the free memory holds; "
        "fewer need less memory and a second forward pass. A run that ran out of memory can be resumed with another "
        "value, as with all of COMPUTE.",
        low=0,
        words=("auto",),
    ),
    Key(
        "COMPUTE.IMAGES_AT_ONCE",
        0,
        "Images that have prompts of their own (cocoop, tpt) and are encoded at once; 0 for 1 in cocoop, 4 in tpt.",
        low=0,
    ),
    Key(
        "COMPUTE.GRAPH",
        "auto",
        "Training steps as a CUDA graph: auto captures one on a GPU after three steps, and says in one line of the log "
        "why not where a step needs the host (random draws, several processes or batches, fp16); off never does.",
        choices=("auto", "off"),
    ),
    Key(
        "COMPUTE.CHECKPOINT",
        False,
        "Keep only what enters the blocks of an image tower for backward, which computes each block again: far less "
        "memory, about a third more work, the same result. For a text tower, see COMPUTE.CHUNK.",
    ),
    Key("TEST.SPLIT", "test", "Images to evaluate on.", choices=("train", "val", "test")),
    Key("TEST.BATCH_SIZE", 100, "Test images per step.", low=1),
    Key("CONTINUAL.TASKS", 0, "Number of tasks that the classes are split into; 0 for no stream of tasks.", low=0),
    Key(
        "CONTINUAL.SEED",
        -1,
        "Seed of the class order, as in LAMDA-PILOT; -1 for the order of the labels, as in L2P.",
        low=-1,
        high=2**32 - 1,
    ),
    Key("CONTINUAL.ORDER", [], "All labels in the order of learning, instead of SEED.", items=int),
    Key("CONTINUAL.DATASETS", [], "Data sets to learn one after the other, instead of DATASET.NAME.", items=str),
    Key("CONTINUAL.CLASS_MASK", True, "Restrict training to the classes of the current task."),
    Key(
        "CONTINUAL.COMPETE",
        "seen",
        "Classes among which a test image is classified: seen, those of all tasks so far (class-incremental); "
        "task, those of its own task (task-incremental); all, future ones included, as in the official code of "
        "L2P.",
        choices=("seen", "task", "all"),
    ),
    Key("CONTINUAL.JOINT", False, "Train once on all tasks together: the reference without forgetting."),
)
