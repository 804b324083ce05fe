"""Official checkpoints: their tensors are read, their code never runs; METHOD.WEIGHTS starts from them."""

import itertools
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch

import coop
import vpt
from coop.parts.official_checkpoints import load_official
from promptvision.backbones import load_clip
from promptvision.config import load_config
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import run

ROOT = Path(__file__).parents[1]
FAMILIES = {"coop": coop, "vpt": vpt}


@pytest.fixture
def scheduler(monkeypatch):
    """A scheduler object of a module that is gone once it is pickled, holding an optimiser, as Dassl's do."""
    module = types.ModuleType("dassl.optim.lr_scheduler")

    class ConstantWarmupScheduler(torch.optim.lr_scheduler.LRScheduler):
        def __init__(self, optimizer, successor):
            self.successor = successor
            super().__init__(optimizer)

        def get_lr(self):
            return [0.1 for _ in self.base_lrs]

    ConstantWarmupScheduler.__module__, ConstantWarmupScheduler.__qualname__ = (
        module.__name__,
        "ConstantWarmupScheduler",
    )
    module.ConstantWarmupScheduler = ConstantWarmupScheduler
    for name in ("dassl", "dassl.optim"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.002, momentum=0.9)
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    return ConstantWarmupScheduler(optimizer, successor)


def save(path, state, scheduler=None):
    """As Dassl's `save_checkpoint` writes it, in half precision as the published ones are."""
    state = {name: tensor.half() for name, tensor in state.items()}
    state |= {"token_prefix": torch.zeros(3, 1, 8).half(), "token_suffix": torch.zeros(3, 60, 8).half()}
    content = {"state_dict": state, "epoch": 50, "scheduler": {"successor": scheduler, "last_epoch": 50}}
    if scheduler is not None:
        optimizer = scheduler.successor.optimizer
        optimizer.param_groups[0]["params"][0].sum().backward()
        optimizer.step()
        content["optimizer"], content["whole"] = optimizer.state_dict(), scheduler
    torch.save(content, path)
    return path


def states(width=16):
    meta = {"meta_net.linear1.weight": torch.randn(2, 32), "meta_net.linear2.bias": torch.randn(width)}
    return {"coop": {"ctx": torch.randn(4, width)}, "cocoop": {"ctx": torch.randn(4, width), **meta}}


@pytest.mark.fault("code")
@pytest.mark.parametrize("method", ["coop", "cocoop"])
def test_tensors_come_out_and_schedulers_stay_inert(method, scheduler, tmp_path, monkeypatch):
    state = states()[method]
    path = save(tmp_path / "model.pth.tar-50", state, scheduler)
    for name in ("dassl", "dassl.optim", "dassl.optim.lr_scheduler"):
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match="dassl"):
        torch.load(path, weights_only=False)
    read = load_official(path)
    assert read.keys() == state.keys()
    for name, tensor in read.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, state[name].half().float())
    assert "dassl" not in sys.modules


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


CALLS = {
    "system": lambda t: Call(__import__("os").system, f"touch {t / 'ran'}"),
    "eval": lambda t: Call(eval, f"open({str(t / 'ran')!r}, 'w')"),
    "path": lambda t: Call(Path.touch, t / "ran"),
    "getattr": lambda t: Call(getattr, Call(__import__, "os"), "system"),
    "torch load": lambda t: Call(torch.load, str(t / "other.pt")),
    "storage": lambda t: Call(torch.storage._load_from_bytes, b"not a storage"),
}


@pytest.mark.fault("code")
@pytest.mark.parametrize("where", ["scheduler", "state_dict", "ctx"])
@pytest.mark.parametrize("call", CALLS)
def test_no_code_from_a_checkpoint_runs(call, where, tmp_path):
    bomb = CALLS[call](tmp_path)
    state = {"ctx": bomb if where == "ctx" else torch.ones(4, 8)}
    content = {"state_dict": bomb if where == "state_dict" else state, "scheduler": bomb}
    path = tmp_path / "model.pth.tar-50"
    torch.save(content, path)
    if where == "scheduler":
        assert torch.equal(load_official(path)["ctx"], torch.ones(4, 8))
    else:
        with pytest.raises(InputError, match="its state_dict holds no 'ctx'"):
            load_official(path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises((TypeError, OSError, pickle.UnpicklingError, EOFError, RuntimeError)):
        torch.load(path, weights_only=True)


def archive(path, pickled):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
    return path


def changed(path, cut=0, at=None):
    content = bytearray(path.read_bytes())
    if at is not None:
        content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content[: len(content) - cut])
    return path


