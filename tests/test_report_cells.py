"""Cells of a report: the runs that share one, the names of its rows, its curves, and the names of methods."""

import json
import math

import pytest

import coop
import vpt
from promptvision.engine.earlier_run import ADDED
from promptvision.errors import one_line
from promptvision.report.cells import cells, labels
from promptvision.report.collect import collect
from promptvision.report.figures.losses import MOST_POINTS, progress
from promptvision.report.names import NAMES


def read_cells(tmp_path):
    return cells(collect(tmp_path / "out")[0])


def test_seeds_share_a_cell_and_a_repeated_seed_is_told(write_run, tmp_path):
    for name, seed in (("a", 1), ("b", 2), ("c", 2)):
        write_run(name, seed=seed, accuracy=50.0 + seed, config={"TRAIN.WORKERS": seed})
    found, repeated = read_cells(tmp_path)
    assert len(found) == 1 and found[0].score().values == {1: 51.0, 2: 52.0}
    assert repeated == ["c is left out: it repeats seed 2 of b"]


def test_a_run_of_an_earlier_version_shares_the_cell_of_its_settings(write_run, tmp_path):
    now = {key: value for key, value in ADDED.items() if not key.startswith("METHOD.")}
    write_run("earlier", seed=1)
    write_run("now", seed=2, config=now, options={"STOP": "each", "POOLED": False})
    write_run("other", seed=3, config={**now, "OPTIM.ACCUMULATE": 4}, options={"STOP": "each", "POOLED": False})
    found, _ = read_cells(tmp_path)
    assert [[run.name for run in cell.runs] for cell in found] == [["earlier", "now"], ["other"]]
    assert labels(found) == ["CoOp (accumulate 1)", "CoOp (accumulate 4)"]


def test_how_a_run_is_computed_makes_no_row_unless_a_test_batch_chooses_together(write_run, tmp_path):
    how = {"TRAIN.CHECKPOINT_SECONDS": 5, "TRAIN.DETERMINISTIC": True, "LOG.WANDB": "mine", "TEST.BATCH_SIZE": 7}
    for together, count in ((False, 1), (True, 2)):
        options = {"BATCHWISE_TEST": together}
        write_run(f"{together}/a", seed=1, options=options, config=dict.fromkeys(how, 0))
        write_run(f"{together}/b", seed=2, options=options, config=how)
        found, _ = cells(collect(tmp_path / "out" / str(together))[0])
        assert len(found) == count


def test_rows_are_told_apart_by_what_differs_in_one_place(write_run, tmp_path):
    """Epochs that go with the shots, or with the prompt, make no row; a prompt that differs in one place does."""
    for shots, epochs in ((1, 50), (16, 200)):
        for start in ("", "a photo of a"):
            epochs += len(start)
            options = {"N_CTX": 16 if not start else 4, "CTX_INIT": start}
            write_run(f"{shots}{start}", shots=shots, options=options, config={"OPTIM.EPOCHS": epochs})
    found, _ = read_cells(tmp_path)
    assert len(found) == 4 and set(labels(found)) == {"CoOp (no ctx_init)", "CoOp (ctx_init a photo of a)"}


def test_zero_shot_stands_at_no_shots_whatever_it_was_given(write_run, tmp_path):
    for shots in (1, 16):
        write_run(str(shots), method="zero_shot", shots=shots, seed=1, config={"OPTIM.EPOCHS": shots})
    found, repeated = read_cells(tmp_path)
    assert [cell.shots for cell in found] == [0] and labels(found) == ["zero-shot CLIP"] and not repeated


def test_zero_shot_and_tpt_look_at_no_training_image_unless_they_start_from_learned_weights(write_run, tmp_path):
    write_run("a", method="tpt", shots=1)
    write_run("b", method="tpt", shots=4, config={"METHOD.WEIGHTS": "model.pth.tar-50"})
    found, _ = read_cells(tmp_path)
    assert [cell.shots for cell in found] == [0, 4]


def curves(tmp_path):
    return progress(collect(tmp_path / "out")[0][0])


