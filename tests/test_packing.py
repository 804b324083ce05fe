"""Packing of class tokens into tiles: nothing overlaps, few places stay empty, many classes take little time."""

import random
from time import process_time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import coop
from promptvision.backbones import load_clip
from promptvision.backbones.packing import CONSTANT, WIDEST, PackedLayout, lay_out, pack, plan


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=20))
def test_tiles_overlap_nothing(lengths):
    tile, offset, tiles, width = pack(lengths)
    used = {(t, o + i) for t, o, n in zip(tile, offset, lengths, strict=True) for i in range(n)}
    assert len(used) == sum(lengths) and {t for t, _ in used} == set(range(tiles))
    assert max(place for _, place in used) == width - 1 < max(WIDEST, *lengths)


@pytest.mark.parametrize("seed", range(3))
def test_few_places_of_tiles_stay_empty(seed):
    rng = random.Random(seed)
    lengths = [rng.randint(2, 12) for _ in range(100)]
    *_, tiles, width = pack(lengths)
    assert tiles * width <= 1.03 * sum(lengths)


def test_the_width_is_chosen_for_the_lengths():
    assert pack([7] * 30)[2:] == (30, 7) and pack([7] * 30, trunk=17)[2:] == (2, 105)
    assert pack([64, 64, 33, 31])[2:] == (3, 64) and pack([150, 2])[2:] == (2, 150)


def prompts(count, n_ctx, name, trunk=1, seed=0):
    """Slots (C, L) and end tokens of prompts "start, ctx, name, end", or with the name first."""
    rng = random.Random(seed)
    names = [rng.randint(1, 9) for _ in range(count)]
    length = trunk + n_ctx + max(names) + 1
    slots = torch.full((count, length), CONSTANT)
    for row, own in zip(slots, names, strict=True):
        start = trunk + (own if name == "front" else 0)
        row[start : start + n_ctx] = torch.arange(n_ctx)
    return slots, torch.tensor(names) + trunk + n_ctx


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from(["end", "front"]), st.integers(0, 9))
def test_every_token_up_to_the_end_has_one_place(count, n_ctx, name, seed):
    slots, eot = prompts(count, n_ctx, name, seed=seed)
    same = torch.arange(slots.shape[1]) < (1 if name == "front" else 1 + n_ctx)
    planned = plan(same, slots, eot, False)
    tiles = lay_out(planned)
    real = tiles.classes < count
    found = {*zip(tiles.classes[real].tolist(), tiles.position[real].tolist(), strict=True)}
    kept = tiles.fixed_class >= 0
    fixed = {*zip(tiles.fixed_class[kept].tolist(), tiles.fixed_position[kept].tolist(), strict=True)}
    assert int(real.sum() + kept.sum()) == len(found | fixed) and bool(fixed) == (name == "front")
    assert found | fixed == {(c, i) for c in range(count) for i in range(planned.trunk, eot[c] + 1)}
    assert tiles.classes[~real].unique().numel() == int((~real).sum())
    for c in range(count):
        t, e = divmod(int(tiles.order[c]), tiles.ends.shape[1])
        at = tiles.ends[t, e]
        assert tiles.classes[t, at] == c and tiles.position[t, at] == eot[c]
        assert all(tile == planned.tile[c] for tile in (tiles.fixed_class == c).nonzero()[:, 0])


def test_planning_is_quick_for_21000_classes():
    """Quadratic packing takes minutes."""
    slots, eot = prompts(21_000, 16, "end")
    started = process_time()
    layout = PackedLayout(torch.zeros_like(slots), slots, eot, False)
    assert process_time() - started < 5
    assert layout.plan.tiles * layout.plan.width < 1.001 * sum(layout.plan.length)


@pytest.mark.parametrize("name, options", [("coop", {}), ("clip_lora", {})])
def test_prompts_are_held_once_also_after_a_move(name, options):
    """Buffers of which a module has copies of its own, or that are slices of larger ones, would be counted."""
    method = coop.build(name, load_clip("embedded"), ["cat", "golden retriever", "DC-9-30"], **options)
    encoder = method.encoder if name == "coop" else method.texts
    length = encoder.ids.shape[1]
    for _ in range(2):
        buffers = [*encoder.buffers()]
        held = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in buffers if each.numel()}
        assert sum(held.values()) == sum(each.nbytes for each in buffers)
        assert sum(each.shape == (3, length) for each in buffers) == 2  # ids and slots
        assert not any(each.is_floating_point() for each in buffers)
        encoder._apply(torch.clone)  # as `.to()` of another device does
