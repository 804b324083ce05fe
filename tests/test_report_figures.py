"""Figures of a report: all methods of a protocol in one figure, readable however many they are."""

import subprocess
import sys

import pytest

from promptvision.report.figures.differences import differences
from promptvision.report.figures.draw import draw_all, drawings
from promptvision.report.figures.matrices import mean_matrix
from promptvision.report.figures.style import limits, plain, wrapped
from promptvision.report.figures.values import Mean, in_words, ranked
from promptvision.report.report import load_report

METHODS = ("coop", "cocoop", "kg_coop", "pro_grad", "plot", "tcp", "maple", "prompt_src", "task_res", "clip_lora")


@pytest.fixture
def drawn(tmp_path):
    """Return {title: drawing} of the runs that were written."""
    return lambda: {each.title: each for each in drawings(load_report(tmp_path / "out", literature=False))}


@pytest.fixture
def many(write_run):
    """Write runs of ten methods and zero-shot CLIP at three numbers of shots, two seeds each."""
    write_run("zero", method="zero_shot", accuracy=40.0)
    for number, method in enumerate(METHODS):
        for shots in (1, 4, 16):
            for seed in (1, 2):
                name = f"{method}{shots}{seed}"
                write_run(name, method=method, shots=shots, seed=seed, accuracy=50.0 + number + shots / 10 + seed)


