"""TPT against the numbers of its official code: choice of views, losses, tuned contexts, and the views of AugMix."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

import coop
from coop.tpt import confident, marginal_entropy
from promptvision.backbones import load_clip
from promptvision.config import load_config
from promptvision.data.augmix import OPERATIONS, augmix, mixed
from promptvision.data.transforms import test_transform as transform_of
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import run
from promptvision.method import ImageViews

CLIP = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
FAMILIES = {"coop": coop}


def learned(golden, settings, expected, **options):
    clip = load_clip(golden.root / f"coop/{settings['backbone']}.safetensors")
    options |= dict(share=settings["selection_p"], steps=settings["steps"], crops="file", loss_scale=1000.0)
    words = {"ctx_init": settings["ctx_init"], "n_ctx": settings["n_ctx"]}
    method = coop.build("tpt", clip, settings["classnames"], views=12, **(options | words))
    if settings["ctx_init"]:
        torch.testing.assert_close(method.ctx.data, expected["param.ctx"])
    method.load_learned_state({"ctx": expected["param.ctx"]})
    return method


@pytest.fixture(scope="module")
def views(golden):
    return golden("coop/inputs")[1]["batch_images"].flatten(0, 1)


@pytest.mark.golden("coop/tpt/[!u]*_steps*")
def test_choice_losses_gradient_tuned_contexts_and_logits(case, golden, views):
    settings, expected = golden(case)
    method = learned(golden, settings, expected)
    features = method.backbone.image(views)[None]
    torch.testing.assert_close(features[0], expected["view_features"], atol=1e-4, rtol=0)
    contexts = method.ctx.detach()[None].requires_grad_()
    logits = method._logits(features, contexts)
    torch.testing.assert_close(logits[0], expected["logits_before"], atol=1e-4, rtol=0)
    entropy = torch.distributions.Categorical(logits=logits[0]).entropy()
    torch.testing.assert_close(entropy, expected["entropy_before"], atol=1e-4, rtol=0)
    kept = confident(logits, settings["selection_p"])
    assert kept[0].sort().values.tolist() == expected["selected"].sort().values.tolist()
    loss = marginal_entropy(logits[:, kept[0]]).sum()
    (gradient,) = torch.autograd.grad(loss, contexts)
    scale = expected["grad.ctx"].abs().max().item()
    torch.testing.assert_close(gradient[0], expected["grad.ctx"], atol=1e-4 * scale, rtol=0)
    for step, wanted in enumerate(expected["loss"]):
        earlier = learned(golden, {**settings, "steps": step}, expected) if step else None
        tuned = earlier.tuned(features) if earlier else contexts
        found = marginal_entropy(method._logits(features, tuned)[:, kept[0]]).item()
        assert found == pytest.approx(wanted.item(), rel=1e-3)
    torch.testing.assert_close(method.tuned(features)[0], expected["final.ctx"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(method(views[None]), expected["logits"], atol=1e-4, rtol=1e-4)


def image_of(tensor):
    return Image.fromarray(tensor.permute(1, 2, 0).contiguous().numpy())


def test_every_operation_of_augmix(golden):
    _, expected = golden("coop/tpt/augmix_ops")
    picture = image_of(expected["picture"])
    names = [name for name in expected if name.partition(".")[0] in OPERATIONS]
    assert {name.partition(".")[0] for name in names} == set(OPERATIONS)
    for name in names:
        operation, _, rest = name.partition(".")
        level, _, turn = rest.rpartition(".")
        found = OPERATIONS[operation](picture, float(level or 0.5), {"keep": 0.1, "turn": 0.9}.get(turn, 0.5))
        assert torch.equal(functional.pil_to_tensor(found), expected[name]), name


def test_a_whole_view_of_augmix(golden):
    settings, expected = golden("coop/tpt/augmix_ops")
    view = settings["view"]
    chains = [[(name, view["level_drawn"], view["coin"]) for name in chain] for chain in view["chains"]]
    found = mixed(image_of(expected["picture"]), view["mixing_share"], view["weights"], chains)
    torch.testing.assert_close(functional.normalize(found, *CLIP), expected["view"], atol=1e-5, rtol=0)


def test_draws_of_augmix():
    """The image's share is uniform; each chain has one to three of the nine operations."""
    image = Image.fromarray(np.full((8, 8, 3), 200, np.uint8))
    torch.manual_seed(0)
    one = augmix(image)
    torch.manual_seed(0)
    assert torch.equal(augmix(image), one) and one.shape == (3, 8, 8) and one.dtype == torch.float32
    assert one.min() >= 0 and one.max() <= 1
    assert len({augmix(image).mean().item() for _ in range(20)}) >= 10


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 60, 3), np.uint8)
    return Image.fromarray(pixels).resize((180, 60))


