"""Runs, cells and scores that a report reads from a folder, and its remarks on files that it cannot use."""

import json
import math

import pytest

import coop
import vpt
from promptvision.engine.earlier_run import ADDED
from promptvision.errors import InputError, one_line
from promptvision.report.cells import cells, labels
from promptvision.report.collect import collect
from promptvision.report.figures.losses import MOST_POINTS, progress
from promptvision.report.names import NAMES
from promptvision.report.scores import average, harmonic, over_seeds
from promptvision.safe_yaml import LARGEST


def test_a_score_has_the_sample_deviation_and_students_interval():
    """Three values of deviation 1: t(0.975, 2) = 4.3027 (any table of Student's t)."""
    score = over_seeds({1: 1.0, 2: 2.0, 3: 3.0})
    assert (score.deviation, str(score)) == (1.0, "2.00 ± 1.00")
    assert score.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    assert over_seeds({1: 1.0, 2: 2.0}).half == pytest.approx(12.706205 * math.sqrt(0.5) / math.sqrt(2), abs=1e-4)
    single = over_seeds({1: 5.0})
    assert (single.deviation, single.half, str(single)) == (None, None, "5.00")


@pytest.mark.parametrize(
    "values, images, widely",
    [
        ((50.0, 62.0), 10_000, True),
        ((50.0, 56.0), 10_000, False),
        ((50.0, 62.0), 100, False),
        ((95.0, 99.0), 100, False),
        ((0.0, 40.0), 20, True),
        ((50.0,), 10_000, False),
    ],
)
def test_seeds_differ_widely_beyond_five_per_cent_and_three_times_the_noise_of_the_test_images(values, images, widely):
    """Deviations 8.5, 4.2, 8.5, 2.8, 28; 3 √(p (1 - p) / n): 1.5 at 50 % of 10,000, 15 of 100, 27 at 20 % of 20."""
    assert over_seeds(dict(enumerate(values))).differs_widely(images) is widely


def test_average_over_datasets_has_the_interval_of_the_seeds_averages():
    first, second = over_seeds({1: 10.0, 2: 20.0, 3: 30.0}), over_seeds({1: 30.0, 2: 20.0, 3: 10.0})
    mean = average([first, second], 2)
    assert (mean.mean, mean.half, mean.missing) == (20.0, 0.0, 0), "every seed's average is 20"
    other = average([first, over_seeds({4: 40.0})], 3)
    assert (other.mean, other.half, other.missing) == (30.0, None, 1) and str(other) == "30.00*"


def test_harmonic_mean_is_of_the_means():
    base, new = over_seeds({1: 80.0, 2: 60.0}), over_seeds({1: 40.0, 2: 60.0})
    h = harmonic(base, new)
    assert h.mean == pytest.approx(2 * 70 * 50 / 120), "CoCoOp takes it of the means, not the mean of each seed's"
    assert h.values == {1: pytest.approx(53.3333, abs=1e-3), 2: 60.0}
    assert harmonic(over_seeds({1: 0.0}), over_seeds({1: 0.0})).mean == 0
    assert harmonic(base, over_seeds({1: 40.0})).deviation is None, "of other seeds there is no H of each seed"


def test_harmonic_mean_as_published():
    """CoCoOp's table 1: 80.47 and 71.69 on average over eleven datasets give 75.83."""
    assert harmonic(over_seeds({1: 80.47}), over_seeds({1: 71.69})).mean == pytest.approx(75.83, abs=0.005)


def test_the_deviation_of_h_is_over_the_h_of_each_seed():
    """H of the means 70 and 67.33 is 68.64; H of the seeds 68.57, 68.57 and 65.75."""
    h = harmonic(over_seeds({1: 60.0, 2: 80.0, 3: 70.0}), over_seeds({1: 80.0, 2: 60.0, 3: 62.0}))
    assert str(h) == "68.64 ± 1.62"


def test_tests_on_other_images_are_not_averaged():
    score = over_seeds({1: 10.0, 2: 20.0}, comparable=False)
    assert score.mean is None and str(score) == "10.00 | 20.00"


