"""EASE against the numbers of its code, its complement by hand, and what tasks may change."""

import pytest
import torch
import torch.nn.functional as F

import vpt
from promptvision.errors import InputError

CLASSES = [f"class {label}" for label in range(10)]
PARTS = {"adapter_downsample": "down_proj", "adapter_upsample": "up_proj"}


def set_adapters(method, tensors, task):
    for block, each in enumerate(method.adapters[task]):
        for ours, theirs in PARTS.items():
            for name, parameter in getattr(each, ours).named_parameters():
                parameter.data = tensors[f"adapter{task}.{block}.{theirs}.{name}"]


def test_every_task_of_the_official_code(vit, l2p, golden_cases):
    images, labels = (l2p[1][f"engine/train_{what}"].flatten(0, 1) for what in ("images", "labels"))
    for name, (facts, expected) in golden_cases("vpt/ease").items():
        options = {key: facts[key] for key in ("bottleneck", "alpha", "beta")}
        method, known = vpt.build("ease", vit, CLASSES, **options).eval(), 0
        for task, count in enumerate(facts["task_sizes"]):
            method.start_task(task, len(facts["task_sizes"]))
            set_adapters(method, expected, task)
            own = (labels >= known) & (labels < known + count)
            method.finish([(images[own], labels[own])], ())
            known += count
            found, wanted = method.prototypes[:known].flatten(1), expected[f"task{task}/fc.weight"]
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0, msg=name)
            logits = method(l2p[1]["images"])[:, :known]
            torch.testing.assert_close(logits, expected[f"task{task}/logits"], atol=2e-6, rtol=0, msg=name)


def test_a_mean_that_no_image_gave_is_complemented_by_hand(vit):
    """The mean of class 0 in the subspace of task 1: those of its two classes, by the softmax of cosines to class 0
    in the subspace of task 0."""
    method = vpt.build("ease", vit, CLASSES, bottleneck=2)
    axes = torch.eye(64)
    method.fit(axes[:1, None], torch.tensor([0]))
    method.start_task(1, 2)
    first = torch.stack([0.6 * axes[0] + 0.8 * axes[1], axes[2]])
    method.fit(torch.stack([first, axes[3:5]], dim=1), torch.tensor([1, 2]))
    shares = torch.tensor([0.6, 0.0]).softmax(dim=0)
    torch.testing.assert_close(method.prototypes[0, 1], shares @ axes[3:5])
    assert torch.equal(method.prototypes[:3, 0], torch.stack([axes[0], *first]))
    method.represent = lambda images: images  # features in both subspaces
    given = torch.stack([axes[0], axes[3]])[None]
    cosine = F.cosine_similarity(shares @ axes[3:5], axes[3], dim=0)
    expected = torch.tensor([1 + 0.1 * cosine, 0.1 * 0.6 + 1, 0.0])
    torch.testing.assert_close(method.classify(given)[0, :3], expected)


def test_a_task_trains_its_own_adapters_with_a_head_of_its_own(vit, l2p):
    images, labels = l2p[1]["engine/train_images"], l2p[1]["engine/train_labels"]
    method = vpt.build("ease", vit, CLASSES, bottleneck=3)
    for task in range(2):
        earlier = method.head.weight
        method.start_task(task, 2, range(5 * task, 5 * task + 5))
        assert torch.equal(method.head.weight, earlier) == (task == 0)  # the constructor starts task 0
        assert torch.equal(method.features(images[0]), vit(images[0]))  # they start as the backbone
        plain = method.prototypes.clone()
        method.train().loss(images[2 * task], labels[2 * task]).backward()
        moved = {name for name, each in method.named_parameters() if each.grad is not None and each.grad.any()}
        learning = {name for name, each in method.named_parameters() if each.requires_grad}
        assert moved <= learning and "head.weight" in moved
        assert {name.split(".")[1] for name in learning if name.startswith("adapters")} == {str(task)}
        assert torch.equal(method(images[0]), method.head(method.features(images[0])))  # as validations see it
        torch.nn.init.normal_(method.adapters[task][0].adapter_upsample.weight)
        method.zero_grad(set_to_none=True)
        method.eval().finish([(images[2 * task], labels[2 * task])], ())
        assert torch.equal(method.prototypes[:5, :task], plain[:5, :task])
    first, second = (each[0].adapter_downsample.weight for each in method.adapters)
    assert not torch.equal(first, second)
    assert not [name for name in method.learned() if "head" in name]


def test_a_resumed_stream_has_the_same_adapters_and_means(vit, l2p):
    images, labels = l2p[1]["engine/train_images"], l2p[1]["engine/train_labels"]
    torch.manual_seed(3)
    method = vpt.build("ease", vit, CLASSES, bottleneck=3, beta=0.5).eval()
    torch.manual_seed(3)
    again = vpt.build("ease", vit, CLASSES, bottleneck=3, beta=0.5).eval()
    torch.nn.init.normal_(method.adapters[0][1].adapter_upsample.weight)
    method.finish([(images[0], labels[0])], ())
    again.load_learned_state(method.learned_state())
    for each in (method, again):
        torch.rand(7 if each is method else 3)  # whatever else drew numbers
        each.start_task(1, 2)
        each.finish([(images[2], labels[2])], ())
    assert torch.equal(again(images[1]), method(images[1]))
    assert torch.equal(again.head.weight, method.head.weight)


def test_learned_parameters_are_those_of_the_formula(vit):
    """L (2 D d + d + D) for each task, and a mean for each class in each subspace."""
    method = vpt.build("ease", vit, CLASSES, bottleneck=4)
    adapters = 4 * (2 * 64 * 4 + 4 + 64)
    assert method.learned_parameters() == adapters + 10 * 64
    method.start_task(2, 3)
    assert method.learned_parameters() == 3 * (adapters + 10 * 64)


def test_bad_options_are_refused(vit):
    with pytest.raises(InputError, match="bottleneck is 0 and dropout"):
        vpt.build("ease", vit, CLASSES, bottleneck=0)
    with pytest.raises(InputError, match="bottleneck is 64 and dropout 1.0"):
        vpt.build("ease", vit, CLASSES, dropout=1.0)
    with pytest.raises(InputError, match="there are none"):
        vpt.build("ease", vit, CLASSES).finish((), ())
