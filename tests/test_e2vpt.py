"""E2VPT against the numbers of its official code, and its round of pruning."""

import copy
from pathlib import Path

import pytest
import torch
from official_vit import CLASSES, TOWERS
from torch import nn

import vpt
from promptvision.backbones import load_vit
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import load_run, run
from vpt.e2vpt import MASKS
from vpt.parts.pruning import importance

ROOT = Path(__file__).parents[1]


def options_of(facts):
    """Our options of a golden case; masks where it has some."""
    told = {"NUM_TOKENS_P": 5, "NUM_TOKENS": 5, "DEEP_P": True, "SHARE_PARAM_KV": True, **facts["prompt_cfg"]}
    ours = {"num_tokens": told["NUM_TOKENS_P"], "num_keys": told["NUM_TOKENS"], "deep": told["DEEP_P"]}
    return ours | {"separate": not told["SHARE_PARAM_KV"], "prune_tokens": 0.2 if told.get("MASK_CLS_TOKEN") else 0.0}


def without_masks(facts):
    """The facts of a case with masks counted and loaded apart."""
    masks = [name for name in facts["trainable"] if name in MASKS]
    trainable = [name for name in facts["trainable"] if name not in MASKS]
    return {**facts, "trainable": trainable, "trainable_count": facts["trainable_count"] - 85 * bool(masks)}


def test_every_case_of_the_official_code(vit, golden_cases, check_official):
    for facts, expected in golden_cases("vpt/e2vpt").values():
        method = vpt.build("e2vpt", vit, CLASSES, **options_of(facts))
        method.load_learned_state(method.learned_state() | {name: expected[name] for name in MASKS if name in expected})
        expected = {name: value for name, value in expected.items() if name.removeprefix("grad/") not in MASKS}
        check_official(method, without_masks(facts), expected)


def test_the_importance_of_the_official_code(vit, inputs, golden_cases):
    """The gradients of masks of ones; `PROMPTVISION_GOLDEN` has the case, here the numbers are those of differences."""
    facts, expected = golden_cases("vpt/e2vpt").get("p5_kv5_importance", ({}, {}))
    method = vpt.build("e2vpt", vit, CLASSES, num_tokens=5, prune_tokens=0.2).double()
    if expected:
        method.load_learned_state({name: expected[name] for name in facts["trainable"]})
    images, labels = inputs["images"].double(), inputs["labels"]
    found = importance(method, method.masks, [(images[:4], labels[:4]), (images[4:], labels[4:])])
    for name, mask, gradient in zip(MASKS, method.masks, found, strict=True):
        if expected:
            torch.testing.assert_close(gradient.float(), expected[f"grad/{name}"], atol=2e-5, rtol=1e-4)
        losses = []
        for step in (1e-4, -2e-4):
            mask.view(-1)[3] += step
            losses.append(method.loss(images, labels).detach())
        mask.view(-1)[3] += 1e-4
        assert gradient.view(-1)[3].item() == pytest.approx(((losses[0] - losses[1]) / 2e-4).item(), rel=1e-4)
        assert not mask.requires_grad


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("deep", [True, False])
def test_keys_and_values_come_before_those_of_the_tokens(kind, deep):
    """Prompts among the tokens, whole blocks with a prefix each."""
    tower = TOWERS[kind]()
    method = vpt.build("e2vpt", tower, CLASSES, num_tokens=3, num_keys=2, deep=deep, separate=True).double()
    images, prompts, at = torch.randn(2, 3, 32, 32).double(), method.prompts(2), tower.prefix
    tokens = tower.embed(images)
    for index in range(tower.depth):
        if index < len(prompts):
            kept = tokens[:, at + 3 :] if index else tokens[:, at:]
            tokens = torch.cat([tokens[:, :at], prompts[index].expand(2, -1, -1), kept], dim=1)
        tokens = tower.enter(tokens) if index == 0 else tokens
        view, own = tower.view(index), method.encoder["layer"][index]["attn"]
        query, key, value = view.split(view.part(view.norm1(tokens), 0, 3), 3)
        key = torch.cat([own.deep_QKV_embeddings_K.expand(2, -1, -1, -1), key], dim=2)
        value = torch.cat([own.deep_QKV_embeddings_V.expand(2, -1, -1, -1), value], dim=2)
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
        tokens = view.finish(weights @ value, tokens)
    wanted = tower.pool(torch.cat([tokens[:, :at], tokens[:, at + 3 :]], dim=1))
    torch.testing.assert_close(method.features(images), wanted, atol=1e-10, rtol=0)


def test_pieces_are_every_kth_channel_and_masks_are_the_same_in_all_blocks(vit):
    method = vpt.build("e2vpt", vit, CLASSES, num_tokens=3, prune_pieces=0.1, pieces=16)
    method.masks[0][1], method.masks[1][2, 5] = 0.0, 0.0
    for masked, whole in zip(
        method.embeddings(), [*method.prompt_embeddings, *method.deep_prompt_embeddings], strict=True
    ):
        kept = torch.ones(3, 64, dtype=torch.bool)
        kept[1], kept[2, 5::16] = False, False
        assert torch.equal(masked, whole * kept)


