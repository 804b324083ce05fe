"""CoPrompt against the numbers of its official code; its texts, and its second view of every training image."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import coop
from coop.parts.official_checkpoints import load_official
from coop.parts.teacher import Descriptions
from promptvision.backbones import load_clip
from promptvision.config import load_config
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.data import load_data
from promptvision.experiment.run import retest, run

ROOT = Path(__file__).parents[1]
FAMILIES = {"coop": coop}


@pytest.fixture
def learner(golden, tmp_path, computed):
    """`learner("coop/coprompt/...")` gives (method with the case's tensors, its numbers, its settings)."""

    def load(case, way="auto"):
        settings, expected = golden(case)
        clip = computed(load_clip(golden.root / "coop/clip_vit_tiny.safetensors"), way=way)
        names, facts = settings["classnames"], settings["settings"]
        texts = tmp_path / "texts.yaml"
        pairs = zip(names, settings["descriptions"], strict=True)
        texts.write_text("".join(f"{name!r}: {own!r}\n".replace("\\'", "''") for name, own in pairs))
        options = {"n_ctx": facts["N_CTX"], "depth": facts["PROMPT_DEPTH"], "weight": facts["W"]}
        options |= {f"{side}_ratio": facts[f"{side}_adapter"] for side in ("image", "text")}
        method = coop.build(
            "co_prompt", clip, names, **options, reduction=facts["reduction"], texts=str(texts), same_text=True
        )
        start = {name.removeprefix("param."): value for name, value in expected.items() if name[:6] == "param."}
        method.load_learned_state(start)
        return method.train(), expected, settings

    return load


def draw(method, numbers):
    """Let the method draw these numbers of texts, one in each step."""
    numbers = iter(numbers)
    method.teacher.draw = lambda: torch.full((len(method.classes),), next(numbers))
    return method


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.golden("coop/coprompt/*")
def test_values_and_gradients(learner, golden, case, way):
    method, expected, settings = learner(case, way)
    inputs = golden("coop/inputs")[1]
    wanted = expected["description_features"].transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(method.teacher.text_features(method.backbone), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(method(inputs["images"]), expected["logits"], atol=1e-4, rtol=0)
    draw(method, [settings["description_used"]["static"]])
    loss = method.loss(inputs["images"], inputs["labels"], inputs["images"].flip(-1))
    assert loss.item() == pytest.approx(expected["loss"].item(), rel=1e-5)
    loss.backward()
    for name, parameter in method.trained().items():
        found = expected[f"grad.{name}"]
        torch.testing.assert_close(parameter.grad, found, atol=1e-4 * found.abs().max().item(), rtol=0, msg=name)


@pytest.mark.golden("coop/coprompt/*")
def test_training(learner, golden, case, check_training):
    method, expected, settings = learner(case)
    draw(method, settings["description_used"]["trajectory"])
    loss = method.loss
    method.loss = lambda images, labels: loss(images, labels, images.flip(-1))
    check_training(method, expected, golden("coop/inputs")[1], "sgd", 0.0035)


MUTATIONS = {
    "no text adapter": dict(text_ratio=0.0),
    "no image adapter": dict(image_ratio=0.0),
    "another weight": dict(weight=1.0),
    "another text": dict(number=0),
    "the first view": dict(flip=False),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.golden("coop/coprompt/*")
def test_another_rule_gives_another_loss(learner, golden, case, mutation):
    method, expected, settings = learner(case)
    images, labels = (golden("coop/inputs")[1][name] for name in ("images", "labels"))
    changed = dict(MUTATIONS[mutation])
    draw(method, [changed.pop("number", settings["description_used"]["static"])])
    second = images.flip(-1) if changed.pop("flip", True) else images
    method.options.update(changed)
    method.terms = {name: (method.options["weight"], term) for name, (_, term) in method.terms.items()}
    loss = method.loss(images, labels, second)
    assert abs(loss.item() - expected["loss"].item()) > 2e-5 * expected["loss"].item()


def test_a_class_draws_its_own_text_unless_all_draw_one():
    texts = [["a"], ["b", "c", "d"], ["e", "f"]]
    own = Descriptions(texts, together=False)
    torch.manual_seed(0)
    seen = torch.stack([own.draw() for _ in range(200)])
    assert [sorted(set(column.tolist())) for column in seen.T] == [[0], [0, 1, 2], [0, 1]]
    assert len({tuple(row.tolist()) for row in seen}) == 6
    with pytest.raises(InputError, match="the classes have 1 to 3 texts.*SAME_TEXT false"):
        Descriptions(texts, together=True)
    one = Descriptions([["a", "b"], ["c", "d"]], together=True)
    assert all(len(set(one.draw().tolist())) == 1 for _ in range(20))
    clip = load_clip("embedded")
    one.draw = lambda: torch.tensor([1, 0])
    wanted = torch.nn.functional.normalize(clip.text(["b", "c"]), dim=-1)
    torch.testing.assert_close(one.drawn(clip), wanted)


def config(tmp_path, *words):
    words = ["DATASET.SHOTS", 2, "OPTIM.EPOCHS", 2, "INPUT.TRAIN", "coop", *words]
    return load_config(
        ROOT / "configs/coop/embedded_co_prompt.yaml", [*words, "OUTPUT_DIR", str(tmp_path / "out")], FAMILIES
    )


def test_a_run_names_new_classes_without_the_texts_of_training(tmp_path):
    cfg = config(tmp_path)
    texts = tmp_path / "texts.yaml"
    texts.write_text("".join(f"{name}: [a {name}, the {name}]\n" for name in load_data(cfg).classes))
    cfg = config(tmp_path, "METHOD.OPTIONS.TEXTS", str(texts), "DATASET.CLASSES", "base")
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        result = run(cfg, FAMILIES, folder, progress=False)
    assert result["train_features"] == "pictures" and result["loss"] > 0
    texts.unlink()
    again = load_config(tmp_path / "out/config.yaml", ["DATASET.CLASSES", "new"], FAMILIES)
    assert set(retest(again, FAMILIES, tmp_path / "out", progress=False)["classes"]).isdisjoint(result["classes"])


def test_texts_that_lack_a_class_are_named_before_training(tmp_path):
    texts = tmp_path / "texts.yaml"
    texts.write_text("nothing: [a, b]\n")
    cfg = config(tmp_path, "METHOD.OPTIONS.TEXTS", str(texts))
    with RunFolder(cfg.OUTPUT_DIR) as folder, pytest.raises(InputError, match="has no text for class"):
        run(cfg, FAMILIES, folder, progress=False)


def test_an_official_checkpoint_loads_with_its_adapters(golden, tmp_path):
    """CoPrompt's is of a whole model, frozen towers included."""
    weights = load_file(golden.root / "coop/clip_vit_tiny.safetensors")
    clip = load_clip(golden.root / "coop/clip_vit_tiny.safetensors")
    method = coop.build("co_prompt", clip, ["cat", "dog"])
    state = {name: torch.randn_like(value) for name, value in method.learned_state().items()}
    frozen = {f"text_encoder.{name}": value for name, value in weights.items() if name.startswith("transformer")}
    frozen |= {"prompt_learner.token_prefix": torch.zeros(2, 1, 8), "logit_scale": torch.zeros(())}
    torch.save({"state_dict": {**state, **frozen}, "epoch": 8}, tmp_path / "model.pth.tar-8")
    method.load_learned_state(load_official(tmp_path / "model.pth.tar-8", method))
    assert all(torch.equal(value, state[name]) for name, value in method.learned_state().items())
    with pytest.raises(InputError, match="holds 'adapter_image|lacks"):
        coop.build("maple", clip, ["cat", "dog"]).load_learned_state(
            load_official(tmp_path / "model.pth.tar-8", coop.build("co_prompt", clip, ["cat", "dog"]))
        )


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(image_ratio=1.5), "image_ratio is 1.5; it takes a number from 0 to 1"),
        (dict(text_ratio=-0.1), "text_ratio is -0.1; it takes a number from 0 to 1"),
        (dict(weight=-1.0), "weight is -1; it must be at least 0"),
        (dict(reduction=0), "reduction is 0; it must be at least 1"),
    ],
)
def test_wrong_options_are_named(options, said):
    with pytest.raises(InputError, match=said):
        coop.build("co_prompt", load_clip("embedded"), ["cat", "dog"], **options)
