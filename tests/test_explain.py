"""Explanations of runs: weights of attention, nearest words, patches and texts, and the page."""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from own_images import image
from PIL import Image
from small_run import config

import coop
import vpt
from coop.parts.local_features import local_features
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.blocks import view_block
from promptvision.backbones.compute import Compute
from promptvision.backbones.image import insert
from promptvision.config.families import FAMILIES
from promptvision.deploy.explain.attention import Watch, attention_weights, class_attention
from promptvision.deploy.explain.page import write_explanation
from promptvision.deploy.explain.parts import Part, attention_part, explain
from promptvision.deploy.explain.plane import in_plane, neighbours_agree
from promptvision.deploy.explain.similarity import patch_similarity
from promptvision.deploy.explain.subject import MOST, Subject, named_images, seen_as
from promptvision.deploy.explain.words import NearWords, near_words
from promptvision.errors import InputError
from promptvision.experiment.loaders import transform_of
from promptvision.report.figures.style import Drawing, pyplot

NAMES = ["circle", "square", "star", "ring"]
TITLES = ["Nearest words", "Attention of the class token", "Patches and class texts", "Features before and after"]
SCRIPT = "<script>document.title = 'broken'</script>"


@pytest.fixture(scope="module")
def clip():
    found = load_clip("embedded")
    found.compute = Compute("plain")
    return found


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def plain_vit():
    tower = load_vit("embedded")
    tower.compute = Compute("plain")
    return tower


# Attention


@pytest.mark.parametrize("kind", ["clip", "timm"])
def test_weights_reproduce_the_output_of_the_block_and_add_up_to_one(kind, clip, vit):
    tower = clip.image if kind == "clip" else vit
    block, view = tower.blocks[1], view_block(tower.blocks[1])
    tokens = torch.randn(2, 17, tower.width)
    with torch.no_grad(), Watch() as watch:
        output = block(tokens)
    (weights,) = watch.weights
    (value,) = view.split(view.part(view.norm1(tokens), 2, 3), 1)
    torch.testing.assert_close(view.finish(weights @ value, tokens), output, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, view.heads, 17))


