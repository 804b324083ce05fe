"""Reparameterised contexts, own texts per class, and what is said about class names that cannot be used."""

import json

import pytest
import torch
import torch.nn.functional as F

import coop
import vpt
from promptvision.backbones import load_clip
from promptvision.errors import InputError
from promptvision.experiment.build import default_templates

NAMES = ["cat", "golden_retriever", "Washington D.C."]


@pytest.fixture(scope="module")
def clip(golden):
    return load_clip(golden.root / "coop/clip_vit_tiny.safetensors")


@pytest.fixture(scope="module")
def batch(golden):
    _, tensors = golden("coop/inputs")
    return tensors["images"], tensors["labels"] % 3


def mlp_by_hand(state, hidden):
    hidden = torch.relu(hidden @ state["network.mlp.0.weight"].T + state["network.mlp.0.bias"])
    return hidden @ state["network.mlp.2.weight"].T + state["network.mlp.2.bias"]


def lstm_by_hand(state, rows):
    """(M, D) through two bidirectional layers, gate by gate (Hochreiter and Schmidhuber)."""
    for layer in (0, 1):
        both = []
        for direction in ("", "_reverse"):
            weights = [state[f"network.lstm.{kind}_l{layer}{direction}"] for kind in ("weight_ih", "weight_hh")]
            bias = (
                state[f"network.lstm.bias_ih_l{layer}{direction}"] + state[f"network.lstm.bias_hh_l{layer}{direction}"]
            )
            out, h, c = [], torch.zeros(weights[1].shape[1]), torch.zeros(weights[1].shape[1])
            for row in rows.flip(0) if direction else rows:
                i, f, g, o = (weights[0] @ row + weights[1] @ h + bias).chunk(4)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                out.append(h)
            both.append(torch.stack(out[::-1] if direction else out))
        rows = torch.cat(both, dim=1)
    return rows


@pytest.mark.parametrize("csc", [False, True])
@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_the_network_makes_the_contexts(kind, csc, clip, batch):
    torch.manual_seed(1)
    method = coop.build("coop", clip, NAMES, n_ctx=5, csc=csc, reparameterize=kind)
    state = method.learned_state()
    rows = state["ctx"] if csc else state["ctx"][None]
    by_hand = torch.stack([mlp_by_hand(state, lstm_by_hand(state, row) if kind == "lstm" else row) for row in rows])
    contexts = method.contexts().detach()
    torch.testing.assert_close(contexts, by_hand if csc else by_hand[0], atol=1e-6, rtol=1e-4)
    plain = coop.build("coop", clip, NAMES, n_ctx=5, csc=csc)
    plain.load_learned_state({"ctx": contexts})
    torch.testing.assert_close(method.predictor()(batch[0]), plain(batch[0]))
    torch.testing.assert_close(method.text_features(), plain.text_features())


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_a_gradient_reaches_every_tensor_of_the_network(kind, clip, batch):
    method = coop.build("coop", clip, NAMES, n_ctx=4, reparameterize=kind)
    method.loss(*batch).backward()
    learned = {name: method.get_parameter(name) for name in method.learned()}
    assert {"ctx", "network.mlp.0.weight", "network.mlp.2.bias"} <= learned.keys()
    assert ("network.lstm.weight_hh_l1_reverse" in learned) == (kind == "lstm")
    for name, parameter in learned.items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_networks_start_small_apart_and_serve_new_classes(clip, batch):
    for kind in ("mlp", "lstm"):
        method = coop.build("coop", clip, NAMES, n_ctx=4, reparameterize=kind)
        contexts = method.contexts()
        assert contexts.std() < 0.03
        assert F.cosine_similarity(contexts[0], contexts[1], dim=0) < 0.95
        other = method.for_classes(["Washington D.C.", "cat"])
        torch.testing.assert_close(other(batch[0])[:, [1, 0]], method(batch[0])[:, [0, 2]])


def test_without_a_network_nothing_else_is_learned(clip):
    assert coop.build("coop", clip, NAMES).learned() == ["ctx"]


def test_an_ensemble_goes_without_the_template_of_imagenet(tmp_path):
    """As ZeroshotCLIP2 does for the dataset of exactly this name."""
    card = "title: t\nsource: s\nlicence: l\nwhere: w\nreader: folder\ntemplate: an image of a {}.\n"
    for name, ensemble, expected in [
        ("imagenet", "select", []),
        ("imagenet", "", ["an image of a {}."]),
        ("imagenet_a", "select", ["an image of a {}."]),
    ]:
        path = write(tmp_path / f"{name}.yaml", card)
        assert default_templates({"NAME": path, "TEMPLATE": ""}, {"ensemble": ensemble}) == expected


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


TEXTS = {
    "cat": ["a small cat", "a tabby"],
    "golden retriever": "a yellow dog",
    "Washington D.C.": ["a city."],
    "zebra": "stripes",
}


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_own_texts_per_class(suffix, clip, batch, tmp_path):
    path = write(tmp_path / f"texts{suffix}", TEXTS)
    method = coop.build("zero_shot", clip, NAMES, texts=path, templates=["a photo of a {}."])
    unit = F.normalize(clip.text(["a small cat", "a tabby", "a yellow dog", "a city."]), dim=-1)
    mean = torch.stack([(unit[0] + unit[1]) / 2, unit[2], unit[3]])
    torch.testing.assert_close(method.features, F.normalize(mean, dim=-1))
    assert method.templates == []
    other = method.for_classes(["zebra", "cat"])
    torch.testing.assert_close(other(batch[0])[:, 1], method(batch[0])[:, 0])


