# %% [markdown]
# # Write a method, and compare it
#
# A method is one class: what it learns, and logits from images. This tutorial writes one in fifteen lines, trains it
# by the protocol of base and new classes beside CoOp and zero-shot CLIP with three seeds, and reads the result.
# Nothing in the project is edited. It needs no download and takes about half a minute.

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
# dimension of the class features is learned? One vector for all classes, so that it can be used with new classes too.
#
# `FeatureMethod` compares image features with class features; what is left to write is `text_features`, in a way that
# follows `self.classes`. Keyword-only arguments of `__init__` are options, checked and stored with each run.

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

    def __init__(self, backbone, classes, *, templates=()):  # without any, the template of the data set
        super().__init__(backbone, classes)
        self.register_buffer("zero_shot", mean_features(backbone, filled(templates, classes)), persistent=False)
        self.w = nn.Parameter(torch.zeros_like(self.zero_shot[0]))

    def text_features(self):
        return self.zero_shot * (1 + self.w)
''')

# %% [markdown]
# ## Train it once
#
# `METHOD.NAME module:Class` is all that it takes; the settings of TaskRes, a neighbour, are a start. The new classes
# are an evaluation of the run: what was learned on five colours classifies the five others.

# %%
run("""promptvision train --config coop/embedded_task_res.yaml METHOD.NAME own_method:FeatureWeights \
    OPTIM.LR 0.01 DATASET.NAME world_colours DATASET.CLASSES base OUTPUT_DIR out/once""")

# %%
run("promptvision eval --run out/once METHOD.NAME own_method:FeatureWeights DATASET.CLASSES new")

# %% [markdown]
# `eval` names the class again because a run may come from a stranger: code that a run names is never executed unless
# you say so.
#
# ## Compare it
#
# One file says what is compared: rows, data sets, seeds, and what every run is evaluated on.

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
# differences are larger than the deviations, and on how many data sets? Two data sets and one rate are a first look.
# Pick the rate on validation images (`promptvision tune`), then take the tasks of
# `benchmarks/embedded_base_to_new.yaml`, and in the end CoCoOp's eleven data sets: `benchmarks/base_to_new.yaml` with
# a row of your method.
#
# A method that stays gets a file in `coop/` or `vpt/`, one row in the table of `__init__.py` and one config;
# [adding.md](../adding.md) shows it, and the contract is `promptvision/method.py`.