def test_curves_pass_over_what_a_crash_left(write_run, tmp_path):
    folder = write_run("a")
    rows = ['{"step": 0, "loss": 4}', '{"step": 5, "lo', "[1]", '{"loss": 7}', '{"step": 6, "loss": NaN}']
    rows += [
        '{"step": 8, "loss": 2}',
        '{"step": 8, "val": {"accuracy": 61.5}}',
        '{"step": 8, "val": {"accuracy": null}}',
    ]
    folder.joinpath("metrics.jsonl").write_text("\n".join(rows))
    assert curves(tmp_path).losses == [(0, 4.0), (100, 2.0)], "over the share of the steps"
    assert curves(tmp_path).validation == [(100, 61.5)]


def test_long_curves_are_thinned_to_means_of_neighbours(write_run, tmp_path):
    rows = [json.dumps({"step": step, "loss": float(step % 10)}) for step in range(1000)]
    write_run("a").joinpath("metrics.jsonl").write_text("\n".join(rows))
    found = curves(tmp_path).losses
    assert len(found) <= MOST_POINTS and math.fsum(loss for _, loss in found) / len(found) == pytest.approx(
        4.5, abs=0.2
    )


def test_the_tasks_of_a_stream_are_one_curve(write_run, tmp_path):
    stream = {"continual": {"JOINT": False}, "matrix": [[90.0], [80.0, 85.0]], "tasks": [{"name": "1"}, {"name": "2"}]}
    folder = write_run("stream", **stream)
    folder.joinpath("metrics.jsonl").unlink()
    for task, loss in (("task_1", 3.0), ("task_2", 1.0)):
        (folder / task).mkdir()
        rows = [json.dumps({"step": step, "loss": loss}) for step in range(3)]
        (folder / task / "metrics.jsonl").write_text("\n".join(rows))
    assert curves(tmp_path).losses == [(0, 3.0), (25, 3.0), (50, 3.0), (50, 1.0), (75, 1.0), (100, 1.0)]


def names(tmp_path):
    return set(labels(read_cells(tmp_path)[0]))


def test_methods_have_the_names_of_the_literature(write_run, tmp_path):
    for method in ("kg_coop", "maple", "prompt_kd", "tip_adapter_f"):
        write_run(method, method=method)
    write_run("language", method="ivlp", options={"DEPTH_TEXT": 9, "DEPTH_VISION": 0})
    write_run("both", method="ivlp", options={"DEPTH_TEXT": 9, "DEPTH_VISION": 9})
    found = names(tmp_path)
    assert found == {"KgCoOp", "MaPLe", "PromptKD", "Tip-Adapter-F", "deep language prompts", "IVLP"}


def test_options_that_make_another_method_name_it(write_run, tmp_path):
    for name, method, options in (
        ("a", "prompt", {"DEEP": True}),
        ("b", "prompt", {"DEEP": False}),
        ("c", "prompt_ablations", {"DEEP": True, "PREFIX": True}),
        ("h", "prompt_ablations", {"DEEP": True, "PREFIX": False}),
        ("d", "adapter", {"PARALLEL": True}),
        ("i", "adapter", {"PARALLEL": True, "READS": "stream"}),
        ("e", "linear", {"HIDDEN_LAYERS": 2}),
        ("f", "partial", {"BLOCKS": 3}),
        ("g", "full", {"FROM_SCRATCH": True}),
    ):
        write_run(name, family="vpt", method=method, options=options)
    wanted = {"VPT-deep", "VPT-shallow", "prefix-tuning", "VPT-deep, ablation", "parallel adapter", "MLP-3"}
    wanted |= {"partial-3", "from scratch", "AdaptFormer"}
    assert names(tmp_path) == wanted


def test_a_method_that_nobody_named_keeps_its_own_name(write_run, tmp_path):
    write_run("a", method="mine", options={"BLOCKS": "{x}"})
    assert names(tmp_path) == {"mine"}


def test_every_method_has_a_name_and_every_name_a_method():
    known = {f"{family}/{name}" for family, module in (("coop", coop), ("vpt", vpt)) for name in module.METHODS}
    assert {name for name, _, _ in NAMES} == known
    for method, wanted, name in NAMES:
        family, _, own = method.partition("/")
        assert wanted.keys() <= {"coop": coop, "vpt": vpt}[family].options(own).keys(), f"options of {name}"


@pytest.mark.fault("text")
def test_one_line_leaves_nothing_that_a_terminal_obeys():
    assert one_line("a\x1b[31m\nb\u202ec\ud800") == "a [31m b c "
