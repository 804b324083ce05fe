# %% [markdown]
# # Reproduce a table, and read the verdicts
#
# A paper's table crosses a few methods, datasets, numbers of images and seeds. Here such a table is one YAML file, and
# one command runs it. This tutorial repeats a part of the few-shot table of [the embedded
# world](../embedded_world.md), rendered images with a small CLIP that ship with the project, and checks whether your
# machine arrives at the same numbers. It needs no download and takes about 20 seconds.

# %% commands
import shlex
import subprocess
from pathlib import Path


def run(command):
    """Run a command line, which prints what it does."""
    print(f"$ {command}", flush=True)
    subprocess.run(shlex.split(command), check=True)


# %% [markdown]
# ## Look before you run
#
# `benchmarks/embedded_few_shot.yaml` has nine methods, five datasets, five numbers of images per class (shots) and
# three seeds. `--only` selects a part of it; several values of the same key are alternatives. `--dry-run` lists the
# runs without training, and `--estimate` trains a few steps of each and predicts the total time.

# %%
run("""promptvision sweep --config benchmarks/embedded_few_shot.yaml --only RUN=zero-shot --only RUN=CoOp \
    --only DATASET.NAME=world_textures --only DATASET.SHOTS=1 --only DATASET.SHOTS=16 \
    --output out/table --dry-run""")

# %% [markdown]
# ## Run it
#
# With `--stack`, runs that differ only in seed and shots train as one, with the same results. Each writes its own
# folder. You may stop the command with Ctrl-C: the same command resumes, and finished runs are kept.

# %%
run("""promptvision sweep --config benchmarks/embedded_few_shot.yaml --only RUN=zero-shot --only RUN=CoOp \
    --only DATASET.NAME=world_textures --only DATASET.SHOTS=1 --only DATASET.SHOTS=16 \
    --output out/table --stack 15""")

# %% [markdown]
# The sweep ends with the report's table of its folder: mean ± sample deviation over seeds, in per cent. With one image
# per class CoOp is below the hand-written prompt (zero-shot), with 16 it is far above. A note says that the seeds with
# one image differ widely.
#
# ## Read the verdicts
#
# Write the numbers of [the page](../embedded_world.md) into a CSV file. You can do the same with a paper's table, or
# with a colleague's.

# %%
Path("out/page.csv").write_text("""\
method,dataset,shots,value,source
zero-shot CLIP,world_textures,,28.7,the page of the embedded world
CoOp,world_textures,1,22.2,the page of the embedded world
CoOp,world_textures,16,49.6,the page of the embedded world
""")

# %%
run("promptvision report out/table --reference out/page.csv")

# %% [markdown]
# The second table that is printed has a line for each of these numbers, with a verdict:
#
# - **within**: the difference is at most half of the 95 % interval of our mean (Student's t over the seeds), plus the
#   rounding of the other number. It is no proof of equality: three seeds that differ widely have a wide interval.
# - **outside**: it is larger. Check settings, images and versions first: `config.yaml` and `result.json` of a run have
#   all of them.
# - **no interval**: there is a single seed, as for zero-shot CLIP, which draws nothing at random. Compare the digits.
#
# Published numbers need no file: the project contains [5,800 of them](../report.md#against-the-literature), with the
# settings of the published runs. The report compares with them whenever a run has the backbone and dataset of a paper.
# A run with other settings is "not comparable", and a note names the difference. With CLIP's weights and the datasets,
# this is the table of CoOp's paper with ViT-B/16:
#
# ```
# # not run by the tests: needs CLIP's weights and the datasets
# promptvision sweep --config benchmarks/coop_fewshot_vitb16.yaml --output out/coop DATASET.ROOT data
# promptvision report out/coop --html out/coop.html
# ```
#
# [costs.md](../costs.md) estimates how long it takes, and [trust.md](../trust.md) says what was checked without
# weights.
