"""One thread, and the golden numbers: the compact set beside the tests, or a larger one of the same layout."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
GOLDEN = Path(os.environ.get("PROMPTVISION_GOLDEN", Path(__file__).parent / "golden"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Image features of the tests' runs are kept apart from the user's."""
    os.environ["PROMPTVISION_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def pytest_generate_tests(metafunc):
    """`@pytest.mark.golden("coop/coop/*")` runs a test once per golden file that matches, as `case`."""
    mark = metafunc.definition.get_closest_marker("golden")
    if mark:
        names = sorted(str(path.relative_to(GOLDEN).with_suffix("")) for path in GOLDEN.glob(mark.args[0] + ".json"))
        assert names, f"no golden file matches {mark.args[0]} under {GOLDEN}"
        metafunc.parametrize("case", names)


@pytest.fixture(scope="session")
def golden():
    """`golden("coop/coop/end_csc_ctx16")` gives (settings, tensors in float32 or int64)."""

    def load(name):
        settings = json.loads((GOLDEN / f"{name}.json").read_text()) if (GOLDEN / f"{name}.json").exists() else {}
        path = GOLDEN / f"{name}.safetensors"
        tensors = load_file(path) if path.exists() else {}
        return settings, {
            k: v.float() if v.is_floating_point() and v.dtype != torch.float64 else v for k, v in tensors.items()
        }

    load.root = GOLDEN
    return load
