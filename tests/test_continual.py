"""A stream of tasks from the command line to the drawings; what is resumed, what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import coop
import vpt
from promptvision.config import load_config
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.continual import competing, load_stream
from promptvision.experiment.continual_metrics import accuracy
from promptvision.experiment.data import load_data
from promptvision.experiment.experiment import Experiment
from promptvision.experiment.run import load_run, run

ROOT = Path(__file__).parents[1]
FAMILIES = {"coop": coop, "vpt": vpt}
CONFIG = str(ROOT / "configs/vpt/embedded_continual.yaml")
QUICK = [
    "DATASET.SHOTS",
    "2",
    "CONTINUAL.TASKS",
    "3",
    "OPTIM.EPOCHS",
    "1",
    "OPTIM.BATCH_SIZE",
    "4",
    "TEST.SPLIT",
    "val",
]


def configured(*words):
    return load_config(CONFIG, [*QUICK, *words], FAMILIES)


def stream(tmp_path, *words, **how):
    with RunFolder(tmp_path, **how) as folder:
        return run(configured("OUTPUT_DIR", str(tmp_path), *words), FAMILIES, folder, progress=False)


def test_a_stream_leaves_its_matrix_its_choices_and_drawings(tool, tmp_path):
    status, out, err = tool("train", "--config", CONFIG, *QUICK, "OUTPUT_DIR", tmp_path)
    assert status == 0, err
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["pictures_found"] == load_data(configured()).found and result["pictures"]["train"] == 20
    assert [len(row) for row in result["matrix"]] == [1, 2, 3]
    assert [len(task["classes"]) for task in result["tasks"]] == [4, 3, 3]
    last = result["matrix"][-1]
    assert result["average_accuracy"] == pytest.approx(sum(last) / 3)
    assert result["backward_transfer"] == pytest.approx(
        sum(last[task] - result["matrix"][task][task] for task in range(2)) / 2
    )
    assert {"forgetting", "forgetting_official", "incremental_accuracy", "accuracy"} <= result.keys()
    top_k, images = result["options"]["TOP_K"], result["pictures"]["val"]
    assert sum(map(sum, result["prompt_choices"])) == top_k * images == top_k * result["n"]
    assert set(result["average_accuracy_by_choice"]) == {"picture", "batch"}
    assert len(result["seconds_per_task"]) == 3 and result["steps"] == 3 + 1
    for name in ("matrix.png", "prompt_choices.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "after learning" in out and "backward transfer" in out
    assert (tmp_path / "task_3" / "learned.safetensors").exists()


L2P_SHARED = {"METHOD.OPTIONS.SHARED_POOL": True, "METHOD.OPTIONS.PROMPT_MASK": True, "METHOD.OPTIONS.TOP_K": 2}
CODA = {"METHOD.NAME": "coda_prompt", "METHOD.OPTIONS.SIZE": 6}


@pytest.mark.parametrize("options", [L2P_SHARED, CODA])
def test_a_stream_that_was_interrupted_ends_the_same(options, tmp_path):
    words = [str(word) for pair in options.items() for word in pair]
    whole = stream(tmp_path / "whole", *words)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/task_3")
    for name in ("task_2/result.json", "task_2/learned.safetensors", "task_2/last.ckpt", "result.json"):
        (tmp_path / "cut" / name).unlink()
    kept = (tmp_path / "cut/task_1/result.json").stat().st_mtime_ns
    again = stream(tmp_path / "cut", *words, resume=True)
    assert again["matrix"] == whole["matrix"]
    assert (tmp_path / "cut/task_1/result.json").stat().st_mtime_ns == kept
    for name, tensor in load_file(tmp_path / "whole/task_3/learned.safetensors").items():
        assert torch.equal(load_file(tmp_path / "cut/task_3/learned.safetensors")[name], tensor)


def test_pools_of_every_block_learn_a_stream(tmp_path):
    result = stream(tmp_path, "METHOD.NAME", "layer_pools", "METHOD.OPTIONS.E_LAYERS", "[2, 3]", "CONTINUAL.TASKS", "2")
    assert sum(map(sum, result["prompt_choices"])) == 2 * result["n"]


def test_what_a_task_left_is_loaded_as_it_was_then(tmp_path):
    stream(tmp_path, "METHOD.NAME", "coda_prompt", "METHOD.OPTIONS.SIZE", "6")
    cfg = configured("METHOD.NAME", "coda_prompt", "METHOD.OPTIONS.SIZE", "6")
    for number in (1, 3):
        method = load_run(cfg, FAMILIES, tmp_path / f"task_{number}")
        assert (method.task, method.tasks) == (number - 1, 3)
        assert method.in_use(method.components).shape[1] == 2 * number


@pytest.mark.fault("parsing")
def test_a_damaged_result_of_a_task_is_one_sentence(tmp_path):
    stream(tmp_path, "CONTINUAL.TASKS", "2")
    (tmp_path / "result.json").unlink()
    path = tmp_path / "task_1/result.json"
    whole = json.loads(path.read_text())
    for content in ([], {}, {**whole, "accuracies": 3}, {**whole, "accuracies": ["x"]}, {**whole, "seconds": None}):
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match="task_1/result.json is no result of this task"):
            stream(tmp_path, "CONTINUAL.TASKS", "2", resume=True)


def test_another_stream_does_not_go_on_in_the_same_folder(tmp_path):
    stream(tmp_path)
    with pytest.raises(InputError, match=r"holds another run: OPTIM.LR was .*, here it is 0.5;"):
        stream(tmp_path, "OPTIM.LR", "0.5", resume=True)
    (tmp_path / "result.json").unlink()
    with pytest.raises(InputError, match=r"stream.json does not fit this stream: its OPTIM.LR is .*, here it is 0.5;"):
        stream(tmp_path, "OPTIM.LR", "0.5", resume=True)
    with pytest.raises(InputError, match=r"its CONTINUAL.CLASS_MASK is True, here it is False"):
        stream(tmp_path, "CONTINUAL.CLASS_MASK", "False", resume=True)


def test_a_new_stream_takes_the_place_of_the_old_one(tmp_path):
    stream(tmp_path)
    words = ["CONTINUAL.TASKS", "2", "METHOD.NAME", "linear", "METHOD.OPTIONS.HEAD_INIT", "small"]
    result = stream(tmp_path, *words, overwrite=True)
    assert len(result["matrix"]) == 2 and "prompt_choices" not in result
    assert sorted(path.name for path in tmp_path.glob("task_*")) == ["task_1", "task_2"]


def test_all_tasks_at_once_is_one_lesson(tmp_path):
    result = stream(tmp_path, "CONTINUAL.JOINT", "True")
    assert [len(row) for row in result["matrix"]] == [3]
    assert "forgetting" not in result and not (tmp_path / "task_2").exists()


def test_all_tasks_at_once_train_on_cached_features(tmp_path):
    words = ["CONTINUAL.JOINT", "True", "METHOD.NAME", "linear", "METHOD.OPTIONS.HEAD_INIT", "small"]
    words += ["OPTIM.EPOCHS", "3", "CACHE_DIR", str(tmp_path / "features")]
    results = [stream(tmp_path / way, *words, "TRAIN.CACHE", way) for way in ("all", "off")]
    assert list((tmp_path / "features").rglob("*")) and results[0]["matrix"] == results[1]["matrix"]


def test_datasets_one_after_the_other():
    words = ["CONTINUAL.TASKS", "0", "CONTINUAL.DATASETS", "[digits, world_shapes]"]
    data, found = load_stream(configured(*words))
    assert [task.name for task in found.tasks] == ["digits", "world_shapes"] and data.card.name == "digits"
    each = [load_data(configured("DATASET.NAME", name)).found for name in ("digits", "world_shapes")]
    assert data.found == {split: each[0][split] + each[1][split] for split in each[0]}
    assert found.classes[0] == "digits: zero" and found.classes[10].startswith("world_shapes: ")
    assert min(found.tasks[1].labels) == 10 == len(found.tasks[0].labels)


def test_images_that_cannot_be_read_are_counted_in_a_stream_too(tmp_path):
    for name in ("red", "green"):
        (tmp_path / name).mkdir()
        for number in range(6):
            Image.new("RGB", (32, 32), name).save(tmp_path / name / f"{number}.png")
    (tmp_path / "red/3.png").write_bytes(b"cut")
    words = ["DATASET.NAME", "folder", "DATASET.ROOT", str(tmp_path), "INPUT.ON_BAD_IMAGE", "skip"]
    data, found = load_stream(configured(*words, "CONTINUAL.TASKS", "2", "DATASET.SHOTS", "0"))
    assert len(data.left_out) == 1 and "red/3.png" in data.left_out[0]
    used = sum(len(getattr(data.images, split)) for split in ("train", "val", "test"))
    assert sum(data.found.values()) == 12 and used == 11
    assert len(found.tasks) == 2


def test_a_stream_is_learned_by_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr("promptvision.experiment.continual.part", lambda: (0, 2))
    with pytest.raises(InputError, match=r"\(CONTINUAL\) is learned by one process; start it without torchrun"):
        stream(tmp_path)


def test_who_competes():
    found = load_stream(configured("CONTINUAL.TASKS", "5"))[1]
    assert competing(found, "seen", 0, 2) == [0, 1, 2, 3]
    assert competing(found, "task", 1, 3) == [2, 3]
    assert competing(found, "all", 0, 1) == list(range(10))
    logits, labels = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]]), torch.tensor([1, 2])
    assert [accuracy(logits, labels, allowed) for allowed in ([0, 1, 2], [0, 1], [1, 2], [2, 1])] == [0, 50, 50, 50]
    with pytest.raises(InputError, match="NaN or infinite logits"):
        accuracy(logits * torch.nan, labels, [0, 1])


def test_the_class_mask_keeps_the_other_classes_out_of_training(vit, inputs):
    method = vpt.build("linear", vit, [f"class {label}" for label in range(7)])
    method.start_task(1, 3, (2, 4))
    method.loss(inputs["images"][:2], torch.tensor([2, 4])).backward()
    assert method.head.last_layer.bias.grad.nonzero().flatten().tolist() == [2, 4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["CONTINUAL.TASKS", "11"], "error: CONTINUAL: 10 classes cannot be split into 11 tasks; take 1 to 10"),
        (["CONTINUAL.ORDER", "[0, 1, 2, 3, 4, 5, 6, 7, 8, 0]"], "class 'zero' is in task 1 and in task 3; a class"),
        (["CONTINUAL.DATASETS", "[digits, digits]"], "class 'digits: zero' is in task 1 and in task 2; a class"),
        (["CONTINUAL.DATASETS", "[digits, digit]"], "unknown dataset 'digit'; did you mean 'digits'?"),
        (["CONTINUAL.COMPETE", "known"], "CONTINUAL.COMPETE"),
        (["METHOD.NAME", "dual_prompt", "METHOD.OPTIONS.SIZE", "2"], "size is 2, but the stream has 3 tasks"),
    ],
)
def test_bad_streams_are_refused_in_one_sentence(tool, tmp_path, words, message):
    status, _, err = tool("train", "--config", CONFIG, *QUICK, "OUTPUT_DIR", tmp_path / "out", *words)
    assert status == 2 and message in err and "Traceback" not in err


RAN_PAC = {"METHOD.NAME": "ran_pac", "METHOD.OPTIONS.PROJECTION": "20", "METHOD.OPTIONS.BOTTLENECK": "2"}
FITTED = [
    ["METHOD.NAME", "simple_cil"],
    ["METHOD.NAME", "aper", "METHOD.OPTIONS.HOST", "prompt"],
    [word for pair in RAN_PAC.items() for word in pair],
    ["METHOD.NAME", "ease", "METHOD.OPTIONS.BOTTLENECK", "2"],
]


@pytest.mark.parametrize("words", FITTED, ids=lambda words: words[1])
def test_a_stream_that_is_fitted_resumes_from_the_sums_of_its_latest_task(words, tmp_path):
    whole = stream(tmp_path / "whole", *words)
    assert whole["steps"] == {"simple_cil": 0, "ease": 4}.get(words[1], 2)  # of the first task alone
    assert not list((tmp_path / "whole").glob("task_*/carried.ckpt"))
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("promptvision.experiment.experiment.Experiment.finish", interrupted_in_task_3)
        stream(tmp_path / "cut", *words)
    carried = [path.parent.name for path in (tmp_path / "cut").glob("task_*/carried.ckpt")]
    assert carried == ([] if words[1] == "simple_cil" else ["task_2"])
    again = stream(tmp_path / "cut", *words, resume=True)
    assert again["matrix"] == whole["matrix"]
    for name, tensor in load_file(tmp_path / "whole/learned.safetensors").items():
        assert torch.equal(load_file(tmp_path / "cut/learned.safetensors")[name], tensor)


def interrupted_in_task_3(experiment, finish=Experiment.finish):
    if experiment.method.task == 2:
        raise KeyboardInterrupt
    finish(experiment)


@pytest.mark.fault("files")
def test_sums_that_are_lost_are_missed(tmp_path):
    words = FITTED[2]
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("promptvision.experiment.experiment.Experiment.finish", interrupted_in_task_3)
        stream(tmp_path, *words)
    (tmp_path / "task_2/carried.ckpt").unlink()
    with pytest.raises(InputError, match=r"checkpoint .*task_2/carried.ckpt does not exist"):
        stream(tmp_path, *words, resume=True)


def test_what_is_fitted_takes_cached_features_and_other_methods_are_refused(tmp_path):
    stream(tmp_path, "METHOD.NAME", "simple_cil", "CACHE_DIR", str(tmp_path / "cache"))
    assert list((tmp_path / "cache").rglob("*"))
    with pytest.raises(InputError, match="METHOD.NAME knn learns nothing step by step, so it cannot learn a stream"):
        stream(tmp_path / "knn", "METHOD.NAME", "knn")


def test_the_accuracy_over_the_stream_weighs_tasks_by_their_images(tmp_path):
    """Three tasks of four, three and three digits."""
    result = stream(tmp_path, "METHOD.NAME", "simple_cil")
    counts = json.loads((tmp_path / "task_3/result.json").read_text())["pictures"]
    assert len(set(counts)) > 1
    each = [sum(a * n for a, n in zip(row, counts, strict=False)) / sum(counts[: len(row)]) for row in result["matrix"]]
    assert result["incremental_accuracy"] == pytest.approx(sum(each) / 3) and result["accuracy"] == each[-1]
