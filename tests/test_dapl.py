"""DAPL against the numbers of the official implementation; its objective, its loader, whole runs."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from official import near_each, steps
from PIL import Image

import coop
import vpt
from coop.parts.official_checkpoints import load_official
from promptvision.backbones import load_clip
from promptvision.backbones.compute import Compute
from promptvision.config import load_config
from promptvision.data.unlabelled import WithUnlabelled, target_epochs
from promptvision.engine.optim import build_optimizer, learning_rates, set_rate
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import load_run, run
from promptvision.experiment.schedule import rates

ROOT = Path(__file__).parents[1]
FAMILIES = {"coop": coop, "vpt": vpt}
NAMES = ["cat", "golden_retriever", "snapdragon"]
OPTIONS = {"src": "source_domain", "tgt": "target_domain", "T": "temperature", "TAU": "threshold", "U": "weight"}


def learned(golden, settings, expected, way):
    clip = load_clip(golden.root / f"coop/{settings['backbone']}.safetensors", compute=Compute(way))
    options = {OPTIONS.get(name, name): value for name, value in settings["settings"].items()}
    method = coop.build("dapl", clip, settings["classnames"], **options)
    method.load_learned_state({name: expected[name] for name in ("ctx", "domain_vectors")})
    return method


def target(coop_inputs, expected):
    """The target's images; the compact set holds their features, which take their place."""
    return coop_inputs["target_images"] if "target_images" in coop_inputs else expected["target_features"]


