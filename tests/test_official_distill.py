"""PromptKD against the numbers of its official code; its base to new: all classes in training, the base ones tested."""

from pathlib import Path

import pytest
import torch
from official import steps
from safetensors.torch import load_file, save_file

import coop
from promptvision.backbones import load_clip
from promptvision.config import load_config
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.data import load_data
from promptvision.experiment.experiment import build
from promptvision.experiment.run import retest, run
from promptvision.report.comparable import ON_ALL, ON_TEST
from promptvision.report.report import load_report

ROOT = Path(__file__).parents[1]
FAMILIES = {"coop": coop}


@pytest.fixture
def student(golden, tmp_path, computed):
    """`student("coop/promptkd/...")` gives (method with the case's tensors, its numbers)."""

    def load(case, way="auto"):
        settings, expected = golden(case)
        weights = load_file(golden.root / "coop/clip_vit_tiny.safetensors")
        teacher = {name.removeprefix("teacher."): value for name, value in expected.items() if name[:8] == "teacher."}
        replaced = {name: teacher.pop(name) for name in ("visual.proj", "text_projection", "logit_scale")}
        save_file({**weights, **replaced}, tmp_path / "teacher.safetensors")
        facts, names = settings["teacher"], settings["classnames"]
        options = {f"n_ctx_{side}": facts["n_ctx"] for side in ("text", "vision")}
        options |= {f"depth_{side}": facts["depth"] for side in ("text", "vision")}
        clip = load_clip(tmp_path / "teacher.safetensors")
        known = coop.build("ivlp", clip, facts["classnames"], ctx_init=facts["ctx_init"], **options)
        known.load_learned_state(teacher)
        own = computed(load_clip(golden.root / "coop/clip_vit_tiny.safetensors"), way=way)
        options = {key: settings[key] for key in ("n_ctx", "depth", "temperature")} | {"weight": settings["KD_WEIGHT"]}
        method = coop.METHODS["prompt_kd"](own, names, known.requires_grad_(False).eval(), per_class=True, **options)
        start = {name.removeprefix("param."): value for name, value in expected.items() if name[:6] == "param."}
        method.load_learned_state({**method.learned_state(), **start})
        return method.train(), expected

    return load


