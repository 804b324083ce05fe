"""Published against embedded rankings: numbers, correlation and interval, what is left out, table and figure."""

import itertools

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Annotation
from PIL import Image
from scipy.stats import rankdata

from promptvision.errors import InputError
from promptvision.report.kinds import COOP
from promptvision.report.literature.compare import published
from promptvision.report.literature.correlation import Correlation, correlate
from promptvision.report.literature.counterparts import rules
from promptvision.report.literature.rankings import Point, Published, Ranking, literature, load_ranking
from promptvision.report.names import NAMES
from promptvision.report.scores import Score, average, over_seeds
from promptvision.report.sections import base_new_h
from promptvision.report.tables.rankings import ranks

KINDS = ("base_to_new", "few_shot")
WORDS = {"CTX_INIT": "a photo of a", "CSC": False}
METHODS = {
    "zero-shot CLIP": ("zero_shot", {"ENSEMBLE": ""}, 50.0),
    "CoOp": ("coop", WORDS, 48.0),
    "ProGrad": ("pro_grad", {}, 60.0),
    "TCP": ("tcp", {}, 59.0),
    "PromptSRC": ("prompt_src", {}, 70.0),
    "MMRL": ("mmrl", {}, 80.0),
}
"""Name: METHOD.NAME, options, embedded H. Published in this order: 71.70, 71.66, 76.16, 79.51, 79.97, 81.20."""


@pytest.fixture
def to_new(write_run):
    """`to_new("coop", "world_a", 60.0, 40.0)` writes a base-to-new run of each seed; `options` go into its options."""

    def write(method, task, base, new, seeds=(1, 2), **changes):
        for seed in seeds:
            evals = {"new": {"class_subset": "new", "accuracy": new}}
            facts = {"dataset": task, "class_subset": "base", "backbone": "embedded", "accuracy": base, **changes}
            write_run(f"{method}-{task}-{seed}-{len(str(changes))}", method=method, seed=seed, evals=evals, **facts)

    return write


@pytest.fixture
def folder(to_new, tmp_path):
    """A folder with METHODS on two tasks."""
    for method, options, accuracy in METHODS.values():
        for task in ("world_a", "world_b"):
            to_new(method, task, accuracy, accuracy, options=options)
    return tmp_path / "out"


@pytest.mark.parametrize(
    "first, second, rho",
    [
        ([1, 2, 3, 4, 5], [20, 10, 40, 30, 50], 0.8),  # 1 - 6 (1 + 1 + 1 + 1) / (5 (25 - 1))
        ([1, 2, 2, 4], [1, 2, 3, 4], 4.5 / np.sqrt(4.5 * 5)),  # ranks 1, 2.5, 2.5, 4
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
    ],
)
def test_correlation_by_hand(first, second, rho):
    found = correlate(first, second)
    assert found.n == len(first) and found.rho == pytest.approx(rho)


@pytest.mark.parametrize("second, exact", [([2, 1, 3, 4, 5], (1 / 9, 1.0)), ([5, 4, 3, 1, 2], (-1.0, -1 / 9))])
def test_interval_is_that_of_all_resamples(second, exact):
    """Five methods have 5⁵ draws, few enough for all of them."""
    first, second = np.arange(5.0), np.array(second, float)
    every = [list(picks) for picks in itertools.product(range(5), repeat=5) if len(set(picks)) > 1]
    found = [np.corrcoef(rankdata(first[picks]), rankdata(second[picks]))[0, 1] for picks in every]
    assert np.percentile(found, [2.5, 97.5]) == pytest.approx(exact)
    made = correlate(first.tolist(), second.tolist())
    assert (made.low, made.high) == pytest.approx(exact)


def test_interval_is_reproducible_and_narrows_with_more_methods():
    values = np.random.default_rng(0).normal(size=(2, 40))
    values[1] += values[0]
    few, many = (correlate(*(each[:n].tolist() for each in values)) for n in (8, 40))
    assert few == correlate(*(each[:8].tolist() for each in values))
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize("first, second", [([1, 2, 3], [1, 2, 3]), ([5, 5, 5, 5], [1, 2, 3, 4])])
def test_no_correlation_of_few_methods_or_equal_values(first, second):
    assert correlate(first, second) == Correlation(len(first))
    assert str(correlate(first, second)) == f"unknown (n = {len(first)})"


def test_equal_values_share_their_rank():
    assert ranks([80.0, 70.0, 80.0, 60.0]) == [1.5, 3.0, 1.5, 4.0]


