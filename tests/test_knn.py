"""Nearest neighbours against scikit-learn's, DINO's vote by hand, and the method's contract."""

import math

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import vpt
from promptvision.backbones import load_vit
from promptvision.errors import InputError

CLASSES = ["a", "b", "c"]


def fitted(vit, keys, labels, **options):
    method = vpt.build("knn", vit, CLASSES, **options)
    batches = list(zip(keys.split(7), labels.split(7), strict=True))
    method.prepare(batches, ())
    return method


@pytest.mark.parametrize("k", [1, 5, 9])
def test_uniform_votes_are_scikit_learns(vit, k):
    torch.manual_seed(k)
    keys, labels, queries = torch.randn(40, 64), torch.randint(3, (40,)), torch.randn(30, 64)
    theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(keys.numpy(), labels.numpy())
    found = fitted(vit, keys, labels, k=k, weights="uniform")(queries)
    expected = torch.tensor(theirs.predict_proba(queries.numpy())).float()
    torch.testing.assert_close(found.exp(), expected.clamp_min(1e-9))
    assert torch.equal(found.argmax(dim=1), torch.tensor(theirs.predict(queries.numpy())))


def test_dinos_vote_by_hand(vit):
    keys = torch.eye(64)[:3] + torch.tensor([[0.0], [1.0], [0.0]]) * torch.eye(64)[0]
    query = torch.eye(64)[:1]
    cosines = [1.0, 1 / math.sqrt(2), 0.0]
    weights = [math.exp(c / 0.5) for c in cosines[:2]]
    shares = fitted(vit, keys, torch.tensor([0, 1, 2]), k=2, temperature=0.5)(query).exp()[0]
    assert shares.tolist() == pytest.approx([weights[0] / sum(weights), weights[1] / sum(weights), 1e-9], rel=1e-4)


def test_more_neighbours_than_images_are_all_images(vit):
    keys, labels, query = torch.randn(6, 64), torch.arange(6) % 3, torch.randn(4, 64)
    assert torch.equal(fitted(vit, keys, labels)(query), fitted(vit, keys, labels, k=6)(query))


def test_images_and_their_features_vote_alike(vit, inputs):
    labels = inputs["labels"] % 3
    images, features = vpt.build("knn", vit, CLASSES), vpt.build("knn", vit, CLASSES)
    images.prepare([(inputs["images"], labels)], ())
    features.prepare([(vit(inputs["images"]), labels)], ())
    torch.testing.assert_close(images(inputs["images"]), features(vit(inputs["images"])))
    assert torch.equal(images(inputs["images"]).argmax(dim=1), labels)


def test_the_memory_is_what_is_learned(vit):
    method = fitted(vit, torch.randn(5, 64), torch.arange(5) % 3)
    again = vpt.build("knn", vit, CLASSES)
    again.load_learned_state(method.learned_state())
    queries = torch.randn(4, 64)
    assert method.learned() == ["keys", "labels"]
    assert torch.equal(again(queries), method(queries))
    assert not [name for name, parameter in method.named_parameters() if parameter.requires_grad]


def test_it_works_on_the_embedded_tower():
    tower = load_vit("embedded")
    images = torch.randn(6, 3, 32, 32)
    method = vpt.build("knn", tower, CLASSES, k=1)
    method.prepare([(images, torch.arange(6) % 3)], ())
    assert torch.equal(method(images).argmax(dim=1), torch.arange(6) % 3)


def test_bad_options_and_an_empty_memory_are_refused(vit):
    with pytest.raises(InputError, match="unknown weights of a vote 'unifrom'"):
        vpt.build("knn", vit, CLASSES, weights="unifrom")
    for options in ({"k": 0}, {"temperature": 0.0}):
        with pytest.raises(InputError, match="k and temperature"):
            vpt.build("knn", vit, CLASSES, **options)
    with pytest.raises(InputError, match="no training images yet"):
        vpt.build("knn", vit, CLASSES)(torch.randn(1, 64))
    with pytest.raises(InputError, match="there are none"):
        vpt.build("knn", vit, CLASSES).prepare((), ())
    with pytest.raises(InputError, match="lacks 'keys'"):
        vpt.build("knn", vit, CLASSES).load_learned_state({"labels": torch.zeros(2, dtype=torch.long)})


def test_remembered_images_are_no_learned_parameters(vit, inputs):
    method = vpt.build("knn", vit, [f"class {i}" for i in range(7)])
    method.prepare([(inputs["images"], inputs["labels"])], [])
    assert method.learned_parameters() == 0 and len(method.keys) == 6
    head = vpt.build("linear", vit, ["a", "b"], hidden_layers=1)
    assert head.learned_parameters() == 64 * 64 + 64 + 2 * 64 + 2 * 64 + 2
