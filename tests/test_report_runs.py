"""Runs, cells and scores that a report reads from a folder, and its remarks on files that it cannot use."""

import json
import math

import pytest

from promptvision.errors import InputError
from promptvision.report.collect import collect
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
