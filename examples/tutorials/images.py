# %% [markdown]
# # From a folder of images to an exported classifier
#
# You have a folder of images, one subfolder per class, and want a classifier that another program can use. This
# tutorial does it with 400 scans of handwritten digits and the embedded backbone, which needs no download; without
# `--backbone embedded` the same commands take CLIP ViT-B/16. It takes about a minute.

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
# In place of your own, scikit-learn's digits as files: `digits/three/13.png` and so on.

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
# One command looks at every image, tries what can work for this many of them within the time, chooses on held-out
# images, and says what it chose and why. Stop it if you like: the same command resumes.

# %%
run("promptvision fit digits --backbone embedded --minutes 0.4 --output out/digits")

# %% [markdown]
# The embedded CLIP has never seen a digit, so a text such as "a photo of a seven." does not help, and heads on its
# features do. `out/digits/best` is the classifier: a run like any other. [fit.md](../fit.md) has the rules.
#
# ## Look at the mistakes
#
# `predict` names what is on new images; folders that are named after classes are taken as labels, if you look at
# images whose answer is known. Below the threshold it says "unsure".

# %%
run(
    "promptvision predict --run out/digits/best digits/three digits/eight --top 2 --threshold 0.5 --output out/seen.csv"
)

# %% [markdown]
# `explain` draws where the backbone looks, and how its features tell the classes apart, as figures and one page.

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
# It takes paths, PIL images, arrays and tensors, one or many; `.probabilities` gives all classes, `.features` what they
# are told apart by ([use.md](../use.md)).
#
# ## Export it
#
# For a program without PyTorch, as ONNX. The file is run beside the run on images, and refused if it differs.

# %%
run("promptvision export --run out/digits/best --to onnx --output out/digits.onnx")

# %% [markdown]
# `out/digits.onnx.json` says how an image becomes its input, and names the classes. These scans have the size of the
# input; others are resized and cropped first, as the file says.

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
# `promptvision export --to classifier` writes the class features alone for open_clip, where the method has such, and
# `promptvision push` puts the run on the Hugging Face Hub ([share.md](../share.md)).