def pruned(vit, inputs, **shares):
    """A method that has learned a little, at the start of its second stage, and a copy from the end of its first."""
    torch.manual_seed(0)
    method = vpt.build("e2vpt", vit, CLASSES, num_tokens=5, dropout=0.3, **shares).train()
    start = {name: tensor.clone() for name, tensor in method.learned_state().items()}
    batches = [(inputs["images"][:4], inputs["labels"][:4]), (inputs["images"][4:], inputs["labels"][4:])]
    method.prepare(batches, [])
    method.start_stage(0)
    with torch.no_grad():
        for tensor in method.trained().values():
            tensor += 0.1 * torch.randn_like(tensor)
    before = copy.deepcopy(method)
    method.start_stage(1)
    return method, before, start, batches


def test_a_round_masks_the_smallest_gradients_and_starts_again(vit, inputs):
    method, before, start, batches = pruned(vit, inputs, prune_tokens=0.4, prune_pieces=0.25)
    assert method.stages == (0.5, 0.5) and method.training and not method.seen
    for mask, scores, masked in zip(
        method.masks, importance(before.eval(), before.masks, batches), (2, 20), strict=True
    ):
        assert (mask == 0).sum() == masked and (mask == 1).sum() == mask.numel() - masked
        assert scores[mask == 0].max() <= scores[mask == 1].min() and scores.min() < 0 < scores.max()
    after = method.learned_state()
    assert all(torch.equal(after[name], start[name]) for name in start if name not in MASKS)
    assert method.learned_parameters() == 4 * 5 * 64 + 4 * 5 * 64 + 65 * 7
    again = vpt.build("e2vpt", vit, CLASSES, num_tokens=5, prune_tokens=0.4)
    again.load_learned_state(after)
    torch.testing.assert_close(again(inputs["images"]), method.eval()(inputs["images"]))


@pytest.mark.slow
def test_a_run_prunes_halfway_and_its_masks_are_those_of_its_file(tmp_path):
    words = ["DATASET.NAME", "digits", "DATASET.SHOTS", "2", "OPTIM.EPOCHS", "4", "OPTIM.LR", "0.05"]
    words += [
        "METHOD.OPTIONS.PRUNE_TOKENS",
        "0.5",
        "METHOD.OPTIONS.NUM_TOKENS",
        "4",
        "OUTPUT_DIR",
        str(tmp_path / "run"),
    ]
    cfg = load_config(ROOT / "configs/vpt/embedded_e2vpt.yaml", words, FAMILIES)
    with RunFolder(tmp_path / "run") as folder:
        result = run(cfg, FAMILIES, folder, progress=False)
    method = load_run(cfg, FAMILIES, tmp_path / "run")
    assert result["epochs"] == 4 and (method.masks[0] == 0).sum() == 2 and method.masks[1].all()
    assert method.learned_parameters() == result["learned_parameters"]


def test_without_shares_nothing_is_pruned_and_there_is_one_stage(vit):
    method = vpt.build("e2vpt", vit, CLASSES)
    assert method.stages == (1.0,) and not method.masks and not set(MASKS) & set(method.learned())


def test_the_start_of_keys_and_values_is_kaimings(vit):
    method = vpt.build("e2vpt", vit, CLASSES, num_keys=5)
    values = torch.cat([layer["attn"].deep_QKV_embeddings.flatten() for layer in method.encoder["layer"]])
    assert 0.99 * (6 / 80) ** 0.5 < values.abs().max() < (6 / 80) ** 0.5


@pytest.mark.parametrize(("separate", "extra"), [(False, 1), (True, 2)])
def test_learned_parameters_on_vit_b16(separate, extra):
    """L P D and L n D, twice that of the keys if they are not the values; masks do not count."""
    with torch.device("meta"):
        tower = load_vit("vit_base_patch16_224", "none")
        method = vpt.build("e2vpt", tower, CLASSES, num_tokens=10, num_keys=5, separate=separate, prune_pieces=0.5)
    assert method.learned_parameters() - 769 * 7 == 12 * 768 * (10 + 5 * extra)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(num_keys=0), "num_keys is 0; each block needs at least one key and value"),
        (dict(prune_tokens=1.0), "prune_tokens is 1.0; it is a masked share, from 0 to below 1"),
        (dict(prune_pieces=-0.1), "prune_pieces is -0.1; it is a masked share"),
        (dict(prune_pieces=0.1, pieces=10), "pieces is 10; take a divisor of the width of a prompt, 64"),
    ],
)
def test_bad_options(vit, options, told):
    with pytest.raises(InputError, match=told):
        vpt.build("e2vpt", vit, CLASSES, **options)


def test_unknown_blocks_are_refused_by_name(vit):
    vit.blocks[2].attn.q_norm = nn.LayerNorm(16)
    with pytest.raises(
        InputError, match="block 2 of backbone 'backbone' .* is not known: keys and values need to reach"
    ):
        vpt.build("e2vpt", vit, CLASSES)
