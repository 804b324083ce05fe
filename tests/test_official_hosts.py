"""DePT and ATPrompt against the numbers of their official codes: values, gradients, training, and what they learn."""

from pathlib import Path

import pytest
import torch
from official import near_each, start_of, steps

import coop
from promptvision.config import load_config
from promptvision.engine.optim import build_optimizer, learning_rates, set_rate

ROOT = Path(__file__).parents[1]
WAYS = pytest.mark.parametrize("way", ["plain", "fast"])


def host_options(settings):
    """The options of the host of a case, which starts from noise."""
    depth = {"depth": settings.get("PROMPT_DEPTH") or 1} if settings["base"] == "maple" else {}
    start = {} if settings["base"] == "cocoop" else {"ctx_init": ""}
    return {"host": settings["base"], "n_ctx": settings["N_CTX"]} | depth | start


def dept(facts, clip):
    settings = facts["settings"]
    options = host_options(settings) | {"linear_weight": settings["WEIGHT"]}
    return coop.build("dept", clip, facts["classnames"], **options)


def at_prompt(facts, clip):
    settings, counts = facts["settings"], facts["attribute_bpe_tokens"]
    options = dict(attributes=tuple(settings["attributes"]), n_att=settings["N_ATT"], one_token=max(counts) > 1)
    return coop.build("at_prompt", clip, facts["classnames"], **host_options(settings), **options)


@pytest.fixture
def case_of(golden, clip, computed):
    """`case_of("coop/dept/coop_ctx4_w05", dept)` gives (method with the case's tensors, its facts, its numbers)."""

    def load(case, build, way="auto"):
        facts, expected = golden(case)
        method = build(facts, computed(clip, way=way))
        start = start_of(expected)
        method.load_learned_state(start)
        unused = set(facts["params_without_grad"])
        assert set(method.learned()) == start.keys() - unused
        return method, facts, expected

    return load


def check_step(method, coop_inputs, expected):
    """Loss and gradients of the static batch."""
    for loss, found in steps(method, coop_inputs["images"], coop_inputs["labels"]):
        near(loss, expected["loss"])
        near_each(found, expected, "grad.", 1e-4)


