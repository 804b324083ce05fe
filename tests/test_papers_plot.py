"""PLOT: plans of optimal transport against a linear program's logic, local features, and the logits place by place."""

import pytest
import torch
import torch.nn.functional as F

import coop
from coop.parts.local_features import attend_everywhere, local_features
from coop.plot import transport_plans
from promptvision.backbones import load_clip, load_vit
from promptvision.engine.optim import build_optimizer
from promptvision.errors import InputError

NAMES = ["cat", "golden_retriever", "old house"]


@pytest.fixture(scope="module", params=["clip_vit_tiny", "clip_rn_tiny"])
def clip(golden, request):
    return load_clip(golden.root / f"coop/{request.param}.safetensors")


@pytest.fixture(scope="module")
def images(golden):
    return golden("coop/inputs")[1]["images"]


def test_a_plan_worked_out_by_hand():
    """Two places, two prompts: with kernel (1, k; k, 1) the plan is (1, k; k, 1) / (2 + 2 k), by symmetry."""
    cost = torch.tensor([[0.0, 0.3], [0.3, 0.0]])
    k = torch.exp(torch.tensor(-3.0))
    wanted = torch.stack([torch.stack([1 + 0 * k, k]), torch.stack([k, 1 + 0 * k])]) / (2 + 2 * k)
    torch.testing.assert_close(transport_plans(cost, 0.1), wanted, atol=1e-4, rtol=0)


def slow_plan(cost, entropy):
    """Sinkhorn's iterations in the log domain, until nothing changes."""
    n, m = cost.shape
    f, g = torch.zeros(n, dtype=cost.dtype), torch.zeros(m, dtype=cost.dtype)
    for _ in range(5000):
        f = -torch.logsumexp(-cost / entropy + g, dim=1) - torch.tensor(float(n)).log()
        g = -torch.logsumexp((-cost / entropy).T + f, dim=1) - torch.tensor(float(m)).log()
    return torch.exp(f[:, None] + g[None] - cost / entropy)


def test_plans_move_equal_masses_at_the_least_cost():
    torch.manual_seed(0)
    cost = 0.5 * torch.rand(3, 2, 9, 4, dtype=torch.float64)
    plans = transport_plans(cost, 0.1)
    torch.testing.assert_close(plans.sum(-2), torch.full((3, 2, 4), 1 / 4, dtype=torch.float64))
    torch.testing.assert_close(plans.sum(-1), torch.full((3, 2, 9), 1 / 9, dtype=torch.float64), atol=0.01, rtol=0)
    for plan, own in zip(plans.flatten(0, 1), cost.flatten(0, 1), strict=True):
        exact = slow_plan(own, 0.1)
        torch.testing.assert_close((plan * own).sum(), (exact * own).sum(), rtol=0.05, atol=0)


def test_a_plan_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    cost = torch.rand(5, 9, 4) * torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0])[:, None, None]
    together = transport_plans(cost, 0.1)
    for plan, own in zip(together, cost, strict=True):
        torch.testing.assert_close(plan, transport_plans(own, 0.1), atol=1e-7, rtol=1e-5)


def test_local_features_of_a_resnet_come_from_its_pool(golden, images):
    tower = load_clip(golden.root / "coop/clip_rn_tiny.safetensors").image
    visual = tower.model
    found = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
    every = attend_everywhere(visual.attnpool, found)
    torch.testing.assert_close(every[:, 0], tower(images), atol=1e-5, rtol=1e-4)
    assert local_features(tower, images).shape == (len(images), found.shape[2] * found.shape[3], tower.feature_dim)
    torch.testing.assert_close(local_features(tower, images), every[:, 1:])


