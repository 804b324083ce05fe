# %% [markdown]
# # From a folder of images to an exported classifier
#
# You have a folder of images, one subfolder per class, and want a classifier that another program can use. This
# tutorial makes one from 400 scans of handwritten digits, with the embedded backbone, which needs no download. Without
# `--backbone embedded` the same commands use CLIP ViT-B/16. The tutorial takes about a minute.

# %% commands
import shlex
import subprocess
from pathlib import Path


def run(command):
    """Run a command line, which prints what it does."""
    print(f"$ {command}", flush=True)
    subprocess.run(shlex.split(command), check=True)


# %% [markdown]
# ## The images
#
# In place of your own images, write scikit-learn's digits to files: `digits/three/13.png` and so on.

# %%
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
scans = load_digits()
for number, (scan, label) in enumerate(zip(scans.images[:400], scans.target[:400], strict=True)):
    place = Path("digits", NAMES[label])
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray((scan * 15.9).astype("uint8")).resize((32, 32)).save(place / f"{number}.png")

# %% [markdown]
# ## Fit
#
# One command reads every image, tries the methods that suit this many images within the time, chooses one on held-out
# images, and explains the choice. You may stop it: the same command resumes.

# %%
run("promptvision fit digits --backbone embedded --minutes 0.4 --output out/digits")

# %% [markdown]
# The embedded CLIP has never seen a digit, so a text such as "a photo of a seven." does not help, but heads on its
# features do. The classifier is `out/digits/best`, a run like any other. [fit.md](../fit.md) has the rules.
#
# ## Look at the mistakes
#
# `predict` classifies images. If their folders are named after classes, it takes the names as labels and reports the
# accuracy. Below the threshold it answers "unsure".

# %%
run(
    "promptvision predict --run out/digits/best digits/three digits/eight --top 2 --threshold 0.5 --output out/seen.csv"
)

# %% [markdown]
# `explain` draws figures and a page: where the backbone looks, and how its features separate the classes.

# %%
run("promptvision explain --run out/digits/best --output out/explained")

# %% [markdown]
# ## Use it in a program

# %%
import promptvision

classifier = promptvision.load("out/digits/best")
for name, probability in classifier("digits/seven/7.png", top=3):
    print(f"{name}: {probability:.2f}")

# %% [markdown]
# The classifier takes paths, PIL images, arrays and tensors, one or many. `.probabilities` returns those of all
# classes, `.features` the features that the method classifies ([use.md](../use.md)).
#
# ## Export it
#
# ONNX is for programs without PyTorch. The exported file is run on images and compared with the run; if they differ, no
# file is written.

# %%
run("promptvision export --run out/digits/best --to onnx --output out/digits.onnx")

# %% [markdown]
# `out/digits.onnx.json` describes the preprocessing and names the classes. These scans have the size of the input;
# other images are resized and cropped first, as the file says.

# %%
import json

import numpy as np
import onnxruntime

facts = json.loads(Path("out/digits.onnx.json").read_text())
pixels = np.asarray(Image.open("digits/seven/7.png").convert("RGB"), dtype=np.float32) / 255
image = (pixels - np.float32(facts["mean"])) / np.float32(facts["std"])
session = onnxruntime.InferenceSession("out/digits.onnx")
(logits,) = session.run(None, {session.get_inputs()[0].name: image.transpose(2, 0, 1)[None]})
print("ONNX says", facts["classes"][logits[0].argmax()])

# %% [markdown]
# `promptvision export --to classifier` writes the class features for open_clip, if the method has them, and
# `promptvision push` puts the run on the Hugging Face Hub ([share.md](../share.md)).
