"""GDA, LP++ and CLAP against the numbers of the official codes."""

import pytest
import torch
import torch.nn.functional as F
from official import steps

import coop
from promptvision.backbones import load_clip
from promptvision.engine.optim import build_optimizer, learning_rates, set_rate
from promptvision.errors import InputError

NAMES = ["cat", "dog", "old_house"]
HEADS = {"gda": {"alpha": 1.0, "neighbours": 4}, "lp_plus_plus": {"epochs": 20}, "clap": {}}


@pytest.fixture(scope="module")
def clip(golden):
    return load_clip(golden.root / "coop/clip_vit_tiny.safetensors")


def parts(expected):
    """Features and labels of the images of each split, as the json of the cases names them."""
    names = [name for name in ("train", "val", "test") if f"{name}_features" in expected]
    found = {name: expected[f"{name}_features"] for name in names}
    return {name: (features, torch.arange(len(features)) % 4) for name, features in found.items()}


def near(found, wanted, share=1e-4):
    torch.testing.assert_close(found, wanted, atol=share * wanted.abs().max().item(), rtol=0)


@pytest.mark.golden("coop/gda/few_shot*")
def test_gda_of_few_shots(case, golden, clip):
    settings, expected = golden(case)
    pictures = parts(expected)
    options = dict(templates=settings["settings"]["templates"], logit_scale=100.0)
    method = coop.build("gda", clip, settings["classnames"], **options)
    method.prepare([pictures["train"]] * settings["settings"]["augment_epoch"], [pictures["val"]])
    near(method.features, expected["text_features"])
    near(method.W, expected["W"])
    near(method.b, expected["b"])
    assert method.alpha.item() == settings["settings"]["chosen_alpha"]
    near(method(pictures["test"][0]), expected["test_logits"])
    for alpha in settings["settings"]["alphas"]:
        method.alpha.fill_(alpha)
        near(method(pictures["val"][0]), expected[f"val_logits.alpha{alpha:g}"])


@pytest.mark.golden("coop/gda/base_to_new*")
def test_gda_of_base_and_new_classes(case, golden, clip):
    settings, expected = golden(case)
    pictures = parts(expected)
    own = settings["settings"]
    options = dict(templates=own["templates"], logit_scale=100.0, covariance="classwise", alpha=own["chosen_alpha"])
    method = coop.build(
        "gda", clip, settings["classnames"], neighbours=own["top_k"], copies=own["repeat_text"], **options
    )
    method.prepare([pictures["train"]] * own["augment_epoch"], [])
    test = pictures["test"][0]
    near(method.W, expected["W"], 1e-3)
    near(method.b, expected["b"], 1e-3)
    near(method(test), expected["base_logits"], 1e-3)
    other = method.for_classes(settings["new_classnames"])
    weight, bias = other.classifier()
    near(weight, expected["W_new"])
    near(bias, expected["b_new"])
    near(other(test), expected["new_logits"])
    again = coop.build("gda", clip, settings["classnames"], **method.options)
    again.load_learned_state(method.learned_state())
    mixed = again.for_classes([settings["new_classnames"][1], settings["classnames"][2]])
    weight, bias = mixed.classifier()
    near(weight[1], method.W[2])
    near(bias[1] - method.b[2], torch.tensor(2.0).log())


@pytest.mark.parametrize("covariance", ["pooled", "classwise"])
def test_gda_needs_two_different_images_of_a_class(covariance, clip):
    """One image per class has no covariance, however often it comes; another image of one class is enough."""
    method = coop.build("gda", clip, NAMES, covariance=covariance, alpha=1.0)
    features, labels = torch.randn(4, 64), torch.tensor([0, 1, 2, 2])
    with pytest.raises(InputError, match="two different training images .*METHOD.OPTIONS.VIEWS"):
        method.prepare([(features[:3], labels[:3])] * 3, [])
    method.prepare([(features, labels)], [])
    assert method(features).isfinite().all() and method.W.any()


@pytest.mark.golden("coop/lpplus/*")
def test_lp_plus_plus(case, golden, clip):
    settings, expected = golden(case)
    pictures = parts(expected)
    own = settings["settings"]
    options = dict(
        templates=own["templates"], epochs=own["epochs"], momentum=own["momentum"], alpha_every=own["alpha_every"]
    )
    method = coop.build(
        "lp_plus_plus", clip, settings["classnames"], sums=True, random_bias=True, accumulate_alpha=True, **options
    )
    method.bias.copy_(expected["bias_init"])
    images, labels = pictures["train"]
    vectors = F.normalize(images, dim=-1)
    near(method.features, expected["text_features"])
    assert method.rates(vectors) == pytest.approx((own["lr_weight"], own["lr_alpha"]), rel=1e-5)
    start = method.start(vectors, labels)
    near(start.weight, expected["weight_init"])
    assert start.alpha.tolist() == [pytest.approx([own["alpha_init"]] * 4, rel=1e-5)]
    with torch.no_grad():
        epochs = list(method.descend(vectors, labels))
    assert [loss for loss, _ in epochs] == pytest.approx(expected["loss"].tolist(), rel=1e-4)
    last = epochs[-1][1]
    for name in ("weight", "bias", "alpha"):
        near(getattr(last, name), expected[f"{name}_final"], 1e-3)
    near(last.logits(F.normalize(pictures["test"][0], dim=-1), method.features), expected["test_logits_final"], 1e-3)
    check_choice(method, pictures, own)