def test_local_features_of_a_vit_are_its_patches_projected(golden, images):
    tower = load_clip(golden.root / "coop/clip_vit_tiny.safetensors").image
    kept = []
    handle = tower.model.ln_post.register_forward_hook(lambda *args: kept.append(args[2]))
    tower.untouched(images)
    handle.remove()
    tokens = kept[0]  # (B, 1 + n, D): open_clip norms all tokens before it pools
    torch.testing.assert_close(local_features(tower, images), tokens[:, 1:] @ tower.model.proj, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("way", ["plain", "fast"])
def test_logits_are_one_minus_the_distance(clip, images, computed, way):
    torch.manual_seed(0)
    method = coop.build("plot", computed(clip, way=way), NAMES, n_prompts=3, n_ctx=2)
    method.ctx.data.mul_(30)
    images = images[:2]
    found = method(images)
    places = F.normalize(local_features(clip.image, images), dim=-1)
    for c in range(len(NAMES)):
        rows = [coop.build("coop", computed(clip, way="plain"), NAMES, n_ctx=2) for _ in range(3)]
        for row, ctx in zip(rows, method.ctx, strict=True):
            row.ctx.data = ctx.data
        prompts = F.normalize(torch.stack([row.text_features()[c] for row in rows]), dim=-1)
        for b in range(2):
            cost = 1 - places[b] @ prompts.T
            distance = (transport_plans(cost, 0.1) * cost).sum()
            torch.testing.assert_close(found[b, c], clip.logit_scale.exp() * (1 - distance), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(method.predictor()(images), found)


def test_one_prompt_is_matched_to_the_mean_of_the_places(clip, images):
    method = coop.build("plot", clip, NAMES, n_prompts=1, n_ctx=2)
    places = F.normalize(local_features(clip.image, images), dim=-1).mean(dim=1)
    texts = F.normalize(method.text_features()[0], dim=-1)
    torch.testing.assert_close(method(images), clip.logit_scale.exp() * places @ texts.T, atol=1e-3, rtol=1e-3)


def test_the_plan_is_a_constant_of_the_gradient(clip, images):
    torch.manual_seed(0)
    method = coop.build("plot", clip, NAMES, n_prompts=2, n_ctx=2)
    places = F.normalize(method.image_features(images)[:, 1:], dim=-1)
    texts = F.normalize(method.text_features(), dim=-1)
    plans = transport_plans(1 - torch.einsum("bme,nce->bcmn", places, texts), 0.1)
    by_hand = clip.logit_scale.exp() * torch.einsum("bcmn,bme,nce->bc", plans, places, texts)
    labels = torch.arange(len(images)) % 3
    (wanted,) = torch.autograd.grad(F.cross_entropy(by_hand, labels), method.ctx)
    (found,) = torch.autograd.grad(method.loss(images, labels), method.ctx)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_prompts_start_apart_learn_and_name_new_classes(clip, images):
    method = coop.build("plot", clip, NAMES, ctx_init="a photo of a", n_prompts=2)
    assert method.ctx.shape[:2] == (2, 4) and not torch.equal(method.ctx[0], method.ctx[1])
    labels = torch.arange(len(images)) % 3
    before = method.ctx.detach().clone()
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.1, 0.0)
    method.loss(images, labels).backward()
    optimizer.step()
    assert not torch.equal(method.ctx, before) and method.learned() == ["ctx"]
    assert all(parameter.grad is None for parameter in clip.parameters())
    other = method.for_classes(["dog", NAMES[0]])
    torch.testing.assert_close(other(images)[:, 1], method(images)[:, 0], atol=1e-4, rtol=1e-4)


def test_refusals(golden):
    clip = load_clip("embedded")
    with pytest.raises(InputError, match="n_prompts is 0"):
        coop.build("plot", clip, NAMES, n_prompts=0)
    with pytest.raises(InputError, match="unknown stop 'batches'; did you mean 'batch'"):
        coop.build("plot", clip, NAMES, stop="batches")
    with pytest.raises(InputError, match=r"'ctx' has shape \(4, 16, 7\), this method needs \(4, 16, 128\)"):
        coop.build("plot", clip, NAMES).load_learned_state({"ctx": torch.zeros(4, 16, 7)})
    clip.image = load_vit(golden.root / "vpt/backbone.safetensors")
    with pytest.raises(InputError, match="has no features of places"):
        coop.build("plot", clip, NAMES)