LONG = struct.pack("<i", 2**31 - 1)
DAMAGED = {
    "cut": lambda t: changed(save(t / "a", states()["coop"]), cut=200),
    "scrambled": lambda t: changed(save(t / "a", states()["coop"]), at=100),
    "no zip": lambda t: (t / "a").write_bytes(b"nothing at all") and t / "a",
    "before 1.6": lambda t: torch.save(states(), t / "a", _use_new_zipfile_serialization=False) or t / "a",
    "other zip": lambda t: zipfile.ZipFile(t / "a", "w").close() or t / "a",
    "empty pickle": lambda t: archive(t / "a", b""),
    "stack": lambda t: archive(t / "a", b"\x80\x02."),
    "unknown opcode": lambda t: archive(t / "a", b"\x80\x02\xff"),
    "too long": lambda t: archive(t / "a", b"\x80\x02B" + LONG + b"."),
    "persistent": lambda t: archive(t / "a", b"\x80\x02K\x01Q."),
    "storage": lambda t: archive(t / "a", b"\x80\x02(ctorch\nFloatStorage\nX\x01\x00\x00\x000K\x00K\x01tQ."),
    "call of no function": lambda t: archive(t / "a", b"\x80\x02ctorch\nFloatStorage\n)R."),
    "class changed": lambda t: archive(t / "a", b"\x80\x02cposix\nsystem\n}X\x01\x00\x00\x00aK\x01sb."),
    "builtin changed": lambda t: archive(t / "a", b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb."),
}


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_and_foreign_files_are_one_clear_sentence(damage, tmp_path):
    path = DAMAGED[damage](tmp_path)
    with pytest.raises(InputError, match="damaged or not a checkpoint of torch 1.6 or later|holds no 'ctx'") as error:
        load_official(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1, 2], {"state_dict": {"weight": torch.ones(2)}}, None])
