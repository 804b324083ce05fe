"""Every key of a config: its default, its allowed values and one sentence of help.

The default config, `promptvision help` and docs/config.md are made from this table. The keys of METHOD.OPTIONS are not
here: they are the keyword-only arguments of the method's class.
"""

from __future__ import annotations

from promptvision.config.key import Key

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
    Key("METHOD.NAME", "coop", "Name of the method within its family."),
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
        code=True,
    ),
    Key("BACKBONE.PRETRAINED", "default", "Weights: `default` (the library's), `none` (random), a tag, or a file."),
    Key(
        "BACKBONE.RESIZE",
        "timm",
        "Interpolation of position embeddings to INPUT.SIZE: timm (bicubic, antialiased) or official (VPT's and "
        "Google's: linear, corners aligned).",
        choices=("timm", "official"),
    ),
    Key(
        "BACKBONE.POOL",
        "default",
        "Feature of a timm ViT: default (the model's own), token (class token), or avg (mean of the patches, then "
        "a norm, as MAE is fine-tuned).",
        choices=("default", "token", "avg"),
    ),
    Key("DATASET.NAME", "world_backgrounds", "Name of a card in datasets/, or the path of your own card file."),
    Key(
        "DATASET.ROOT",
        "",
        "Folder that holds the data sets (empty: `data`), or your own images; some data sets need none.",
    ),
    Key("DATASET.SHOTS", 16, "Training images per class; 0 for all.", low=0),
    Key(
        "DATASET.TRAIN",
        "train",
        "Images to train on; train+val leaves no validation images (final runs of VTAB-1k).",
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
        "Classes whose training images are used and told apart in training: same (those of CLASSES), or all, which "
        "without labels is PromptKD's base to new; tests and validation stay with CLASSES.",
        choices=("same", "all"),
    ),
    Key(
        "DATASET.FEW_SHOT",
        "coop",
        "Code that picks the few-shot images: coop (CoOp's published index files) or clip_lora (other images for "
        "the same seed).",
        choices=("coop", "clip_lora"),
    ),
    Key(
        "DATASET.IMBALANCE",
        1.0,
        "Ratio of training images of the first class to those of the last, which is reached by dropping images; 1 "
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
        "Validation images: own (the data set's, at most 4 per class with SHOTS), all (all of these), none, held_out "
        "(training images that were not picked), or test (the test images, as some official code selects; every table "
        "marks it).",
        choices=("own", "all", "none", "held_out", "test"),
    ),
    Key("DATASET.SOURCE", "", "Domains to train and validate on, separated by commas; empty for all."),
    Key(
        "DATASET.TARGET",
        "",
        "Domains to test on, whose unlabelled images are available in training, separated by commas; empty for all.",
    ),
    Key(
        "DATASET.HELD_OUT",
        0.0,
        "Share of the target images reserved for testing, if the target has no test list; 0 uses all of them both "
        "unlabelled and for testing, as published.",
        low=0,
        high=1,
    ),
    Key("DATASET.TEMPLATE", "", "Prompt template with {} for the class name; empty for the data set's own."),
    Key(
        "INPUT.SIZE",
        0,
        "Side of the square input in pixels; 0 takes the backbone's. The size beside a backbone's name is dropped if a "
        "file with this _BASE_, or the command line, names another backbone but no size.",
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
        "Folder of decoded images, made by `promptvision data cache`, to read instead of the files; smaller copies "
        "give other views than the files unless the recipe begins with the same resizing.",
    ),
    Key(
        "INPUT.EXIF",
        "ignore",
        "EXIF orientation of images (photos of phones): ignore, as the published codes do, or apply.",
        choices=("ignore", "apply"),
    ),
    Key(
        "INPUT.ON_BAD_IMAGE",
        "stop",
        "Effect of an unreadable image: stop ends the run with the image's name; skip checks all images first, "
        "leaves unreadable ones out, and lists them in result.json.",
        choices=("stop", "skip"),
    ),
    Key("INPUT.TRAIN", "coop", "Recipe for training images: coop, fgvc, vtab, l2p, coda, tip_adapter or center."),
    Key("INPUT.TEST", "coop", "Recipe for test images: coop, fgvc, vtab, l2p, coda, tip_adapter or center."),
    Key(
        "OPTIM.NAME",
        "sgd",
        "Optimiser; vpt_adamw is that of VPT's code: it decays by 0.01 whatever WEIGHT_DECAY says, and is sgd if "
        "WEIGHT_DECAY is 0.",
        choices=("sgd", "adam", "amsgrad", "rmsprop", "radam", "adamw", "vpt_adamw"),
    ),
    Key("OPTIM.LR", 0.002, "Base learning rate.", low=0, high=1e6),
    Key(
        "OPTIM.SCALE_LR",
        False,
        "Scale LR, given for 256 images per step, to those of a step (LR x BATCH_SIZE x ACCUMULATE / 256), as in VPT.",
    ),
    Key(
        "OPTIM.BIAS_MULTIPLIER", 1.0, "Factor of the learning rate of biases, except the head's last.", low=0, high=1e6
    ),
    Key("OPTIM.WEIGHT_DECAY", 5e-4, "Weight decay of the learned tensors.", low=0, high=1e6),
    Key("OPTIM.MOMENTUM", 0.9, "Momentum of sgd and rmsprop.", low=0, high=1),
    Key("OPTIM.EPS", 1e-8, "Added to the denominator of adam, amsgrad, rmsprop, radam and adamw.", low=0, high=1),
    Key("OPTIM.CLIP", 0.0, "Largest norm of the gradient of all learned tensors; 0 for no limit.", low=0, high=1e6),
    Key("OPTIM.EPOCHS", 50, "Number of epochs.", low=0, high=1_000_000),
    Key(
        "OPTIM.ITERATIONS",
        0,
        "Steps of the whole run, instead of EPOCHS; 0 for EPOCHS. EPOCHS 0 trains nothing in either case.",
        low=0,
        high=100_000_000,
    ),
    Key("OPTIM.SCALE_ITERATIONS", False, "Multiply ITERATIONS, given for one shot, by DATASET.SHOTS, as in CLIP-LoRA."),
    Key(
        "OPTIM.BATCH_SIZE",
        32,
        "Training images per batch; a step takes one batch, or as many as ACCUMULATE says.",
        low=1,
    ),
    Key(
        "OPTIM.ACCUMULATE",
        1,
        "Batches per step, whose gradients add up to those of one batch of BATCH_SIZE x ACCUMULATE images (only the "
        "draws of dropout differ) in the memory of a small one; the last step of an epoch takes the batches that are "
        "left. ITERATIONS and schedules count steps.",
        low=1,
    ),
    Key(
        "OPTIM.DROP_LAST",
        True,
        "Leave out the last batch of an epoch if it is incomplete and not the only one, as Dassl does; False trains on "
        "it.",
    ),
    Key(
        "OPTIM.LABEL_SMOOTHING",
        0.0,
        "Share of every training label that is spread evenly over the classes that training chooses among; 0 for none. "
        "Methods without a cross-entropy with labels refuse it.",
        low=0,
        high=1,
    ),
    Key(
        "OPTIM.CLASS_WEIGHTS",
        "",
        "Factor of the cross-entropy of a class's training images: inverse is in proportion to 1 / n for a class of n, "
        "inverse_sqrt to 1 / sqrt(n), both with mean 1 over the training images (inverse is N / (C n), scikit-learn's "
        "balanced); empty for 1. A step's loss is the mean over its images, not divided by the sum of their weights.",
        choices=("", "inverse", "inverse_sqrt"),
    ),
    Key(
        "OPTIM.SCHEDULE",
        "cosine",
        "Learning rate over epochs; the vpt_ ones warm up linearly from 0 and ignore the other WARMUP keys; "
        "coda_cosine, a quarter of a cosine that starts an epoch late, ignores them all.",
        choices=(
            "constant",
            "cosine",
            "single_step",
            "multi_step",
            "vpt_cosine",
            "vpt_cosine_hardrestart",
            "coda_cosine",
        ),
    ),
    Key(
        "OPTIM.SCHEDULE_PER",
        "epoch",
        "Unit of the schedule: epoch; step, also of STEPS and WARMUP_EPOCHS; or epoch_as_step, a schedule over "
        "EPOCHS that advances at every step, as in DAPL's code, where the cosine falls and rises every 2 EPOCHS "
        "steps.",
        choices=("epoch", "step", "epoch_as_step"),
    ),
    Key("OPTIM.MIN_LR", 0.0, "Learning rate at the end of the schedule; the vpt_ ones end at 0.", low=0, high=1e6),
    Key(
        "OPTIM.STEPS",
        [],
        "Epochs of multi_step's drops; the last entry is the period of single_step.",
        items=int,
        high=100_000_000,
    ),
    Key("OPTIM.GAMMA", 0.1, "Factor of each drop of single_step and multi_step.", low=0, high=1),
    Key("OPTIM.WARMUP_EPOCHS", 1, "Epochs of warm-up; 0 for none.", low=0, high=100_000_000),
    Key("OPTIM.WARMUP_TYPE", "constant", "Warm-up at WARMUP_LR, or linear up to LR.", choices=("constant", "linear")),
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
        "Start the schedule after the warm-up (as published) instead of counting the warm-up as part of it.",
    ),
    Key(
        "TRAIN.DEVICE",
        "auto",
        "Device: auto, cpu, cuda or cuda:N.",
        choices=("auto", "cpu", "cuda"),
        pattern=r"cuda:\d{1,3}",
    ),
    Key(
        "TRAIN.PRECISION",
        "fp32",
        "Precision of the backbone; learned tensors stay fp32.",
        choices=("fp32", "fp16", "bf16"),
    ),
    Key("TRAIN.WORKERS", 0, "Processes that read images; 0 reads in the main process.", low=0, high=1000),
    Key(
        "TRAIN.THREADS",
        0,
        "CPU threads; 0 for torch's default, 1 for results that repeat bit for bit.",
        low=0,
        high=1000,
    ),
    Key(
        "TRAIN.VIEWS",
        0,
        "Augmented views of each training image, used in turn; 0 for a new one in every epoch, as published.",
        low=0,
    ),
    Key(
        "TRAIN.CACHE",
        "auto",
        "Train on image features computed in advance, if the image tower stays frozen: auto where views repeat "
        "(VIEWS, or a recipe without random choices); all also for new views, epochs x images x feature length x "
        "4 bytes of disk; off never.",
        choices=("auto", "all", "off"),
    ),
    Key("TRAIN.CHECKPOINT_EVERY", 1, "Epochs between checkpoints.", low=1),
    Key(
        "TRAIN.CHECKPOINT_SECONDS",
        600.0,
        "Seconds after which a checkpoint is also written within an epoch; 0 for never.",
        low=0,
    ),
    Key(
        "TRAIN.DETERMINISTIC",
        False,
        "Use deterministic GPU algorithms only, which may be slower, so that runs repeat bit for bit; a CPU needs "
        "no such setting.",
    ),
    Key("TRAIN.EVAL_EVERY", 0, "Epochs between evaluations on the validation images; 0 for none.", low=0),
    Key(
        "TRAIN.KEEP",
        "last",
        "Learned tensors that a run keeps: those of the last epoch, or those of the best, the first with the "
        "highest validation accuracy; best_test looks at the test images instead, as some official code does, and "
        "every table marks it.",
        choices=("last", "best", "best_test"),
    ),
    Key(
        "TRAIN.PATIENCE",
        0,
        "Epochs without a higher validation accuracy after which training ends early; 0 for never. It needs validation "
        "images and EVAL_EVERY; KEEP still decides which learned tensors remain.",
        low=0,
    ),
    Key(
        "COMPUTE.WAY",
        "auto",
        "Encoding of prompts: plain runs every block of a tower unchanged, fast computes what prompts share only "
        "once (equal up to rounding), auto is fast wherever the tower allows it.",
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
