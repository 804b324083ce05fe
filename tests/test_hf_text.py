"""CoOp on Hugging Face text towers inside open_clip, with random weights: BERT (start token) and T5 (none)."""

import open_clip
import pytest
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import HFTokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, MT5Config, PreTrainedTokenizerFast

import coop
from promptvision.backbones.open_clip_image import OpenClipImage
from promptvision.backbones.text import HuggingFaceText, OpenClipText
from promptvision.backbones.towers import CLIP
from promptvision.errors import InputError

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "X", ".", "a", "photo", "of", "cat", "golden", "retriever", "dog"]
CONFIGS = {
    "bert": BertConfig(vocab_size=13, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
    "t5": MT5Config(vocab_size=13, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, pad_token_id=0),
}
AROUND = {"bert": "[CLS] $A [SEP]", "t5": "$A [SEP]"}


@pytest.fixture(params=CONFIGS)
def clip(request, tmp_path):
    kind = request.param
    rules = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    rules.post_processor = processors.TemplateProcessing(AROUND[kind], special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    PreTrainedTokenizerFast(tokenizer_object=rules, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    CONFIGS[kind].save_pretrained(tmp_path)
    torch.manual_seed(0)
    encoder = HFTextEncoder(str(tmp_path), 16, pooler_type="mean_pooler", proj_type="linear", pretrained=False).eval()
    tokenizer = HFTokenizer(str(tmp_path), context_length=16)
    visual = open_clip.CLIP(16, dict(image_size=32, layers=1, width=32, head_width=16, patch_size=16), {}).visual
    text = HuggingFaceText(encoder, tokenizer, kind)
    return CLIP(kind, OpenClipImage(visual, kind), text, torch.nn.Parameter(torch.tensor(3.0))).requires_grad_(False)


def test_features_are_the_encoders_own(clip):
    texts = ["a photo of a cat.", "golden retriever."]
    ids = clip.text.tokenize(texts)
    assert clip.text.starts == (1 if clip.name == "bert" else 0)
    torch.testing.assert_close(clip.text(texts), clip.text.encoder(ids), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_coop_learns_and_puts_words_where_they_belong(clip, position):
    classes = ["cat", "golden_retriever", "dog"]
    method = coop.build("coop", clip, classes, ctx_init="a photo of a", class_token_position=position)
    written = {"end": "a photo of a {}.", "middle": "a photo {} of a.", "front": "{} a photo of a."}[position]
    expected = clip.text([written.format(name.replace("_", " ")) for name in classes])
    torch.testing.assert_close(method.text_features(), expected, atol=1e-6, rtol=1e-5)
    method.loss(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).backward()
    assert method.ctx.grad.abs().sum() > 0


def test_the_fast_way_and_long_texts_are_refused(clip, computed):
    with pytest.raises(InputError, match="no causal mask"):
        coop.build("coop", computed(clip, way="fast"), ["cat"], n_ctx=2)(torch.randn(1, 3, 32, 32))
    with pytest.raises(InputError, match="tower takes 1[45] between start and end"):
        coop.build("coop", clip, ["cat"], n_ctx=20)


def test_siglip_of_open_clip_puts_contexts_before_the_name(tmp_path):
    rules = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    rules.post_processor = processors.TemplateProcessing("$A [SEP]", special_tokens=[("[SEP]", 2)])
    PreTrainedTokenizerFast(tokenizer_object=rules, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    torch.manual_seed(0)
    vision = dict(image_size=32, layers=1, width=32, head_width=16, patch_size=16)
    text = dict(context_length=12, vocab_size=13, width=32, heads=2, layers=2, no_causal_mask=True, proj_bias=True)
    model = open_clip.CustomTextCLIP(24, vision, {**text, "pool_type": "last"}).requires_grad_(False).eval()
    tokenizer = HFTokenizer(str(tmp_path), context_length=12, clean="canonicalize")
    tower = OpenClipText(model, tokenizer, "siglip")
    clip = CLIP("siglip", OpenClipImage(model.visual, "siglip"), tower, model.logit_scale)
    assert (tower.starts, tower.marks, tower.count("A photo, of a cat.")) == (0, 1, 5)
    method = coop.build("coop", clip, ["cat", "golden_retriever"], ctx_init="a photo of a")
    texts = ["a photo of a cat.", "a photo of a golden retriever."]
    torch.testing.assert_close(method.text_features(), clip.text(texts), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(clip.text(texts), model.encode_text(tokenizer(texts)), atol=1e-6, rtol=1e-5)
