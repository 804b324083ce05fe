"""TCP, KgCoOp and ProGrad against the numbers of their official codes: values, gradients, training, starts, presets."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from official import near_each, start_of, steps

import coop
from promptvision.config import load_config
from promptvision.errors import InputError
from promptvision.experiment.build import default_templates
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import plan

ROOT = Path(__file__).parents[1]
WAYS = pytest.mark.parametrize("way", ["plain", "fast"])
CARDS = {
    "OxfordPets": "oxford_pets", "OxfordFlowers": "oxford_flowers", "FGVCAircraft": "fgvc_aircraft", "UCF101": "ucf101",
    "DescribableTextures": "dtd", "EuroSAT": "eurosat", "StanfordCars": "stanford_cars", "Food101": "food101",
    "SUN397": "sun397", "Caltech101": "caltech101", "ImageNet": "imagenet", "ImageNetSketch": "imagenet_sketch",
    "ImageNetV2": "imagenet_v2", "ImageNetA": "imagenet_a", "ImageNetR": "imagenet_r",
}  # fmt: skip
"""Datasets of the official codes: our cards."""


@pytest.fixture
def case_of(golden, clip, computed):
    """`case_of("coop/tcp/dtd_layer1", build)` gives (method with the case's tensors, its numbers)."""

    def load(case, build, way="auto"):
        settings, expected = golden(case)
        method = build(settings, computed(clip, way=way))
        method.load_learned_state(start_of(expected))
        return method, expected

    return load


def tcp(settings, clip):
    options = dict(prompt=settings["prompt_template"], templates=[settings["knowledge_template"]])
    options |= {key: settings[key] for key in ("n_ctx", "layer")} | dict(weight=settings["weight"] / 2)
    return coop.build("tcp", clip, settings["classnames"], **options)


def kg_coop(settings, clip):
    options = {key: settings[key] for key in ("n_ctx", "ctx_init")} | dict(weight=settings["weight"] / 2)
    return coop.build("kg_coop", clip, settings["classnames"], templates=[settings["knowledge_template"]], **options)


def pro_grad(settings, clip):
    template = settings["zero_shot_template"]
    words = template.removesuffix(" {}.") if settings["ctx_init_words"] else ""
    options = dict(n_ctx=settings["n_ctx"], strength=settings["LAMBDA"], temperature=settings["T"], ctx_init=words)
    return coop.build("pro_grad", clip, settings["classnames"], templates=[template], **options)


def check_values(method, expected, images, labels, near):
    """Logits, loss and gradient of the static batch."""
    near(method(images), expected["logits"])
    near(method.predictor()(images), expected["logits"])
    for loss, found in steps(method, images, labels):
        near(loss, expected["loss"])
        assert set(found) == set(method.learned())
        near_each(found, expected, "grad.", 1e-4)


def near(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@WAYS
@pytest.mark.golden("coop/tcp/*")
def test_tcp(case_of, coop_inputs, case, way, check_training):
    method, expected = case_of(case, tcp, way)
    near(method.teacher.text_features(method.backbone), expected["knowledge"])
    near(method.meta_net(expected["knowledge"]).unflatten(-1, method.ctx.shape), expected["class_prompts"])
    near(method.text_features(), expected["text_features_raw"])
    images, labels = coop_inputs["images"], coop_inputs["labels"]
    near(F.cross_entropy(method(images), labels), expected["loss_ce"])
    check_values(method, expected, images, labels, near)
    check_training(method, expected, coop_inputs, "adam", 0.002, eps=1e-3)


@WAYS
@pytest.mark.golden("coop/kgcoop/*")
def test_kg_coop(case_of, coop_inputs, case, way, check_training):
    method, expected = case_of(case, kg_coop, way)
    near(method.teacher.text_features(method.backbone), expected["knowledge"])
    images, labels = coop_inputs["images"], coop_inputs["labels"]
    near(F.cross_entropy(method(images), labels), expected["loss_ce"])
    check_values(method, expected, images, labels, near)
    check_training(method, expected, coop_inputs, "sgd", 0.002)


@WAYS
@pytest.mark.golden("coop/prograd/*")
def test_pro_grad(golden, case_of, coop_inputs, case, way, check_training):
    method, expected = case_of(case, pro_grad, way)
    near(method.teacher.text_features(method.backbone), expected["zero_shot_text_features"])
    near(method.teacher.logits(method.backbone, coop_inputs["images"]), expected["zero_shot_logits"])
    check_values(method, expected, coop_inputs["images"], expected["labels"], near)
    check_training(method, expected, coop_inputs, "sgd", 0.002)


@pytest.mark.golden("coop/prograd/init_*")
def test_pro_grad_starts_from_zeros_and_words(golden, clip, case):
    """A comma is a token more than its words, so the last of them stays as it is."""
    settings, expected = golden(case)
    method = pro_grad(settings, clip)
    assert torch.equal(method.ctx.detach(), expected["ctx_init"])


def test_words_that_do_not_fit(clip):
    with pytest.raises(InputError, match="n_ctx is 3, but ctx_init 'a photo of a' has 4 words"):
        coop.build("pro_grad", clip, ["cat"], n_ctx=3, ctx_init="a_photo of a")
    with pytest.raises(InputError, match=re.escape("prompt 'a {}.' has 1 token before {}; 4 contexts take the places")):
        coop.build("tcp", clip, ["cat"], prompt="a {}.")
    with pytest.raises(InputError, match=re.escape("prompt 'a photo' needs one {}, where the class name goes, not 0")):
        coop.build("tcp", clip, ["cat"], prompt="a photo")


FAMILY = ["imagenet", "imagenet_v2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
PROMPTS = {  # TCP: what stands around the class name; other datasets have a full stop
    "oxford_pets": "{}, a type of pet.", "oxford_flowers": "{}, a type of flower.", "food101": "{}, a type of food.",
    "fgvc_aircraft": "{}, a type of aircraft.", "stanford_cars": "{}, a type of car", "dtd": "{} texture.",
    "ucf101": "a photo of a person doing {}.", **dict.fromkeys(FAMILY, "a photo of a {}."),
}  # fmt: skip
TEXTURE = "a photo of a {}, a type of texture."
KNOWLEDGE = {
    "tcp": {
        "dtd": TEXTURE,
        "fgvc_aircraft": "a photo of an aircraft {}.",
        "food101": "a photo of a {}, a type of food.",
    },
    "kg_coop": {"dtd": TEXTURE},
    "pro_grad": {
        **{name: f"a type of {kind}, a photo of a {{}}." for name, kind in (
            ("oxford_pets", "pet"), ("oxford_flowers", "flower"), ("fgvc_aircraft", "aircraft"))},
        "food101": "a type of food, a photo of {}.",
        "dtd": "a texture of {}.",
    },
}  # fmt: skip
"""Texts that differ from those of the cards, which are CoOp's."""
DATASETS = [*FAMILY, "caltech101", "stanford_cars", "sun397", "eurosat", *PROMPTS]
FILES = {"tcp": "vit_b16_tcp", "kg_coop": "vit_b16_kg_coop", "pro_grad": "rn50_pro_grad"}


def preset(method, *words):
    return load_config(ROOT / f"configs/coop/{FILES[method]}.yaml", words, {"coop": coop})


@pytest.mark.parametrize("method", FILES)
@pytest.mark.parametrize("dataset", dict.fromkeys(DATASETS))
def test_the_texts_of_a_dataset(method, dataset):
    options = preset(method, "DATASET.NAME", dataset).METHOD.OPTIONS
    texts = default_templates({"NAME": dataset, "TEMPLATE": ""}, {})
    template = KNOWLEDGE[method].get(dataset, texts[0])
    assert (options.TEMPLATES or texts) == [template]
    if method == "tcp":
        assert (options.N_CTX, options.CTX_INIT, options.PROMPT or "{}.") == (4, "", PROMPTS.get(dataset, "{}."))
    else:
        words = template.removesuffix(" {}.") if method == "pro_grad" else "a photo of a"
        assert (16 if method == "pro_grad" else 4, words) == (options.N_CTX, options.CTX_INIT)


@pytest.mark.golden("coop/tcp/*")
def test_the_preset_has_the_prompt_of_the_numbers(golden, case):
    settings = golden(case)[0]
    options = preset("tcp", "DATASET.NAME", CARDS[settings["dataset"]]).METHOD.OPTIONS
    assert (options.PROMPT or "{}.") == settings["prompt_template"].removeprefix("X X X X ")


def test_training_of_tcp_and_kg_coop():
    cfg = preset("tcp", "DATASET.NAME", "dtd")
    assert (cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.EPS, cfg.OPTIM.WEIGHT_DECAY) == ("adam", 0.002, 1e-3, 5e-4)
    assert (cfg.OPTIM.EPOCHS, cfg.OPTIM.BATCH_SIZE, cfg.DATASET.SHOTS, cfg.BACKBONE.NAME) == (50, 32, 16, "ViT-B-16")
    assert (cfg.METHOD.OPTIONS.LAYER, cfg.METHOD.OPTIONS.WEIGHT, cfg.TRAIN.KEEP) == (8, 4.0, "last")
    assert [preset("tcp", "DATASET.NAME", name).OPTIM.EPOCHS for name in ("imagenet", "sun397", "food101")] == [
        25,
        25,
        50,
    ]
    cfg = preset("kg_coop")
    assert (cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.EPOCHS, cfg.OPTIM.BATCH_SIZE) == ("sgd", 0.002, 100, 128)
    assert (cfg.METHOD.OPTIONS.WEIGHT, cfg.DATASET.SHOTS, cfg.BACKBONE.NAME) == (4.0, 16, "ViT-B-16")


@pytest.mark.parametrize(
    ("words", "shots", "epochs", "strength"),
    [
        *((f"DATASET.SHOTS {shots}", shots, epochs, 1.0) for shots, epochs in ((1, 50), (2, 100), (4, 100), (8, 200))),
        ("DATASET.NAME eurosat", 16, 200, 0.8),
        ("DATASET.NAME dtd DATASET.SHOTS 8", 8, 200, 0.8),
        ("DATASET.NAME oxford_flowers DATASET.SHOTS 4", 4, 100, 1.0),
        ("DATASET.CLASSES base DATASET.NAME dtd", 4, 100, 1.0),
        ("DATASET.CLASSES base DATASET.NAME imagenet", 4, 50, 1.0),
    ],
)
def test_training_of_pro_grad(words, shots, epochs, strength):
    cfg = preset("pro_grad", *words.split())
    assert (shots, epochs, strength) == (cfg.DATASET.SHOTS, cfg.OPTIM.EPOCHS, cfg.METHOD.OPTIONS.STRENGTH)
    assert (cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.BATCH_SIZE, cfg.BACKBONE.NAME) == ("sgd", 0.002, 32, "RN50")
    assert cfg.METHOD.OPTIONS.TEMPERATURE == 1.0


def test_benchmarks_give_each_dataset_its_settings():
    def jobs(name, *only):
        path = ROOT / f"configs/benchmarks/{name}.yaml"
        return plan(load_cells(path), "out", [], {"coop": coop}, [*only, "SEED=1"])

    (job,) = jobs("cross_dataset", "RUN=TCP")
    texts = {name: (cfg.METHOD.OPTIONS.PROMPT, cfg.METHOD.OPTIONS.TEMPLATES) for name, cfg in job.evals.items()}
    assert job.cfg.METHOD.OPTIONS.PROMPT == "a photo of a {}." and job.cfg.OPTIM.EPOCHS == 25
    assert texts["dtd"] == ("{} texture.", [TEXTURE]) and texts["eurosat"] == ("", [])
    (job,) = jobs("base_to_new", "RUN=ProGrad", "DATASET.NAME=dtd")
    assert (job.cfg.DATASET.SHOTS, job.cfg.OPTIM.EPOCHS, job.cfg.METHOD.OPTIONS.STRENGTH) == (4, 100, 1.0)
    assert job.evals["new"].METHOD.OPTIONS.CTX_INIT == job.cfg.METHOD.OPTIONS.CTX_INIT == "a texture of"
    (job,) = jobs("base_to_new", "RUN=PromptKD", "DATASET.NAME=dtd")
    data, options = job.cfg.DATASET, job.cfg.METHOD.OPTIONS
    assert (data.SHOTS, data.CLASSES, data.TRAIN_CLASSES, data.VALIDATION) == (0, "base", "all", "test")
    assert (options.WEIGHT, options.DEPTH, job.cfg.TRAIN.KEEP) == (200, 9, "best")
