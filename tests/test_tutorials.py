"""The tutorials run as they are, in an empty folder, and say what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples/tutorials").glob("*.py"))
SAYS = {
    "images": [
        r"Chosen: ",
        r"page: out/explained/explain.html",
        r"accuracy of the others \d",
        r"probabilities \d\.\de-0[5-9]",
        r"ONNX says seven",
    ],
    "table": [r"CoOp +world_textures +1 .* within ", r"CoOp +world_textures +16 .* within ", r"CLIP .* no interval "],
    "backbone": [
        r"out/colours\s[^%]*?accuracy +│ +3\d\.",
        r"out/shapes\s[^%]*?accuracy +│ +4\.",
        r"the ways: \d\.\de-0[678]",
    ],
    "method": [r"own_method:FeatureWeights +average of 2 ", r"zero-shot CLIP +average of 2 ", r"CoOp +average of 2 "],
}
"""Tutorial -> patterns of its output."""


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_tutorial_runs(script, tmp_path):
    place = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env={**os.environ, **place}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for pattern in SAYS[script.stem]:
        assert re.search(pattern, done.stdout), pattern


def test_every_tutorial_is_a_page_that_the_index_lists():
    index = (ROOT / "docs/index.md").read_text()
    assert SAYS.keys() == {script.stem for script in SCRIPTS}
    for script in SCRIPTS:
        page = (ROOT / f"docs/tutorials/{script.stem}.md").read_text()
        assert f"](tutorials/{script.stem}.md)" in index
        for command in re.findall(r'^run\("{1,3}(.*?)"{1,3}\)$', script.read_text(), re.M | re.S):
            assert f"\n{command}\n" in page