def test_many_texts_are_encoded_in_blocks(clip, tmp_path):
    """More texts than are encoded at once, unevenly spread over the classes."""
    numbers = [f"number {number}" for number in range(300)]
    path = write(tmp_path / "t.json", {"cat": numbers, "dog": numbers[:3]})
    method = coop.build("zero_shot", clip, ["dog", "cat"], texts=path)
    unit = F.normalize(clip.text(numbers), dim=-1)
    torch.testing.assert_close(method.features, F.normalize(torch.stack([unit[:3].mean(0), unit.mean(0)]), dim=-1))


BAD_TEXTS = {
    "missing": ("{cat: a cat, gold retriever: a dog, Washington D.C.: x}", "no text for class 'golden_retriever'; did"),
    "no near": ("{cat: a cat}", "has no text for class 'golden_retriever'; it has 1 other class"),
    "empty list": ("{cat: []}", "class 'cat' in .* takes a text or a list of texts"),
    "number": ("{cat: [1]}", "class 'cat' in .* takes a text or a list of texts"),
    "empty text": ("{cat: ' '}", "class 'cat' in .* takes a text or a list of texts"),
    "list": ("[cat, dog]", "should hold lines 'class name: text'"),
    "nothing": ("", "should hold lines 'class name: text'"),
    "name": ("{1: a one}", "class name 1 in .* is no text; put it in quotes"),
    "yaml": ("{cat: [", "is not plain YAML"),
    "python": ("cat: !!python/object/apply:os.getpid []", "is not plain YAML"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_texts_are_one_sentence(case, clip, tmp_path):
    content, sentence = BAD_TEXTS[case]
    with pytest.raises(InputError, match=sentence) as error:
        coop.build("zero_shot", clip, NAMES, texts=write(tmp_path / "texts.yaml", content))
    assert "\n" not in str(error.value) and "texts.yaml" in str(error.value)


def test_texts_that_would_grow_are_refused(clip, tmp_path, yaml_bomb, little_memory):
    with pytest.raises(InputError, match="texts.yaml is not plain YAML: more than 1,000,000 values"):
        coop.build("zero_shot", clip, NAMES, texts=write(tmp_path / "texts.yaml", yaml_bomb))


def test_texts_that_are_missing_or_no_json(clip, tmp_path):
    with pytest.raises(InputError, match="gone.yaml cannot be read: No such file"):
        coop.build("zero_shot", clip, NAMES, texts=str(tmp_path / "gone.yaml"))
    with pytest.raises(InputError, match="t.json is not JSON"):
        coop.build("zero_shot", clip, NAMES, texts=write(tmp_path / "t.json", "{cat: x}"))


LONG = "golden " * 200
BAD = {
    "context too long": (
        dict(n_ctx=73),
        ["cat", "Washington D.C.", "dog"],
        "73 context vectors and the longest class name, 'Washington D.C.', make 7[6-9] tokens; the text tower takes 75",
    ),
    "name too long": (
        dict(n_ctx=4),
        ["cat", LONG],
        "longest class name, 'golden golden .*\\.\\.\\.', make 20[0-9] tokens",
    ),
    "words too long": (dict(ctx_init="a " * 80), ["cat"], "'a a a .* has 80 tokens; .* takes 75 between"),
    "empty": ({}, ["cat", ""], "class 1 has no name"),
    "blank": ({}, ["cat", " _ "], "class 1 has no name"),
    "endless": ({}, ["cat", "dog" * 10**6], "class 1, 'dogdog.* ..., has 3,000,000 characters; shorten it"),
    "twice": ({}, ["cat", "dog", "cat"], "two classes are called 'cat' \\(labels 0 and 2\\)"),
    "reparameterize": (dict(reparameterize="lsmt"), ["cat"], "did you mean 'lstm'"),
    "both": (dict(reparameterize="mlp", ctx_init="a photo"), ["cat"], "cannot start from ctx_init"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_names_and_options_are_one_sentence(case, clip):
    options, classes, sentence = BAD[case]
    with pytest.raises(InputError, match=sentence) as error:
        coop.build("coop", clip, classes, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["zero_shot", "cocoop"])
def test_a_name_of_two_hundred_tokens_is_refused_by_every_prompt(name, clip):
    with pytest.raises(InputError, match="golden golden.*takes 75 between start and end"):
        coop.build(name, clip, ["cat", LONG])


def test_names_of_other_languages_are_classes_like_others(clip, batch):
    names = ["ネコ", "собака", "猫 und Hund", "Àvila", "🐱"]
    logits = coop.build("coop", clip, names, n_ctx=2)(batch[0])
    assert logits.isfinite().all() and len(set(logits[0].tolist())) == len(names)


def test_heads_need_names_too():
    backbone = vpt.load_backbone("embedded", "default", 0)
    with pytest.raises(InputError, match="two classes are called 'a'"):
        vpt.build("linear", backbone, ["a", "a"])