def test_views_are_cut_from_the_whole_file(photo):
    """The first view is the test image; the others are bilinear crops, which also show what its centre crop removes."""
    views = ImageViews(40, 0.08, False, 3)
    transform, plain = transform_of("coop", 32, *CLIP, views=views), transform_of("coop", 32, *CLIP)
    found = transform(photo)
    assert found.shape == (40, 3, 32, 32) and torch.equal(found[0], plain(photo))
    assert torch.equal(transform(photo), found), "they depend on image and seed"
    other = transform_of("coop", 32, *CLIP, views=ImageViews(40, 0.08, False, 4))
    assert not torch.equal(other(photo)[1:], found[1:])
    left = Image.fromarray(np.repeat(np.array([[[255] * 3] * 30 + [[0] * 3] * 150], np.uint8), 60, axis=0))
    assert plain(left).max() < 0 < transform(left)[1:].max()
    step, squeezed = transform.steps.transforms[0], photo.resize((32, 32), Image.Resampling.BILINEAR)
    sizes = dict(scale=(1.0, 1.0), ratio=(3.0, 3.0), interpolation=step.change.transforms[0].interpolation)
    step.change.transforms[0] = v2.RandomResizedCrop((32, 32), **sizes)
    wanted = functional.pil_to_tensor(squeezed)
    same = [torch.equal(view, wanted) for view in step(photo)[1:]]
    assert all(ok or torch.equal(view, wanted.flip(-1)) for ok, view in zip(same, step(photo)[1:], strict=True))
    assert 10 < sum(same) < 30, "flipped half the time"


def test_mixed_views_keep_the_first(photo):
    found = transform_of("coop", 32, *CLIP, views=ImageViews(6, 0.5, True, 0))(photo)
    torch.testing.assert_close(found[0], transform_of("coop", 32, *CLIP)(photo))
    assert found.shape == (6, 3, 32, 32) and len({view.sum().item() for view in found}) == 6


def test_a_run_with_views_of_files(tmp_path):
    file = tmp_path / "tpt.yaml"
    options = "{VIEWS: 3, CROPS: file, AUGMIX: true}"
    file.write_text(
        f"METHOD: {{FAMILY: coop, NAME: tpt, OPTIONS: {options}}}\nBACKBONE: {{NAME: embedded}}\n"
        "DATASET: {NAME: world_textures, SHOTS: 1}\nOPTIM: {EPOCHS: 0}\nTEST: {SPLIT: val, BATCH_SIZE: 3}\n"
    )
    found = run(load_config(file, [], FAMILIES), FAMILIES, RunFolder(tmp_path / "out"), progress=False)
    assert found["n"] == 6 and found["options"]["CROPS"] == "file"


def test_a_step_whose_gradient_overflows_is_left_out():
    clip = load_clip("embedded")
    features = torch.randn(2, 5, 128)
    calm = coop.build("tpt", clip, ["a", "b"], views=5, share=0.5)
    wild = coop.build("tpt", clip, ["a", "b"], views=5, share=0.5, loss_scale=math.inf)
    start = calm.ctx.detach().expand(2, -1, -1)
    assert torch.equal(wild.tuned(features), start) and not torch.equal(calm.tuned(features), start)


def test_refusals():
    clip = load_clip("embedded")
    with pytest.raises(InputError, match="unknown crops 'files'; did you mean 'file'"):
        coop.build("tpt", clip, ["a", "b"], crops="files")
    with pytest.raises(InputError, match="augmix changes crops of files: it needs crops file"):
        coop.build("tpt", clip, ["a", "b"], augmix=True)
    with pytest.raises(InputError, match="loss_scale is 0; it must be positive"):
        coop.build("tpt", clip, ["a", "b"], loss_scale=0.0)
    with pytest.raises(InputError, match="crops is file: forward takes views"):
        coop.build("tpt", clip, ["a", "b"], crops="file")(torch.zeros(1, 3, 32, 32))
