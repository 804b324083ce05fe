"""VQT against the numbers of its official code; its queries change nothing, and rows of the cache give the same."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from official_vit import CLASSES, TOWERS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import vpt
from promptvision.backbones import load_vit
from promptvision.backbones.image import entered
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment import loaders
from promptvision.experiment.run import run

ROOT = Path(__file__).parents[1]


def options_of(facts):
    """Our options of a golden case."""
    told = {"NUM_QUERY_TOKENS": 1, **facts["h2t_cfg"]}
    ours = {"num_queries": told["NUM_QUERY_TOKENS"], "normalized": told.get("NORMALIZE_FEATS", True)}
    return ours | {"pooled": told.get("POOLING_FEATS", False), "weighted": told.get("WEIGHTED_SUM_FEATS", False)}


def test_every_case_of_the_official_code(vit, inputs, golden_cases, check_official):
    for facts, expected in golden_cases("vpt/vqt").values():
        method = vpt.build("vqt", vit, CLASSES, **options_of(facts))
        check_official(method, facts, expected)
        assert method.features(inputs["images"]).shape[1] == facts["features"]
        if "features" in expected:
            torch.testing.assert_close(method.features(inputs["images"]), expected["features"], atol=5e-5, rtol=0)


@pytest.mark.parametrize("change", [dict(normalized=False), dict(pooled=True), dict(weighted=True)])
def test_every_choice_changes_the_feature(vit, inputs, change):
    torch.manual_seed(0)
    method = vpt.build("vqt", vit, CLASSES, num_queries=2)
    other = vpt.build("vqt", vit, CLASSES, num_queries=2, **change)
    other.query_prompt_embeddings.data = method.query_prompt_embeddings.data
    ours, theirs = (each.features(inputs["images"]) for each in (method, other))
    assert ours.shape != theirs.shape or (ours - theirs).abs().max() > 1e-2


@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("kind", TOWERS)
def test_queries_are_tokens_that_no_other_token_sees(kind, queries):
    """The same as queries among the tokens of the whole block, hidden from every key; folded, or, if many, not."""
    tower = TOWERS[kind]()
    method = vpt.build("vqt", tower, CLASSES, num_queries=queries, normalized=False).double()
    images = torch.randn(2, 3, 32, 32).double()
    tokens, answers = tower.enter(tower.embed(images)), []
    for index, block in enumerate(tower.blocks):
        own = method.query_prompt_embeddings[index].expand(2, -1, -1)
        view = tower.view(index)
        mask = torch.zeros(2 * (queries + tokens.shape[1],)).double()
        mask[:, :queries] = -torch.inf
        answers.append(view(torch.cat([own, tokens], dim=1), mask)[:, :queries].flatten(1))
        tokens = block(tokens)
    wanted = torch.cat([tower.pool(tokens), *answers], dim=1)
    torch.testing.assert_close(method.features(images), wanted, atol=1e-10, rtol=0)
    torch.testing.assert_close(tower.pool(tokens), tower(images))


@pytest.mark.parametrize("options", [{}, dict(num_queries=3, dropout=0.3), dict(weighted=True, num_queries=2)])
@pytest.mark.parametrize("kind", TOWERS)
def test_rows_of_the_cache_give_the_same_bits(kind, options):
    method = vpt.build("vqt", TOWERS[kind](), CLASSES, **options).train()
    images, labels, found = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2]), []
    for given in (images, entered(method.backbone, images, *method.kept_states)):
        torch.manual_seed(1)
        method.zero_grad()
        loss = method.loss(given, labels)
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in method.trained().values())])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_dropout_is_drawn_for_each_image(vit, inputs):
    method = vpt.build("vqt", vit, CLASSES, dropout=0.5).train()
    one, other = method.features(inputs["images"][:1].expand(2, -1, -1, -1))
    assert torch.equal(one[:64], other[:64]) and not torch.allclose(one[64:], other[64:])
    assert torch.equal(*method.eval().features(inputs["images"][:1].expand(2, -1, -1, -1)))


def run_of(path, *words):
    """The result of a run on a few digits."""
    given = ["DATASET.NAME", "digits", "DATASET.SHOTS", "2", "OPTIM.EPOCHS", "2", "OUTPUT_DIR", str(path), *words]
    cfg = load_config(ROOT / "configs/vpt/embedded_vqt.yaml", given, FAMILIES)
    with RunFolder(path) as folder:
        return run(cfg, FAMILIES, folder, progress=False)


@pytest.mark.slow
def test_a_run_keeps_what_enters_every_block_of_training_images(tmp_path):
    """With the cache and without it, a run learns the same, whether the rows were kept before or not."""
    found = []
    for name, cache in (("kept", "cache"), ("again", "cache"), ("images", "")):
        result = run_of(tmp_path / name, "CACHE_DIR", str(tmp_path / cache) if cache else "")
        found.append((result["train_features"], result["loss"], result["accuracy"]))
    assert [source for source, *_ in found] == ["computed", "cache", "pictures"]
    assert found[0][1:] == found[1][1:] and found[0][1:] == pytest.approx(found[2][1:], abs=1e-6)


def test_rows_that_would_fill_the_disk_are_not_kept(tmp_path, monkeypatch):
    cache = str(tmp_path / "cache" / "of images")
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    assert run_of(tmp_path / "run", "CACHE_DIR", cache)["train_features"] == "pictures"


def flops(method, images, labels):
    with FlopCounterMode(display=False) as counter:
        method.loss(images, labels).backward()
    return counter.get_total_flops()


def test_a_step_costs_a_forward_pass_of_the_frozen_tower():
    """Each query needs the projections and the MLP of one token, forward and backward, and two products with tokens."""
    with torch.device("meta"):
        tower = load_vit("vit_base_patch16_224", "none")
        images, labels = torch.empty(8, 3, 224, 224), torch.zeros(8, dtype=torch.long)
        method = vpt.build("vqt", tower, CLASSES)
        kept = entered(tower, images, *range(12))
        linear = flops(vpt.build("linear", tower, CLASSES), images, labels)
        assert flops(method, images, labels) < 1.03 * linear
        assert flops(method, kept, labels) < 0.03 * linear


def test_learned_parameters_on_vit_b16():
    """L q D for the queries, and (D + L q D + 1) C for the head."""
    with torch.device("meta"):
        method = vpt.build("vqt", load_vit("vit_base_patch16_224", "none"), CLASSES, num_queries=2)
    assert method.learned_parameters() == 12 * 2 * 768 + 7 * (768 + 12 * 2 * 768 + 1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(num_queries=0), "num_queries is 0; each block needs at least one query"),
        (dict(dropout=1.0), "dropout is 1.0; it is a share from 0"),
        (dict(pooled=True, weighted=True), "averaged .pooled. or added with weights .weighted., not both"),
    ],
)
def test_bad_options(vit, options, told):
    with pytest.raises(InputError, match=told):
        vpt.build("vqt", vit, CLASSES, **options)


def test_unknown_blocks_are_refused_by_name(vit):
    vit.blocks[1].attn.q_norm = nn.LayerNorm(16)
    with pytest.raises(InputError, match="block 1 of backbone 'backbone' .* is not known: queries need to reach into"):
        vpt.build("vqt", vit, CLASSES)
    with pytest.raises(InputError, match="'resnet18' has no tokens"):
        vpt.build("vqt", load_vit("resnet18", pretrained="none"), CLASSES)
