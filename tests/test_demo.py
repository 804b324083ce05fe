"""The demo, cut short: its tables, curve and page, and that a second one runs nothing again."""

import pytest

QUICK = ["OPTIM.EPOCHS", 1]


@pytest.mark.slow
def test_the_main_job_ends_with_a_table_a_curve_and_a_page(tool, tmp_path):
    words = ["--jobs", 2, "--output", tmp_path / "demo", *QUICK]
    status, out, err = tool("demo", *words)
    assert status == 0 and "CoCoOp" in out and "VPT-deep" in out, err
    assert err.count("Started: vit: linear, seed 2") == 1
    assert (tmp_path / "demo/figures/few-shot_world_textures.png").stat().st_size > 10_000
    assert "VPT-deep" in (tmp_path / "demo/report.html").read_text(encoding="utf-8")
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("result.json")}
    assert len(results) == 52 and tool("demo", *words)[0] == 0
    assert results == {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("result.json")}
