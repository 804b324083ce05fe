"""The tables of a report per protocol, and each format that they are written in."""

import csv
import io

import pytest
from rich.console import Console

from promptvision.report.report import load_report
from promptvision.report.scores import over_seeds
from promptvision.report.tables.table import Column, Entry, Table
from promptvision.report.tables.terminal import TerminalTable
from promptvision.report.tables.writers import comma_separated, latex, markdown


@pytest.fixture
def tables(tmp_path):
    def load():
        return {
            table.title.partition(":")[0]: table for table in load_report(tmp_path / "out", literature=False).tables
        }

    return load


def rows(table):
    """[{column: text}]"""
    return [dict(zip((c.name for c in table.columns), (e.text for e in row), strict=True)) for row in table.rows]


def test_few_shot(write_run, tables):
    for seed in (1, 2, 3):
        write_run(f"dtd{seed}", seed=seed, accuracy=60.0 + seed)
        write_run(f"eurosat{seed}", seed=seed, accuracy=80.0 - seed, dataset="eurosat")
        write_run(f"cocoop{seed}", seed=seed, accuracy=65.0, method="cocoop")
    coop, cocoop = sorted(rows(tables()["Few-shot"]), key=lambda row: row["method"], reverse=True)
    assert tables()["Few-shot"].title == "Few-shot: 16 shots", "what all rows share stands above them"
    assert (coop["method"], coop["dtd"], coop["eurosat"]) == (
        "CoOp",
        "62.00 ± 1.00",
        "78.00 ± 1.00",
    ) and "shots" not in coop
    assert coop["average"] == "70.00 ± 0.00" and cocoop["average"] == "65.00 ± 0.00*", "one of two datasets is missing"
    assert (coop["learned"], coop["% of backbone"], coop["memory (MB)"], coop["seeds"]) == (
        "2,048",
        "0.20",
        "1,024",
        "3",
    )


def test_an_average_that_lacks_datasets_is_not_the_best(write_run, tables):
    write_run("a", accuracy=60.0)
    write_run("b", accuracy=60.0, dataset="eurosat")
    write_run("c", accuracy=90.0, method="cocoop")
    table = tables()["Few-shot"]
    place = [column.name for column in table.columns].index("average")
    assert [row[place].mark for row in table.rows] == ["", "partial"]


def test_base_to_new_takes_h_of_the_means_and_averages_of_both(write_run, tables):
    for dataset, base, new in (("dtd", 80.0, 40.0), ("eurosat", 60.0, 60.0)):
        test = {"new": {"class_subset": "new", "accuracy": new}}
        write_run(dataset, dataset=dataset, class_subset="base", accuracy=base, evals=test)
    write_run("food", dataset="food101", class_subset="base", accuracy=99.0)
    dtd, eurosat, food, mean = rows(tables()["Base to new classes"])
    assert (dtd["base"], dtd["new"], dtd["H"]) == ("80.00", "40.00", "53.33") and eurosat["H"] == "60.00"
    assert food["H"] == "" and mean["dataset"] == "average of 3"
    assert (mean["base"], mean["new"], mean["H"]) == ("70.00*", "50.00*", "58.33*"), "over those with both"


def test_a_run_on_all_classes_that_is_tested_on_half_of_them_stays_where_it_was(write_run, tables):
    write_run("dtd", dataset="dtd", accuracy=60.0, evals={"dtd-new-test": {"class_subset": "new", "accuracy": 70.0}})
    (name,) = tables()
    (row,) = rows(tables()[name])
    assert name.startswith("Few-shot") and row["dtd"] == "60.00" and "new" not in row


