"""Streams of tasks and the measures of forgetting, on lists small enough to check by eye."""

import numpy as np
import pytest
from PIL import Image

from promptvision.data.images import Images
from promptvision.data.task_stream import class_incremental, dataset_incremental, joined, split_classes
from promptvision.errors import InputError
from promptvision.experiment.continual_metrics import measures

TEN = [f"class {label}" for label in range(10)]


def images(names, colour=0):
    items = [(f"{name}/{number}", label, name) for label, name in enumerate(names) for number in range(3)]
    return Images(items[::3], items[1::3], items[2::3], lambda path: Image.new("RGB", (2, 2), (colour, len(path), 0)))


def test_classes_come_in_the_order_of_their_labels():
    assert class_incremental(TEN, 5) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert class_incremental(TEN, 1) == [list(range(10))]


def test_where_classes_do_not_divide_the_first_tasks_have_one_more():
    assert [len(part) for part in class_incremental(TEN, 4)] == [3, 3, 2, 2]
    assert [len(part) for part in class_incremental(TEN[:7], 3)] == [3, 2, 2]


def test_a_seed_shuffles_as_lamda_pilot_does():
    np.random.seed(1993)
    expected = np.random.permutation(10).tolist()
    found = class_incremental(TEN, 5, seed=1993)
    assert [label for part in found for label in part] == expected != list(range(10))
    assert class_incremental(TEN, 5, seed=1) != found and class_incremental(TEN, 5, seed=1993) == found


def test_an_order_of_ones_own():
    order = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert class_incremental(TEN, 2, seed=3, order=order) == [[9, 8, 7, 6, 5], [4, 3, 2, 1, 0]]


@pytest.mark.parametrize(
    ("tasks", "order", "message"),
    [
        (11, (), "10 classes cannot be split into 11 tasks; take 1 to 10"),
        (0, (), "10 classes cannot be split into 0 tasks"),
        (5, [0, 1, 2, 3, 4, 5, 6, 7, 8, 1], "class 'class 1' is in task 1 and in task 5; a class belongs to one task"),
        (5, [1, 1, 2, 3, 4, 5, 6, 7, 8, 9], "class 'class 1' is twice in task 1"),
        (5, [0, 1, 2, 3, 4, 5, 6, 7, 8], r"leaves out 'class 9' \(label 9\)"),
        (5, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10], "holds label 10; there are labels 0 to 9"),
    ],
)
def test_orders_that_are_refused(tasks, order, message):
    with pytest.raises(InputError, match=message):
        class_incremental(TEN, tasks, order=order)


def test_one_dataset_split_by_class_keeps_its_labels():
    stream = split_classes(images(["a", "b", "c"]), [[2], [0, 1]])
    assert stream.classes == ["a", "b", "c"]
    assert [task.name for task in stream.tasks] == ["task 1", "task 2"]
    assert stream.tasks[0].images.train == [("c/0", 2, "c")]
    assert [label for _, label, _ in stream.tasks[1].images.test] == [0, 1]


def test_datasets_one_after_the_other_count_their_labels_on():
    stream = dataset_incremental([("digits", images(["zero", "one"])), ("letters", images(["a", "one"]))])
    assert stream.classes == ["digits: zero", "digits: one", "letters: a", "letters: one"]
    assert [task.labels for task in stream.tasks] == [[0, 1], [2, 3]]
    assert stream.tasks[1].images.val == [("a/1", 2, "letters: a"), ("one/1", 3, "letters: one")]


def test_the_same_dataset_twice_is_refused():
    with pytest.raises(
        InputError, match="class 'digits: zero' is in task 1 and in task 3; a class belongs to one task"
    ):
        dataset_incremental([(name, images(["zero"])) for name in ("digits", "letters", "digits")])


def test_all_tasks_joined_open_their_own_images():
    stream = dataset_incremental([("one", images(["a"], colour=1)), ("two", images(["a"], colour=2))])
    together = joined(stream)
    assert [label for _, label, _ in together.train] == [0, 1] and together.classes == stream.classes
    assert [together.open(path).getpixel((0, 0))[0] for path, _, _ in together.test] == [1, 2]


def test_measures_of_the_official_example(golden):
    metrics = golden("vpt/l2p")[0]["metrics"]["example"]
    by_task = metrics["acc_matrix[row=task, col=after training task]"]
    for column in metrics["per_col"]:
        count = column["after_task"]
        matrix = [[by_task[task][after] for task in range(after + 1)] for after in range(count)]
        found = measures(matrix, [7] * count)
        assert found["average_accuracy"] == pytest.approx(column["average_accuracy"])
        assert found["learning_accuracy"] == pytest.approx(column["learning_acc(jax)"])
        for name, key in (
            ("forgetting_official", "forgetting_official"),
            ("forgetting", "forgetting_textbook(max over columns < t)"),
            ("backward_transfer", "backward_official"),
        ):
            assert found[name] == (pytest.approx(column[key]) if count > 1 else None)


def test_measures_worked_by_hand():
    matrix = [[100.0], [50.0, 80.0], [60.0, 90.0, 70.0]]
    assert measures(matrix, [1, 1, 2]) == pytest.approx(
        {
            "average_accuracy": (60 + 90 + 70) / 3,
            "incremental_accuracy": (100 + (50 + 80) / 2 + (60 + 90 + 2 * 70) / 4) / 3,
            "learning_accuracy": (100 + 80 + 70) / 3,
            "forgetting": (40 - 10) / 2,
            "forgetting_official": (40 + 0) / 2,
            "backward_transfer": (-40 + 10) / 2,
        }
    )


@pytest.mark.parametrize("matrix", [[], [[1.0, 2.0]], [[1.0], [1.0]]])
def test_a_matrix_with_holes_is_refused(matrix):
    with pytest.raises(InputError, match=r"row i of an accuracy matrix holds i \+ 1 tasks"):
        measures(matrix, [1, 1])