def texts(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_many_methods_share_the_figures_of_their_protocol(many, drawn):
    assert list(drawn()) == [
        "Few-shot, dtd: ranked at 16 shots",
        "Few-shot: difference from zero-shot CLIP",
        "Few-shot, dtd: each method against the others",
        "Few-shot: training",
    ]


def test_methods_are_ranked_by_the_most_shots_with_a_dot_for_each_number(many, drawn):
    figure = drawn()["Few-shot, dtd: ranked at 16 shots"].make()
    (axes,) = figure.axes
    assert texts(axes)[0] == "CLIP-LoRA" and texts(axes)[-1] == "zero-shot CLIP" and len(texts(axes)) == 11
    dots = {each.get_label(): each.get_offsets() for each in axes.collections}
    assert list(dots) == ["1 shot", "4 shots", "16 shots"] and dots["16 shots"][0].tolist() == [62.1, 0.0]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [40.0]


def test_each_method_is_drawn_in_front_of_all_others(many, drawn):
    figure = drawn()["Few-shot, dtd: each method against the others"].make()
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == len(METHODS) and panels[0].get_title() == "CLIP-LoRA"
    own = max(panels[0].lines, key=lambda line: line.get_linewidth())
    assert own.get_ydata().tolist() == pytest.approx([60.6, 60.9, 62.1])
    assert len(panels[0].lines) == len(METHODS) + 2, "all in grey, zero-shot, and its own"


def test_few_methods_share_their_axes(write_run, drawn):
    for shots in (1, 16):
        write_run(f"a{shots}", shots=shots, accuracy=50.0)
        write_run(f"b{shots}", shots=shots, method="maple", accuracy=60.0)
    assert list(drawn()) == ["Few-shot, dtd", "Few-shot: training"]
    (axes,) = drawn()["Few-shot, dtd"].make().axes
    assert [line.get_label() for line in axes.lines] == ["CoOp", "MaPLe"], "in the order of the table"


def test_the_legend_of_curves_is_beside_them_the_highest_on_top(write_run, drawn):
    write_run("zero", method="zero_shot", accuracy=54.5)
    for number, method in enumerate(METHODS[:6]):
        for shots in (1, 16):
            write_run(f"{method}{shots}", method=method, shots=shots, accuracy=52.0 + number)
    figure = drawn()["Few-shot, dtd"].make()
    figure.draw_without_rendering()
    (axes,), (legend,) = figure.axes, figure.legends
    assert axes.get_legend() is None and legend.get_window_extent().x0 >= axes.get_window_extent().x1
    names = [text.get_text() for text in legend.get_texts()]
    assert (names[0], names[3], names[-1]) == ("TCP", "zero-shot CLIP", "CoOp")


def test_differences_are_one_map_the_largest_on_top(many, drawn):
    (axes,) = drawn()["Few-shot: difference from zero-shot CLIP"].make().axes
    assert texts(axes)[0] == "CLIP-LoRA" and texts(axes)[-1] == "CoOp"
    assert [text.get_text() for text in axes.texts[:3]] == ["+20.6", "+20.9", "+22.1"]


def test_base_new_and_h_are_dots_sorted_by_h(write_run, drawn):
    for method, new in (("coop", 40.0), ("maple", 70.0), ("zero_shot", 60.0)):
        write_run(method, method=method, class_subset="base", evals={"new": {"class_subset": "new", "accuracy": new}})
    found = drawn()
    (axes,) = found["Base to new classes, dtd"].make().axes
    assert texts(axes) == ["MaPLe", "zero-shot CLIP", "CoOp"]
    assert "Highest (H): MaPLe 64.6, CoOp 48.0; zero-shot CLIP 60.0." in found["Base to new classes, dtd"].about
    assert "Base to new classes, dtd: difference from zero-shot CLIP" in found


def test_training_is_one_figure_with_the_validation_accuracies(write_run, drawn):
    for method in ("coop", "maple"):
        folder = write_run(method, method=method)
    with folder.joinpath("metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "val": {"accuracy": 50.0}}\n{"step": 4, "val": {"accuracy": 55.0}}\n')
    figure = drawn()["Few-shot: training"].make()
    first, second, validation = figure.axes
    assert (first.get_title(), second.get_title()) == ("CoOp", "MaPLe")
    assert first.lines[0].get_ydata().tolist() == pytest.approx([2.0, 1.0, 2 / 3, 0.5, 0.4])
    assert validation.lines[0].get_xdata().tolist() == [50, 100] and validation.lines[0].get_ydata().tolist() == [
        50,
        55,
    ]


def test_streams_share_one_figure_of_the_means_of_their_seeds(write_run, drawn):
    tasks = [{"name": "1"}, {"name": "2"}]
    for method in ("l2p", "dual_prompt"):
        for seed in (1, 2):
            stream = {"continual": {"JOINT": False}, "matrix": [[90.0 + seed], [80.0, 85.0]], "tasks": tasks}
            write_run(f"{method}{seed}", family="vpt", method=method, seed=seed, shots=0, **stream)
    first, second = (axes for axes in drawn()["Accuracy matrices, dtd"].make().axes if axes.get_title())
    assert (first.get_title(), second.get_title()) == ("L2P", "DualPrompt")
    assert [text.get_text() for text in first.texts] == ["92", "80", "85"], "91.5, rounded"


def test_a_seed_with_other_tasks_is_not_averaged():
    results = [{"matrix": [[90.0]], "tasks": [{"name": "a"}]}, {"matrix": [[10.0]], "tasks": [{"name": "b"}]}]
    assert mean_matrix(results).tolist() == [[90.0]]


def spans(*means):
    return [(mean, mean - 1, mean + 1) for mean in means]


def test_an_outlier_leaves_room_for_the_others():
    low, high = limits(spans(1.0, *range(50, 60)))
    assert 45 < low < 49 and 60 < high < 65, "from the lowest to the highest end of the others"
    assert limits(spans(1.0, 50.0))[0] < 0, "of two values none is an outlier"


def test_an_outlier_is_written_at_the_edge(many, write_run, drawn):
    for shots in (1, 4, 16):
        write_run(f"bad{shots}", method="clip_adapter", shots=shots, accuracy=1.0 + shots)
    found = drawn()
    (axes,) = found["Few-shot, dtd: ranked at 16 shots"].make().axes
    assert [text.get_text().strip() for text in axes.texts] == ["◂ 2.0 to 17.0"] and axes.get_xlim()[0] > 30
    panels = found["Few-shot, dtd: each method against the others"].make().axes
    assert [text.get_text() for axes in panels for text in axes.texts] == ["below: 2.0 to 17.0"]


def test_ranks_put_those_without_a_number_last():
    values = {"a": {"H": Mean(1.0)}, "b": {"base": Mean(99.0)}, "c": {"H": Mean(2.0)}}
    assert ranked(values, ["H", "base"]) == ["c", "a", "b"]


def test_differences_are_of_shared_columns():
    scores = {"zero": {"x": 40.0}, "a": {"x": 50.0, "y": 1.0}}
    values = {name: {c: Mean(mean) for c, mean in each.items()} for name, each in scores.items()}
    assert differences(values, "zero") == {"a": {"x": 10.0}} and differences(values, "") == {}
    assert in_words(values, "y") == "Highest (y): a 1.0."


def test_names_are_harmless_in_figures():
    assert plain("$x$\n/home/me/clip.pt") == r"\$x\$ …/clip.pt"
    assert wrapped("world_shapes_adversarial", 14) == "world_shapes_\nadversarial"


def test_only_the_wanted_files_are_written(write_run, tmp_path):
    write_run("a")
    report = load_report(tmp_path / "out", literature=False)
    (each,) = draw_all(report, tmp_path / "figures", (".svg",))
    assert each.paths == [each.file(".svg")] and [path.suffix for path in (tmp_path / "figures").iterdir()] == [".svg"]


def test_tables_import_no_matplotlib():
    tables = (
        "import promptvision.report.report, promptvision.report.tables.terminal, promptvision.report.tables.writers"
    )
    found = "import sys; print({'matplotlib', 'torch'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", f"{tables}; {found}"], check=True, capture_output=True, text=True)
    assert said.stdout == "set()\n"
