"""DualPrompt against its formulas computed image by image, and what each task may touch."""

import pytest
import torch
import torch.nn.functional as F

import vpt
from promptvision.backbones import load_clip
from promptvision.engine.optim import build_optimizer
from promptvision.errors import InputError

CLASSES = [f"class {label}" for label in range(6)]


def dual(vit, **options):
    return vpt.build("dual_prompt", vit, CLASSES, **{"size": 3, "g_length": 2, "e_length": 3, "init": "port"} | options)


def by_hand(vit, image, prefixes):
    """One image's class token: softmax attention over prefix and tokens, head by head, in every block."""
    tokens = vit.embed(image[None])[0]
    for index, block in enumerate(vit.blocks):
        normed = block.norm1(tokens)
        query, key, value = F.linear(normed, block.attn.qkv.weight, block.attn.qkv.bias).chunk(3, dim=-1)
        if index in prefixes:
            key, value = torch.cat([prefixes[index][0], key]), torch.cat([prefixes[index][1], value])
        size, heads = block.attn.head_dim, []
        for at in range(0, tokens.shape[1], size):
            q, k, v = (part[:, at : at + size] for part in (query, key, value))
            heads.append((q @ k.T / size**0.5).softmax(dim=-1) @ v)
        tokens = tokens + block.attn.proj(torch.cat(heads, dim=-1))
        tokens = tokens + block.mlp(block.norm2(tokens))
    return vit.model.norm(tokens)[0]


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_formula_image_by_image(training, vit, inputs):
    method = dual(vit).train(training)
    method.start_task(1, 3)
    losses = []
    for image, label in zip(inputs["images"], inputs["labels"] % 6, strict=True):
        query = by_hand(vit, image, {})
        cosines = F.cosine_similarity(query[None], method.e_prompt.prompt_key, dim=-1)
        own = 1 if training else int(cosines[:2].argmax())
        expert, general = method.e_prompt.prompt[own], method.g_prompt
        prefixes = {0: general[0], 1: general[1], 2: expert[0], 3: expert[1]}
        logits = method.head(by_hand(vit, image, prefixes))
        torch.testing.assert_close(method(image[None])[0], logits, atol=2e-5, rtol=0)
        losses.append(F.cross_entropy(logits, label) - method.pull * cosines[own])
    torch.testing.assert_close(
        method.loss(inputs["images"], inputs["labels"] % 6), torch.stack(losses).mean(), atol=2e-5, rtol=0
    )


def test_only_the_e_prompt_of_the_task_at_hand_moves(vit, inputs):
    method = dual(vit).train()
    before = method.learned_state()
    method.start_task(1, 3, labels=(2, 3))
    optimizer = build_optimizer("adam", method.named_parameters(), 0.01, 0.1, no_decay=method.no_decay)
    method.loss(inputs["images"], inputs["labels"] % 2 + 2).backward()
    optimizer.step()
    after = method.learned_state()
    for name in ("e_prompt.prompt", "e_prompt.prompt_key"):
        moved = (after[name] != before[name]).flatten(1).any(dim=1)
        assert moved.tolist() == [False, True, False]
    assert not torch.equal(after["g_prompt"], before["g_prompt"])


def test_a_test_image_meets_no_task_to_come(vit, inputs):
    method = dual(vit).eval()
    with torch.no_grad():
        method.e_prompt.prompt_key[2] = inputs["cls_feature"].mean(dim=0)
    for task in range(3):
        method.start_task(task, 3)
        assert method.choices(inputs["images"]).max() <= task
    assert method.choices(inputs["images"]).max() == 2
    method.start_task(0, 3)
    method.whole_pool = True
    assert method.choices(inputs["images"]).max() == 2
    assert method.train().choices(inputs["images"]).max() == 0


def test_choosing_by_batch_is_asked_for(vit, inputs):
    method = dual(vit, batchwise_test=True).eval()
    with torch.no_grad():
        method.e_prompt.prompt_key.copy_(inputs["cls_feature"][:3])
    method.start_task(2, 3)
    assert method.choices(inputs["images"]).unique().numel() == 1
    method.batchwise_test = False
    assert method.choices(inputs["images"])[:3, 0].tolist() == [0, 1, 2]


def test_the_reshape_of_the_port_deals_out_keys_and_values_in_turn(vit, inputs):
    """The first of two images gets the keys of both; the loss of such a batch is no mean of single losses."""
    method = dual(vit, port_reshape=True).eval()
    plain = dual(vit)
    plain.load_learned_state(method.learned_state())
    assert not method.loss_is_mean and plain.loss_is_mean
    one, two = torch.tensor([[0]]), torch.tensor([[0], [2]])
    torch.testing.assert_close(method.features(inputs["images"][:1], one), plain.features(inputs["images"][:1], one))
    mixed, pool = method.features(inputs["images"][:2], two), plain.e_prompt.prompt
    with torch.no_grad():
        pool[1, :, 0], pool[1, :, 1] = pool[0, :, 0].clone(), pool[2, :, 0].clone()
    expected = plain.features(inputs["images"][:1], torch.tensor([[1]]))
    torch.testing.assert_close(mixed[:1], expected, atol=1e-5, rtol=0)


def test_an_e_prompt_starts_from_that_of_the_task_before(vit):
    method = dual(vit, shared_pool=True)
    prompts = method.e_prompt.prompt
    method.start_task(1, 3)
    assert torch.equal(prompts[1], prompts[0]) and not torch.equal(prompts[2], prompts[0])


def test_on_the_embedded_tower_all_five_blocks_or_as_many_as_there_are(vit):
    tower = load_clip("embedded").image
    method = vpt.build("dual_prompt", tower, ["a", "b"])
    assert method.g_layers == (0, 1) and method.e_layers == tuple(range(2, min(5, tower.depth)))
    method.train().loss(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).backward()
    assert method.g_prompt.grad.abs().sum() > 0 and method.e_prompt.prompt.grad.abs().sum() > 0
    assert dual(vit).e_layers == (2, 3)


def test_bad_options(vit):
    for options, message in (
        (dict(e_layers=(2, 4)), r"e_layers names block 4; backbone 'backbone' has blocks 0 to 3"),
        (dict(g_layers=(0, 0)), r"g_layers \[0, 0\] names a block twice"),
        (dict(g_layers=(1, 2), e_layers=(2, 3)), "block 2 is in g_layers and in e_layers"),
        (dict(g_length=0), "g_length 0, e_length 3 and size 3: each must be at least 1"),
        (dict(init="prot"), "did you mean 'port'"),
    ):
        with pytest.raises(InputError, match=message):
            dual(vit, **options)
    with pytest.raises(InputError, match="size is 3, but the stream has 4 tasks"):
        dual(vit).start_task(0, 4)