def near(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.golden("coop/promptkd/*")
def test_values_and_gradients(student, coop_inputs, case, way):
    method, expected = student(case, way)
    images = coop_inputs["images"]
    near(torch.nn.functional.normalize(method.vectors, dim=-1), expected["teacher_text_features"])
    near(method.teacher(images), expected["teacher_logits"])
    near(method.eval()(images), expected["eval_logits"])
    near(method.train()(images), expected["logits"])
    for loss, found in steps(method, images, coop_inputs["labels"]):
        assert loss.item() == pytest.approx(expected["loss"].item(), rel=1e-4)
        check_gradients(found, expected)


def check_gradients(found, expected):
    for name, gradient in found.items():
        wanted = expected[f"grad.{name}"]
        most = expected["grad.VPT_image_trans.conv1.3.bias"] if name.endswith("conv1.0.bias") else wanted  # which is 0
        torch.testing.assert_close(gradient, wanted, atol=1e-4 * most.abs().max().item(), rtol=0, msg=name)


@pytest.mark.golden("coop/promptkd/*")
def test_training(student, coop_inputs, case, check_training):
    """Everything is decayed, and the statistics of the batch norm run along."""
    method, expected = student(case)
    check_training(method, expected, coop_inputs, "sgd", 0.005)
    # the batch norm of six images amplifies rounding: computed in double precision, logits are 1.5e-4 from theirs
    torch.testing.assert_close(method.eval()(coop_inputs["images"]), expected["traj.eval_logits"], atol=2.5e-4, rtol=0)


def test_names_of_earlier_runs_and_of_official_checkpoints(tmp_path):
    names, clip = ["cat", "dog"], load_clip("embedded")
    method, other = (coop.build("prompt_kd", clip, names) for _ in range(2))
    state = method.learned_state()
    earlier = {
        name.replace("VPT_image_trans.conv1.", "projector."): value.flatten(1) if value.dim() == 4 else value
        for name, value in state.items()
    }
    other.load_learned_state(earlier)
    assert all(torch.equal(value, state[name]) for name, value in other.learned_state().items())
    frozen = {"image_encoder.conv1.weight": torch.zeros(2), "text_encoder.positional_embedding": torch.zeros(2)}
    torch.save({"state_dict": {**state, **frozen}, "epoch": 20}, tmp_path / "model.pth.tar-20")
    found = coop.load_checkpoint(tmp_path / "model.pth.tar-20", method)
    assert found.keys() == state.keys()


def preset(name, *words):
    return load_config(ROOT / f"configs/coop/{name}.yaml", words, FAMILIES)


@pytest.mark.parametrize("dataset", ["dtd", "fgvc_aircraft", "oxford_flowers", "imagenet", "eurosat"])
def test_settings_of_base_to_new(dataset):
    cfg = preset("vit_b16_prompt_kd", "DATASET.NAME", dataset, "DATASET.CLASSES", "base")
    weight = 1000 if dataset in ("imagenet", "eurosat") else 200
    options, optim = cfg.METHOD.OPTIONS, cfg.OPTIM
    found = (options.WEIGHT, options.PER_CLASS, options.TEMPERATURE, options.DEPTH, options.N_CTX)
    assert found == (weight, True, 1.0, 9, 4)
    assert (optim.NAME, optim.LR, optim.EPOCHS, optim.BATCH_SIZE, optim.WEIGHT_DECAY) == ("sgd", 0.005, 20, 8, 5e-4)
    assert (cfg.DATASET.SHOTS, cfg.DATASET.TRAIN_CLASSES, cfg.DATASET.VALIDATION) == (0, "all", "test")
    assert (cfg.TRAIN.KEEP, cfg.TRAIN.EVAL_EVERY, cfg.BACKBONE.NAME) == ("best", 1, "ViT-B-16")


def test_settings_across_datasets_and_of_the_teacher():
    cfg = preset("vit_b16_prompt_kd_cross_datasets", "DATASET.NAME", "dtd")
    assert (cfg.METHOD.OPTIONS.WEIGHT, cfg.METHOD.OPTIONS.DEPTH, cfg.TRAIN.KEEP) == (1000, 3, "last")
    assert (cfg.DATASET.TRAIN_CLASSES, cfg.DATASET.VALIDATION) == ("same", "own")
    cfg = preset("prompt_src_vit_l14_teacher")
    assert (cfg.METHOD.NAME, cfg.BACKBONE.NAME, cfg.INPUT.SIZE) == ("prompt_src", "ViT-L-14", 224)
    assert (cfg.OPTIM.LR, cfg.OPTIM.BATCH_SIZE, cfg.METHOD.OPTIONS.DEPTH_VISION) == (0.005, 8, 9)


def config(tmp_path, *words):
    (tmp_path / "c.yaml").write_text(
        "_BASE_: " + str(ROOT / "configs/coop/embedded_prompt_kd.yaml") + "\nOPTIM: {EPOCHS: 2}\n"
        "DATASET: {SHOTS: 2, CLASSES: base, TRAIN_CLASSES: all, VALIDATION: test}\nTRAIN: {KEEP: best, EVAL_EVERY: 1}\n"
        f"OUTPUT_DIR: {tmp_path / 'out'}\nCACHE_DIR: ''\n"
    )
    return load_config(tmp_path / "c.yaml", words, FAMILIES)


def test_base_to_new_of_all_classes(tmp_path):
    """Trained on all classes, selected and tested among the base ones, and the selection is marked."""
    cfg = config(tmp_path)
    data = load_data(cfg)
    assert len(data.trained) > len(data.classes) and data.trained[: len(data.classes)] == data.classes
    assert len(data.images.train) == 2 * len(data.trained)
    assert {label for _, label, _ in data.images.test} == set(range(len(data.classes)))
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        result = run(cfg, FAMILIES, folder, progress=False)
    assert result["classes"] == data.classes and len(result["per_class"]) == len(data.classes)
    assert result["accuracy"] == pytest.approx(result["best_val_accuracy"])
    base = retest(load_config(tmp_path / "out/config.yaml", [], FAMILIES), FAMILIES, tmp_path / "out", progress=False)
    assert base["accuracy"] == pytest.approx(result["accuracy"]) and base["classes"] == data.classes
    words = ["DATASET.CLASSES", "new"]
    new = retest(load_config(tmp_path / "out/config.yaml", words, FAMILIES), FAMILIES, tmp_path / "out", progress=False)
    assert new["classes"] == data.trained[len(data.classes) :]
    (table,) = [table for table in load_report(tmp_path / "out").tables if table.title.startswith("Base to new")]
    assert all(any(note in line for line in table.notes) for note in (ON_ALL, ON_TEST))


def test_new_classes_are_no_test_of_training_on_all(tmp_path):
    cfg = config(tmp_path, "DATASET.CLASSES", "new")
    with RunFolder(cfg.OUTPUT_DIR) as folder, pytest.raises(InputError, match="trains for DATASET.CLASSES base or all"):
        build(cfg, FAMILIES, folder, progress=False)
