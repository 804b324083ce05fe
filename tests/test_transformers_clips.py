"""CLIPModel and SiglipModel of transformers: their own features, tokenizers, and learned contexts on them."""

import copy

import pytest
import torch
from transformers_layers import SIZES, compare, hf, randomized

import coop
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.compute import Compute
from promptvision.errors import InputError

tokenizers = pytest.importorskip("tokenizers")
WORDS = ["<pad>", "<s>", "<unk>", ".", "X", "a", "photo", "of", "cat", "dog", "golden", "retriever", "</s>"]
TEXT = dict(
    hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, max_position_embeddings=16,
    bos_token_id=1, eos_token_id=12, pad_token_id=0,
)  # fmt: skip


@pytest.fixture
def words(tmp_path):
    """A folder with a tokenizer of thirteen words, with these marks around a text."""

    def folder(around):
        rules = tokenizers.Tokenizer(
            tokenizers.models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
        )
        rules.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        marks = [("<s>", 1), ("</s>", 12)]
        rules.post_processor = tokenizers.processors.TemplateProcessing(around, special_tokens=marks)
        tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=rules, pad_token="<pad>", unk_token="<unk>")
        tokenizer.save_pretrained(tmp_path)
        return str(tmp_path)

    return folder


def clip_model(text=TEXT, **options):
    torch.manual_seed(0)
    text = {"vocab_size": 13, **text}
    return randomized(hf.CLIPModel(hf.CLIPConfig(vision_config=SIZES, text_config=text, projection_dim=20, **options)))


def siglip_model():
    torch.manual_seed(0)
    text = {**TEXT, "vocab_size": 13, "projection_size": 32}
    return randomized(hf.SiglipModel(hf.SiglipConfig(vision_config=SIZES, text_config=text)))


CLIPS = {
    "CLIP": (clip_model, "<s> $A </s>"),
    "CLIP, older eos": (lambda: clip_model({**TEXT, "eos_token_id": 2}), "<s> $A </s>"),
    "SigLIP": (siglip_model, "$A </s>"),
}


@pytest.mark.parametrize("kind", CLIPS)
def test_a_clip_has_transformers_features_and_logits(kind, words):
    make, around = CLIPS[kind]
    model = make()
    clip, texts, images = (
        load_clip(model, tokenizer=words(around)),
        ["a photo of a cat.", "dog"],
        torch.randn(3, 3, 32, 32),
    )
    ids = clip.text.tokenize(texts)
    rows = [clip.text.tokenizer.tokenizer(text).input_ids for text in texts]
    assert [row[: len(given)].tolist() for row, given in zip(ids, rows, strict=True)] == rows
    torch.testing.assert_close(clip.image(images), model.get_image_features(images).pooler_output, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clip.text(texts), model.get_text_features(ids).pooler_output, atol=1e-5, rtol=1e-5)
    own = model(input_ids=ids, pixel_values=images).logits_per_image - getattr(model, "logit_bias", torch.zeros(()))
    torch.testing.assert_close(clip.logits(clip.image(images), clip.text(texts)), own, atol=1e-4, rtol=1e-4)
    assert clip.text.causal == kind.startswith("CLIP")


@pytest.mark.parametrize("kind", CLIPS)
def test_load_vit_takes_the_image_tower(kind):
    model, images = CLIPS[kind][0](), torch.randn(3, 3, 32, 32)
    tower = load_vit(model)
    torch.testing.assert_close(tower(images), model.vision_model(images).pooler_output, atol=1e-5, rtol=1e-5)
    assert tower.depth == 2 and tower.mean[0] == (0.5 if kind == "SigLIP" else pytest.approx(0.48, abs=0.01))


@pytest.mark.parametrize("kind", CLIPS)
def test_coop_learns_contexts(kind, words):
    make, around = CLIPS[kind]
    model = make()
    clip = load_clip(model, tokenizer=words(around))
    classes, images = ["cat", "golden retriever", "dog"], torch.randn(2, 3, 32, 32)
    method = coop.build("coop", clip, classes, ctx_init="a photo of a")
    ids = clip.text.tokenize([f"a photo of a {name}." for name in classes])
    expected = model.get_text_features(ids).pooler_output
    torch.testing.assert_close(method.text_features(), expected, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(method.loss(images, torch.tensor([0, 2])), [method.ctx])
    other = copy.copy(clip)
    other.compute = Compute("plain")
    (plain,) = torch.autograd.grad(method.loss(images, torch.tensor([0, 2])), [method.ctx])
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(gradient, plain, atol=1e-6, rtol=1e-4)
    fast = clip.text.views() is not None and clip.text.causal
    assert fast == kind.startswith("CLIP")
    if not fast:
        clip.compute = Compute("fast")
        with pytest.raises(InputError, match="no causal mask"):
            method.text_features()


def test_the_gradient_of_contexts_is_that_of_transformers_own_layers(words):
    model = clip_model()
    clip = load_clip(model, tokenizer=words("<s> $A </s>"))
    clip.compute = Compute("fast")
    method = coop.build("coop", clip, ["cat", "dog"], n_ctx=2)
    ids = clip.text.tokenize(["X X cat.", "X X dog."])
    tokens = model.text_model.embeddings.token_embedding(ids)
    tokens = torch.cat([tokens[:, :1], method.ctx.expand(2, -1, -1), tokens[:, 3:]], dim=1)
    tokens = model.text_model.embeddings(inputs_embeds=tokens)
    mask = torch.full((16, 16), -torch.inf).triu(1)[None, None]
    for layer in model.text_model.encoder.layers:
        tokens = layer(tokens, attention_mask=mask)
    ends = model.text_model.final_layer_norm(tokens)[torch.arange(2), (ids == 12).int().argmax(dim=1)]
    compare(method.text_features(), model.text_projection(ends), [method.ctx])


def test_maple_learns_in_both_towers(words):
    clip = load_clip(clip_model(), tokenizer=words("<s> $A </s>"))
    method = coop.build("maple", clip, ["cat", "dog"], n_ctx=2, depth=2)
    method.loss(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).backward()
    assert any(each.grad is not None and each.grad.abs().sum() > 0 for each in method.parameters())


def test_the_tokenizer_is_openais_or_must_be_named(words):
    clip = load_clip(clip_model({**TEXT, "vocab_size": 49408, "eos_token_id": 49407}))
    assert clip.text.tokenize(["a cat"])[0, :4].tolist() == [49406, 320, 2368, 49407]
    with pytest.raises(
        InputError, match="CLIPModel has 13 words and does not say which tokenizer is its own; give its"
    ):
        load_clip(clip_model())
    with pytest.raises(
        InputError, match="load_clip is given a BertModel; it must be a promptvision.backbones.CLIP, or CLIPModel or"
    ):
        load_clip(hf.BertModel(hf.BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)))
