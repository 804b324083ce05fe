"""`tools/report.py --reference FILE`: our numbers beside those of a CSV file of the user's own."""

import pytest

from promptvision.report.report import load_report


@pytest.fixture
def runs(write_run):
    """CoOp with 1 and 16 shots on DTD, three seeds each; from base to new classes; zero-shot CLIP."""
    for seed, accuracy in enumerate((63.0, 63.5, 64.0), 1):
        write_run(f"dtd/16/{seed}", seed=seed, accuracy=accuracy)
        write_run(f"dtd/1/{seed}", seed=seed, accuracy=accuracy - 20, shots=1)
        new = {"accuracy": 60.0 + seed, "class_subset": "new"}
        write_run(f"new/{seed}", seed=seed, accuracy=80.0, class_subset="base", evals={"new": new})
    write_run("zero", method="zero_shot", accuracy=44.0)


@pytest.fixture
def against(runs, tmp_path):
    """`against("CoOp,dtd,63.6,16,")`: {(method, dataset, shots, split): verdict}, and the remarks."""

    def compare(*rows, header="method,dataset,value,shots,split"):
        file = tmp_path / "theirs.csv"
        file.write_text("\n".join([header, *rows]))
        report = load_report(tmp_path / "out", literature=False, reference=file)
        tables = [table for table in report.tables if table.title.endswith(", against theirs.csv")]
        rows = [[entry.text for entry in row] for table in tables for row in table.rows]
        return {tuple(row[:4]): row[8] for row in rows}, report.remarks

    return compare


def test_numbers_are_judged_by_our_interval(against):
    """± 1.24 is half of the interval of 63.0, 63.5, 64.0: 64.8 is outside by more than its rounding."""
    found, remarks = against("CoOp,dtd,64.7,16,", "CoOp,dtd,44.9,1,", "Zero-shot CLIP,dtd,44.0,,")
    assert found == {
        ("CoOp", "dtd", "16", "all"): "within",
        ("CoOp", "dtd", "1", "all"): "outside",
        ("zero-shot CLIP", "dtd", "", "all"): "no interval",
    }
    assert not remarks


def test_base_new_and_h_are_named_by_the_split(against):
    found, _ = against("CoOp,dtd,80.0,16,base", "CoOp,dtd,62.0,16,new", "CoOp,dtd,50,16,H")
    assert {key[3]: verdict for key, verdict in found.items()} == {"base": "within", "new": "within", "H": "outside"}


def test_a_row_without_shots_is_of_each_number_of_shots(against):
    assert len(against("CoOp,dtd,60,,")[0]) == 2


def test_rows_without_a_number_here_are_named(against):
    _, remarks = against("CoOp,dtd,63.5,16,", "CoCoOp,dtd,60,16,", "CoOp,dtd,60,4,")
    assert remarks[-1].startswith("2 of 3 rows of theirs.csv have no number here: CoCoOp on dtd, CoOp on dtd.")
    assert "The methods here are: CoOp, zero-shot CLIP." in remarks[-1]


@pytest.mark.parametrize(
    "rows, header, sentence",
    [
        (["CoOp,dtd,60"], "metod,dataset,value", "theirs.csv 'metod'; did you mean 'method'?"),
        (["CoOp,60"], "method,value", "has no column dataset"),
        (["CoOp,dtd,6o"], "method,dataset,value", "line 2: value '6o' is no number"),
        (["CoOp,dtd,60,3"], "method,dataset,value", "line 2 has more cells than the header"),
    ],
)
def test_a_wrong_file_is_one_sentence(tool, runs, tmp_path, rows, header, sentence):
    (tmp_path / "theirs.csv").write_text("\n".join([header, *rows]))
    status, _, err = tool("report", tmp_path / "out", "--reference", tmp_path / "theirs.csv")
    assert status == 2 and err.startswith("error: ") and sentence in err


def test_a_missing_file_is_one_sentence(tool, runs, tmp_path):
    status, _, err = tool("report", tmp_path / "out", "--reference", tmp_path / "none.csv")
    assert status == 2 and "none.csv cannot be read: No such file or directory" in err


def test_the_command_prints_the_comparison(tool, runs, tmp_path):
    (tmp_path / "theirs.csv").write_text("method,dataset,value,source\nCoOp,dtd,63.6,Table 1\n")
    status, out, _ = tool("report", tmp_path / "out", "--reference", tmp_path / "theirs.csv", "--format", "markdown")
    assert status == 0 and "### Few-shot, against theirs.csv" in out.replace("\\", "") and "Table 1" in out
