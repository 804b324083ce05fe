"""Files of predictions: what is not ours is kept, and what a kill leaves is finished by a later call."""

import pytest

from promptvision.errors import InputError
from promptvision.experiment.predict import Prediction
from promptvision.experiment.prediction.output import Output

ROWS = [Prediction("a.png", [("cat", 0.5)]), Prediction("b.png", [("dog", 0.25)])]


def stopped(path, parts=2, **plan):
    """Write `parts` of two parts, and return the output as a later call opens it."""
    plan = {"run": "r", "images": "i", "top": 1, **plan}
    with Output(path, plan) as output:
        for number in range(parts):
            output.write(number, ROWS[number : number + 1])
    return Output(path, plan, resume=True)


def test_a_file_of_another_program_is_kept(tmp_path):
    path = tmp_path / "x.csv"
    resumed = stopped(path)
    path.write_text("my own notes")
    with pytest.raises(InputError, match="x.csv exists and is no result of these parts"), resumed:
        pass
    path.unlink()
    with resumed as output, pytest.raises(InputError, match="x.csv was made by another program"):
        path.write_text("my own notes")
        output.finish(2)
    assert path.read_text() == "my own notes" and len(list(resumed.folder.glob("part-*"))) == 2
    path.unlink()
    with resumed as output:
        output.finish(2)
    assert len(path.read_text().splitlines()) == 3 and [*tmp_path.iterdir()] == [path]
    with pytest.raises(InputError, match="x.csv exists: choose another one"), resumed:
        pass


def test_a_run_killed_when_it_removes_the_parts_is_finished_by_resume(tmp_path):
    resumed = stopped(tmp_path / "x.csv")
    with resumed as output:
        output._join([output.part(0), output.part(1)])
    output.part(0).unlink()
    with resumed as output:
        assert output.missing(2) == []
        output.finish(2)
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 3 and len([*tmp_path.iterdir()]) == 1


def test_hidden_files_of_the_user_are_kept(tmp_path):
    resumed = stopped(tmp_path / "x[1].csv")
    own = [tmp_path / ".x[1].csv.swp", tmp_path / ".x1.csv.backup", resumed.folder / ".part-notes"]
    for path in own:
        path.write_text("mine")
    (tmp_path / ".x[1].csv.folder").mkdir()
    killed = [resumed.folder / ".part-000001.csv.abcd_123", resumed.folder / ".joined.csv.abcd1234"]
    for path in killed:
        path.touch()
    with resumed as output:
        assert not any(path.exists() for path in killed)
        output.finish(2)
    assert all(path.read_text() == "mine" for path in own) and (tmp_path / "x[1].csv").is_file()


def test_a_plan_without_parts_binds_no_later_call(tmp_path):
    stopped(tmp_path / "out", parts=0)
    with Output(tmp_path / "out", {"run": "other", "images": "i", "top": 2}) as output:
        assert output.missing(2) == [0, 1]


def test_a_part_that_is_cut_off_is_predicted_again(tmp_path):
    resumed = stopped(tmp_path / "x.csv")
    part = resumed.part(1)
    part.write_bytes(part.read_bytes()[:-2])
    with resumed as output:
        assert output.missing(3) == [1, 2]


@pytest.mark.parametrize("text", ["[1]", "3", '{"name": "mine"}'])
def test_a_plan_of_something_else_is_one_sentence(tmp_path, text):
    (tmp_path / "_plan.json").write_text(text)
    with pytest.raises(InputError, match="_plan.json is no plan of predictions"):
        stopped(tmp_path)
    assert (tmp_path / "_plan.json").read_text() == text
