"""The keys of training: the optimiser and its schedule (OPTIM), and the loop around them (TRAIN)."""

from __future__ import annotations

from promptvision.config.key import Key

TRAINING = (
    Key(
        "OPTIM.NAME",
        "sgd",
        "Optimiser. vpt_adamw is that of VPT's code: it decays by 0.01 whatever WEIGHT_DECAY says, and is sgd if "
        "WEIGHT_DECAY is 0.",
        choices=("sgd", "adam", "amsgrad", "rmsprop", "radam", "adamw", "vpt_adamw"),
    ),
    Key("OPTIM.LR", 0.002, "Base learning rate.", low=0, high=1e6),
    Key(
        "OPTIM.SCALE_LR",
        False,
        "Scale LR from 256 images per step to those of a step (LR x BATCH_SIZE x ACCUMULATE / 256), as in VPT.",
    ),
    Key(
        "OPTIM.BIAS_MULTIPLIER",
        1.0,
        "Factor of the learning rate of biases, except the last of the head.",
        low=0,
        high=1e6,
    ),
    Key("OPTIM.WEIGHT_DECAY", 5e-4, "Weight decay of the learned tensors.", low=0, high=1e6),
    Key("OPTIM.MOMENTUM", 0.9, "Momentum of sgd and rmsprop.", low=0, high=1),
    Key(
        "OPTIM.EPS", 1e-8, "Number added to the denominator of adam, amsgrad, rmsprop, radam and adamw.", low=0, high=1
    ),
    Key(
        "OPTIM.CLIP",
        0.0,
        "Maximum norm of the gradient of all learned tensors together; 0 for no limit.",
        low=0,
        high=1e6,
    ),
    Key("OPTIM.EPOCHS", 50, "Number of epochs.", low=0, high=1_000_000),
    Key(
        "OPTIM.ITERATIONS",
        0,
        "Steps of the whole run, instead of EPOCHS; 0 to count EPOCHS. EPOCHS 0 trains nothing in either case.",
        low=0,
        high=100_000_000,
    ),
    Key(
        "OPTIM.SCALE_ITERATIONS",
        False,
        "Multiply ITERATIONS, the steps for one shot, by DATASET.SHOTS, as in CLIP-LoRA.",
    ),
    Key(
        "OPTIM.BATCH_SIZE",
        32,
        "Training images per batch. A step takes one batch, or as many as ACCUMULATE says.",
        low=1,
    ),
    Key(
        "OPTIM.ACCUMULATE",
        1,
        "Batches per step. Their gradients add up to those of one batch of BATCH_SIZE x ACCUMULATE images (only the "
        "draws of dropout differ), in the memory of a small batch. The last step of an epoch takes the batches that "
        "are left. ITERATIONS and schedules count steps.",
        low=1,
    ),
    Key(
        "OPTIM.DROP_LAST",
        True,
        "Leave out an incomplete last batch of an epoch, unless it is the only one, as Dassl does. False trains on it.",
    ),
    Key(
        "OPTIM.ONE_CLASS",
        False,
        "Fill each batch with images of one class, chosen at random among the classes with images left in the epoch. "
        "An epoch shows every image once, and DROP_LAST applies to each class.",
    ),
    Key(
        "OPTIM.LABEL_SMOOTHING",
        0.0,
        "Share of every training label that is spread evenly over the classes of the training; 0 for none. Methods "
        "without a cross-entropy with labels refuse it.",
        low=0,
        high=1,
    ),
    Key(
        "OPTIM.CLASS_WEIGHTS",
        "",
        "Weights of the classes in the cross-entropy: inverse is in proportion to 1 / n for a class of n images (N / "
        "(C n), scikit-learn's balanced), inverse_sqrt to 1 / sqrt(n), both with mean 1 over the training images; "
        "empty for 1. A step's loss is the mean over its images, not divided by the sum of their weights.",
        choices=("", "inverse", "inverse_sqrt"),
    ),
    Key(
        "OPTIM.SCHEDULE",
        "cosine",
        "Learning rate over epochs. vpt_cosine and vpt_cosine_hardrestart warm up linearly from 0 and ignore the "
        "other WARMUP keys. coda_cosine, a quarter of a cosine that starts an epoch late, ignores them all. "
        "timm_cosine, and petl_cosine, the same an epoch late, warm up linearly from WARMUP_LR and count the warm-up "
        "as part of the cosine.",
        choices=(
            "constant",
            "cosine",
            "single_step",
            "multi_step",
            "vpt_cosine",
            "vpt_cosine_hardrestart",
            "coda_cosine",
            "timm_cosine",
            "petl_cosine",
        ),
    ),
    Key(
        "OPTIM.SCHEDULE_PER",
        "epoch",
        "Unit of the schedule: epoch; step, also for STEPS and WARMUP_EPOCHS; or epoch_as_step, a schedule over "
        "EPOCHS that advances at every step, as in DAPL's code, where the cosine falls and rises every 2 EPOCHS "
        "steps.",
        choices=("epoch", "step", "epoch_as_step"),
    ),
    Key("OPTIM.MIN_LR", 0.0, "Learning rate at the end of the schedule; the vpt_ ones end at 0.", low=0, high=1e6),
    Key(
        "OPTIM.STEPS",
        [],
        "Epochs at which multi_step drops; the last entry is the period of single_step.",
        items=int,
        high=100_000_000,
    ),
    Key("OPTIM.GAMMA", 0.1, "Factor of each drop of single_step and multi_step.", low=0, high=1),
    Key("OPTIM.WARMUP_EPOCHS", 1, "Epochs of warm-up; 0 for none.", low=0, high=100_000_000),
    Key(
        "OPTIM.WARMUP_TYPE",
        "constant",
        "Warm-up: constant at WARMUP_LR, or linear up to LR.",
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
        "Start the schedule after the warm-up, as published, instead of counting the warm-up as part of it.",
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
        "Precision of the backbone. Learned tensors stay fp32.",
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
        "Augmented views of each training image, used in turn; 0 for a new view in every epoch, as published.",
        low=0,
    ),
    Key(
        "TRAIN.CACHE",
        "auto",
        "Training on image features that are computed once, if the image tower stays frozen. auto caches where views "
        "repeat (VIEWS, or a recipe without random choices). all also caches new views: epochs x images x feature "
        "length x 4 bytes of disk. images is auto, but computes views without random choices for all images of the "
        "dataset at once, for runs on other choices of them (the last digits depend on what is encoded together). "
        "off never caches. Methods that change later blocks only (mmrl, mmrl_pp, mma_pp, skip_tuning) keep the "
        "tokens that enter the first of these: views x images x 0.6 MB with ViT-B/16.",
        choices=("auto", "all", "images", "off"),
    ),
    Key("TRAIN.CHECKPOINT_EVERY", 1, "Epochs between checkpoints.", low=1),
    Key(
        "TRAIN.CHECKPOINT_SECONDS",
        600.0,
        "Seconds after which a checkpoint is written within an epoch, too; 0 for never.",
        low=0,
    ),
    Key(
        "TRAIN.DETERMINISTIC",
        False,
        "Use only deterministic GPU algorithms, which may be slower, so that runs repeat bit for bit. A CPU needs no "
        "such setting.",
    ),
    Key("TRAIN.EVAL_EVERY", 0, "Epochs between evaluations on the validation images; 0 for none.", low=0),
    Key(
        "TRAIN.KEEP",
        "last",
        "Learned tensors to keep: last, those of the last epoch; best, those of the first epoch with the highest "
        "validation accuracy; best_test, the same by the test images, as in some official codes, which every table "
        "marks.",
        choices=("last", "best", "best_test"),
    ),
    Key(
        "TRAIN.PATIENCE",
        0,
        "Epochs without a higher validation accuracy after which training ends early; 0 for never. It needs "
        "validation images and EVAL_EVERY. KEEP still decides which learned tensors remain.",
        low=0,
    ),
)
