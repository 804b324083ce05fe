"""Pretraining repeats bit for bit, resumes bit for bit, and writes files that the backbones load."""

import json
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors import safe_open

from promptvision.backbones import load_clip, load_vit
from promptvision.data.world.captions import captions
from promptvision.data.world.render import render
from promptvision.data.world.scene import pretraining, sample
from promptvision.errors import InputError

EMBEDDED = Path(__file__).parents[1] / "promptvision" / "backbones" / "embedded.safetensors"
TOOLS = str(Path(__file__).parents[1] / "tools")
sys.path.append(TOOLS)
from pretraining.clip import Contrastive  # noqa: E402
from pretraining.loop import Training  # noqa: E402
from pretraining.recipe import Recipe  # noqa: E402
from pretraining.towers import encode_image, encode_text, encode_vit  # noqa: E402
from pretraining.vit import Supervised  # noqa: E402

sys.path.remove(TOOLS)

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
TINY = Recipe(
    pairs=160, batch=16, warm_up=4, width=32, layers=2, head_width=16, text_width=32, text_layers=2, text_heads=2,
    embed_dim=32,
)  # fmt: skip
KINDS = pytest.mark.parametrize("kind", [Contrastive, Supervised])


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Use one thread, and ask no questions along these runs, which would take longer than they do."""
    monkeypatch.setattr(Contrastive, "quality", lambda self: {})
    monkeypatch.setattr(Supervised, "quality", lambda self: {})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.enable_grad()
def train(kind, recipe=TINY, **options):
    training = Training(kind(recipe), recipe, **options)
    training.run()
    return training


def weights(training):
    return training.objective.model.state_dict()


def assert_same(ours, theirs):
    assert weights(ours).keys() == weights(theirs).keys()
    assert all(torch.equal(tensor, weights(theirs)[name]) for name, tensor in weights(ours).items())
    assert ours.curve == theirs.curve and len(ours.curve) == 10


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(3)
    scenes = sample(rng, 24, pretraining(1.0))
    return render(scenes), captions(rng, scenes)


@KINDS
def test_a_run_repeats_bit_for_bit_and_another_seed_differs(kind):
    first = train(kind)
    assert_same(first, train(kind))
    other = train(kind, replace(TINY, seed=1))
    assert not all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(first).items())


@KINDS
def test_a_stopped_run_resumes_bit_for_bit(kind, tmp_path, caplog, monkeypatch):
    state = tmp_path / "state.pt"
    stopped = Training(kind(TINY), TINY, state)
    loss = stopped.objective.loss

    def interrupted(*arguments):
        if stopped.step == 6:
            signal.raise_signal(signal.SIGTERM)
        return loss(*arguments)

    monkeypatch.setattr(stopped.objective, "loss", interrupted)
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as ended:
        stopped.run()
    assert ended.value.code == 143 and stopped.step == 7
    assert caplog.messages[-1] == f"Stopped at step 7 of 10: saved in {state}; the same command resumes"
    with caplog.at_level("INFO"):
        assert_same(train(kind, state=state), train(kind))
    assert f"Resumed from {state} at step 7 of 10" in caplog.messages


def test_a_state_of_another_recipe_is_refused(tmp_path):
    state = tmp_path / "state.pt"
    Training(Contrastive(TINY), TINY, state).save()
    with pytest.raises(InputError, match=r"state.pt is of another pretraining: seed 0, not 1$"):
        Training(Contrastive(replace(TINY, seed=1)), replace(TINY, seed=1), state)
    with pytest.raises(InputError, match="kind Contrastive, not Supervised$"):
        Training(Supervised(TINY), TINY, state)
    state.write_bytes(b"nothing")
    with pytest.raises(InputError, match="state.pt is no state of a pretraining: "):
        Training(Contrastive(TINY), TINY, state)


def normalized(images):
    mean, std = (torch.tensor(v)[:, None, None] for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (images / 255 - mean) / std


@torch.no_grad()
def test_the_clip_that_is_written_has_the_features_of_the_trained_model(tmp_path, batch):
    training, (images, texts), path = train(Contrastive), batch, tmp_path / "clip.safetensors"
    training.objective.save(path, {"recipe": json.dumps(asdict(TINY)), "curve": json.dumps(training.curve)})
    loaded, model, words = load_clip(path), training.objective.model, training.objective.words
    seen, read = F.normalize(loaded.image(normalized(images)), dim=-1), F.normalize(loaded.text(texts), dim=-1)
    torch.testing.assert_close(seen, encode_image(model, images), atol=2e-3, rtol=0)
    torch.testing.assert_close(read, encode_text(model, words(texts)), atol=2e-3, rtol=0)
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    assert json.loads(facts["recipe"])["pairs"] == 160 and json.loads(facts["curve"]) == training.curve


@torch.no_grad()
def test_the_vit_that_is_written_has_the_features_of_the_trained_model(tmp_path, batch):
    training, path = train(Supervised), tmp_path / "vit.safetensors"
    training.objective.save(path, {})
    features = load_vit(path)(normalized(batch[0]))
    expected = encode_vit(training.objective.model, batch[0])
    torch.testing.assert_close(features, expected, atol=2e-3 * float(expected.abs().max()), rtol=0)


@torch.no_grad()
def test_the_lean_towers_equal_the_libraries(batch):
    (images, texts), both, vit = batch, Contrastive(TINY), Supervised(TINY).model
    model, rows = both.model, both.words(texts)
    whole = F.pad(rows, (0, model.context_length - rows.shape[1]))
    torch.testing.assert_close(encode_text(model, rows), model.encode_text(whole, normalize=True))
    torch.testing.assert_close(encode_image(model, images), model.encode_image(normalized(images), normalize=True))
    torch.testing.assert_close(encode_vit(vit, images), vit.forward_features(normalized(images))[:, 0])


@torch.no_grad()
def test_words_equal_the_tokenizer(batch):
    words = Contrastive(TINY).words
    rows, tokens = words(batch[1]), open_clip.get_tokenizer("ViT-B-32")(batch[1])
    assert torch.equal(rows.argmax(1), tokens.argmax(1)) and rows.shape[1] == 1 + rows.argmax(1).max()
    said = torch.arange(rows.shape[1]) <= rows.argmax(1)[:, None]
    assert torch.equal(words.ids[rows][said], tokens[:, : rows.shape[1]][said])


@torch.no_grad()
def test_rates_warm_up_stay_and_fall():
    recipe = Recipe(pairs=256_000)
    assert [round(recipe.factor(step), 4) for step in (0, 49, 99, 400, 700, 1000)] == [0.01, 0.5, 1, 1, 0.505, 0.01]


def test_the_shipped_clip_is_of_a_finished_run_of_the_recipe():
    with safe_open(EMBEDDED, "pt") as file:
        facts = {key: json.loads(value) for key, value in file.metadata().items()}
    recipe, last = Recipe(), facts["curve"][-1]
    assert facts["recipe"] == json.loads(json.dumps(asdict(recipe)))
    assert last["pairs"] == recipe.steps * recipe.batch and last["middle"] > 70
