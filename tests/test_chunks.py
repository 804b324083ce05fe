"""Very many classes: chunks bound what a step keeps, and COMPUTE.CHUNK auto chooses them from the free memory."""

import pytest
import torch
from open_clip import CLIP as Model
from open_clip import get_tokenizer

from coop.parts.context import context_prompts
from promptvision.backbones.classes import room
from promptvision.backbones.compute import Compute
from promptvision.backbones.text import OpenClipText
from promptvision.errors import InputError

WORDS = ["cat", "dog", "car", "tree", "boat", "house", "lamp", "chair", "shoe", "book", "bird", "fish", "cup", "key"]
NAMES = [f"{a} {b} {c} {d}" for a in WORDS for b in WORDS for c in WORDS for d in WORDS[:8]][:21_000]


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    text = dict(width=16, layers=2, heads=2, vocab_size=49408)
    model = Model(16, dict(layers=1, width=64, image_size=32, patch_size=16), text)
    return OpenClipText(model.eval().requires_grad_(False), get_tokenizer("ViT-B-32"))


def stored(found):
    """Bytes of the tensors in nested values."""
    if isinstance(found, torch.Tensor):
        return found.numel() * found.element_size()
    inner = found.values() if isinstance(found, dict) else found if isinstance(found, list | tuple) else None
    inner = vars(found).values() if inner is None and hasattr(found, "__dict__") else inner
    return sum(map(stored, inner or ()))


def step(tower, names, **options):
    """Return the features' gradient of the contexts, and the bytes kept for backward and from step to step."""
    encoder = context_prompts(tower, names, 4, **options)
    torch.manual_seed(1)
    ctx = torch.randn(*([len(names)] if options.get("class_specific") else []), 4, 16, requires_grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(stored(t)), t)[1], lambda t: t):
        features = encoder(tower, ctx)
    (gradient,) = torch.autograd.grad((features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum(), ctx)
    return gradient, sum(sizes), stored(encoder.packed.kept.found)


def test_a_step_of_21000_classes_keeps_what_one_of_2100_does(tower):
    tower.compute = Compute("fast", 300)
    few, many = step(tower, NAMES[:2100]), step(tower, NAMES)
    assert many[2] == few[2] < 10_000, "constants of the trunk only"
    features = 18_900 * 16 * 4
    assert many[1] - few[1] < 12 * features, "end tokens and features, nothing of the blocks"
    tower.compute = Compute("fast")
    whole = step(tower, NAMES[:2100])
    assert whole[2] > 100 * few[2] and whole[1] > 5 * few[1]
    torch.testing.assert_close(few[0], whole[0], rtol=1e-4, atol=1e-4 * whole[0].abs().max().item())


@pytest.mark.parametrize("way", ["fast", "plain"])
@pytest.mark.parametrize("options", [{}, {"class_specific": True}, {"position": "front"}], ids=str)
def test_auto_takes_what_fits_and_gives_the_same(tower, monkeypatch, way, options):
    names, free = NAMES[:600], 10**12
    monkeypatch.setattr(room, "free_memory", lambda device: free)
    tower.compute = Compute(way, "auto")
    whole = step(tower, names, **options)
    free = whole[1] // 2
    parts = step(tower, names, **options)
    assert parts[1] < whole[1] / 2 and parts[2] <= whole[2]
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-4, atol=1e-4 * whole[0].abs().max().item())


def system(root, files):
    """Make the files of a system below a folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_free_memory_is_what_the_machine_and_its_groups_leave(tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    cpu, meminfo = torch.device("cpu"), "MemTotal:  9000 kB\nMemAvailable:  2000 kB\n"
    with pytest.raises(InputError, match="COMPUTE.CHUNK auto: .* set a number"):
        room.free_memory(cpu, tmp_path)
    alone = system(tmp_path / "alone", {"proc/meminfo": meminfo})
    assert room.free_memory(cpu, alone) == 2_048_000
    group = {"proc/meminfo": meminfo, "proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/memory.max": "max"}
    place = "sys/fs/cgroup/job/memory."
    group |= {f"{place}max": "900000", f"{place}current": "700000", f"{place}stat": "anon 1\ninactive_file 300000\n"}
    assert room.free_memory(cpu, system(tmp_path / "two", group)) == 500_000
    group = {"proc/meminfo": meminfo, "proc/self/cgroup": "4:cpu,memory:/a/b\n1:pids:/\n"}
    for place, limit in (("", 2**63 - 4096), ("a/", 800_000)):  # the group that holds ours has the limit
        group[f"sys/fs/cgroup/memory/{place}memory.limit_in_bytes"] = str(limit)
        group[f"sys/fs/cgroup/memory/{place}memory.usage_in_bytes"] = "700000"
    first = system(tmp_path / "one", group)
    assert room.free_memory(cpu, first) == 100_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert room.free_memory(cpu, first) == 50_000


def test_a_wrong_name_for_a_chunk_is_refused():
    with pytest.raises(InputError, match="COMPUTE.CHUNK 'outo'; did you mean 'auto'"):
        Compute(chunk="outo")