def test_runs_are_found_at_any_depth_and_a_streams_tasks_are_not_runs(write_run, tmp_path):
    for name in ("a/seed1", "a/seed2", "b"):
        write_run(name, seed=int(name[-1]) if name[-1].isdigit() else 3, evals={"new": {"class_subset": "new"}})
    write_run("b/task_1")
    (tmp_path / "out/b/stream.json").write_text("{}")
    runs, problems = collect(tmp_path / "out")
    assert [run.name for run in runs] == ["a/seed1", "a/seed2", "b"] and not problems
    assert runs[0].settings["DATASET.NAME"] == "dtd" and list(runs[0].evals) == ["new"]
    assert collect(tmp_path / "out" / "b")[0][0].name == "b"


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(
    "text, told",
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a result"),
        ("{}", "its accuracy is missing or invalid"),
        ('{"accuracy": true}', "its accuracy is missing or invalid"),
        ("\udcff", "is not JSON"),
    ],
)
def test_a_result_that_makes_no_sense_is_told(write_run, tmp_path, text, told):
    write_run("good")
    (write_run("bad") / "result.json").write_bytes(text.encode(errors="surrogateescape"))
    runs, problems = collect(tmp_path / "out")
    assert [run.name for run in runs] == ["good"]
    assert len(problems) == 1 and told in problems[0] and "bad/result.json" in problems[0]


STREAM = {"continual": {"JOINT": False}, "matrix": [[90.0], [80.0, 85.0]], "tasks": [{"name": "1"}, {"name": "2"}]}


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(
    "changes",
    [
        {"accuracy": float("nan")},
        {"accuracy": -1},
        {"options": [1]},
        {"classes": "ab"},
        {"seed": "1"},
        {"protocol": [1]},
        {"test_hash": []},
        {"n": float("nan")},
        {"bad_pictures": 1e400},
        {"tasks": 3},
        STREAM | {"continual": {}},
        STREAM | {"tasks": [{"name": 1}, {"name": "2"}]},
        STREAM | {"tasks": [{"name": "1"}]},
        *(
            {**STREAM, "matrix": matrix}
            for matrix in ([[1]], [1, 2], [[1], [1, "x"]], [[1], [1, 101]], [[1, 2], [3, 4]])
        ),
    ],
)
def test_a_result_with_a_wrong_value_is_told(write_run, tmp_path, changes):
    write_run("good")
    result = write_run("bad") / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), **changes}))
    assert len(collect(tmp_path / "out")[1]) == 1


@pytest.mark.fault("parsing")
def test_a_stream_without_its_matrix_is_told(write_run, tmp_path):
    write_run("good")
    write_run("stream", continual={"JOINT": False}, tasks=[{"name": "1"}])
    assert "its matrix is missing" in collect(tmp_path / "out")[1][0]


@pytest.mark.fault("memory")
def test_a_config_that_would_grow_or_run_code_is_not_loaded(write_run, tmp_path):
    bomb = "a: &a {x: 1, y: 2}\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} {{x: *{chr(97 + n)}, y: *{chr(97 + n)}}}\n" for n in range(20)
    )
    texts = {"bomb": bomb, "code": "a: !!python/object/apply:os.getcwd []", "broken": "a: [", "itself": "a: &a {b: *a}"}
    for name, text in texts.items():
        (write_run(name) / "config.yaml").write_text(text)
    (write_run("large") / "config.yaml").write_text("#" * (LARGEST + 1))
    (write_run("lost") / "config.yaml").unlink()
    runs, problems = collect(tmp_path / "out")
    assert len(runs) == 6 and len(problems) == 6
    assert all(run.settings["METHOD.NAME"] == "coop" for run in runs), "result.json has it too"


@pytest.mark.fault("parsing")
def test_a_config_that_holds_itself_is_told(write_run, tmp_path):
    (write_run("list") / "config.yaml").write_text("a: &a [*a, 1]")
    assert "list/config.yaml cannot be read" in collect(tmp_path / "out")[1][0]


@pytest.mark.fault("memory")
def test_a_config_that_would_grow_while_it_is_read_is_told(write_run, tmp_path, yaml_bomb, little_memory):
    (write_run("bomb") / "config.yaml").write_text(yaml_bomb)
    runs, problems = collect(tmp_path / "out")
    assert len(runs) == 1 and "bomb/config.yaml cannot be read" in problems[0]


def test_a_folder_without_runs_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        collect(tmp_path)
    with pytest.raises(InputError, match="nowhere does not exist; name the folder that holds the runs"):
        collect(tmp_path / "nowhere")


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
