# %% [markdown]
# # Reproduce a table, and read the verdicts
#
# A table of a paper is a few methods, data sets, numbers of images and seeds. Here such a table is one YAML file, and
# one command runs it. This tutorial repeats a part of the few-shot table of [the embedded
# world](../embedded_world.md) and judges whether this machine comes to the same numbers. It needs no download and
# takes about 20 seconds.

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
# `benchmarks/embedded_few_shot.yaml` has nine methods, five data sets, five numbers of images per class (shots) and
# three seeds. `--only` picks from it; words with the same key are alternatives. `--dry-run` shows what would be
# trained, and `--estimate` takes a few steps of each and says how long all of it takes.

# %%
run("""promptvision sweep --config benchmarks/embedded_few_shot.yaml --only RUN=zero-shot --only RUN=CoOp \
    --only DATASET.NAME=world_textures --only DATASET.SHOTS=1 --only DATASET.SHOTS=16 \
    --output out/table --dry-run""")

# %% [markdown]
# ## Run it
#
# Runs that differ only in seed and shots train as one with `--stack`, with the same results. Each writes its own
# folder. Stop it with Ctrl-C if you like: the same command resumes, and finished runs are kept.

# %%
run("""promptvision sweep --config benchmarks/embedded_few_shot.yaml --only RUN=zero-shot --only RUN=CoOp \
    --only DATASET.NAME=world_textures --only DATASET.SHOTS=1 --only DATASET.SHOTS=16 \
    --output out/table --stack 15""")

# %% [markdown]
# The sweep ends with the report's table of its folder: mean ± sample deviation over seeds, in per cent. One image per
# class is below the hand-written prompt, 16 are far above it, and a note says that the seeds of one image differ
# widely.
#
# ## Read the verdicts
#
# These are the numbers of [the page](../embedded_world.md), as a CSV file. A paper's table, or that of a colleague,
# is written down in the same way.

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
# The second table has a line for each of these numbers, with a verdict:
#
# - **within**: the difference is at most half of the 95 % interval of our mean (Student's t over the seeds), plus the
#   rounding of the other number. It is no proof of equality: three seeds that differ widely have a wide interval.
# - **outside**: it is larger. Look at settings, images and versions first: `config.yaml` and `result.json` of a run
#   have all of them.
# - **no interval**: one seed, as zero-shot CLIP, which draws nothing. Compare the digits.
#
# Published numbers need no file: [5,800 of them](../report.md) are part of the project, with the settings of the
# published runs, and the report judges against them whenever a backbone and data set of a paper were used. A run with
# other settings than the published ones is "not comparable", and a note names the difference. With CLIP's weights and
# the data sets, the following is the table of CoOp's paper with ViT-B/16:
#
# ```
# # not run by the tests: needs CLIP's weights and the data sets
# promptvision sweep --config benchmarks/coop_fewshot_vitb16.yaml --output out/coop DATASET.ROOT data
# promptvision report out/coop --html out/coop.html
# ```
#
# [costs.md](../costs.md) says how long it takes, and [trust.md](../trust.md) what was checked without weights.
