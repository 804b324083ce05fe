"""L2P against the numbers of l2p-pytorch and google-research/l2p: values, gradients, chosen prompts, training."""

import pytest
import torch
from torch import nn

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.optim import build_optimizer
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import fit
from promptvision.errors import InputError
from vpt.parts.pool import image_query, nearest, unit, vote

CLASSES = [f"class {label}" for label in range(10)]


@pytest.fixture(scope="module")
def original(golden):
    """(settings, tensors) of the original."""
    return golden("vpt/l2p_jax")


def port_method(vit, tensors, settings, expected):
    """The method of a golden case: its options are what the official ones say, and what the shapes show."""
    options = dict(
        top_k=settings.get("top_k", 5),
        pull=settings["pull_coeff"],
        batchwise=settings.get("batchwise", True),
        batchwise_test=settings.get("batchwise", True),
        prompt_mask=settings.get("mask", False),
        shared_pool=settings.get("shared_pool", False),
        head_type=settings.get("head_type", "prompt"),
        query={"cls": "class"}.get(settings.get("embedding_key", "cls"), settings.get("embedding_key")),
        key="learned" if settings.get("key", True) else "initial_mean",
        position="class",
    )
    return filled(vit, tensors, options, expected)


def filled(vit, tensors, options, expected):
    pool = tensors["prompt_pool"]
    method = vpt.build("l2p", vit, CLASSES, size=len(pool), length=pool.shape[1], **options)
    values = {"prompt.prompt": pool, "head.weight": tensors["head.weight"], "head.bias": tensors["head.bias"]}
    key = tensors["prompt_key"] if options["key"] == "learned" else pool.mean(dim=1)
    method.load_learned_state({**values, "prompt.prompt_key": key})
    return method.eval()


def labels_of(settings, tensors):
    """The second task's labels are 5 to 9, also where the task is beyond the pool."""
    return tensors["labels"] + 5 * (settings["task_id"] > 0 and settings["train"])


def cases(settings, tensors):
    for name, facts in settings["cases"].items():
        if "pull_coeff" in facts:
            own = {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(f"{name}/")}
            yield name, facts, own


def check(method, images, expected, batchwise):
    similarity = method.similarity(images)
    torch.testing.assert_close(similarity, expected["similarity"], atol=1e-5, rtol=0)
    chosen, wanted = method.choices(images), expected["prompt_idx"]
    if batchwise:  # the official order of ids with as many votes is arbitrary
        chosen, wanted = chosen.sort(dim=1).values, wanted.sort(dim=1).values
    assert torch.equal(chosen, wanted)
    logits = method(images)
    torch.testing.assert_close(logits, expected["logits_unmasked"], atol=5e-5, rtol=0)
    if "logits_masked" in expected:
        torch.testing.assert_close(method.for_task(logits), expected["logits_masked"], atol=5e-5, rtol=0)
    if "pre_logits" in expected:
        torch.testing.assert_close(
            method.features(images, method.choices(images)), expected["pre_logits"], atol=5e-5, rtol=0
        )


def check_gradients(method, images, labels, expected, check_step):
    """Loss and gradients; the compact set holds gradients of few cases."""
    if not any(key.startswith("grad/") for key in expected):
        torch.testing.assert_close(method.loss(images, labels), expected["loss"], atol=1e-5, rtol=0)
        return
    check_step(method, images, labels, expected)
    learned = [parameter for parameter in method.parameters() if parameter.requires_grad]
    if "grad_total_norm_before_clip" in expected:
        norm = nn.utils.clip_grad_norm_(learned, 1.0)
        torch.testing.assert_close(norm, expected["grad_total_norm_before_clip"], atol=1e-4, rtol=1e-4)


def test_every_case_of_the_port(l2p, vit, check_step):
    settings, tensors = l2p
    found = list(cases(*l2p))
    assert found
    for name, facts, expected in found:
        method = port_method(vit, tensors, facts, expected)
        method.train(facts["train"])
        labels = settings["class_mask"][min(facts["task_id"], 1)] if facts["train_mask"] else ()
        method.start_task(facts["task_id"], 3, labels)
        trainable = [name for name, parameter in method.named_parameters() if parameter.requires_grad]
        assert trainable == facts["trainable"], name
        assert sum(dict(method.named_parameters())[name].numel() for name in trainable) == facts["trainable_count"]
        targets = labels_of(facts, tensors)
        check(method, tensors["images"], expected, facts.get("batchwise", True))
        check_gradients(method, tensors["images"], targets, expected, check_step)


