"""2SFS: the numbers of the official code in both stages, what each stage learns, and runs resumed in either."""

import copy
import os
import signal

import pytest
import torch
from official import near_each, steps

import coop
from promptvision.backbones import load_clip
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.engine.optim import build_optimizer, learning_rates, set_rate
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment import load_run, run
from promptvision.experiment.schedule import rates, stage_starts

NAMES = ["cat", "dog", "old_house"]


@pytest.fixture(scope="module")
def clip(golden):
    return load_clip(golden.root / "coop/clip_vit_tiny.safetensors")


def official(case, golden, clip):
    """The method with the official tensors, the settings, the expected tensors and the training batches."""
    settings, expected = golden(case)
    wanted = settings["settings"]
    method = coop.build(
        "two_stage", clip, settings["classnames"], outer_norms=False, templates=[wanted["template"]],
        encoder=wanted["ln_modality"], vision_start=wanted["ln_vision_start"], text_start=wanted["ln_text_start"],
    )  # fmt: skip
    method.load_learned_state({k.removeprefix("param."): v for k, v in expected.items() if k.startswith("param.")})
    inputs = golden("coop/inputs")[1]
    return method, settings, expected, inputs


def near(found, wanted, share=1e-4):
    torch.testing.assert_close(found, wanted, atol=share * wanted.abs().max().item(), rtol=0)


@pytest.mark.parametrize("way", ["fast", "plain"])
@pytest.mark.golden("coop/twosfs/*")
def test_values_and_gradients_are_official(case, way, golden, clip, computed):
    method, _, expected, inputs = official(case, golden, computed(clip, way=way))
    near(method(inputs["images"]), expected["logits"])
    gradients = {name: value for name, value in expected.items() if name.startswith("grad.")}
    assert {f"grad.{name}" for name in method.learned()} - {"grad.classifier"} == gradients.keys()
    for loss, found in steps(method, inputs["images"], inputs["labels"]):
        near(loss, expected["loss"])
        assert found.pop("classifier") is None
        near_each(found, expected, "grad.", 1e-4)