def near(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def check_training(method, facts, coop_inputs, expected):
    """The official training: losses, the rates of what the host learns and of what is new, and all learned tensors."""
    plan = facts["trajectory"]
    rate = plan.get("lr_prompts", plan.get("lr"))
    found = "sgd", method.named_parameters(), rate, 5e-4, 0.9, method.no_decay
    optimizer = build_optimizer(*found, rate_factors=method.rate_factors)
    rates = learning_rates("cosine", rate, plan["epochs"], warmup_epochs=1)
    for step, wanted in enumerate(expected["traj.loss"]):
        set_rate(optimizer, rates[step // 3], alike=step < 3)
        for group in optimizer.param_groups:
            new = group["name"].startswith(("film_lp", "linear_probe"))
            theirs = expected["traj.lr" if "lr" in plan else "traj.lr_new" if new else "traj.lr_prompts"][step]
            assert group["lr"] == pytest.approx(theirs.item(), rel=1e-9), group["name"]
        loss = method.loss(coop_inputs["batch_images"][step % 3], coop_inputs["batch_labels"][step % 3])
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-3), step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    near_each(method.learned_state(), expected, "traj.final.", 1e-3)


@WAYS
@pytest.mark.golden("coop/dept/*")
def test_dept(case_of, coop_inputs, case, way):
    method, facts, expected = case_of(case, dept, way)
    images, features = coop_inputs["images"], method.image_features(coop_inputs["images"])
    near(method(images), expected["logits_test_base"])
    near(method.predictor()(images), expected["logits_test_base"])
    near(method.logits(features, method.text_features()), expected["logits_similarity"])
    near(method.linear_probe_proj(method.film_lp_img(features)), expected["logits_linear"])
    near(method.for_classes([*method.classes, "a new one"])(images)[:, :-1], expected["logits_test_new"])
    near(method.for_classes(method.classes[4:7])(images), expected["logits_test_base"][:, 4:7])
    check_step(method, coop_inputs, expected)
    check_training(method, facts, coop_inputs, expected)


@WAYS
@pytest.mark.golden("coop/atprompt/*")
def test_at_prompt(case_of, coop_inputs, case, way):
    method, facts, expected = case_of(case, at_prompt, way)
    vectors = [expected[f"param.prompt_learner.{name}"] for name in (*method.encoder.names, "ctx")]
    prompts = method.encoder.prompts(method.backbone.text, torch.cat(vectors)[None], torch.tensor([0]))
    length = prompts.shape[1]
    near(prompts[0], expected["prompts_class0"][:length])
    assert torch.equal(method.encoder.ids, expected["tokenized_prompts"][:, :length])
    near(method(coop_inputs["images"]), expected["logits"])
    near(method.predictor()(coop_inputs["images"]), expected["logits"])
    check_step(method, coop_inputs, expected)
    check_training(method, facts, coop_inputs, expected)


WORDS = {  # dataset: attributes, and contexts and epochs on CoOp, CoCoOp, MaPLe (zhengli97/ATPrompt, scripts)
    "imagenet": ("color shape", (2, 10), (2, 10), (4, 5)),
    "caltech101": ("shape size", (2, 100), (2, 10), (4, 10)),
    "oxford_pets": ("playfulness energy", (2, 100), (2, 10), (4, 10)),
    "stanford_cars": ("luxury", (2, 100), (6, 10), (4, 5)),
    "oxford_flowers": ("color habitat growth", (2, 100), (6, 10), (4, 10)),
    "food101": ("flavor preparation", (2, 100), (2, 10), (4, 5)),
    "fgvc_aircraft": ("design range", (2, 100), (2, 10), (2, 5)),
    "sun397": ("function", (2, 100), (2, 10), (4, 5)),
    "dtd": ("pattern color design", (4, 100), (2, 10), (4, 5)),
    "eurosat": ("habitat", (2, 100), (6, 10), (4, 10)),
    "ucf101": ("precision", (2, 100), (4, 10), (2, 5)),
}


@pytest.mark.parametrize("data", WORDS)
def test_the_settings_of_at_prompt(data):
    words, *each = WORDS[data]
    for host, (n_ctx, epochs) in zip(("coop", "cocoop", "maple"), each, strict=True):
        cfg = preset(f"at_prompt_{host}", "DATASET.NAME", data)
        options = cfg.METHOD.OPTIONS
        found = options.HOST, " ".join(options.ATTRIBUTES), options.N_CTX, options.CTX_INIT, cfg.OPTIM.EPOCHS
        assert found == (host, words, n_ctx, "", epochs) and options.ONE_TOKEN and not options.N_ATT
        rate, batch = {"coop": (0.002, 32), "cocoop": (0.002, 1), "maple": (0.0035, 4)}[host]
        assert (cfg.OPTIM.LR, cfg.OPTIM.BATCH_SIZE, options.get("DEPTH", 9)) == (rate, batch, 9)
    options = preset("dept_at_prompt", "DATASET.NAME", data).METHOD.OPTIONS
    weight = {"caltech101": 0.6, "dtd": 0.6, "stanford_cars": 0.6, "ucf101": 0.5}.get(data, 0.7)
    assert " ".join(options.ATTRIBUTES) == words and (options.HOST, options.RATE_FACTOR) == ("at_prompt", 1.0)
    assert (2 if data in ("stanford_cars", "oxford_pets") else 4, weight) == (options.N_CTX, options.LINEAR_WEIGHT)


def test_the_settings_across_datasets():
    for host, epochs in (("coop", 10), ("cocoop", 5), ("maple", 2)):
        cfg = preset(f"at_prompt_{host}_cross_datasets", "DATASET.NAME", "imagenet")
        options = cfg.METHOD.OPTIONS
        assert (4, epochs, ["color", "shape"]) == (options.N_CTX, cfg.OPTIM.EPOCHS, options.ATTRIBUTES)


DEPT = {  # host: contexts, their words, rate, batch (Koorye/DePT)
    "coop": (16, "", 0.0035, 4),
    "kg_coop": (4, "a photo of a", 0.0035, 4),
    "cocoop": (4, "a photo of a", 0.002, 1),
    "maple": (2, "a photo of a", 0.0035, 4),
}


@pytest.mark.parametrize("host", DEPT)
def test_the_settings_of_dept(host):
    cfg = preset(f"dept_{host}")
    options, optim = cfg.METHOD.OPTIONS, cfg.OPTIM
    assert DEPT[host] == (options.N_CTX, options.CTX_INIT, optim.LR, optim.BATCH_SIZE)
    assert (host, 0.7, 6.5, 10) == (options.HOST, options.LINEAR_WEIGHT, options.RATE_FACTOR, optim.EPOCHS)
    assert options.get("WEIGHT", 4.0) == 4.0 and options.get("DEPTH", 9) == 9
    assert (optim.NAME, optim.WARMUP_EPOCHS, optim.WARMUP_TYPE, optim.WARMUP_LR) == ("sgd", 1, "constant", 1e-5)


def preset(name, *words):
    return load_config(ROOT / f"configs/coop/vit_b16_{name}.yaml", words, {"coop": coop})