def test_query_and_position_are_the_ports(l2p, vit):
    tensors = l2p[1]
    query = image_query(vit, tensors["images"])
    torch.testing.assert_close(query, tensors["query_cls_feature"], atol=5e-5, rtol=0)
    for name in [name for name in tensors if name.startswith("pos_embed_len")]:
        torch.testing.assert_close(vit.class_position, tensors[name][0, 1], atol=0, rtol=0)


def test_every_case_of_the_original(l2p, original, vit, check_step):
    tensors = l2p[1]
    settings, expected = original
    for name, facts in settings["cases"].items():
        own = {key.partition("/")[2]: value for key, value in expected.items() if key.startswith(f"{name}/")}
        for block in vit.blocks:
            block.mlp.act = nn.GELU(approximate="tanh" if facts["gelu"].startswith("tanh") else "none")
        options = dict(
            top_k=facts["top_k"],
            pull=facts["coeff"],
            batchwise=facts["batchwise"],
            prompt_mask=facts["mask_task"] is not None,
            head_type=facts["classifier"],
            key="learned",
            position="none",
        )
        method = filled(vit, tensors, options, own).train()
        method.start_task(facts["mask_task"] or 0, 2, l2p[0]["class_mask"][0])
        check(method, tensors["images"], own, facts["batchwise"])
        check_gradients(method, tensors["images"], tensors["labels"], own, check_step)


class Batches:
    """The batches of one task of the official engine, and the prompts that each image is about to take."""

    def __init__(self, method, images, labels):
        self.method, self.images, self.labels, self.chosen = method, images, labels, []

    def __len__(self):
        return len(self.images)

    def epoch(self, epoch, start=0):
        for images, labels in zip(self.images[start:], self.labels[start:], strict=True):
            with torch.no_grad():
                self.chosen.append(self.method.choices(images))
            yield images, labels


def accuracy(method, images, labels):
    with torch.no_grad():
        return 100 * (method(images).argmax(dim=1) == labels).float().mean().item()


