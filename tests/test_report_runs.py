"""What a report reads of a folder: runs, cells, scores; and what it says of files that it cannot use."""

import json
import math

import pytest

from promptvision.errors import InputError
from promptvision.report.cells import cells, labels
from promptvision.report.layout import one_line
from promptvision.report.losses import losses
from promptvision.report.runs import LARGEST, collect
from promptvision.report.seeds import average, half_width, harmonic, over_seeds


def test_half_width_is_students():
    """Three values of deviation 1: t(0.975, 2) = 4.3027 (any table of Student's t)."""
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    assert half_width([1.0, 2.0]) == pytest.approx(12.706205 * math.sqrt(0.5) / math.sqrt(2), abs=1e-4)
    assert half_width([5.0]) is None


def test_average_over_data_sets_has_the_interval_of_the_seeds_averages():
    first, second = over_seeds({1: 10.0, 2: 20.0, 3: 30.0}), over_seeds({1: 30.0, 2: 20.0, 3: 10.0})
    mean = average([first, second], 2)
    assert (mean.mean, mean.half, mean.missing) == (20.0, 0.0, 0), "every seed's average is 20"
    other = average([first, over_seeds({4: 40.0})], 3)
    assert (other.mean, other.half, other.missing) == (30.0, None, 1) and str(other) == "30.0*"


def test_harmonic_mean_is_of_the_means():
    base, new = over_seeds({1: 80.0, 2: 60.0}), over_seeds({1: 40.0, 2: 60.0})
    h = harmonic(base, new)
    assert h.mean == pytest.approx(2 * 70 * 50 / 120), "CoCoOp takes it of the means, not the mean of each seed's"
    assert h.values == {1: pytest.approx(53.3333, abs=1e-3), 2: 60.0}
    assert harmonic(over_seeds({1: 0.0}), over_seeds({1: 0.0})).mean == 0


def test_tests_on_other_pictures_are_not_averaged():
    score = over_seeds({1: 10.0, 2: 20.0}, comparable=False)
    assert score.mean is None and str(score) == "10.0 | 20.0"


def test_runs_are_found_at_any_depth_and_a_streams_tasks_are_not_runs(write_run, tmp_path):
    for name in ("a/seed1", "a/seed2", "b"):
        write_run(name, seed=int(name[-1]) if name[-1].isdigit() else 3, evals={"new": {"class_subset": "new"}})
    write_run("b/task_1")
    runs, problems = collect(tmp_path / "out")
    assert [run.name for run in runs] == ["a/seed1", "a/seed2", "b"] and not problems
    assert runs[0].settings["DATASET.NAME"] == "dtd" and list(runs[0].evals) == ["new"]
    assert collect(tmp_path / "out" / "b")[0][0].name == "b"


@pytest.mark.parametrize(
    "text, told",
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no result"),
        ("{}", "no accuracy"),
        ('{"accuracy": true}', "no accuracy"),
        ("\udcff", "no JSON"),
    ],
)
def test_a_result_that_makes_no_sense_is_told(write_run, tmp_path, text, told):
    write_run("good")
    (write_run("bad") / "result.json").write_bytes(text.encode(errors="surrogateescape"))
    runs, problems = collect(tmp_path / "out")
    assert [run.name for run in runs] == ["good"]
    assert len(problems) == 1 and told in problems[0] and "bad/result.json" in problems[0]


@pytest.mark.parametrize("changes", [{"accuracy": float("nan")}, {"options": [1]}, {"classes": "ab"}, {"seed": "1"}])
def test_a_result_with_a_wrong_value_is_told(write_run, tmp_path, changes):
    write_run("good")
    result = write_run("bad") / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), **changes}))
    assert len(collect(tmp_path / "out")[1]) == 1


def test_a_stream_without_its_matrix_is_told(write_run, tmp_path):
    write_run("good")
    write_run("stream", continual={"JOINT": False}, tasks=[{"name": "1"}])
    assert "no matrix" in collect(tmp_path / "out")[1][0]


def test_a_config_that_would_grow_or_run_code_is_not_loaded(write_run, tmp_path):
    bomb = "a: &a {x: 1, y: 2}\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} {{x: *{chr(97 + n)}, y: *{chr(97 + n)}}}\n" for n in range(20)
    )
    for name, text in (("bomb", bomb), ("code", "a: !!python/object/apply:os.getcwd []"), ("broken", "a: [")):
        (write_run(name) / "config.yaml").write_text(text)
    (write_run("large") / "config.yaml").write_text("#" * (LARGEST // 100 + 1))
    (write_run("lost") / "config.yaml").unlink()
    runs, problems = collect(tmp_path / "out")
    assert len(runs) == 5 and len(problems) == 5
    assert all(run.settings["METHOD.NAME"] == "coop" for run in runs), "result.json still tells it"


def test_a_config_that_would_grow_while_it_is_read_is_told(write_run, tmp_path, yaml_bomb, little_memory):
    (write_run("bomb") / "config.yaml").write_text(yaml_bomb)
    runs, problems = collect(tmp_path / "out")
    assert len(runs) == 1 and "bomb/config.yaml cannot be read" in problems[0]


def test_a_folder_without_runs_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        collect(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        collect(tmp_path / "nowhere")


def read_cells(tmp_path):
    return cells(collect(tmp_path / "out")[0])


def test_seeds_share_a_cell_and_a_repeated_seed_is_told(write_run, tmp_path):
    for name, seed in (("a", 1), ("b", 2), ("c", 2)):
        write_run(name, seed=seed, accuracy=50.0 + seed, config={"TRAIN.WORKERS": seed})
    found, repeated = read_cells(tmp_path)
    assert len(found) == 1 and found[0].score().values == {1: 51.0, 2: 52.0}
    assert repeated == ["c is left out: it repeats seed 2 of b"]


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


def test_losses_pass_over_what_a_crash_left(write_run, tmp_path):
    folder = write_run("a")
    folder.joinpath("metrics.jsonl").write_text(
        '{"step": 0, "loss": 2}\n{"step": 1, "lo\n[1]\n{"step": 2, "loss": NaN}\n'
    )
    assert losses(collect(tmp_path / "out")[0][0]) == [(0.0, 2.0)]


def test_one_line_leaves_nothing_that_a_terminal_obeys():
    assert one_line("a\x1b[31m\nb\u202ec\ud800") == "a [31m b c "
