"""The model card of a published run: what it is, what it was trained on, its scores, and how it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

import promptvision
from promptvision.config import resolved
from promptvision.errors import counted
from promptvision.report.names import method_name
from promptvision.report.page.run import SCORES
from promptvision.report.tables.writers import escaped_markdown

if TYPE_CHECKING:
    from promptvision.deploy.classifier import Classifier

SHOWN = 40
"""Classes that a card names."""
TEXT = """
# {name}

{method} on {backbone}, trained with promptvision {version}: {learned:,} learned parameters on a frozen backbone, whose
weights are not among these files.

```python
import promptvision

classifier = promptvision.load("hf-hub:{name}")
classifier("photo.jpg", top=3)  # [(class, probability), ...]
```

## Data

Trained on {dataset}, {shots}, with seed {seed}. {count} classes: {classes}.

## Scores

{scores}

Nothing is known about other images, other classes, or use without a person who checks.

## Files

`config.yaml` has all settings, `result.json` all scores and the versions of packages, `learned.safetensors` the learned
tensors. None of them holds code.
"""


def model_card(name: str, licence: str, classifier: Classifier, result: Mapping[str, Any]) -> str:
    """Return README.md of a published run, with metadata for the Hub: licence, base model, scores."""
    from huggingface_hub import EvalResult, ModelCardData

    cfg, scores = classifier.cfg, {key: round(result[key], 2) for key in SCORES if isinstance(result.get(key), float)}
    where = {"task_type": "image-classification", "dataset_type": cfg.DATASET.NAME, "dataset_name": cfg.DATASET.NAME}
    data = ModelCardData(
        license=licence,
        base_model=base_model(cfg) or None,
        library_name="promptvision",
        pipeline_tag="image-classification",
        tags=["prompt-learning", cfg.METHOD.NAME],
        model_name=name,
        eval_results=[EvalResult(**where, metric_type=key, metric_value=value) for key, value in scores.items()]
        or None,
    )
    tested = f"{result.get('n')} images of the split {result.get('split')!r} of {cfg.DATASET.NAME}"
    rows = [f"| {title} | {scores[key]:.2f} |" for key, title in SCORES.items() if key in scores]
    table = "\n".join([f"| on {escaped_markdown(tested)} | per cent |", "|---|---:|", *rows])
    text = TEXT.format(**_facts(name, classifier), scores=table if rows else "Its scores are not known.")
    return f"---\n{data.to_yaml()}\n---\n{text}"


def _facts(name: str, classifier: Classifier) -> dict[str, Any]:
    """Return what the text of a card says of a classifier."""
    cfg, classes = classifier.cfg, classifier.classes
    method = {"family": cfg.METHOD.FAMILY, "method": cfg.METHOD.NAME, "options": resolved(cfg)["METHOD"]["OPTIONS"]}
    more = f" and {len(classes) - SHOWN} others" if len(classes) > SHOWN else ""
    texts = {"name": name, "method": method_name(method), "backbone": cfg.BACKBONE.NAME, "dataset": cfg.DATASET.NAME}
    return {
        **{key: escaped_markdown(text) for key, text in texts.items()},
        "version": promptvision.__version__,
        "learned": sum(tensor.numel() for tensor in classifier.method.learned_state().values()),
        "shots": f"{counted(cfg.DATASET.SHOTS, 'image')} per class" if cfg.DATASET.SHOTS else "all training images",
        "seed": cfg.SEED,
        "count": len(classes),
        "classes": escaped_markdown(", ".join(classes[:SHOWN])) + more,
    }


def base_model(cfg: CfgNode) -> str:
    """Return the repository on the Hub of the backbone's weights, "" if none is known."""
    name, weights = cfg.BACKBONE.NAME, cfg.BACKBONE.PRETRAINED
    if cfg.METHOD.FAMILY == "coop":
        import open_clip

        found = (open_clip.get_pretrained_cfg(name, "openai" if weights == "default" else weights) or {}).get("hf_hub")
    else:
        import timm

        known = timm.models.get_pretrained_cfg(name) if weights == "default" and timm.is_model(name) else None
        found = known.hf_hub_id if known else None
    return (found or "").strip("/")
