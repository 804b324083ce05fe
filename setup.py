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
CHECKOUT_ONLY = ("bench", "docs")
"""Files of tools/ that are of no use outside a checkout."""


class BuildPy(build_py):
    """Copies the packages, without CHECKOUT_ONLY."""

    def find_package_modules(self, package, package_dir):
        found = super().find_package_modules(package, package_dir)
        return [each for each in found if package != "promptvision.commands" or each[1] not in CHECKOUT_ONLY]


setup(
    name="promptvision",
    version="0.1.0",
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
        "promptvision": ["py.typed", "backbones/*.safetensors", "report/literature/*.*", "report/page/*.*"],
        "promptvision.datacards": ["*.yaml", "names/*.txt"],
        "promptvision.configs": ["**/*.yaml"],
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
        "rich>=14.1",  # a bar within a bar
        "tensorboard",
        "scikit-learn",
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
            "torchmetrics",
            "transformers",
            "types-PyYAML",
            "pyarrow",
            "ray>=2.40",
            "optuna",
            "selenium",
        ],
    },
)