def test_the_share_of_prompts_is_that_of_their_keys(images):
    tower = plain_vit()
    method = vpt.build("prompt", tower, NAMES, num_tokens=3)
    method.prompt_embeddings.data.mul_(30)
    found = class_attention(tower, method.features_of, images)
    with torch.no_grad():
        entering = tower.enter(insert(tower.embed(images), method.prompt_embeddings[0], 1))
        query, key = view_qk(tower, entering)
    row = attention_weights(query, key).mean(dim=1)[:, 0]
    torch.testing.assert_close(found.prompts[0], row[:, 1:4].sum(dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.patches[0].flatten(1), row[:, 4:], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.own[0], row[:, 0], atol=1e-5, rtol=0)
    assert found.prompt_counts == [3] * tower.depth and found.patches.shape == (4, 2, 4, 4)
    bare = class_attention(tower, tower, images)
    assert bare.prompt_counts == [0] * 4 and bare.prompts.abs().max() < 1e-6


def view_qk(tower, tokens):
    view = view_block(tower.blocks[0])
    return view.split(view.part(view.norm1(tokens), 0, 2), 2)


def test_learned_keys_come_before_those_of_the_tokens(images):
    tower = plain_vit()
    method = vpt.build("e2vpt", tower, NAMES, num_tokens=3, num_keys=2)
    found = class_attention(tower, method.features_of, images)
    with torch.no_grad():
        query, key = view_qk(tower, tower.enter(tower.embed(images)))
        own = method._prefix(0, tower.enter(method.prompts(2)[0]))[0]
        keys = torch.cat([view_block(tower.blocks[0]).split(own, 1)[0].expand(2, -1, -1, -1), key], dim=-2)
    row = attention_weights(query, keys).mean(dim=1)[:, 0]
    torch.testing.assert_close(found.prompts[0], row[:, :5].sum(dim=1), atol=1e-5, rtol=0)
    assert found.prompt_counts == [5] * 4


def test_towers_without_a_class_token_are_refused(images, swin):
    with pytest.raises(InputError, match="has no blocks of a ViT, so no class token"):
        class_attention(swin, swin, images)
    pooled = load_vit("vit_tiny_patch16_224", pretrained="none", pool="avg")
    pooled.prefix = 0
    with pytest.raises(InputError, match="has no class token whose attention"):
        class_attention(pooled, pooled, images)
    tower = plain_vit()
    with pytest.raises(InputError, match="compute their attention in a way of their own"):
        class_attention(tower, lambda images: images, images)


# Words


def test_words_that_contexts_start_from_are_the_nearest(clip):
    method = coop.build("coop", clip, NAMES, ctx_init="a photo of a")
    (table,), spacing = near_words(method, 3)
    assert [row[0] for row in table.rows] == [(word, pytest.approx(0, abs=1e-3)) for word in ["a", "photo", "of", "a"]]
    assert all(len(row) == 3 and row[0][1] < row[1][1] < row[2][1] for row in table.rows)
    assert table.title == "all classes" and spacing > 0.1


def test_distances_are_euclidean(clip):
    method = coop.build("coop", clip, NAMES, n_ctx=1)
    ((table,), _), (word,) = near_words(method, 1), clip.text.tokenize(["photo"])[:, 1:2]
    method.ctx.data = clip.text.embed(word).detach() + torch.eye(1, clip.text.width) * 0.25
    ((table,), _) = near_words(method, 1)
    assert table.rows == [[("photo", pytest.approx(0.25, abs=1e-4))]]


@pytest.mark.parametrize(
    ("name", "options", "titles"),
    [
        ("coop", {"csc": True}, NAMES[:3]),
        ("cocoop", {}, ["all classes"]),
        ("plot", {}, ["prompt 1", "prompt 2", "prompt 3"]),
        ("at_prompt", {"attributes": ["shape"]}, ["all classes", "ctx_att1"]),
        ("maple", {}, ["all classes"]),
        ("tcp", {}, ["all classes"]),
    ],
)
def test_every_kind_of_context_is_found(clip, name, options, titles):
    tables, _ = near_words(coop.build(name, clip, NAMES, **options), 1)
    assert [table.title for table in tables] == titles


def test_methods_and_tokenizers_without_words_say_so(clip, vit):
    for method in (vpt.build("prompt", vit, NAMES), coop.build("zero_shot", clip, NAMES)):
        with pytest.raises(InputError, match="learns no vectors in the places of words"):
            near_words(method, 1)
    method = coop.build("coop", clip, NAMES)
    method.backbone = copy.copy(clip)
    method.backbone._modules = {**clip._modules, "text": copy.copy(clip.text)}
    method.backbone.text.tokenizer = None
    with pytest.raises(InputError, match="no tokenizer that decodes"):
        near_words(method, 1)


# Patches and texts


def test_similarity_is_the_cosine_of_projected_patches_and_texts(clip, images):
    method = coop.build("zero_shot", clip, NAMES)
    found = patch_similarity(method, images)
    wanted = F.normalize(local_features(clip.image, images), dim=-1) @ method.features.T
    torch.testing.assert_close(found, wanted.transpose(1, 2).unflatten(2, (4, 4)), atol=1e-5, rtol=0)
    prompted = coop.build("vpt", clip, NAMES, template="a photo of a {}.")
    prompted.image_encoder.VPT.data.mul_(20)
    assert (patch_similarity(prompted, images) - found).abs().max() > 0.01
    assert clip.image.pools_first and "pool" not in vars(clip.image)


@pytest.mark.parametrize(
    ("name", "reason"), [("clip_adapter", "more than the class token"), ("cocoop", "no class texts")]
)
def test_methods_that_compare_in_another_space_say_so(clip, images, name, reason):
    method = coop.build(name, clip, NAMES)
    if name == "clip_adapter":
        method.ratio = 0.5
    with pytest.raises(InputError, match=reason):
        patch_similarity(method, images)


# Features


def test_features_in_a_plane():
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 2
    rows[labels == 1] += 6
    assert neighbours_agree(rows, labels) == 1.0
    for kind in ("tsne", "pca"):
        points = in_plane(rows, kind, 1)
        assert points.shape == (40, 2)
        assert neighbours_agree(torch.from_numpy(points - points.mean(axis=0)), labels) > 0.9
    with pytest.raises(InputError, match="a map of features takes 5 test images or more, not 4"):
        in_plane(rows[:4], "pca", 1)
    with pytest.raises(InputError, match="unknown projection 'umap'"):
        in_plane(rows, "umap", 1)


# Whole explanations


def subject_of(method, frozen, cfg, tests=6):
    """A method that is shown two images of noise, and some of four classes as its test images."""
    transform = transform_of(cfg, method)
    noise = np.random.default_rng(0).integers(0, 255, (tests, 40, 40, 3), dtype=np.uint8)
    opener = {f"{n}.png": Image.fromarray(pixels) for n, pixels in enumerate(noise)}.__getitem__
    items = [(f"{n}.png", n % len(NAMES), NAMES[n % len(NAMES)]) for n in range(tests)]
    seen = [seen_as(transform, path, name, opener(path)) for path, _, name in items[:2]]
    return Subject(cfg, method.eval(), frozen, transform, seen, items, opener)


WITH_WORDS = (
    "coop cocoop dapl ivlp maple co_prompt prompt_src kg_coop pro_grad plot tcp mmrl mmrl_pp tpt dept at_prompt"
)
WITHOUT_PATCHES = "cocoop linear_probe co_prompt clip_adapter prompt_kd"
WITH_TOKENS = {
    "coop": "vpt ivlp maple co_prompt prompt_src prompt_kd mmrl mmrl_pp",
    "vpt": "prompt prompt_ablations vfpt e2vpt l2p dual_prompt coda_prompt layer_pools",
}
"""Methods that put prompts or keys among what the class token sees."""
EVERY = [(family, name) for family in FAMILIES for name in FAMILIES[family].METHODS]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), EVERY)
def test_every_method_is_explained_or_says_why_not(family, name, clip, swin, tmp_path):
    backbone = clip if family == "coop" else swin if name == "swin_prompt" else plain_vit()
    method = FAMILIES[family].build(name, copy.deepcopy(backbone), NAMES)
    parts = explain(subject_of(method, getattr(backbone, "image", backbone), config(tmp_path)), 2, "pca")
    assert [part.title for part in parts] == TITLES
    for part in parts:
        assert part.sentences and all(re.fullmatch(r"[A-Z0-9].*[^.]\.", text) for text in part.sentences), part
    words, attention, similarity, features = parts
    assert bool(words.words) == (family == "coop" and name in WITH_WORDS.split())
    assert bool(attention.drawings) == (name != "swin_prompt") and features.drawings
    assert bool(similarity.drawings) == (family == "coop" and name not in WITHOUT_PATCHES.split())
    shares = [drawing for drawing in attention.drawings if drawing.title == "prompt share"]
    assert bool(shares) == (name in WITH_TOKENS[family].split())


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("pad", {"border": 8}, "Pad encodes 6 x 6 patches, the backbone 4 x 4: its maps do not fit the image."),
        (
            "prompt_ablations",
            {"deep": True, "last": 2, "delete_patches": True},
            "Prompts take the places of patches (delete_patches), so the method's maps have holes.",
        ),
        ("linear", {}, "The method leaves the image tower as it is, so its maps are those of the backbone."),
        ("lora", {}, "The method puts no prompts among the tokens, so none draw attention."),
    ],
)
def test_maps_that_cannot_be_laid_over_the_image_are_left_out(tmp_path, name, options, said):
    tower = plain_vit()
    method = vpt.build(name, copy.deepcopy(tower), NAMES, **options)
    part = attention_part(subject_of(method, tower, config(tmp_path)))
    assert part.sentences[1:] == [said] and len(part.drawings) == 2