def test_other_contents_are_named(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not a checkpoint of CoOp or CoCoOp"):
        load_official(tmp_path / "other.pth")


WRAPPED = ("{}", "module.{}", "prompt_learner.{}", "module.prompt_learner.{}", "prompt_learner.module.{}")
LEARNERS = ["coop", "cocoop", "dapl", "kg_coop", "pro_grad", "plot", "tcp", "maple", "task_res", "clip_adapter"]
LEARNERS += ["co_prompt", "mma_pp"]
"""Methods whose official code learns the tensors of its prompt learner, or adapter, alone."""


@pytest.mark.parametrize("name", LEARNERS)
def test_names_load_however_the_prompt_learner_was_wrapped(name, tmp_path):
    method = coop.build(name, load_clip("embedded"), ["cat", "dog"])
    for names, bare in itertools.product(WRAPPED, (False, True)):
        check_wrapped(method, names, bare, tmp_path)


def check_wrapped(method, names, bare, tmp_path):
    state = {key.removeprefix("prompt_learner."): torch.randn_like(t) for key, t in method.learned_state().items()}
    saved = {names.format(key): torch.nn.Parameter(tensor) for key, tensor in state.items()}
    saved |= {names.format("token_prefix"): torch.zeros(2, 1, 8), names.format("token_suffix"): torch.zeros(2, 60, 8)}
    saved |= {names.format("base_text_features"): torch.zeros(2, 8)}
    torch.save(saved if bare else {"state_dict": saved, "epoch": 50}, tmp_path / "model.pth.tar-50")
    method.load_learned_state(load_official(tmp_path / "model.pth.tar-50", method))
    learned = {key.removeprefix("prompt_learner."): tensor for key, tensor in method.learned_state().items()}
    assert all(torch.equal(tensor, learned[key]) for key, tensor in state.items())


@pytest.mark.parametrize("name", ["vpt", "ivlp", "prompt_src", "coop", "mmrl", "mmrl_pp", "mma_pp"])
@pytest.mark.parametrize("names", ["{}", "module.{}"])
def test_names_of_a_whole_model_load_from_data_parallel(name, names, tmp_path):
    """CoOp saved as a whole model too: its frozen towers are left out."""
    clip = load_clip("embedded")
    method = coop.build(name, clip, ["cat", "dog"])
    state = {key: torch.randn_like(tensor) for key, tensor in method.learned_state().items()}
    saved = {"prompt_learner.ctx" if key == "ctx" else key: tensor for key, tensor in state.items()}
    saved |= {f"text_encoder.{key}": tensor for key, tensor in clip.text.transformer.state_dict().items()}
    saved |= {"prompt_learner.token_prefix": torch.zeros(2, 1, 8), "logit_scale": torch.zeros(())}
    torch.save(
        {"state_dict": {names.format(key): tensor for key, tensor in saved.items()}}, tmp_path / "model.pth.tar-5"
    )
    method.load_learned_state(load_official(tmp_path / "model.pth.tar-5", method))
    assert all(torch.equal(tensor, state[key]) for key, tensor in method.learned_state().items())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no checkpoint .*gone.pth.tar-50; .*prompt_learner/model.pth.tar-50"):
        load_official(tmp_path / "gone.pth.tar-50")


QUICK = ["DATASET.NAME", "world_backgrounds", "DATASET.SHOTS", 1, "OPTIM.EPOCHS", 0, "METHOD.OPTIONS.N_CTX", 4]


def evaluate(folder, *words):
    """The result of a run without training."""
    cfg = load_config(ROOT / "configs/coop/embedded.yaml", [*QUICK, "OUTPUT_DIR", str(folder), *words], FAMILIES)
    with RunFolder(folder) as open_folder:
        return run(cfg, FAMILIES, open_folder, progress=False)


def test_a_run_starts_from_an_official_checkpoint(scheduler, tmp_path):
    """The evaluated prompt is that of the file: a good one, far from a random start."""
    clip = load_clip("embedded")
    words = clip.text.embed(clip.text.tokenize(["a red shape on a"]))[0, 1:6]
    good = save(tmp_path / "model.pth.tar-50", {"ctx": words}, scheduler)
    options = ["METHOD.OPTIONS.N_CTX", 5]
    found = evaluate(tmp_path / "run", "METHOD.WEIGHTS", str(good), *options)
    method = coop.build("coop", clip, found["classes"], n_ctx=5)
    method.load_learned_state(load_official(good))
    assert found["steps"] == 0
    same = evaluate(tmp_path / "same", "METHOD.OPTIONS.CTX_INIT", "a red shape on a")
    assert found["accuracy"] == pytest.approx(same["accuracy"], abs=0.5)
    assert found["accuracy"] != evaluate(tmp_path / "random", *options)["accuracy"]
    ours = tmp_path / "run" / "learned.safetensors"
    again = evaluate(tmp_path / "again", "METHOD.WEIGHTS", str(ours), *options)
    assert again["accuracy"] == found["accuracy"]


def refusal(folder, *words):
    with pytest.raises(InputError) as error:
        evaluate(folder, *words)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    other = save(tmp_path / "wide.pth.tar-50", {"ctx": torch.randn(16, 512)})
    said = refusal(tmp_path / "a", "METHOD.WEIGHTS", str(other))
    assert "wide.pth.tar-50 does not fit: learned tensor 'ctx' has shape (16, 512), this method needs (4, 128)" in said
    said = refusal(tmp_path / "a", "METHOD.WEIGHTS", str(other), "METHOD.NAME", "cocoop")
    assert "'ctx' has shape (16, 512), this method needs (4, 128); was it learned on another backbone" in said
    more = save(tmp_path / "more.pth.tar-50", {"ctx": torch.randn(16, 128)})
    said = refusal(tmp_path / "a", "METHOD.WEIGHTS", str(more))
    assert "'ctx' has shape (16, 128), this method needs (4, 128)" in said
    said = refusal(tmp_path / "a", "METHOD.WEIGHTS", str(save(tmp_path / "c", {"ctx": torch.randn(4, 128)})), *COCOOP)
    assert "lacks 'meta_net.linear1.weight'" in said


COCOOP = ["METHOD.NAME", "cocoop"]


def test_eval_says_how_to_test_other_weights(tmp_path):
    words = ["--run", tmp_path, "METHOD.WEIGHTS", "model.pth.tar-50"]
    done = subprocess.run([sys.executable, ROOT / "tools/eval.py", *words], capture_output=True, text=True)
    assert done.returncode == 2 and "tools/train.py OPTIM.EPOCHS 0" in done.stderr


def test_weights_of_another_backbone_method_or_family_are_refused(tmp_path):
    evaluate(tmp_path / "run")
    learned = tmp_path / "run" / "learned.safetensors"
    said = refusal(tmp_path / "a", "METHOD.WEIGHTS", str(learned), *COCOOP)
    assert "was learned with method 'coop', not 'cocoop'" in said
    copy = tmp_path / "embedded.safetensors"
    copy.write_bytes((ROOT / "promptvision/backbones/embedded.safetensors").read_bytes())
    said = refusal(tmp_path / "a", "METHOD.WEIGHTS", str(learned), "BACKBONE.NAME", str(copy))
    assert "was learned with backbone 'embedded', not" in said
    config = ROOT / "configs/vpt/embedded_linear.yaml"
    cfg = load_config(config, ["METHOD.WEIGHTS", "model.pth.tar-50", "DATASET.SHOTS", 1], FAMILIES)
    with RunFolder(tmp_path / "b") as folder, pytest.raises(InputError, match="starts from learned.safetensors only"):
        run(cfg, FAMILIES, folder, progress=False)