@pytest.mark.golden("coop/twosfs/*")
def test_both_stages_and_the_names_of_the_test_are_official(case, golden, clip):
    method, settings, expected, inputs = official(case, golden, clip)
    wanted = settings["settings"]
    optimizer = build_optimizer("adamw", method.named_parameters(), wanted["lr"], wanted["wd"])
    for stage, count in enumerate((wanted["n1"], wanted["n2"])):
        method.start_stage(stage)
        if stage:
            check_start_of_second(method, expected, inputs)
        for step, rate in enumerate(learning_rates("cosine", wanted["lr"], count, min_lr=1e-6)):
            assert rate == pytest.approx(expected[f"stage{stage + 1}.lr"][step].item())
            set_rate(optimizer, rate)
            loss = method.train().loss(inputs["batch_images"][step % 3], inputs["batch_labels"][step % 3])
            assert loss.item() == pytest.approx(expected[f"stage{stage + 1}.loss"][step].item(), rel=1e-4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in expected.items():
        if name.startswith("stage1.final."):
            near(method.get_parameter(name.removeprefix("stage1.final.")).data, value, 1e-3)
    near(method.classifier.data, expected["stage2.classifier_final"])
    with torch.no_grad():
        near(method.eval()(inputs["images"]), expected["test.logits_base"])
        for kind in ("new", "mixed"):
            other = method.for_classes(settings[f"{kind}_classnames"])
            near(other.predictor()(inputs["images"]), expected[f"test.logits_{kind}"])


def check_start_of_second(method, expected, inputs):
    near(method.classifier.data, expected["stage2.classifier_init"])
    near(method(inputs["images"]), expected["stage2.logits"])
    loss = method.loss(inputs["images"], inputs["labels"])
    near(loss, expected["stage2.loss_static"])
    loss.backward()
    near(method.classifier.grad, expected["stage2.grad.classifier"])
    assert all(each.grad is None for name, each in copy.deepcopy(method).named_parameters() if name != "classifier")
    method.zero_grad()


@pytest.mark.parametrize(
    "options, count, example",
    [
        ({"tune": "ln"}, 12 * 2 + 3 * 2, "visual.ln_pre.weight"),
        ({"tune": "ln", "encoder": "text"}, 12 + 2, "ln_final.bias"),
        ({"tune": "ln", "outer_norms": False, "vision_start": 2, "text_start": 1}, 4 + 8, None),
        ({"tune": "bitfit", "encoder": "vision"}, 3 * 6, "visual.transformer.resblocks.0.attn.in_proj_bias"),
        ({"tune": "lora", "text_start": 2}, 18 + 6, "transformer.resblocks.2.attn.q_proj.w_lora_A"),
    ],
)
@pytest.mark.parametrize("way", ["fast", "plain"])
def test_each_stage_changes_its_tensors_alone(options, count, example, way, clip, computed):
    clip = computed(clip, way=way)
    torch.manual_seed(0)
    method = coop.build("two_stage", clip, NAMES, **options, **({"dropout": 0.0} if options["tune"] == "lora" else {}))
    frozen = {name: value.clone() for name, value in clip.state_dict().items()}
    learned = method.learned()
    assert len(learned) == count + 1 and (example is None or example in learned)
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4) % 3
    start = method(images)
    near(start, coop.build("zero_shot", clip, NAMES)(images))
    optimizer = build_optimizer("adamw", method.named_parameters(), 0.01, 0.1)
    for stage in (0, 1):
        method.start_stage(stage)
        before = method.learned_state()
        for _ in range(2):
            optimizer.zero_grad()
            method.train().loss(images, labels).backward()
            optimizer.step()
        moved = {name for name, value in method.learned_state().items() if not torch.equal(value, before[name])}
        assert moved == ({"classifier"} if stage else set(learned) - {"classifier"})
    assert all(torch.equal(value, frozen[name]) for name, value in clip.state_dict().items())


def test_a_copy_and_the_double_of_a_method_are_whole(clip):
    method = coop.build("two_stage", clip, NAMES)
    images = torch.randn(2, 3, 64, 64)
    other = copy.deepcopy(method)
    other.get_parameter("visual.ln_post.bias").data += torch.randn(128)
    assert not torch.allclose(other(images), method(images), atol=1e-2)
    double = other.double()
    near(double(images.double()).float(), copy.deepcopy(other).float()(images))


def test_new_classes_are_named_by_the_adapted_texts(clip):
    method, images = coop.build("two_stage", clip, NAMES, templates=["a {}.", "one {}."]), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for name, tensor in method.named_parameters():
            tensor += 0.1 * torch.randn_like(tensor) * (not name.startswith("backbone"))
    method.load_learned_state(method.learned_state())
    texts = copy.deepcopy(method)
    texts.stage = 0
    other = method.for_classes(["old_house", "bird", "cat"])
    torch.testing.assert_close(other(images)[:, [2, 0]], method(images)[:, [0, 2]])
    assert torch.equal(other.classifier, method.classifier)
    torch.testing.assert_close(other(images)[:, 1], texts.for_classes(["bird", "cat"])(images)[:, 0])


