# %% [markdown]
# # Write a method, and compare it
#
# A method is one class: its learned tensors, and logits from images. This tutorial writes one in fifteen lines, trains
# it by the base-to-new protocol with three seeds, compares it with CoOp and zero-shot CLIP, and reads the result. No
# file of the project is edited. It needs no download and takes about half a minute.

# %% commands
import shlex
import subprocess
from pathlib import Path


def run(command):
    """Run a command line, which prints what it does."""
    print(f"$ {command}", flush=True)
    subprocess.run(shlex.split(command), check=True)


# %% [markdown]
# ## The idea
#
# CoOp learns the words around the class name. What if the texts stay as they are, and only the weight of each
# dimension of the class features is learned? One vector for all classes also works for new classes.
#
# `FeatureMethod` compares image features with class features. You only write `text_features`, which must follow
# `self.classes`. Keyword-only arguments of `__init__` are options, which are checked and stored with each run.

# %%
Path("own_method.py").write_text('''\
import torch
from torch import nn

from coop.parts.objective import FeatureMethod
from coop.parts.teacher import filled, mean_features


class FeatureWeights(FeatureMethod):
    """CLIP's class features, each dimension times a learned weight 1 + w that all classes share."""

    frozen_images = True  # image features do not change: they are computed once
    stackable = True  # runs that differ in their seed may train as one

    def __init__(self, backbone, classes, *, templates=()):  # without any, the template of the dataset
        super().__init__(backbone, classes)
        self.register_buffer("zero_shot", mean_features(backbone, filled(templates, classes)), persistent=False)
        self.w = nn.Parameter(torch.zeros_like(self.zero_shot[0]))

    def text_features(self):
        return self.zero_shot * (1 + self.w)
''')

# %% [markdown]
# ## Train it once
#
# `METHOD.NAME module:Class` selects the class; the settings of TaskRes, a similar method, are a start. The run learns
# five colours (`DATASET.CLASSES base`); the evaluation classifies the other five (`new`).

# %%
run("""promptvision train --config coop/embedded_task_res.yaml METHOD.NAME own_method:FeatureWeights \
    OPTIM.LR 0.01 DATASET.NAME world_colours DATASET.CLASSES base OUTPUT_DIR out/once""")

# %%
run("promptvision eval --run out/once METHOD.NAME own_method:FeatureWeights DATASET.CLASSES new")

# %% [markdown]
# The command repeats the class because a run may come from a stranger: code that a run names is never executed unless
# you say so.
#
# ## Compare it
#
# A benchmark file says what is compared: rows, datasets, seeds, and the tests of every run.

# %%
Path("comparison.yaml").write_text("""\
RUNS:
  zero-shot: {CONFIG: coop/embedded_zero_shot.yaml, SEEDS: [1]}
  CoOp: {CONFIG: coop/embedded.yaml}
  feature weights: {CONFIG: coop/embedded_task_res.yaml, METHOD.NAME: "own_method:FeatureWeights", OPTIM.LR: 0.01}
GRID:
  DATASET.NAME: [world_colours, world_sketches]
SEEDS: [1, 2, 3]
SET:
  - {DATASET.CLASSES: base}
EVAL:
  new: {DATASET.CLASSES: new}
""")

# %%
run("promptvision sweep --config comparison.yaml --output out/comparison --stack 3 --html out/comparison.html")

# %% [markdown]
# The table has base, new and their harmonic mean H, mean ± deviation over seeds. Read it as a reviewer would: which
# differences are larger than the deviations, and on how many datasets? Two datasets and one rate are a first look.
# Next, pick the rate on validation images (`promptvision tune`), then run the tasks of
# `benchmarks/embedded_base_to_new.yaml`, and finally CoCoOp's eleven datasets: `benchmarks/base_to_new.yaml` with a
# row for your method.
#
# To contribute a method, give it a file in `coop/` or `vpt/`, one row in the table of `__init__.py` and one config, as
# [adding.md](../adding.md) shows. The contract is `promptvision/method.py`.
