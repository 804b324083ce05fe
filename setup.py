"""Packaging: promptvision, vpt and coop, the command `promptvision`, and the cards, configs and tools that it uses."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PACKAGES = ["promptvision", "vpt", "coop"]
FOLDERS = {
    "promptvision.datacards": "datasets",
    "promptvision.configs": "configs",
    "promptvision.commands": "tools",
}
"""Folders of the checkout that are inside the package once it is installed."""
CHECKOUT_ONLY = ("bench", "docs", "pretrain")
"""Files of tools/ that are of no use outside a checkout."""
EXTRAS = {
    "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
    "hf": ["transformers>=4.44"],
    "hub": ["pyarrow>=16"],
    "parquet": ["pyarrow>=16"],
    "ray": ["ray[data]>=2.40"],
    "serve": ["gradio>=6"],
    "tune": ["optuna>=4"],
    "wandb": ["wandb>=0.17"],
}
"""Packages that some commands need, by the name of the extra.

`make test-oldest` tries the lowest version of every package that is installed or tested with."""


class BuildPy(build_py):
    """Copies the packages, without CHECKOUT_ONLY."""

    def find_package_modules(self, package, package_dir):
        found = super().find_package_modules(package, package_dir)
        return [each for each in found if package != "promptvision.commands" or each[1] not in CHECKOUT_ONLY]


setup(
    name="promptvision",
    version="0.2.0",
    description="Vision prompt learning on frozen ViT and CLIP backbones: CoOp, VPT and their rivals",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=PACKAGES + [f"{name}.*" for name in PACKAGES]) + [*FOLDERS],
    package_dir=FOLDERS,
    cmdclass={"build_py": BuildPy},
    entry_points={"console_scripts": ["promptvision = promptvision.__main__:main"]},
    package_data={
        "promptvision": [
            *("py.typed", "backbones/*.safetensors", "data/prepare/*.tsv", "report/literature/*.*", "report/page/*.*"),
            "sweep/fitting/*.yaml",
        ],
        "promptvision.datacards": ["*.yaml", "names/*.txt"],
        "promptvision.configs": ["**/*.yaml"],
    },
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "timm>=1.0.26",  # a ViT without positions keeps its class token
        "open_clip_torch>=2.30",
        "numpy>=1.26",
        "pillow>=10.3",
        "pyyaml>=6.0.1",
        "yacs>=0.1.8",
        "safetensors>=0.4.4",  # a file without tensors
        "matplotlib>=3.8",
        "rich>=14.1",  # a bar within a bar
        "tensorboard>=2.17",
        "scikit-learn>=1.4",
        "threadpoolctl>=3",
        "scipy>=1.12",
        "jinja2>=3.1",
        "filelock>=3.30",
        "packaging>=23.0",
    ],
    extras_require={
        **EXTRAS,
        "docs": ["zensical>=0.0.73", "mkdocstrings-python>=2", "ruff>=0.6"],  # of `make site`; ruff breaks signatures
        "test": [
            "pytest>=8.2",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "mypy>=1.11",
            "hypothesis>=6.100",
            "build>=1.2",
            "torchmetrics>=1.4",
            "types-PyYAML>=6.0.12",
            "selenium>=4.20",
            *(package for extra in ("export", "hf", "hub", "parquet", "ray", "tune") for package in EXTRAS[extra]),
        ],
    },
)
