"""Every key a config may hold: its default, what it may be, and one sentence of help.

The default config, `--help` and docs/config.md are all made from this table. The keys of METHOD.OPTIONS are not
here: they are the keyword-only arguments of the method's class.
"""

from __future__ import annotations

from promptvision.config.key import Key

KEYS = (
    Key(
        "SEED",
        1,
        "Seed of everything random: picked images, initial values, order, views, dropout.",
        low=0,
        high=2**32 - 1,
    ),
    Key(
        "OUTPUT_DIR",
        "out",
        "Folder of the run: config, metrics, result, learned tensors, checkpoint and log.",
    ),
    Key(
        "CACHE_DIR",
        "auto",
        "Folder where image features of frozen towers are kept for later runs: auto is $PROMPTVISION_CACHE, or "
        "promptvision in the user's cache (~/.cache); empty keeps none, and the tower sees every image every time.",
    ),
    Key(
        "LOG.WANDB",
        "",
        "Project at Weights & Biases that the curves also go to (pip install 'promptvision[wandb]'); empty for none.",
    ),
    Key("METHOD.FAMILY", "coop", "Family of the method: coop prompts a CLIP, vpt prompts an image tower."),
    Key("METHOD.NAME", "coop", "Name of the method within its family."),
    Key(
        "METHOD.WEIGHTS",
        "",
        "Learned tensors to start from: a learned.safetensors, or a checkpoint of the official code of CoOp, CoCoOp, "
        "DAPL or CLIP-LoRA.",
    ),
    Key(
        "BACKBONE.NAME",
        "embedded",
        "A timm or open_clip model, a weights file, `module:function`, or the shipped `embedded`.",
    ),
    Key(
        "BACKBONE.PRETRAINED",
        "default",
        "Weights: `default` (the library's), `none` (random), a tag, or a file.",
    ),
    Key(
        "BACKBONE.RESIZE",
        "timm",
        "How position embeddings are brought to INPUT.SIZE: timm (bicubic, antialiased) or official (VPT's and "
        "Google's: linear, corners kept).",
        choices=("timm", "official"),
    ),
    Key(
        "BACKBONE.POOL",
        "default",
        "What a timm ViT's feature is: default (the model's own), token (class token), or avg (mean of the patches, "
        "then a norm, as MAE is fine-tuned).",
        choices=("default", "token", "avg"),
    ),
    Key(
        "DATASET.NAME",
        "world_backgrounds",
        "Name of a card in datasets/, or the path of your own card file.",
    ),
    Key(
        "DATASET.ROOT",
        "",
        "Folder that holds the data sets (empty: `data`), or your own images; some data sets need none.",
    ),
    Key("DATASET.SHOTS", 16, "Training images per class; 0 takes every one.", low=0),
    Key(
        "DATASET.TRAIN",
        "train",
        "Images to train on; train+val leaves none to validate on (final runs of VTAB-1k).",
        choices=("train", "train+val"),
    ),
    Key(
        "DATASET.CLASSES",
        "all",
        "Classes to use: all, the first half (base), or the second half (new).",
        choices=("all", "base", "new"),
    ),
    Key(
        "DATASET.FEW_SHOT",
        "coop",
        "Whose few-shot picks: those of coop's index files, or of clip_lora's own code (other images, same seed).",
        choices=("coop", "clip_lora"),
    ),
    Key(
        "DATASET.IMBALANCE",
        1.0,
        "Training images of the first class over those of the last, which are thinned to that; 1 for none.",
        low=1,
        high=1e6,
    ),
    Key(
        "DATASET.IMBALANCE_SHAPE",
        "exponential",
        "How the numbers fall from the first class to the last: exponential (long-tailed), or in one step at half.",
        choices=("exponential", "step"),
    ),
    Key(
        "DATASET.VALIDATION",
        "own",
        "Validation images: the data set's own; none; held_out of the training images (those not picked); or the "
        "test images, as some official code selects, which every table marks.",
        choices=("own", "none", "held_out", "test"),
    ),
    Key(
        "DATASET.SOURCE",
        "",
        "Domains of the data set to train and validate on, joined by commas; empty for all.",
    ),
    Key(
        "DATASET.TARGET",
        "",
        "Domains to test on, and to see unlabelled, joined by commas; empty for all.",
    ),
    Key(
        "DATASET.HELD_OUT",
        0.0,
        "Share of a target that is tested and never seen unlabelled, where it has no test list of its own; 0 tests on "
        "all of it and shows all of it unlabelled, as published.",
        low=0,
        high=1,
    ),
    Key(
        "DATASET.TEMPLATE",
        "",
        "Prompt to start from, with {} for the class name, in place of the data set's own (empty).",
    ),
    Key(
        "INPUT.SIZE",
        0,
        "Side of the square input in pixels; 0 takes the backbone's. The size in a file is dropped if the command line "
        "names another backbone but no size.",
        low=0,
    ),
    Key("INPUT.MEAN", [], "Mean of the three colour channels; empty takes the backbone's.", lengths=(0, 3)),
    Key(
        "INPUT.STD",
        [],
        "Deviation of the three colour channels; empty takes the backbone's.",
        lengths=(0, 3),
        low=1e-6,
    ),
    Key(
        "INPUT.CACHE",
        "",
        "Folder of decoded images, made by `promptvision data cache`, to read instead of the files; smaller copies "
        "give other views than the files unless the recipe begins with the same resizing.",
    ),
    Key(
        "INPUT.EXIF",
        "ignore",
        "Whether images are turned by their EXIF orientation (photos of phones): ignore, as the published codes do, "
        "or apply.",
        choices=("ignore", "apply"),
    ),
    Key(
        "INPUT.ON_BAD_IMAGE",
        "stop",
        "What an image that cannot be read does: stop ends the run with its name; skip looks at all images first, "
        "leaves the bad ones out, and result.json names them.",
        choices=("stop", "skip"),
    ),
    Key("INPUT.TRAIN", "coop", "Recipe for training images: coop, fgvc, vtab, l2p or center."),
    Key("INPUT.TEST", "coop", "Recipe for test images: coop, fgvc, vtab, l2p or center."),
    Key(
        "OPTIM.NAME",
        "sgd",
        "Optimiser; vpt_adamw is that of VPT's code: it decays by 0.01 whatever WEIGHT_DECAY says, and for 0 is sgd.",
        choices=("sgd", "adam", "amsgrad", "rmsprop", "radam", "adamw", "vpt_adamw"),
    ),
    Key("OPTIM.LR", 0.002, "Base learning rate.", low=0, high=1e6),
    Key(
        "OPTIM.SCALE_LR",
        False,
        "Whether LR is meant for 256 images per step and scaled to BATCH_SIZE (LR x BATCH_SIZE / 256), as in VPT.",
    ),
    Key(
        "OPTIM.BIAS_MULTIPLIER",
        1.0,
        "Biases, but for the head's last, learn at so many times the rate.",
        low=0,
        high=1e6,
    ),
    Key("OPTIM.WEIGHT_DECAY", 5e-4, "Weight decay of the learned tensors.", low=0, high=1e6),
    Key("OPTIM.MOMENTUM", 0.9, "Momentum of sgd and rmsprop.", low=0, high=1),
    Key("OPTIM.EPS", 1e-8, "Added to the denominator of adam, amsgrad, rmsprop, radam and adamw.", low=0, high=1),
    Key("OPTIM.CLIP", 0.0, "Largest norm of the gradient of all learned tensors together; 0 for any.", low=0, high=1e6),
    Key("OPTIM.EPOCHS", 50, "Number of epochs.", low=0, high=1_000_000),
    Key(
        "OPTIM.ITERATIONS",
        0,
        "Steps of the whole run, however many epochs they make; 0 for EPOCHS. EPOCHS 0 trains nothing, even so.",
        low=0,
        high=100_000_000,
    ),
    Key(
        "OPTIM.SCALE_ITERATIONS",
        False,
        "Whether ITERATIONS are meant for one shot and multiplied by DATASET.SHOTS, as in CLIP-LoRA.",
    ),
    Key("OPTIM.BATCH_SIZE", 32, "Training images per step.", low=1),
    Key(
        "OPTIM.SCHEDULE",
        "cosine",
        "Learning rate over epochs; the vpt_ ones warm up linearly from 0 and ignore the other WARMUP keys.",
        choices=("constant", "cosine", "single_step", "multi_step", "vpt_cosine", "vpt_cosine_hardrestart"),
    ),
    Key(
        "OPTIM.SCHEDULE_PER",
        "epoch",
        "What the schedule counts: epochs; steps, STEPS and WARMUP_EPOCHS too; or epoch_as_step: a schedule over "
        "EPOCHS that every step moves on, as in DAPL's code, whose cosine falls and rises every 2 EPOCHS steps.",
        choices=("epoch", "step", "epoch_as_step"),
    ),
    Key("OPTIM.MIN_LR", 0.0, "Where the schedule ends, in place of 0; the vpt_ ones end at 0.", low=0, high=1e6),
    Key("OPTIM.STEPS", [], "Epochs of multi_step's drops; the last entry is single_step's period.", items=int),
    Key("OPTIM.GAMMA", 0.1, "Factor of each drop of single_step and multi_step.", low=0, high=1),
    Key("OPTIM.WARMUP_EPOCHS", 1, "Epochs of warm-up; 0 for none.", low=0),
    Key(
        "OPTIM.WARMUP_TYPE",
        "constant",
        "Warm-up at WARMUP_LR, or linear up to LR.",
        choices=("constant", "linear"),
    ),
    Key(
        "OPTIM.WARMUP_LR",
        1e-5,
        "Learning rate of the constant warm-up, and of the first epoch of the linear one.",
        low=0,
        high=1e6,
    ),
    Key(
        "OPTIM.WARMUP_RECOUNT",
        True,
        "Whether the schedule starts counting after the warm-up (as published) or includes it.",
    ),
    Key(
        "TRAIN.DEVICE",
        "auto",
        "Where to compute: auto, cpu, cuda or cuda:N.",
        choices=("auto", "cpu", "cuda"),
        pattern=r"cuda:\d+",
    ),
    Key(
        "TRAIN.PRECISION",
        "fp32",
        "Arithmetic of the backbone; learned tensors stay fp32.",
        choices=("fp32", "fp16", "bf16"),
    ),
    Key("TRAIN.WORKERS", 0, "Processes that read images; 0 reads in the main one.", low=0),
    Key("TRAIN.THREADS", 0, "CPU threads; 0 takes torch's choice, 1 repeats bit for bit.", low=0),
    Key(
        "TRAIN.VIEWS",
        0,
        "Augmented views of each training image: 0 a fresh one in every epoch, as published; n take turns.",
        low=0,
    ),
    Key(
        "TRAIN.CACHE",
        "auto",
        "Train on image features computed ahead, if the image tower stays frozen: auto where views come back (VIEWS, "
        "or a recipe without chance); all also for fresh views, epochs x images x feature length x 4 bytes of disk; "
        "off never.",
        choices=("auto", "all", "off"),
    ),
    Key("TRAIN.CHECKPOINT_EVERY", 1, "Epochs between checkpoints.", low=1),
    Key(
        "TRAIN.CHECKPOINT_SECONDS",
        600.0,
        "Seconds after which a checkpoint is written within an epoch too; 0 for never.",
        low=0,
    ),
    Key(
        "TRAIN.DETERMINISTIC",
        False,
        "Let a GPU repeat a run bit for bit: only algorithms that do, which may be slower; the CPU does so anyway.",
    ),
    Key("TRAIN.EVAL_EVERY", 0, "Epochs between evaluations on the validation images; 0 for none.", low=0),
    Key(
        "TRAIN.KEEP",
        "last",
        "Learned tensors of a run: those of the last epoch, or of the first with the best validation accuracy.",
        choices=("last", "best"),
    ),
    Key(
        "COMPUTE.WAY",
        "auto",
        "How prompts are encoded: plain runs every block of a tower as it is, fast computes what prompts share once "
        "(equal up to rounding), auto is fast wherever the tower allows it.",
        choices=("auto", "fast", "plain"),
    ),
    Key(
        "COMPUTE.CHUNK",
        0,
        "Classes whose prompts are encoded at once, 0 for all; fewer need less memory and a second forward pass. "
        "A run that ran out of memory can be resumed with another value, as with all of COMPUTE.",
        low=0,
    ),
    Key(
        "COMPUTE.IMAGES_AT_ONCE",
        0,
        "Images that have prompts of their own (cocoop, tpt) and are encoded at once; 0 for 1 in cocoop, 4 in tpt.",
        low=0,
    ),
    Key("TEST.SPLIT", "test", "Images to evaluate on.", choices=("train", "val", "test")),
    Key("TEST.BATCH_SIZE", 100, "Test images per step.", low=1),
    Key("CONTINUAL.TASKS", 0, "Number of tasks that the classes are split into; 0 for no stream.", low=0),
    Key(
        "CONTINUAL.SEED",
        -1,
        "Seed of the order in which classes come, LAMDA-PILOT's; -1 takes them in the order of their labels, as L2P.",
        low=-1,
        high=2**32 - 1,
    ),
    Key("CONTINUAL.ORDER", [], "Labels of all classes in the order in which they come, in place of SEED.", items=int),
    Key("CONTINUAL.DATASETS", [], "Data sets that come one after the other, in place of DATASET.NAME.", items=str),
    Key("CONTINUAL.CLASS_MASK", True, "Whether training chooses among the classes of the task at hand alone."),
    Key(
        "CONTINUAL.COMPETE",
        "seen",
        "Classes that a test image is told from: seen, those of all tasks so far (class-incremental); task, those of "
        "its own (task-incremental); all, also those to come, as in the official code of L2P.",
        choices=("seen", "task", "all"),
    ),
    Key("CONTINUAL.JOINT", False, "Train once, on all tasks together: the reference that cannot forget."),
)
