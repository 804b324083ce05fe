"""KgCoOp: knowledge-guided context optimization (Yao et al., CVPR 2023, arXiv:2303.13283)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from coop.parts.context_method import ContextMethod
from coop.parts.objective import Step
from coop.parts.teacher import Teacher, squared_distance
from coop.parts.texts import given_templates
from promptvision.backbones import CLIP


class KgCoOp(ContextMethod):
    """CoOp with class features that stay near those of hand-written texts: L = L_ce + weight L_kg.

    L_kg is the mean over classes of the squared distance of the normalised features. `weight`: the
    paper's lambda. The official code computes 1 - cosine, which is half of it: its lambda of 8 is a weight of 4 here.
    `templates`: the hand-written texts, with `{}` for the class name. `n_ctx`, `ctx_init` as in CoOp.
    Learns `ctx` (M, D).
    """

    stackable = True

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        n_ctx: int = 4, ctx_init: str = "a photo of a", weight: float = 8.0, templates: Sequence[str] = (),
    ):  # fmt: skip
        super().__init__(backbone, classes)
        self.templates = given_templates(templates)
        self.teacher = Teacher(classes, self.templates)
        self.terms = {"knowledge": (weight, self.distance)}

    def distance(self, step: Step) -> Tensor:
        """Return L_kg, a scalar."""
        return squared_distance(step.text_features, self.teacher.text_features(self.backbone))
