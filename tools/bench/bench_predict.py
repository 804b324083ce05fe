"""bench.py predict: memory of `tools/predict.py --output` on few and on many images, and its output per million rows.

The images are small files of noise, in folders of a thousand that are deleted afterwards; the backbone is the embedded
one: images are read and rows written as for any other, and little time is spent on encoding. Linux only.
"""

import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from promptvision.cli import positive

ROOT = Path(__file__).parents[2]
COLUMNS = ("images", "peak MB", "against the fewest", "rows/s against the fewest", "MB per million rows")


def add_options(parser):
    parser.add_argument("--images", type=positive, nargs="+", default=[2_000, 200_000], help="numbers of images")
    parser.add_argument("--format", default="parquet", choices=("csv", "jsonl", "parquet"), help="of the output")


def make_run(folder):
    """Train a linear head on digits for one epoch."""
    from promptvision.config import load_config
    from promptvision.config.families import FAMILIES
    from promptvision.engine.run_folder import RunFolder
    from promptvision.experiment.run import run

    words = ["DATASET.NAME", "digits", "DATASET.SHOTS", "1", "OPTIM.EPOCHS", "1", "CACHE_DIR", ""]
    cfg = load_config(ROOT / "configs/vpt/embedded_linear.yaml", [*words, "OUTPUT_DIR", str(folder)], FAMILIES)
    with RunFolder(folder) as opened:
        run(cfg, FAMILIES, opened, progress=False)


def make_images(root, count):
    """Make `count` images of noise, a thousand in a folder."""
    for number in range(count):
        if number % 1000 == 0:
            (root / f"{number // 1000:06d}").mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number // 1000:06d}" / f"{number:09d}.bmp")


def peak(run, images, output):
    """Predict in this process, and print its peak memory in bytes and its seconds."""
    sys.argv = ["predict.py", "--run", str(run), str(images), "--output", str(output)]
    started = time.perf_counter()
    try:
        runpy.run_path(str(ROOT / "tools" / "predict.py"), run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise
    took, status = time.perf_counter() - started, Path("/proc/self/status").read_text()
    most = re.search(r"VmHWM:\s*(\d+) kB", status)[1]  # getrusage has the parent's at the time of the fork
    print(int(most) * 1024, took)


def measure(folder, count, suffix):
    """Return (peak bytes, seconds, bytes of the output) of a process that predicts `count` images."""
    images, output = folder / f"images{count}", folder / f"out{count}.{suffix}"
    make_images(images, count)
    command = [sys.executable, __file__, str(folder / "run"), str(images), str(output)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
    memory, took = done.stdout.split()[-2:]
    return int(memory), float(took), output.stat().st_size


def rows(args):
    """Yield one row for each number of images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_run(folder / "run")
        first = None
        for count in args.images:
            memory, took, size = measure(folder, count, args.format)
            first = first or (memory, count / took)
            ratios = f"{memory / first[0]:.3f}x", f"{count / took / first[1]:.1f}x"
            yield f"{count:,}", f"{memory / 1e6:.0f}", *ratios, f"{size / count:.0f}"


if __name__ == "__main__":
    peak(*sys.argv[1:])
