"""Packaging: installs promptvision, vpt and coop; the data cards ride inside the wheel as promptvision/datacards."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGES = ["promptvision", "vpt", "coop"]

setup(
    name="promptvision",
    version="0.1.0",
    description="Vision prompt learning on frozen ViT and CLIP backbones: CoOp, VPT and their rivals",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=PACKAGES + [f"{name}.*" for name in PACKAGES]) + ["promptvision.datacards"],
    package_dir={"promptvision.datacards": "datasets"},
    package_data={
        "promptvision": ["py.typed", "backbones/*.safetensors", "report/literature/*.*", "report/page/*.*"],
        "promptvision.datacards": ["*.yaml", "names/*.txt"],
    },
    install_requires=[
        "torch>=2.4",
        "torchvision",
        "timm>=1.0.12",
        "open_clip_torch>=2.30",
        "numpy",
        "pillow",
        "pyyaml",
        "yacs",
        "safetensors",
        "matplotlib",
        "rich",
        "tensorboard",
        "scikit-learn",
        "torchmetrics",
        "scipy",
        "jinja2",
        "filelock>=3.30",
    ],
    extras_require={
        "hf": ["transformers"],
        "hub": ["pyarrow"],
        "ray": ["ray>=2.40"],
        "tune": ["optuna"],
        "wandb": ["wandb"],
        "test": [
            "pytest",
            "pytest-xdist",
            "ruff",
            "mypy",
            "hypothesis",
            "build",
            "transformers",
            "types-PyYAML",
            "pyarrow",
            "ray>=2.40",
            "optuna",
            "selenium",
        ],
    },
)