def test_two_tasks_of_the_official_engine(l2p, vit, tmp_path):
    """Adam at 0.03 x 16 / 256, gradient norm clipped at 1, a new Adam per task, two epochs of two batches each."""
    settings, tensors = l2p
    images, labels = (tensors[f"engine/train_{what}"] for what in ("images", "labels"))
    runs = {name: facts for name, facts in settings["cases"].items() if name.startswith("engine")}
    assert runs
    for name, facts in runs.items():
        mask = facts.get("mask", "mask" in name)
        told = {"pull_coeff": 0.1, "shared_pool": "sharedpool" in name, **facts, "mask": mask}
        method = port_method(vit, tensors, told, {})
        losses, chosen, rows = [], [], []
        for task, classes in enumerate(settings["class_mask"][: len(images) // 2]):
            method.start_task(task, len(settings["class_mask"]), classes)
            own = slice(2 * task, 2 * task + 2)
            loader = Batches(method, images[own], labels[own])
            group = facts["groups_at_start"][0]
            named = method.named_parameters()
            optimizer = build_optimizer("adam", named, group["lr"], group["weight_decay"], eps=group["eps"])
            with RunFolder(tmp_path / name / str(task)) as folder:
                fit(method, loader, optimizer, [group["lr"]] * 2, folder, seed=0, device=torch.device("cpu"), clip=1.0)
                losses += [row["loss"] for row in read_rows(folder.metrics)]
            chosen += loader.chosen
            for key, value in method.learned_state().items():
                torch.testing.assert_close(value, tensors[f"{name}/after_task{task}/{key}"], atol=1e-4, rtol=0)
            method.eval()
            if "engine/val_images" in tensors:
                pairs = zip(tensors["engine/val_images"], tensors["engine/val_labels"], strict=True)
                rows.append([accuracy(method, *pair) for pair in pairs][: task + 1])
        torch.testing.assert_close(
            torch.tensor(losses), tensors[f"{name}/loss_per_step"][: len(losses)], atol=1e-4, rtol=0
        )
        wanted = tensors[f"{name}/prompt_idx_per_step"][: len(chosen)]
        assert torch.equal(torch.stack(chosen).sort(dim=-1).values, wanted.sort(dim=-1).values)
        for task, row in enumerate(rows):
            assert row == pytest.approx([facts["acc_matrix"][past][task] for past in range(task + 1)]), name


def test_a_tied_vote_goes_to_the_smallest_id(l2p, original):
    settings, tensors = l2p
    scores = unit(tensors["vote_tie/query"]) @ unit(tensors["vote_tie/keys"]).T
    torch.testing.assert_close(scores, tensors["vote_tie/similarity"], atol=1e-6, rtol=0)
    chosen = nearest(scores, 5)
    assert chosen.tolist() == settings["vote_tie"]["per_sample_topk"]
    assert torch.bincount(chosen.flatten()).tolist() == settings["vote_tie"]["counts_by_id"]
    assert vote(chosen, 10)[0].tolist() == original[0]["vote_tie"]["jax_selected"]
    assert torch.equal(vote(chosen, 10), original[1]["vote_tie/jax_prompt_idx"])


def test_a_query_of_zero_is_no_nan():
    scores = unit(torch.zeros(2, 4)) @ unit(torch.randn(6, 4)).T
    assert torch.equal(nearest(scores, 3), torch.tensor([[0, 1, 2], [0, 1, 2]]))


def test_evaluation_among_the_classes_of_one_task(l2p, vit):
    """l2p-pytorch with `task_inc`: a class mask in evaluation."""
    settings, tensors = l2p
    if "task_inc_eval/task1_logits" in tensors:
        told = dict(pull_coeff=0.1, batchwise=False)
        method = port_method(vit, tensors, told, {})
        method.start_task(1, 2, settings["class_mask"][1])
        found = method.for_task(method(tensors["images"]))
        torch.testing.assert_close(found, tensors["task_inc_eval/task1_logits"], atol=5e-5, rtol=0)


def test_prompts_of_a_task_start_from_those_of_the_task_before(vit):
    method = vpt.build("l2p", vit, CLASSES, size=5, top_k=2, prompt_mask=True, shared_pool=True).train()
    before = method.prompt.prompt.detach().clone()
    for task in range(3):
        method.start_task(task, 3)
    after = method.prompt.prompt
    assert torch.equal(after[2:4], before[:2]) and torch.equal(after[4], before[4])
    assert not torch.equal(before[2:4], before[:2])


def test_a_image_is_judged_alone_unless_asked_otherwise(vit, inputs):
    method = vpt.build("l2p", vit, CLASSES, top_k=2, batchwise=True).eval()
    together = method(inputs["images"])
    alone = torch.cat([method(image[None]) for image in inputs["images"]])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    method.batchwise_test = True
    assert not torch.allclose(method(inputs["images"]), alone, atol=1e-3)


@pytest.mark.parametrize("init", ["small", "port", "original"])
def test_initial_values(init, vit):
    method = vpt.build("l2p", vit, CLASSES, init=init, head_init=init)
    low, high = {"small": (-0.02, 0.02), "port": (-1, 1), "original": (0, 0.01)}[init]
    prompt = method.prompt.prompt
    assert low <= prompt.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < prompt.max() <= high
    deviation = {"small": 0.01, "port": 0.02, "original": 0.0}[init]
    assert method.head.weight.std().item() == pytest.approx(deviation, rel=0.2) and not method.head.bias.any()


def test_without_a_pull_only_the_chosen_prompts_learn(vit, inputs):
    method = vpt.build("l2p", vit, CLASSES, top_k=1, pull=0.0)
    method.loss(inputs["images"], inputs["labels"]).backward()
    moved = method.prompt.prompt.grad.abs().sum((1, 2)) > 0
    assert set(moved.nonzero().flatten().tolist()) == set(method.choices(inputs["images"]).flatten().tolist())
    assert method.prompt.prompt_key.grad is None


def test_on_the_image_tower_of_a_clip():
    method = vpt.build("l2p", load_clip("embedded").image, ["a", "b"], position="class")
    method.loss(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).backward()
    assert method.prompt.prompt.grad.abs().sum() > 0


def test_bad_options(vit):
    for options, message in (
        (dict(top_k=11), "size 10, length 5 and top_k 11: an image takes 1 to `size` prompts"),
        (dict(head_type="promt"), "unknown head_type 'promt'; did you mean 'prompt'"),
        (dict(query="clas"), "unknown query 'clas'; did you mean 'class'"),
        (dict(key="learnt"), "did you mean 'learned'"),
        (dict(position="cls"), "unknown position 'cls'; did you mean 'class'"),
        (dict(init="ports"), "did you mean 'port'"),
        (dict(head_init="zero"), "unknown head_init 'zero'; one of: original, port, small, torch"),
    ):
        with pytest.raises(InputError, match=message):
            vpt.build("l2p", vit, CLASSES, **options)
    with pytest.raises(InputError, match="'resnet18' has no tokens"):
        vpt.build("l2p", load_vit("resnet18", pretrained="none"), CLASSES)