def test_transfer_tells_other_classes_from_other_images(write_run, tables):
    evals = {
        "v2": {"dataset": "imagenet_v2", "accuracy": 50.0},
        "a": {"dataset": "imagenet_a", "classes": ["a"], "accuracy": 30.0},
        "pets": {"dataset": "oxford_pets", "classes": ["cat"], "accuracy": 70.0},
    }
    write_run("a", dataset="imagenet", evals=evals)
    found = tables()
    assert set(found) == {"Domain generalization", "Cross-dataset transfer"}
    (shift,), (cross,) = rows(found["Domain generalization"]), rows(found["Cross-dataset transfer"])
    assert (shift["imagenet_v2"], shift["imagenet_a"], shift["average"]) == ("50.00", "30.00", "40.00")
    assert (cross["on source"], cross["oxford_pets"]) == ("60.00", "70.00")
    assert found["Cross-dataset transfer"].title == "Cross-dataset transfer: imagenet, 16 shots"


def test_visda_is_reported_per_class(write_run, tables):
    pair = {"SOURCE": "synthetic", "TARGET": "real"}
    write_run("a", dataset="visda17", shots=0, accuracy=90.0, per_class_mean=85.0, protocol=pair)
    assert rows(tables()["Unsupervised domain adaptation"])[0]["visda17: synthetic → real"] == "85.00"


def test_vtab_has_its_groups(write_run, tables):
    for name, accuracy in (("vtab_eurosat", 90.0), ("vtab_resisc45", 80.0), ("vtab_dmlab", 40.0)):
        write_run(name, dataset=name, family="vpt", method="prompt", shots=0, accuracy=accuracy, options={"DEEP": True})
    (row,) = rows(tables()["VTAB-1k"])
    assert (row["method"], row["Specialized"], row["Structured"], row["mean"]) == (
        "VPT-deep",
        "85.00*",
        "40.00*",
        "70.00*",
    )


def test_a_stream(write_run, tables):
    stream = {"continual": {"JOINT": False}, "matrix": [[9.0]], "tasks": [{"name": "1"}], "forgetting": 7.0}
    write_run("a", family="vpt", method="l2p", shots=0, average_accuracy=80.0, **stream)
    (row,) = rows(tables()["Continual learning"])
    assert (row["method"], row["average accuracy"], row["forgetting"]) == ("L2P", "80.00", "7.00")


def marks(table, name):
    place = [column.name for column in table.columns].index(name)
    return {row[0].text.partition(" [")[0]: row[place].mark for row in table.rows}


def test_the_best_forgets_least(write_run, tables):
    for name, method, forgetting in (("a", "l2p", 7.0), ("b", "dual_prompt", 3.0)):
        stream = {"continual": {"JOINT": False}, "matrix": [[9.0]], "tasks": [{"name": "1"}], "forgetting": forgetting}
        write_run(name, family="vpt", method=method, shots=0, average_accuracy=forgetting, **stream)
    table = tables()["Continual learning"]
    assert marks(table, "forgetting") == {"L2P": "", "DualPrompt": "best"}
    assert marks(table, "average accuracy") == {"L2P": "best", "DualPrompt": ""}


def test_one_dataset_has_its_shots_as_columns(write_run, tables):
    for shots in (1, 2, 16):
        for seed in (1, 2):
            config = {"OPTIM.EPOCHS": 50 * shots}
            write_run(f"{shots}{seed}", shots=shots, seed=seed, accuracy=50.0 + shots, seconds=shots, config=config)
    write_run("maple", method="maple", shots=16, accuracy=70.0)
    write_run("zero", method="zero_shot", accuracy=52.0)
    table = tables()["Few-shot"]
    assert table.title == "Few-shot: dtd" and [c.name for c in table.columns][:4] == [
        "method",
        "1 shot",
        "2 shots",
        "16 shots",
    ]
    zero, coop, maple = rows(table)
    assert [coop[f"{k} shots"] for k in (2, 16)] == ["52.00 ± 0.00", "66.00 ± 0.00"] and maple["2 shots"] == ""
    assert (zero["1 shot"], zero["16 shots"], coop["seconds"]) == ("52.00", "52.00", "16.0"), (
        "costs with the most shots"
    )
    assert coop["method"] == "CoOp [1]" and table.notes == ["within this row OPTIM.EPOCHS is 50, 100, 800"]
    assert marks(table, "1 shot") == {"zero-shot CLIP": "best", "CoOp": "", "MaPLe": ""}
    assert marks(table, "16 shots") == {"zero-shot CLIP": "level", "CoOp": "", "MaPLe": "best"}