def test_methods_that_were_looked_at_are_no_test(folder):
    ranking = load_ranking(folder, "base_to_new")
    assert {point.published.name for point in ranking.points if point.looked_at} == {"zero-shot CLIP", "CoOp"}
    everything, tested = ranking.correlation(False), ranking.correlation(True)
    assert everything.n == 6 and everything.rho == pytest.approx(1 - 6 * 2 / (6 * 35))  # ProGrad and TCP are swapped
    assert tested.n == 4 and tested.rho == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_h_is_of_the_means_over_seeds_and_datasets(to_new, tmp_path):
    for task, base, new in (("world_a", 60.0, 80.0), ("world_b", 90.0, 50.0)):
        to_new("pro_grad", task, base - 2, new, seeds=(1,))
        to_new("pro_grad", task, base + 2, new, seeds=(2,))
    (point,) = load_ranking(tmp_path / "out", "base_to_new").points
    assert point.embedded.mean == pytest.approx(2 * 75 * 65 / (75 + 65))  # 69.64; the mean of both H is 66.43


def test_what_is_incomplete_is_left_out_and_named(folder, to_new):
    to_new("kg_coop", "world_a", 90.0, 90.0)
    to_new("coop", "world_a", 90.0, 90.0, options={"CTX_INIT": "", "CSC": False})
    to_new("prompt_kd", "digits", 90.0, 90.0)
    to_new("mmrl_pp", "world_a", 90.0, 90.0)
    to_new("mmrl", "world_rare", 0.0, 0.0)
    ranking = load_ranking(folder, "base_to_new")
    assert ranking.tasks == ["world_a", "world_b"]
    assert {p.published.name: p.embedded.mean for p in ranking.points} == {name: m[2] for name, m in METHODS.items()}
    sentences = [sentence for sentence in ranking.remarks if sentence.startswith("Base to new: ")]
    for told in (
        "KgCoOp is left out: it lacks world_b",
        "world_rare is left out: it has results of 1 of 7 methods",
        "MMRL++ is left out: it has no published number",
        "PromptKD is left out: it has a published number and no runs here",
        "CoOp (no ctx_init) is left out: it has no published number",
    ):
        assert f"Base to new: {told}" in sentences


def test_images_of_all_classes_have_no_shots(folder, to_new):
    """PromptKD takes the unlabelled images of all classes."""
    on_all = {"shots": 0, "protocol": {"TRAIN_CLASSES": "all"}, "config": {"DATASET.TRAIN_CLASSES": "all"}}
    for task in ("world_a", "world_b"):
        to_new("prompt_kd", task, 90.0, 90.0, **on_all)
        to_new("kg_coop", task, 90.0, 90.0, shots=0)
    names = [point.published.name for point in load_ranking(folder, "base_to_new").points]
    assert "PromptKD" in names and "KgCoOp" not in names


def test_a_method_with_two_rows_is_left_out(folder, to_new):
    for task in ("world_a", "world_b"):
        to_new("tcp", task, 90.0, 90.0, options={"WEIGHT": 1.0})
    ranking = load_ranking(folder, "base_to_new")
    assert "TCP" not in [point.published.name for point in ranking.points]
    assert [s for s in ranking.remarks if s.startswith("Base to new: TCP is left out: it has 2 rows: TCP (")]


def test_seeds_on_other_images_have_no_mean(folder, to_new):
    for task in ("world_a", "world_b"):
        for seed in (1, 2):
            to_new("kg_coop", task, 90.0, 90.0, seeds=(seed,), test_hash=f"t{seed}")
    assert "Base to new: KgCoOp is left out: it lacks world_a, world_b" in load_ranking(folder, "base_to_new").remarks


def test_few_shot_takes_sixteen_shots_and_zero_shot(write_run, tmp_path):
    for task, number in (("world_a", 0.0), ("world_b", 2.0)):
        write_run(f"zero-{task}", method="zero_shot", dataset=task, accuracy=40.0 + number, options={"ENSEMBLE": ""})
        for shots in (1, 16):
            facts = {"dataset": task, "shots": shots, "options": {"CTX_INIT": "", "CSC": False}}
            write_run(f"coop-{task}-{shots}", accuracy=50.0 + shots + number, **facts)
    ranking = load_ranking(tmp_path / "out", "few_shot")
    assert {p.published.name: p.embedded.mean for p in ranking.points} == {"CoOp": 67.0, "zero-shot CLIP": 41.0}


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_published(kind):
    names = [rules()["datasets"]["few_shot base_to_new cross_dataset domain_generalization"][card] for card in COOP]
    splits, total = (("base", "new"), "H") if kind == "base_to_new" else (("all",), "all")
    for entry in literature()[kind]["methods"]:
        key = (entry.protocol, entry.paper, entry.published, "CLIP ViT-B/16")
        rows = [row for row in published() if tuple(row[k] for k in ("protocol", "paper", "method", "backbone")) == key]
        rows = [row for row in rows if row["shots"] in ("16", "0" if entry.name == "zero-shot CLIP" else "16")]
        known = {(row["dataset"], row["split"]): float(row["value"]) for row in rows}
        if all((name, split) in known for name in names for split in splits):
            means = [average([Score(known[name, split], {}) for name in names], 11) for split in splits]
            value = (base_new_h(*means)["H"] if kind == "base_to_new" else means[0]).mean
        else:
            value = known["Average-11", total]
        assert entry.value == pytest.approx(value, abs=0.005 + 1e-9), entry
        assert entry.confidence in {row["confidence"] for row in rows}, entry


