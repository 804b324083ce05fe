"""TaskRes, CLIP-Adapter, KgCoOp and ProGrad: their formulas on small numbers and against independent computations."""

import pytest
import torch
import torch.nn.functional as F

import coop
from coop.clip_adapter import bottleneck, mixed
from coop.pro_grad import aligned
from promptvision.backbones import load_clip
from promptvision.engine.optim import build_optimizer
from promptvision.errors import InputError

NAMES = ["cat", "golden_retriever", "old house"]
TEMPLATES = ["a drawing of a {}.", "a photo of a {}."]


@pytest.fixture(scope="module")
def clip():
    return load_clip("embedded")


@pytest.fixture(scope="module")
def double():
    return load_clip("embedded").double()


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(5, 3, 32, 32), torch.tensor([0, 1, 2, 1, 0])


def unit(clip, template):
    """Normalised text features of a template, one text at a time."""
    return torch.stack([F.normalize(clip.text([template.format(n.replace("_", " "))])[0], dim=0) for n in NAMES])


# TaskRes


def test_task_res_adds_alpha_times_the_residual_to_raw_text_features(clip, batch):
    """Underscores stay in the names, and nothing is normalised before the sum."""
    images, _ = batch
    method = coop.build("task_res", clip, NAMES, templates=TEMPLATES, alpha=0.3)
    method.text_feature_residuals.data.normal_()
    base = torch.stack([clip.text([template.format(name) for template in TEMPLATES]).mean(0) for name in NAMES])
    wanted = F.normalize(base + 0.3 * method.text_feature_residuals, dim=-1)
    cosines = F.normalize(clip.image(images), dim=-1) @ wanted.T
    torch.testing.assert_close(method(images), clip.logit_scale.exp() * cosines)
    torch.testing.assert_close(method.predictor()(images), method(images))
    assert {name: tuple(t.shape) for name, t in method.learned_state().items()} == {"text_feature_residuals": (3, 128)}


def test_task_res_names_some_of_its_classes_but_no_new_ones(clip, batch):
    method = coop.build("task_res", clip, NAMES, templates=TEMPLATES, alpha=0.3)
    method.text_feature_residuals.data.normal_()
    torch.testing.assert_close(method.for_classes([NAMES[2], NAMES[0]])(batch[0]), method(batch[0])[:, [2, 0]])
    with pytest.raises(InputError, match="TaskRes is tied to the classes"):
        method.for_classes([NAMES[0], "dog"])


# CLIP-Adapter


def test_an_adapter_worked_out_by_hand():
    """W1 x = 2 - 3 = -1 and 1 + 6 = 7, after the ReLU 0 and 7; W2 of it: 7 x 2 = 14, 7 x -1 = -7."""
    x = torch.tensor([1.0, 3.0])
    for last_relu, found in ((False, [14.0, -7.0]), (True, [14.0, 0.0])):
        adapter = bottleneck(2, 1, last_relu)
        adapter[0].weight.data = torch.tensor([[2.0, -1.0], [1.0, 2.0]])
        adapter[2].weight.data = torch.tensor([[5.0, 2.0], [3.0, -1.0]])
        assert mixed(x, adapter, 1.0).tolist() == found
        torch.testing.assert_close(adapter(2.5 * x), 2.5 * adapter(x))


@pytest.mark.parametrize("last_relu", [False, True])
def test_clip_adapter_mixes_both_sides(clip, batch, last_relu):
    images, _ = batch
    options = dict(image_ratio=0.2, text_ratio=0.7, reduction=4, last_relu=last_relu, templates=TEMPLATES[0])
    method = coop.build("clip_adapter", clip, NAMES, **options)
    end = torch.relu if last_relu else lambda x: x

    def by_hand(features, adapter, ratio):
        made = end(torch.relu(features @ adapter[0].weight.T) @ adapter[2].weight.T)
        return F.normalize(ratio * made + (1 - ratio) * features, dim=-1)

    assert tuple(method.fc[0].weight.shape) == (32, 128)
    image_side = by_hand(clip.image(images), method.fc, 0.2)
    texts = by_hand(unit(clip, TEMPLATES[0]), method.text_fc, 0.7)
    torch.testing.assert_close(method(images), clip.logit_scale.exp() * image_side @ texts.T, atol=1e-4, rtol=1e-4)