def test_names_are_text_in_every_file_and_nothing_is_fetched(tmp_path):
    table = NearWords(SCRIPT, [[("=1+1", 0.5), (SCRIPT, 0.75)]])
    drawing = Drawing("x", "one two", SCRIPT, lambda: pyplot.figure(figsize=(1, 1)))
    page = write_explanation(
        'a"b', SCRIPT, [Part(SCRIPT, [f"{SCRIPT}."], [table], [drawing])], tmp_path / 'out "quoted"'
    )
    text, files = page.read_text(), sorted(path.name for path in page.parent.iterdir())
    assert "<script" not in text and "&lt;script&gt;" in text and "a&#34;b" in text
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|https?:""", text)
    assert files == ["explain.html", "one_two.png", "one_two.svg", "words.csv"]
    assert "'=1+1,0.5000" in (page.parent / "words.csv").read_text()


def test_more_images_than_maps_are_drawn_of_are_named_in_a_warning(tmp_path, caplog):
    for number in range(MOST + 1):
        image(tmp_path / f"{number:02d}.png")
    transform = transform_of(config(tmp_path), vpt.build("linear", plain_vit(), NAMES))
    assert len(named_images(transform, [str(tmp_path)])) == MOST
    assert "Maps are drawn of the first 16 of 17 images" in caplog.text