def test_every_entry_names_a_method_with_its_options():
    import coop

    known = {name: label.split("/")[1] for label, _, name in NAMES if label.startswith("coop/")}
    for entry in (entry for kind in KINDS for entry in literature()[kind]["methods"]):
        assert set(entry.options) <= set(coop.options(known[entry.name], "")), entry
    assert set(literature()["looked_at"]) <= set(coop.METHODS)
    assert not [k for k in KINDS if len({entry.name for entry in literature()[k]["methods"]}) < 12]


def test_the_tool_writes_table_and_figure(tool, folder, write_run_in, tmp_path):
    for method, options, accuracy in METHODS.values():
        options = {**options, "CTX_INIT": ""}
        facts = {"method": method, "dataset": "world_a", "options": options, "accuracy": accuracy}
        write_run_in(tmp_path / "few", method, **facts)
    status, text, err = tool("rankings", folder, "--few-shot", tmp_path / "few", "--output", tmp_path / "made")
    assert status == 0 and "Base to new: published and embedded" in text and "not looked at" in text
    assert "Base to new: MaPLe is left out: it has a published number and no runs here" in err
    assert "16 shots: MMRL is left out: it has no published number" in err
    page = (tmp_path / "made" / "rankings.md").read_text(encoding="utf-8")
    assert "| MMRL | no | 81.20 | 80.00 ± 0.00 | 1 | 1 | MMRL (CVPR 2025) | checked |" in page
    assert "| Base to new | all | 6 | 0.94 |" in page and "| 16 shots | all | 3 |  |  |  |" in page
    rows = (tmp_path / "made" / "rankings.csv").read_text(encoding="utf-8").splitlines()
    assert [row for row in rows if row.startswith("Base to new: published and embedded,CoOp,yes,71.66,48,")]
    with Image.open(tmp_path / "made" / "rankings.png") as image:
        assert image.width > 1000 and len(image.convert("RGB").getcolors(1 << 20)) > 50


@pytest.mark.parametrize(
    "method, task, told",
    [
        ("tcp", "dtd", "Base to new: {} holds no runs with 16 shots on embedded datasets (world_*)"),
        ("mmrl_pp", "world_a", "Base to new: no method in {} has both a published number and results on a dataset"),
    ],
)
def test_a_folder_without_rankings_is_one_sentence(tool, to_new, tmp_path, method, task, told):
    to_new(method, task, 60.0, 60.0)
    status, _, err = tool("rankings", tmp_path / "out", "--output", tmp_path / "made")
    assert status == 2 and told.format(tmp_path / "out") in err and "Traceback" not in err
    with pytest.raises(InputError):
        load_ranking(tmp_path / "out", "base_to_new")


def test_an_output_that_is_a_file_is_one_sentence(tool, folder, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = tool("rankings", folder, "--output", tmp_path / "file")
    assert status == 2 and "cannot be written" in err and "Traceback" not in err


def test_figure_has_hollow_and_filled_dots_with_names_apart():
    from promptvision.report.figures.scatter import GROUPS, rankings_figure

    drawn = np.random.default_rng(3)
    points = [
        Point(Published(f"method {n}", 75 + 4 * drawn.normal(), "", "", "", ""), over_seeds({1: value}), n < 7)
        for n, value in enumerate(60 + 3 * drawn.normal(size=28))
    ]
    ranking = Ranking("base_to_new", points, ["world_a"], [])
    figure = rankings_figure([ranking])
    (axes,) = figure.axes
    dots = {line.get_label(): line for line in axes.lines if line.get_label() in GROUPS}
    filled = {name: (line.get_markerfacecolor(), len(line.get_xdata())) for name, line in dots.items()}
    assert filled == {name: (colour, n) for (name, colour), n in zip(GROUPS.items(), (7, 21), strict=True)}
    assert str(ranking.correlation(True)) in axes.get_title() and "(n = 28)" in axes.get_title()
    names = [each for each in axes.texts if isinstance(each, Annotation)]
    boxes = [each.get_window_extent() for each in names]
    assert [each.get_text() for each in names] == [point.published.name for point in points]
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert all(axes.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))
    matplotlib.pyplot.close(figure)