def test_several_datasets_keep_a_row_for_each_number_of_shots(write_run, tables):
    for shots in (1, 16):
        for dataset in ("dtd", "eurosat"):
            write_run(f"{dataset}{shots}", dataset=dataset, shots=shots)
    assert [(row["method"], row["shots"]) for row in rows(tables()["Few-shot"])] == [("CoOp", "1"), ("CoOp", "16")]


def test_several_folders_of_own_images_are_datasets_of_their_own(write_run, tables, tmp_path):
    """Their card is the same, and so were their names; the same folder in another place is the same dataset."""
    for root, accuracy in (("here/cats.v2", 60.0), ("/there/dogs", 80.0)):
        for seed in (1, 2):
            config, name = {"DATASET.ROOT": root}, f"{accuracy}/{seed}"
            write_run(name, seed=seed, accuracy=accuracy + seed, dataset="folder", test_hash=root, config=config)
    moved = {"DATASET.ROOT": "elsewhere/cats.v2"}
    write_run("moved", seed=3, accuracy=63.0, dataset="folder", test_hash="here/cats.v2", config=moved)
    assert load_report(tmp_path / "out").remarks == ["In none of the papers: folder (cats.v2), folder (dogs)."]
    (row,) = rows(tables()["Few-shot"])
    assert row["folder (cats.v2)"] == "62.00 ± 1.00" and row["folder (dogs)"] == "81.50 ± 0.71"


def test_a_backbone_from_a_file_has_the_name_of_the_file(write_run, tables):
    """Two files of one name are told apart by their whole paths."""
    for number, backbone in enumerate(("RN50", "weights/a.pt", "other/a.pt")):
        write_run(f"{number}", backbone=backbone, method="zero_shot")
    names = {row["method"] for row in rows(tables()["Few-shot"])}
    files = {f"zero-shot CLIP, a.pt (name {each}/a.pt)" for each in ("weights", "other")}
    assert names == {"zero-shot CLIP, RN50", *files}


def test_rows_stand_in_the_order_of_the_literature(write_run, tables):
    for method in ("task_res", "maple", "coop", "mine", "zero_shot", "kg_coop"):
        write_run(method, method=method)
    found = [row["method"] for row in rows(tables()["Few-shot"])]
    assert found == ["zero-shot CLIP", "CoOp", "KgCoOp", "MaPLe", "TaskRes", "mine"]


def test_what_a_reader_must_know_is_noted(write_run, tables):
    write_run("a", seed=1, bad_pictures=2, protocol={"VALIDATION": "test"})
    write_run("b", seed=1, method="cocoop", train_hash="x", protocol={"VALIDATION": "test"})
    table = tables()["Few-shot"]
    notes = " ".join(table.notes)
    assert "2 images that cannot be read" in notes and "selected on its test images" in notes
    assert "trained on other images than CoOp, dtd, 16 shots" in notes
    assert "[1]" in table.rows[0][0].text


def test_seeds_that_differ_widely_are_noted(write_run, tables):
    for seed, accuracy in ((1, 30.0), (2, 60.0), (3, 62.5)):
        new = {"new": {"class_subset": "new", "accuracy": 40.0 + seed, "test_hash": "new"}}
        write_run(f"a{seed}", seed=seed, class_subset="base", accuracy=accuracy, evals=new)
    table = tables()["Base to new classes"]
    assert table.rows[0][0].text == "CoOp [1]"
    assert table.notes == ["seeds differ widely on dtd with 16 shots: 30.00 to 62.50"]


