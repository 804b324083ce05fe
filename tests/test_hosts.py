"""DePT and ATPrompt on each of their hosts: objectives, prompts, gradients, other classes, options, checkpoints."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import coop
from coop.parts.official_checkpoints import load_official
from promptvision.backbones import load_clip
from promptvision.config import load_config, method_options
from promptvision.config.families import FAMILIES
from promptvision.engine.optim import build_optimizer, set_rate
from promptvision.errors import InputError
from promptvision.experiment.schedule import alike, rates

ROOT = Path(__file__).parents[1]
NAMES = ["cat", "golden_retriever", "Washington D.C."]
EVERY = pytest.mark.parametrize(
    ("name", "host"), [(name, host) for name in coop.METHODS.hosts for host in coop.METHODS.hosts[name]]
)
DEEP = {"maple": dict(depth=2), "prompt_src": dict(depth_text=2, depth_vision=2)}


@pytest.fixture(scope="module")
def clip():
    return load_clip("embedded").double()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, 3, 32, 32, generator=generator).double(), torch.tensor([0, 1, 2, 1])


def build(name, clip, host, classes=NAMES, **options):
    torch.manual_seed(5)
    return coop.build(name, clip, classes, host=host, **{**DEEP.get(host, {}), **options}).double()


def gradients(method, batch):
    """(loss, gradients of the learned parameters)."""
    loss = method.loss(*batch)
    return loss, torch.autograd.grad(loss, [*method.trained().values()])


@EVERY
def test_ways_and_parts_change_nothing(name, host, clip, batch, computed):
    """Every learned tensor has a gradient, and it is the same in the plain way, and with two images at once."""
    found = []
    for settings in (dict(way="fast"), dict(way="plain", images_at_once=2)):
        method = build(name, computed(clip, **settings), host)
        found.append(gradients(method, batch))
    (loss, ours), (other_loss, others) = found
    torch.testing.assert_close(loss, other_loss, rtol=1e-12, atol=0)
    for key, a, b in zip(method.learned(), ours, others, strict=True):
        assert a.abs().max() > 0, key
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * a.abs().max().item(), msg=key)


@EVERY
def test_copies_and_learned_states(name, host, clip, batch):
    method = build(name, clip, host)
    for other in (
        copy.deepcopy(method),
        pickle.loads(pickle.dumps(method)),
        build(name, clip, host, n_att=0) if name == "at_prompt" else build(name, clip, host),
    ):
        with torch.no_grad():
            for parameter in other.trained().values():
                parameter.add_(0.1)
        state = other.learned_state()
        assert [*state] == method.learned() and other.options == method.options
        again = build(name, clip, host)
        again.load_learned_state(state)
        assert torch.equal(again(batch[0]), other(batch[0]))


def test_dept_is_its_host_with_a_head(clip, batch):
    """(1 - w) CE + w CE of the head, and KgCoOp's own term as it is; the head sees the text of each image's class."""
    method, host = build("dept", clip, "kg_coop", linear_weight=0.3), coop.build("kg_coop", clip, NAMES).double()
    images, labels = batch
    with torch.no_grad():
        for key, parameter in method.trained().items():
            parameter.add_(0.05 * torch.randn_like(parameter)) if key != "ctx" else None
        features, texts = clip.image(images), host.text_features()
        rows = torch.stack([texts[label] for label in labels]), features
        films = method.film_lp_text, method.film_lp_img
        shifted = torch.cat([row * film.scale + film.bias for row, film in zip(rows, films, strict=True)])
        logits = shifted @ method.linear_probe_proj.weight.T + method.linear_probe_proj.bias
        entropy, linear = F.cross_entropy(host(images), labels), F.cross_entropy(logits, labels.repeat(2))
        knowledge = host.loss(images, labels) - entropy
        torch.testing.assert_close(method.loss(images, labels), 0.7 * entropy + 0.3 * linear + knowledge)
        torch.testing.assert_close(method(images), 0.7 * host(images) + 0.3 * logits[4:])
        new = method.for_classes(["dog", *NAMES]).double()
        torch.testing.assert_close(new(images)[:, 1:], host(images), msg="a new class: similarities alone")
        some = new.for_classes([NAMES[2], NAMES[0]]).double()
        torch.testing.assert_close(some(images), method(images)[:, [2, 0]], msg="rows of the head, picked")


def test_attributes_stand_before_the_prompt_of_the_host(clip):
    text = clip.text
    method = build("at_prompt", clip, "coop", n_ctx=3, n_att=2, attributes=("playfulness", "energy"))
    counts = [text.count(word) for word in ("playfulness", "energy")]
    values = [getattr(method.encoder, name) for name in ("ctx_att1", "ctx_att2")]
    words = text.embed(text.tokenize(["playfulness energy golden retriever."]))[0, 1:]
    words = words[: sum(counts) + 3].split([*counts, 3])
    start = text.embed(text.tokenize(["."]))[0, :1]
    wanted = torch.cat([start, values[0], words[0], values[1], words[1], method.ctx, words[2]])
    found = method.encoder.prompts(text, torch.cat([*values, method.ctx])[None], torch.tensor([1]))[0]
    torch.testing.assert_close(found[: len(wanted)], wanted)
    assert int(method.encoder.eot[1]) == len(wanted)


def test_one_token_is_the_same_for_words_of_one_token(clip, batch):
    for words, same in ((("color", "shape"), True), (("playfulness", "energy"), False)):
        assert [clip.text.count(word) for word in words] == [1 if same else 2, 1]
        methods = [build("at_prompt", clip, "coop", attributes=words, one_token=on) for on in (False, True)]
        assert torch.equal(*(method(batch[0]) for method in methods)) == same


def test_deep_prompts_replace_the_contexts_of_the_host_alone(clip, batch):
    """With what runs through put into the deep prompts by hand, block by block."""
    method = build("at_prompt", clip, "maple", n_ctx=2, attributes=("color",))
    text, learner = clip.text, method.prompt_learner
    vectors = torch.cat([method.encoder.ctx_att1, learner.ctx])
    tokens = method.encoder.prompts(text, vectors[None], torch.tensor([0, 1, 2]))
    blocks, place = list(text.blocks), 1 + 2 + 1

    def replaced(block, deep):
        return lambda x, **more: block(torch.cat([x[:, :place], deep.expand(3, -1, -1), x[:, place + 2 :]], 1), **more)

    for index, deep in enumerate(learner.compound_prompts_text, 1):
        blocks[index] = replaced(blocks[index], deep)
    torch.testing.assert_close(method.text_features(), text.encode(tokens, method.encoder.eot, blocks))


def test_what_is_new_learns_faster_after_the_warm_up(clip):
    method = build("dept", clip, "coop", rate_factor=4.0)
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.5, 0.0, rate_factors=method.rate_factors)
    for warm, new in ((True, 0.5), (False, 2.0)):
        set_rate(optimizer, 0.5, alike=warm)
        found = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert found == {name: 0.5 if name == "ctx" else new for name in method.trained()}


def config(*words):
    return load_config(ROOT / "configs/coop/embedded.yaml", ["METHOD.NAME", "dept", *words], FAMILIES)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["OPTIM.WARMUP_EPOCHS", 2], 2),
        (["OPTIM.WARMUP_EPOCHS", 3, "OPTIM.WARMUP_TYPE", "linear"], 1),
        (["OPTIM.WARMUP_EPOCHS", 0], 0),
        (["OPTIM.SCHEDULE", "vpt_cosine"], 0),
        (["OPTIM.WARMUP_EPOCHS", 2, "OPTIM.ITERATIONS", 30], 10),
    ],
)
def test_the_warm_up_is_the_same_for_all(words, count):
    cfg = config(*words)
    assert alike(cfg, 5) == count
    if count:
        assert rates(cfg, 5)[:count] == [cfg.OPTIM.WARMUP_LR] * count


def test_an_addition_has_the_options_of_its_host():
    cfg = config("METHOD.OPTIONS.HOST", "maple", "METHOD.OPTIONS.DEPTH", 3, "METHOD.OPTIONS.N_CTX", 2)
    assert dict(cfg.METHOD.OPTIONS) == dict(
        HOST="maple", N_CTX=2, DEPTH=3, CTX_INIT="a photo of a", LINEAR_WEIGHT=0.7, RATE_FACTOR=6.5
    )
    nested = config("METHOD.OPTIONS.HOST", "at_prompt", "METHOD.OPTIONS.ATTRIBUTES", "[habitat]")
    assert nested.METHOD.OPTIONS.N_CTX == 16 and nested.METHOD.OPTIONS.ATTRIBUTES == ["habitat"]


@EVERY
def test_the_example_works_with_every_host(name, host):
    cfg = load_config(ROOT / f"configs/coop/embedded_{name}.yaml", ["METHOD.OPTIONS.HOST", host], FAMILIES)
    options = cfg.METHOD.OPTIONS
    assert options["N_CTX_TEXT" if host == "prompt_src" else "N_CTX"] == 4 and options.get("DEPTH", 3) == 3
    method = coop.build(name, load_clip("embedded"), NAMES, **method_options(cfg))
    assert method(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_wrong_options_are_refused(clip):
    with pytest.raises(InputError, match="dept with HOST prompt_src: 'N_CTX'; did you mean 'N_CTX_TEXT'"):
        config("METHOD.OPTIONS.HOST", "prompt_src", "METHOD.OPTIONS.N_CTX", 4)
    with pytest.raises(InputError, match="METHOD.OPTIONS.HOST.*'mapl'.*did you mean 'maple'"):
        config("METHOD.OPTIONS.HOST", "mapl")
    with pytest.raises(InputError, match="with HOST coop: 'DEPTH'"):
        config("METHOD.OPTIONS.DEPTH", 3)
    with pytest.raises(InputError, match="host of dept 'tip_adapter'"):
        coop.build("dept", clip, NAMES, host="tip_adapter")
    for options, said in (
        (dict(attributes=()), "attributes takes words"),
        (dict(attributes=("color", " ")), "attributes takes words"),
        (dict(n_att=-1), "n_att is -1"),
        (dict(attributes=("color",) * 12, n_att=5), "the longest prompt ends at token"),
        (dict(attributes=("color",) * 40, n_att=5), "with 40 attributes the longest prompt ends at token"),
    ):
        with pytest.raises(InputError, match=said):
            coop.build("at_prompt", clip, NAMES, **options)
    with pytest.raises(InputError, match="linear_weight is 1.5; it is a share"):
        coop.build("dept", clip, NAMES, linear_weight=1.5)
    for factor in (0.0, -1.0):
        with pytest.raises(InputError, match="rate_factor is .*; it must be above 0"):
            coop.build("dept", clip, NAMES, rate_factor=factor)


@pytest.mark.parametrize(("name", "host"), [("dept", "coop"), ("dept", "maple"), ("at_prompt", "cocoop")])
@pytest.mark.parametrize("whole", [True, False])
def test_official_checkpoints_load(name, host, whole, clip, tmp_path):
    """As a whole model saves them, with its frozen towers, or the prompt learner alone."""
    method = build(name, clip, host)
    state = {key: torch.randn_like(tensor).float() for key, tensor in method.learned_state().items()}
    saved = state | {f"prompt_learner.{key}": torch.zeros(3, 1, 8) for key in ("token_prefix", "token_middle1")}
    if name == "at_prompt":
        saved["prompt_learner.ctx_att3"] = torch.zeros(4, 128)
    if whole:
        saved |= {f"text_encoder.{key}": tensor for key, tensor in clip.text.transformer.state_dict().items()}
    elif name == "at_prompt":
        saved = {key.removeprefix("prompt_learner."): tensor for key, tensor in saved.items()}
    torch.save({"state_dict": saved, "epoch": 10}, tmp_path / "model.pth.tar-10")
    method.load_learned_state(load_official(tmp_path / "model.pth.tar-10", method))
    assert all(torch.equal(tensor.float(), state[key]) for key, tensor in method.learned_state().items())