def test_clip_adapter_options(clip):
    assert coop.build("clip_adapter", clip, NAMES).learned() == ["fc.0.weight", "fc.2.weight"]
    text = coop.build("clip_adapter", clip, NAMES, image_ratio=0.0, text_ratio=0.2)
    assert text.learned() == ["text_fc.0.weight", "text_fc.2.weight"]
    with pytest.raises(InputError, match="both 0: there is no adapter"):
        coop.build("clip_adapter", clip, NAMES, image_ratio=0.0)
    with pytest.raises(InputError, match="text_ratio is 1.5"):
        coop.build("clip_adapter", clip, NAMES, text_ratio=1.5)
    with pytest.raises(InputError, match="reduction is 0"):
        coop.build("clip_adapter", clip, NAMES, reduction=0)


# KgCoOp


@pytest.mark.parametrize("way", ["plain", "fast"])
def test_kg_coop_adds_the_mean_squared_distance(clip, batch, computed, way):
    (images, labels), own = batch, computed(clip, way=way)
    method = coop.build("kg_coop", own, NAMES, weight=3.0, templates=TEMPLATES[:1])
    coop_loss = coop.build("coop", own, NAMES, ctx_init="a photo of a").loss(images, labels)
    learned, wanted = unit(clip, "a photo of a {}."), unit(clip, TEMPLATES[0])
    distance = sum(float((a - b) @ (a - b)) for a, b in zip(learned, wanted, strict=True)) / 3
    assert distance > 0.01
    torch.testing.assert_close(method.loss(images, labels), coop_loss + 3.0 * distance)
    cosines = (learned * wanted).sum(-1)
    assert distance == pytest.approx(2 * (1 - cosines).mean().item(), rel=1e-4), "the official code's is half of it"


def test_kg_coop_starts_at_no_distance_from_its_own_words(clip, batch):
    images, labels = batch
    method = coop.build("kg_coop", clip, NAMES, weight=1e6)
    assert method.loss(images, labels).item() == pytest.approx(F.cross_entropy(method(images), labels).item(), abs=1e-3)


# ProGrad


def test_a_projection_worked_out_by_hand():
    """(1, 2) against (-4, 0): product -4, share -4 / 16, so (1, 2) - lambda (-1/4) (-4, 0) = (1 - lambda, 2)."""
    wanted, against = torch.tensor([1.0, 2.0]), torch.tensor([-4.0, 0.0])
    assert aligned(wanted, against, 1.0).tolist() == [0.0, 2.0]
    assert aligned(wanted, against, 0.5).tolist() == [0.5, 2.0]
    assert aligned(wanted, -against, 1.0).tolist() == [1.0, 2.0]
    assert aligned(wanted, torch.zeros(2), 1.0).tolist() == [1.0, 2.0]


def pro_grad(clip, **options):
    torch.manual_seed(3)
    method = coop.build("pro_grad", clip, NAMES, n_ctx=3, templates=TEMPLATES[:1], **options).to(clip.logit_scale.dtype)
    method.ctx.data.mul_(20)
    return method