def check_choice(method, pictures, settings):
    """The last epoch of those that are best on the validation images is kept."""
    start = method.bias.clone()
    method.prepare([pictures["train"]], [pictures["val"]])
    accuracy = {
        name: 100 * (method(images).argmax(dim=1) == labels).float().mean().item()
        for name, (images, labels) in pictures.items()
    }
    wanted = settings["best_val_accuracy"], settings["test_accuracy_at_best"]
    assert (accuracy["val"], accuracy["test"]) == pytest.approx(wanted)
    method.bias.copy_(start)
    kept = [
        blend.weight.clone()
        for _, blend in method.descend(F.normalize(pictures["train"][0], dim=-1), pictures["train"][1])
    ]
    assert torch.equal(method.weight, kept[settings["best_epoch_by_val"]])


def clap(settings, clip, pictures):
    own = settings["settings"]
    method = coop.build("clap", clip, settings["classnames"], templates=own["templates"], constraint=own["constraint"])
    method.prepare([pictures["train"]], [])
    return method


@pytest.mark.golden("coop/clap/*")
def test_clap(case, golden, clip):
    settings, expected = golden(case)
    pictures = parts(expected)
    images, labels = pictures["train"]
    method = clap(settings, clip, pictures)
    near(method.base, expected["base_text_features"])
    near(clip.logits(images, method.base), expected["zeroshot_logits"])
    if "multipliers" in expected:
        near(method.multipliers, expected["multipliers"])
    method.load_learned_state({"prototypes": expected["param.prototypes"]})
    near(method(images), expected["logits"])
    for loss, found in steps(method, images, labels):
        near(loss, expected["loss"])
        near(found["prototypes"], expected["grad.prototypes"])
    if "loss_constraint" in expected:
        near(method.constraint(None), expected["loss_constraint"])
    method = clap(settings, clip, pictures)
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.1, 0.0)
    rates = [rate for rate in learning_rates("cosine", 0.1, 6, warmup_epochs=1) for _ in range(2)]
    for step, rate in enumerate(rates):
        assert rate == pytest.approx(expected["traj.lr"][step].item())
        set_rate(optimizer, rate)
        half = slice(8 * (step % 2), 8 * (step % 2) + 8)
        loss = method.loss(images[half], labels[half])
        assert loss.item() == pytest.approx(expected["traj.loss"][step].item(), rel=1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    near(method.prototypes.data, expected["traj.final.prototypes"], 1e-3)


def trained(name, clip, **options):
    method = coop.build(name, clip, NAMES, **{**HEADS[name], **options})
    generator = torch.Generator().manual_seed(1)
    method.prepare([(torch.randn(12, 64, generator=generator), torch.arange(12) % 3)], [])
    return method


@pytest.mark.parametrize("name", HEADS)
def test_heads_travel_and_name_fewer_classes(name, clip):
    method, images = trained(name, clip), torch.randn(4, 64)
    again = coop.build(name, clip, NAMES, **HEADS[name])
    again.load_learned_state(method.learned_state())
    assert torch.equal(again(images), method(images))
    if name == "lp_plus_plus":
        with pytest.raises(InputError, match="cannot name new ones"):
            method.for_classes(NAMES[:2])
        return
    fewer = again.for_classes([NAMES[2], NAMES[0]])
    found, wanted = (logits.log_softmax(dim=1) for logits in (fewer(images), method(images)[:, [2, 0]]))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    if name == "clap":
        with pytest.raises(InputError, match="cannot name new ones"):
            method.for_classes([NAMES[0], "bird"])


def test_without_neighbours_gda_keeps_no_image_and_names_no_new_class(clip):
    method = trained("gda", clip, neighbours=0)
    assert not len(method.vectors) and method.for_classes(NAMES[1:]).classes == NAMES[1:]
    with pytest.raises(InputError, match="cannot name new ones"):
        method.for_classes(["bird", "cat"])


@pytest.mark.parametrize("name", HEADS)
def test_a_class_without_images_is_named(name, clip):
    with pytest.raises(InputError, match="class 'old_house' has no training image"):
        coop.build(name, clip, NAMES, **HEADS[name]).prepare([(torch.randn(4, 64), torch.arange(4) % 2)], [])


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("gda", {"covariance": "shared"}, "covariance 'shared'"),
        ("gda", {"neighbours": 1}, "neighbours is 1"),
        ("gda", {"alpha": -1.0}, "alpha is -1"),
        ("lp_plus_plus", {"epochs": 0}, "epochs is 0"),
        ("lp_plus_plus", {"momentum": 1.0}, "momentum is 1"),
        ("clap", {"constraint": "l1"}, "constraint 'l1'"),
        ("clap", {"ensemble": "all"}, "ensemble 'all'"),
        ("clap", {"views": -1}, "views is -1"),
    ],
)
def test_options_that_cannot_be_are_refused(name, options, said, clip):
    with pytest.raises(InputError, match=said):
        coop.build(name, clip, NAMES, **options)


def test_the_search_for_alpha_needs_validation_images(clip):
    with pytest.raises(InputError, match="set METHOD.OPTIONS.ALPHA"):
        trained("gda", clip, alpha=0.0)


@pytest.mark.parametrize("name", ["clap", "two_stage"])
def test_official_checkpoints_load(name, clip, tmp_path):
    method = coop.build(name, clip, NAMES)
    state = {key: torch.randn_like(value) for key, value in method.learned_state().items() if key != "classifier"}
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 1}, tmp_path / "m.pth")
    method.load_learned_state(coop.load_checkpoint(tmp_path / "m.pth", method))
    assert all(torch.equal(method.learned_state()[key], value) for key, value in state.items())