def test_seeds_that_saw_other_test_images_are_not_averaged(write_run, tables):
    write_run("a", seed=1, accuracy=50.0, test_hash="x")
    write_run("b", seed=2, accuracy=60.0, test_hash="y")
    assert rows(tables()["Few-shot"])[0]["dtd"] == "50.00 | 60.00"


def test_runs_of_a_search_are_in_no_table(write_run, tmp_path):
    write_run("a")
    write_run("b", split="val", config={"OPTIM.LR": 1.0})
    report = load_report(tmp_path / "out", literature=False)
    assert len(report.tables[0].rows) == 1 and "are in no table: 1." in report.remarks[0]


def test_evaluations_that_no_table_shows_are_named(write_run, tmp_path):
    own, some = {"test_hash": "own"}, {"class_subset": "base", "classes": ["a"]}
    write_run("a", evals={"own": own, "dtd-base-test": some, "eurosat": {"dataset": "eurosat"}}, test_hash="own")
    write_run("b", class_subset="base", evals={"new": {"class_subset": "new"}, "eurosat": {"dataset": "eurosat"}})
    report = load_report(tmp_path / "out", literature=False)
    said = "such as those on some of a run's own classes: a/eval-dtd-base-test.json, b/eval-eurosat.json"
    assert said in " ".join(report.remarks)


NASTY = 'a|b <script>alert(1)</script> $x$ \\input{/etc/passwd} & 100 % _ # {} ~ ^ `c` [link](x) \x1b[31m\n"q"'


SCORE = over_seeds({1: 60.0, 2: 61.0, 3: 63.12345})


@pytest.fixture
def nasty():
    columns = [Column("method", number=False, head=True), Column("x & y", score=True)]
    return Table("T <b> & $", columns, [[Entry(NASTY), Entry(str(SCORE), SCORE.mean, "best", SCORE)]], "about", [NASTY])


def test_markdown_escapes(nasty):
    line = markdown(nasty).splitlines()[4]
    assert line.count("|") - line.count(r"\|") == 3 and "<script>" not in line.replace(r"\<", "")
    assert r"\<script\>" in line and r"\`c\`" in line and r"\[link\]" in line and "\x1b" not in line
    assert "**61.37 ± 1.60**" in line and r"### T \<b\> \& \$" in markdown(nasty)


def test_latex_escapes(nasty):
    text = latex(nasty)
    assert r"\textbackslash{}input\{/etc/passwd\}" in text and r"\input{" not in text
    assert r"\& 100 \% \_ \# \{\} \textasciitilde{} \textasciicircum{}" in text and r"\$x\$" in text
    assert r"\textbf{61.37 $\pm$ 1.60} \\" in text and text.count(r"\toprule") == text.count(r"\bottomrule") == 1


def test_csv_has_full_numbers_and_no_formulas(nasty):
    formula = Table("t", nasty.columns, [[Entry("=cmd()"), Entry("1.0", 1.0)], [Entry("-x"), Entry("")]])
    lines = list(csv.reader(io.StringIO(comma_separated([nasty, formula]))))
    assert lines[0] == ["table", "method", "x & y", "x & y deviation", "x & y 95 % ±"]
    assert lines[1][2:] == ["61.3745", "1.595", "3.962"], "Student's t of two degrees of freedom is 4.3027"
    assert lines[2] == [] and lines[4][1] == "'=cmd()" and lines[5][1:] == ["'-x", "", "", ""]


def test_a_wide_table_is_broken_and_repeats_its_names(nasty):
    columns = [Column("method", number=False, head=True), *(Column(f"dataset {n}") for n in range(12))]
    wide = Table("wide", columns, [[Entry("[bold]CoOp"), *(Entry(f"{n}.0") for n in range(12))]])
    console = Console(width=60)
    with console.capture() as caught:
        console.print(TerminalTable(wide), TerminalTable(nasty))
    out = caught.get()
    assert out.count("[bold]CoOp") >= 3 and all(f"{n}.0" in out for n in range(12)) and "(continued)" in out
    assert "\x1b" not in out and all(len(line) <= 60 for line in out.splitlines())