@pytest.mark.parametrize(
    "options, said",
    [
        ({"tune": "norms"}, "tune 'norms'"),
        ({"encoder": "image"}, "encoder 'image'"),
        ({"stage_one": 1.0}, "stage_one is 1; the share of the first stage is above 0 and below 1"),
        ({"vision_start": 3}, "there is no block 3 to tune from"),
        ({"tune": "lora", "text_start": 7}, "there is no block 7"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said, clip):
    with pytest.raises(InputError, match=said):
        coop.build("two_stage", clip, NAMES, **options)


def test_a_tower_without_blocks_is_refused(golden):
    with pytest.raises(InputError, match="has no blocks whose norms"):
        coop.build("two_stage", load_clip(golden.root / "coop/clip_rn_tiny.safetensors"), NAMES)


CONFIG = """
METHOD: {FAMILY: coop, NAME: two_stage}
BACKBONE: {NAME: embedded}
DATASET: {NAME: world_sketches, SHOTS: 1, CLASSES: base}
OPTIM: {NAME: adamw, LR: 0.001, ITERATIONS: 10, SCHEDULE_PER: step, MIN_LR: 1e-6, WARMUP_EPOCHS: 0, BATCH_SIZE: 4}
INPUT: {TRAIN: center}
TRAIN: {DEVICE: cpu, THREADS: 1}
"""


def config(tmp_path, *words, out="run"):
    (tmp_path / "c.yaml").write_text(CONFIG)
    return load_config(tmp_path / "c.yaml", [*words, "OUTPUT_DIR", str(tmp_path / out)], FAMILIES)


def test_the_schedule_starts_again_in_each_stage(tmp_path):
    cfg = config(tmp_path)
    assert stage_starts(cfg, 3, (0.6, 0.4)) == [0, 6]
    each = learning_rates("cosine", 0.001, 6, min_lr=1e-6) + learning_rates("cosine", 0.001, 4, min_lr=1e-6)
    assert rates(cfg, 3, (0.6, 0.4)) == each
    assert rates(cfg, 3) == learning_rates("cosine", 0.001, 10, min_lr=1e-6)
    cfg = config(tmp_path, "OPTIM.SCHEDULE_PER", "epoch")
    assert stage_starts(cfg, 3, (0.6, 0.4)) == [0, 6]
    assert rates(cfg, 3, (0.6, 0.4))[:6] == pytest.approx([0.001] * 3 + [0.0005005] * 3)


def test_every_stage_has_a_step_or_training_is_refused(tmp_path):
    cfg = config(tmp_path)
    assert stage_starts(cfg, 3, (0.01, 0.99)) == [0, 1] and stage_starts(cfg, 3, (0.99, 0.01)) == [0, 9]
    assert len(rates(cfg, 3, (0.01, 0.99))) == 10
    assert stage_starts(config(tmp_path, "OPTIM.EPOCHS", "0"), 3, (0.6, 0.4)) == [0, 0]
    for words, given in (([], "1 step"), (["OPTIM.SCHEDULE_PER", "epoch"], "1 epoch")):
        few = config(tmp_path, "OPTIM.ITERATIONS", "1", *words)
        with pytest.raises(InputError, match=f"training has 2 stages and {given}; set OPTIM.EPOCHS or OPTIM.ITERATIO"):
            stage_starts(few, 3, (0.6, 0.4))


def test_patience_is_refused(tmp_path):
    cfg = config(tmp_path, "TRAIN.PATIENCE", "2", "TRAIN.EVAL_EVERY", "1")
    with pytest.raises(InputError, match="what two_stage learns in each of its stages depends on the number of epochs"):
        trained(cfg)


def trained(cfg, **how):
    with RunFolder(cfg.OUTPUT_DIR, **how) as folder:
        return run(cfg, FAMILIES, folder, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [4, 6, 8])
def test_a_run_resumed_in_either_stage_is_bit_identical(tmp_path, stop, monkeypatch):
    whole, cfg = trained(config(tmp_path)), config(tmp_path, out="stopped")
    method, calls = FAMILIES["coop"].METHODS["two_stage"], []

    def stopping(self, images, labels, loss=method.loss):
        calls.append(1)
        if len(calls) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, images, labels)

    monkeypatch.setattr(method, "loss", stopping)
    with pytest.raises(SystemExit):
        trained(cfg)
    assert len(calls) == stop
    again = trained(cfg, resume=True)
    first, second = (load_run(each, FAMILIES, each.OUTPUT_DIR) for each in (config(tmp_path), cfg))
    assert first.stage == second.stage == 1 and again["accuracy"] == whole["accuracy"]
    assert all(torch.equal(value, second.learned_state()[name]) for name, value in first.learned_state().items())