def separate_gradients(method, images, labels, temperature=1.0):
    """Return the gradients of the cross-entropy and of KL(zero-shot || prompts), summed over classes, not averaged."""
    logits = method(images)
    zero_shot = coop.build("zero_shot", method.backbone, NAMES, templates=TEMPLATES[:1])(images).detach()
    p, q = (zero_shot / temperature).softmax(-1), (logits / temperature).softmax(-1)
    divergence = temperature**2 * (p * (p.log() - q.log())).sum(-1).mean()
    value = F.cross_entropy(logits, labels)
    (domain,) = torch.autograd.grad(value, method.ctx, retain_graph=True)
    (general,) = torch.autograd.grad(divergence, method.ctx)
    return value, domain, general


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.parametrize("conflict", [False, True])
def test_pro_grad_steps_along_the_projected_gradient(double, batch, computed, way, conflict):
    """With the first labels whose gradient agrees with zero-shot CLIP, and with the first where it does not."""
    images, method = batch[0].double(), pro_grad(computed(double, way=way), strength=0.8)
    for labels in torch.cartesian_prod(*[torch.arange(3)] * 5):
        value, domain, general = separate_gradients(method, images, labels)
        product = (domain * general).sum()
        if bool(product < 0) == conflict:
            break
    wanted = domain - 0.8 * product / general.square().sum() * general if conflict else domain
    loss = method.loss(images, labels)
    (found,) = torch.autograd.grad(loss, method.ctx)
    torch.testing.assert_close(loss, value)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(found, domain) != conflict
    method.strength = 1.0  # nothing is left against the general direction
    (found,) = torch.autograd.grad(method.loss(images, labels), method.ctx)
    assert (found * general).sum() > -1e-10 * domain.norm() * general.norm()


def test_pro_grad_follows_what_comes_after_the_loss(double, batch):
    images, labels = batch[0].double(), batch[1]
    method = pro_grad(double, temperature=2.0)
    (once,) = torch.autograd.grad(method.loss(images, labels), method.ctx)
    (3 * method.loss(images, labels) + method.loss(images, labels)).backward()
    torch.testing.assert_close(method.ctx.grad, 4 * once)
    with torch.no_grad():
        assert not method.loss(images, labels).requires_grad


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.05), (torch.bfloat16, 0.2)])
def test_pro_grad_in_half_precision(clip, batch, dtype, tolerance):
    method = pro_grad(clip)
    (wanted,) = torch.autograd.grad(method.loss(*batch), method.ctx)
    with torch.autocast("cpu", dtype):
        loss = method.loss(*batch)
    (found,) = torch.autograd.grad(loss * 1024, method.ctx)
    torch.testing.assert_close(found / 1024, wanted, atol=tolerance * wanted.abs().max().item(), rtol=0)


def test_a_temperature_of_nothing_is_refused(clip):
    with pytest.raises(InputError, match="temperature is 0"):
        coop.build("pro_grad", clip, NAMES, temperature=0.0)


# What they share


@pytest.mark.parametrize("name", ["task_res", "clip_adapter", "kg_coop", "pro_grad"])
def test_learned_tensors_move_and_travel(name, clip, batch):
    method = coop.build(name, clip, NAMES)
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.1, 0.0)
    method.loss(*batch).backward()
    optimizer.step()
    moved = {key for key, tensor in method.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved == set(method.learned()) and moved
    other = coop.build(name, clip, NAMES)
    other.load_learned_state(method.learned_state())
    assert torch.equal(other(batch[0]), method(batch[0]))


@pytest.mark.parametrize("name", ["clip_adapter", "kg_coop", "pro_grad"])
def test_new_classes_are_named_with_the_same_tensors(name, clip, batch):
    method = coop.build(name, clip, NAMES, templates=TEMPLATES[:1])
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    other = method.for_classes(["dog", NAMES[2], NAMES[0]])
    torch.testing.assert_close(other(batch[0])[:, 1:], method(batch[0])[:, [2, 0]])
    assert other.options == method.options and other.templates == TEMPLATES[:1]


@pytest.mark.parametrize("name", ["task_res", "clip_adapter", "kg_coop", "pro_grad"])
def test_a_template_without_a_place_for_the_name(name, clip):
    with pytest.raises(InputError, match="'a photo' has no {}"):
        coop.build(name, clip, NAMES, templates=["a photo"])


def test_contexts_of_another_width(clip):
    with pytest.raises(InputError, match=r"'ctx' has shape \(4, 64\), this method needs \(4, 128\)"):
        coop.build("kg_coop", clip, NAMES).load_learned_state({"ctx": torch.zeros(4, 64)})