def all_logits(method, images):
    """Return the logits of the source's prompts, the target's and zero-shot, side by side."""
    texts = [method.domain_features(0), method.domain_features(1), method.features]
    return torch.cat([method.logits(method.image_features(images), text) for text in texts], dim=1)


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.golden("coop/dapl/[!l]*")
def test_logits_losses_and_gradients(case, way, golden, coop_inputs):
    settings, expected = golden(case)
    method, unlabelled = learned(golden, settings, expected, way), target(coop_inputs, expected)
    torch.testing.assert_close(all_logits(method, coop_inputs["images"]), expected["logits_x"], atol=1e-4, rtol=0)
    torch.testing.assert_close(all_logits(method, unlabelled), expected["logits_u"], atol=1e-4, rtol=0)
    labels, sure = method.pseudo_labels(method.image_features(unlabelled))
    assert torch.equal(labels, expected["pseudo_label"]) and torch.equal(sure.float(), expected["mask"].float())
    torch.testing.assert_close(method(coop_inputs["images"]), expected["test_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(method.predictor()(coop_inputs["images"]), expected["test_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        method.loss(coop_inputs["images"], coop_inputs["labels"]), expected["loss_x"], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(method.target_loss(unlabelled), expected["loss_u"], atol=1e-4, rtol=0)
    for loss, found in steps(method, coop_inputs["images"], coop_inputs["labels"], unlabelled):
        torch.testing.assert_close(loss, expected["loss"], atol=1e-4, rtol=0)
        assert set(found) == {"ctx", "domain_vectors"}
        near_each(found, expected, "grad.", 1e-4)


@pytest.mark.parametrize("way", ["plain", "fast"])
def test_trajectories(way, golden, coop_inputs):
    names = sorted(path.stem for path in golden.root.glob("coop/dapl/[!l]*.json"))
    cases = [golden(f"coop/dapl/{name}") for name in names]
    trained = [(settings, expected) for settings, expected in cases if "traj.loss" in expected]
    assert trained
    for settings, expected in trained:
        method, unlabelled = learned(golden, settings, expected, way), target(coop_inputs, expected)
        each = learning_rates("cosine", 3e-3, 4, warmup_epochs=1, warmup_type="linear", count=12)
        assert each == pytest.approx(expected["traj.lr"].tolist(), abs=1e-12)
        optimizer = build_optimizer("sgd", method.named_parameters(), 3e-3, 5e-4, 0.9)
        for step, rate in enumerate(each):
            set_rate(optimizer, rate)
            loss = method.loss(coop_inputs["batch_images"][step % 3], coop_inputs["batch_labels"][step % 3], unlabelled)
            assert loss.item() == pytest.approx(expected["traj.loss"][step].item(), rel=1e-3)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for name, tensor in method.learned_state().items():
            torch.testing.assert_close(tensor, expected[f"traj.{name}_final"], rtol=1e-3, atol=1e-4)


def test_the_prompts_are_the_official_ones(golden):
    """Every token; underscores stay in the names of domains and go from those of classes."""
    settings, expected = golden("coop/dapl/csc")
    method = learned(golden, settings, expected, "plain")
    text, known, count = method.backbone.text, settings["settings"], len(settings["classnames"])
    for domain, name in enumerate((known["src"], known["tgt"])):
        encoder = method.encoders[domain]
        rows = settings["prompts"][domain * count : (domain + 1) * count]
        assert all(f" , a {name} image.." in row for row in rows)
        wanted = text.tokenize(rows)[:, : encoder.ids.shape[1]]
        free = encoder.slots < 0
        assert (~free).sum(dim=1).tolist() == [known["n_ctx"] + known["n_dmx"]] * count
        assert torch.equal(encoder.ids[free], wanted[free])


def test_the_published_preset_swings_as_the_official_code_does(golden):
    expected = golden("coop/dapl/lr_per_iteration")[0]["lr_at_iteration"]
    cfg = load_config(ROOT / "configs/coop/dapl_rn50.yaml", [], FAMILIES)
    assert rates(cfg, batches=10)[: len(expected)] == pytest.approx(expected[:250], abs=1e-12)
    assert len(rates(cfg, batches=10)) == 250
    sound = load_config(ROOT / "configs/coop/dapl_rn50.yaml", ["OPTIM.SCHEDULE_PER", "epoch"], FAMILIES)
    falling = rates(sound, batches=10)
    assert len(falling) == 25 and falling[1:] == sorted(falling[1:], reverse=True)


@pytest.fixture
def clip():
    return load_clip("embedded")


def test_nothing_sure_is_no_term_and_no_nan(clip):
    method = coop.build("dapl", clip, NAMES, n_ctx=2, n_dmx=2, temperature=1000.0, threshold=0.9)
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    assert method.target_loss(images) == 0
    method.loss(images, labels, images).backward()
    assert method.ctx.grad.isfinite().all() and method.ctx.grad.any()
    assert not method.domain_vectors.grad[1].any() and method.domain_vectors.grad[0].any()


def test_the_target_term_by_hand(clip):
    torch.manual_seed(0)
    source, images, labels = torch.randn(2, 3, 32, 32), torch.randn(8, 3, 32, 32), torch.tensor([0, 1])
    confidence, guess = (coop.build("zero_shot", clip, NAMES)(images) / 3).softmax(dim=1).max(dim=1)
    threshold = confidence.sort().values[3:5].mean().item()
    method = coop.build("dapl", clip, NAMES, n_ctx=2, n_dmx=2, threshold=threshold, temperature=3.0, weight=0.3)
    kept = [i for i in range(8) if confidence[i] >= threshold]
    assert 0 < len(kept) < 8
    total = sum(F.cross_entropy(method(images[[i]]), guess[[i]]) for i in kept) / len(kept)
    wanted = method.loss(source, labels) + 0.3 * total
    torch.testing.assert_close(method.loss(source, labels, images), wanted)


def test_other_classes_and_class_specific_contexts(clip):
    method, images = (
        coop.build("dapl", clip, NAMES, n_ctx=2, n_dmx=2, target_domain="sketch"),
        torch.randn(2, 3, 32, 32),
    )
    other = method.for_classes(["snapdragon", "cat"])
    torch.testing.assert_close(other(images), method(images)[:, [2, 0]], atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="class-specific contexts"):
        coop.build("dapl", clip, NAMES, csc=True).for_classes(["cat"])


def test_official_files_are_read(clip, tmp_path):
    method = coop.build("dapl", clip, NAMES, n_ctx=2, n_dmx=3)
    state = {**method.learned_state(), "token_prefix": torch.zeros(6, 1, 8), "token_suffix": torch.zeros(6, 70, 8)}
    torch.save({"state_dict": state, "epoch": 25}, tmp_path / "model-best.pth.tar")
    again = coop.build("dapl", clip, NAMES, n_ctx=2, n_dmx=3)
    again.load_learned_state(load_official(tmp_path / "model-best.pth.tar", again))
    assert torch.equal(again.domain_vectors, method.domain_vectors) and torch.equal(again.ctx, method.ctx)


BAD = {
    "domain vectors": (dict(n_dmx=0), "n_dmx is 0"),
    "contexts": (dict(n_ctx=0), "n_ctx is 0"),
    "temperature": (dict(temperature=0.0), "temperature is 0.0"),
    "threshold": (dict(threshold=1.5), "threshold is 1.5"),
    "too long": (dict(n_ctx=60, n_dmx=16), "takes 75 between start and end"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options(case, clip):
    options, sentence = BAD[case]
    with pytest.raises(InputError, match=sentence):
        coop.build("dapl", clip, NAMES, **options)


class Numbers:
    """`count` batches an epoch; a batch says which it is."""

    source = "pictures"

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def epoch(self, epoch, start=0):
        for batch in range(start, self.count):
            yield torch.tensor([epoch, batch]), torch.tensor([batch])


@pytest.mark.parametrize(("labelled", "unlabelled"), [(3, 2), (2, 5), (4, 4), (1, 3)])
def test_target_batches_follow_one_another_wherever_a_run_is_resumed(labelled, unlabelled):
    loader = WithUnlabelled(Numbers(labelled), Numbers(unlabelled))
    seen = [[tensor.tolist() for tensor in batch] for epoch in range(5) for batch in loader.epoch(epoch)]
    steps = range(5 * labelled)
    assert [row[0] for row in seen] == [list(divmod(step, labelled)) for step in steps]
    assert [row[2] for row in seen] == [list(divmod(step, unlabelled)) for step in steps]
    for step in steps:
        epoch, batch = divmod(step, labelled)
        rest = [[tensor.tolist() for tensor in found] for found in loader.epoch(epoch, batch)]
        assert rest == seen[step : (epoch + 1) * labelled]
    used = sorted({row[2][0] for row in seen[2 * labelled :]})
    assert target_epochs(range(2, 5), labelled, unlabelled) == used


QUICK = ["DATASET.SHOTS", "2", "OPTIM.EPOCHS", "2", "METHOD.OPTIONS.N_CTX", "2", "METHOD.OPTIONS.N_DMX", "2"]
PAIR = ["DATASET.SOURCE", "photo", "DATASET.TARGET", "sketch", "OPTIM.BATCH_SIZE", "24", "CACHE_DIR", ""]


def configured(folder, *words):
    return load_config(
        ROOT / "configs/coop/embedded_dapl.yaml", [*QUICK, *PAIR, "OUTPUT_DIR", folder, *words], FAMILIES
    )


def trained(folder, *words, resume=False):
    cfg = configured(str(folder), *words)
    with RunFolder(folder, resume=resume) as open_folder:
        return run(cfg, FAMILIES, open_folder, progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dapl") / "run"
    return folder, trained(folder)


def test_a_whole_run_sees_the_target_unlabelled_and_is_tested_on_it(finished):
    folder, result = finished
    assert result["pictures"]["unlabelled"] == 1536 and result["pictures"]["test"] == 1440
    assert result["steps"] == 4 and result["accuracy"] > 100 / 24
    method = load_run(configured(str(folder), "DATASET.TARGET", "photo"), FAMILIES, folder)
    assert (method.options["source_domain"], method.options["target_domain"]) == ("photo", "sketch")


def test_a_stopped_run_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
    folder, _ = finished
    calls, loss = [], coop.METHODS["dapl"].loss

    def stopping(self, *batch):
        calls.append(len(batch))
        if len(calls) == 3:  # the first batch of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, *batch)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(coop.METHODS["dapl"], "loss", stopping)
        trained(tmp_path / "run")
    assert calls == [3, 3, 3]
    trained(tmp_path / "run", resume=True)
    places = (folder, tmp_path / "run")
    rows = [[json.loads(row)["loss"] for row in (place / "metrics.jsonl").open()] for place in places]
    assert len(rows[0]) == 4 and rows[0] == rows[1]
    states = [load_run(configured(str(folder)), FAMILIES, place).learned_state() for place in places]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_features_in_place_of_images_change_nothing(finished, tmp_path):
    result = trained(tmp_path / "run", "CACHE_DIR", str(tmp_path / "cache"))
    assert result["train_features"] == "computed" and result["accuracy"] == finished[1]["accuracy"]


def refusal(folder, *words):
    with pytest.raises(InputError) as error:
        trained(folder, *words)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_adapted_is_one_sentence(tmp_path):
    none = ["DATASET.NAME", "world_shapes", "DATASET.SOURCE", "", "DATASET.TARGET", ""]
    said = refusal(tmp_path / "a", *none)
    assert said.startswith("dataset 'world_shapes' has no unlabelled images, which dapl adapts to")
    assert "DATASET.SOURCE" in said
    assert "has no training images: it can only be a target" in refusal(tmp_path / "b", "DATASET.SOURCE", "second")


@pytest.mark.parametrize("folders", [0, 65])
def test_a_target_without_images_is_named(folders, tmp_path):
    """Office-Home as it lies on disk, with a target whose folder, or whose classes' folders, are empty."""
    names = [f"thing_{number:02}" for number in range(65)]
    for name in names:
        (tmp_path / "office_home/art" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "office_home/art" / name / "00001.jpg")
    for place in ["", *names[:folders]]:
        (tmp_path / "office_home/clipart" / place).mkdir(parents=True, exist_ok=True)
    words = ["DATASET.NAME", "office_home", "DATASET.ROOT", str(tmp_path), "DATASET.SOURCE", "art"]
    said = refusal(tmp_path / "run", *words, "DATASET.TARGET", "clipart")
    assert "office_home/clipart" in said
    assert ("holds no images" if folders else "should hold 65 class folders, not 0") in said
