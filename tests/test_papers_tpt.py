"""TPT: its views, its choice among them, its objective and its one step, worked out anew image by image."""

import math

import pytest
import torch
import torch.nn.functional as F

import coop
from coop.tpt import confident, marginal_entropy, views_of
from promptvision.backbones import load_clip
from promptvision.engine.evaluate import predict
from promptvision.errors import InputError

NAMES = ["cat", "golden_retriever", "old house"]


@pytest.fixture(scope="module")
def clip():
    return load_clip("embedded")


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_marginal_entropy_worked_out_by_hand():
    """Predictions (3/4, 1/4) and (1/4, 3/4) have the mean (1/2, 1/2), of entropy log 2; alone 0.5623 each."""
    logits = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).log()
    assert marginal_entropy(logits).item() == pytest.approx(math.log(2))
    assert marginal_entropy(logits[:1]).item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_the_most_confident_views_are_kept():
    logits = torch.tensor([[0.0, 0.1], [5.0, 0.0], [0.0, 2.0], [0.0, 9.0], [1.0, 0.0]])
    assert confident(logits, 0.4).tolist() == [3, 1] and confident(logits, 0.1).tolist() == [3]
    both = confident(torch.stack([logits, logits.flip(0)]), 0.4)
    assert both.tolist() == [[3, 1], [1, 3]]
    assert len(confident(torch.randn(64, 5), 0.1)) == 6


def test_views_depend_on_image_and_seed_alone(images):
    torch.manual_seed(5)
    views = views_of(images[0], 6, 0.3, 0)
    state = torch.get_rng_state()
    assert torch.equal(views_of(images[0], 6, 0.3, 0), views) and torch.equal(torch.get_rng_state(), state)
    assert views.shape == (6, 3, 32, 32) and torch.equal(views[0], images[0])
    assert not any(torch.equal(views[i], views[j]) for i in range(6) for j in range(i))
    assert not torch.equal(views_of(images[0], 6, 0.3, 1)[1:], views[1:])
    whole = views_of(images[0], 9, 1.0, 0)
    same = [torch.allclose(view, images[0], atol=1e-4) or torch.allclose(view, images[0].flip(-1)) for view in whole]
    assert sum(same) >= 1, "crops of the whole image, but for their aspect"


def by_hand(clip, image, steps=1, lr=0.005):
    """One image, one prompt after the other; AdamW written out (betas 0.9, 0.999, decay 0.01)."""
    encoder = coop.build("coop", clip, NAMES, ctx_init="a photo of a")
    ctx = encoder.ctx.detach().clone()
    features = F.normalize(clip.image(views_of(image, 8, 0.5, 0)), dim=-1)
    first, second, kept = torch.zeros_like(ctx), torch.zeros_like(ctx), None
    for step in range(1, steps + 1):
        ctx.requires_grad_()
        texts = F.normalize(encoder.encoder(clip.text, ctx), dim=-1)
        predictions = (clip.logit_scale.exp() * features @ texts.T).softmax(-1)
        if kept is None:
            kept = (-(predictions * predictions.log()).sum(-1)).topk(2, largest=False).indices
        mean = predictions[kept].mean(0)
        (gradient,) = torch.autograd.grad(-(mean * mean.log()).sum(), ctx)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        update = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        ctx = (ctx * (1 - lr * 0.01) - lr * update).detach()
    return clip.logits(clip.image(image[None]), encoder.encoder(clip.text, ctx))[0], ctx


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("way", ["plain", "fast"])
def test_each_image_is_tuned_by_itself(computed, images, way, steps):
    double = load_clip("embedded").double()
    options = dict(views=8, share=0.25, smallest_crop=0.5, steps=steps)
    method = coop.build("tpt", computed(double, way=way), NAMES, **options)
    with torch.no_grad():
        found = method(images.double())
    wanted = torch.stack([by_hand(computed(double, way="plain"), image.double(), steps)[0] for image in images])
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)


def test_one_step_lowers_the_entropy_and_is_forgotten(clip, images):
    method = coop.build("tpt", clip, NAMES, views=8, share=0.25, smallest_crop=0.5)
    before = method.ctx.detach().clone()
    features = torch.stack([clip.image(views_of(image, 8, 0.5, 0)) for image in images])
    start = method.ctx.detach().expand(3, -1, -1)

    def entropy(contexts, kept):
        return marginal_entropy(method._logits(features, contexts).take_along_dim(kept[..., None], dim=-2))

    kept = confident(method._logits(features, start), 0.25)
    tuned = method.tuned(features)
    assert (entropy(tuned, kept) < entropy(start, kept)).all()
    assert not torch.equal(tuned[0], tuned[1])
    assert torch.equal(method.ctx, before) and method.ctx.grad is None
    assert (tuned - start).abs().max() < 0.0051, "AdamW's first step is no larger than its rate"


def test_neither_batch_nor_order_matter(clip, images, computed):
    method = coop.build("tpt", computed(clip, images_at_once=2), NAMES, views=8)
    batches = [(images, torch.zeros(3, dtype=torch.long))]
    turned = [(images[i : i + 1], torch.zeros(1, dtype=torch.long)) for i in (2, 0, 1)]
    found, _ = predict(method, batches, torch.device("cpu"))
    again, _ = predict(method, turned, torch.device("cpu"))
    torch.testing.assert_close(found[[2, 0, 1]], again, atol=1e-5, rtol=1e-5)


def test_training_it_is_coop(clip, images):
    method = coop.build("tpt", clip, NAMES)
    plain = coop.build("coop", clip, NAMES, ctx_init="a photo of a")
    labels = torch.tensor([0, 2, 1])
    (wanted,) = torch.autograd.grad(plain.loss(images, labels), plain.ctx)
    (found,) = torch.autograd.grad(method.loss(images, labels), method.ctx)
    torch.testing.assert_close(found, wanted)
    method.load_learned_state(plain.learned_state())  # CoOp's contexts are where tuning may start
    other = method.for_classes([NAMES[1], NAMES[2], NAMES[0]])
    with torch.no_grad():
        torch.testing.assert_close(other(images[:1])[:, [2, 0, 1]], method(images[:1]), atol=1e-4, rtol=1e-4)


def test_refusals(clip):
    with pytest.raises(InputError, match="views 0"):
        coop.build("tpt", clip, NAMES, views=0)
    with pytest.raises(InputError, match="share is 1.5"):
        coop.build("tpt", clip, NAMES, share=1.5)
    with pytest.raises(InputError, match="smallest_crop is 0"):
        coop.build("tpt", clip, NAMES, smallest_crop=0.0)
