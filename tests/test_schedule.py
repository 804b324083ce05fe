"""Steps, epochs and rates from the OPTIM keys, and the loop that follows them."""

import json
import math
from pathlib import Path

import pytest
from PIL import Image

import coop
import vpt
from promptvision.config import load_config
from promptvision.engine.optim import learning_rates
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import run
from promptvision.experiment.schedule import epochs, per_step, rates, steps

ROOT = Path(__file__).parents[1]
FAMILIES = {"coop": coop, "vpt": vpt}
LORA = "configs/coop/clip_lora_vit_b16.yaml"


def load(*words, config="configs/coop/embedded.yaml"):
    return load_config(ROOT / config, words, FAMILIES)


def test_epochs_are_the_measure_unless_steps_are_given():
    cfg = load("OPTIM.EPOCHS", "3")
    assert (steps(cfg, 7), epochs(cfg, 7), per_step(cfg), len(rates(cfg, 7))) == (21, 3, False, 3)
    cfg = load("OPTIM.EPOCHS", "3", "OPTIM.ITERATIONS", "16")
    assert (steps(cfg, 7), epochs(cfg, 7), per_step(cfg), len(rates(cfg, 7))) == (16, 3, True, 16)
    whole = rates(load("OPTIM.EPOCHS", "3"), 7)
    assert rates(cfg, 7) == [whole[step // 7] for step in range(16)]
    assert rates(load("OPTIM.EPOCHS", "0", "OPTIM.ITERATIONS", "16"), 7) == []


def test_a_schedule_of_steps_counts_warm_up_and_drops_in_steps():
    words = ["OPTIM.EPOCHS", "2", "OPTIM.SCHEDULE_PER", "step", "OPTIM.WARMUP_EPOCHS", "3"]
    assert rates(load(*words), 5) == learning_rates("cosine", 0.01, 10, warmup_epochs=3)
    drops = rates(load(*words, "OPTIM.SCHEDULE", "multi_step", "OPTIM.STEPS", "[4]", "OPTIM.WARMUP_EPOCHS", "0"), 5)
    assert drops == pytest.approx([0.01] * 4 + [0.001] * 6)


def test_the_cosine_ends_where_it_is_told():
    each = learning_rates("cosine", 0.5, 8, min_lr=0.1)
    assert each == pytest.approx([0.1 + 0.4 * (1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)])


@pytest.mark.parametrize("shots", [1, 16])
def test_clip_lora_s_preset_takes_500_steps_a_shot(shots):
    cfg = load("DATASET.SHOTS", str(shots), config=LORA)
    each = rates(cfg, 23)
    assert len(each) == 500 * shots == steps(cfg, 23)
    assert each[0] == 2e-4 and each[250 * shots] == pytest.approx((2e-4 + 1e-6) / 2) and 1e-6 < each[-1] < 2e-6
    options, optim = cfg.METHOD.OPTIONS, cfg.OPTIM
    assert (optim.NAME, optim.WEIGHT_DECAY, optim.BATCH_SIZE, cfg.DATASET.FEW_SHOT) == ("adamw", 0.01, 32, "clip_lora")
    assert not optim.DROP_LAST, "its loader keeps an incomplete last batch"
    assert (options.RANK, options.ALPHA, options.DROPOUT, options.LOGIT_SCALE) == (2, 1.0, 0.25, 100.0)
    assert (options.TARGETS, options.ENCODER, options.TEMPLATE) == (["q", "k", "v"], "both", "a photo of a {}.")


def test_steps_a_shot_need_shots():
    with pytest.raises(InputError, match="SCALE_ITERATIONS multiplies ITERATIONS by DATASET.SHOTS, which is 0"):
        steps(load("DATASET.SHOTS", "0", config=LORA), 10)


@pytest.mark.parametrize("name", ["rn50", "rn101"])
def test_dapl_s_presets_are_the_official_ones(name):
    cfg = load(config=f"configs/coop/dapl_{name}.yaml")
    options, optim = cfg.METHOD.OPTIONS, cfg.OPTIM
    assert name.upper() == cfg.BACKBONE.NAME and (name == "rn101") == options.CSC
    assert (options.N_CTX, options.N_DMX, options.TEMPERATURE, options.THRESHOLD, options.WEIGHT) == (16, 16, 1, 0.5, 1)
    assert (optim.LR, optim.EPOCHS, optim.BATCH_SIZE, optim.WEIGHT_DECAY) == (0.003, 25, 32, 5e-4)
    assert (optim.SCHEDULE_PER, optim.WARMUP_TYPE, cfg.DATASET.SHOTS) == ("epoch_as_step", "linear", 0)


QUICK = ["DATASET.SHOTS", "1", "METHOD.OPTIONS.N_CTX", "2", "OPTIM.BATCH_SIZE", "3", "TRAIN.EVAL_EVERY", "1"]


def trained(folder, *words):
    with RunFolder(folder) as open_folder:
        found = run(load(*QUICK, "OUTPUT_DIR", str(folder), *words), FAMILIES, open_folder, progress=False)
        return found, [json.loads(row) for row in (folder / "metrics.jsonl").open()]


def test_a_run_stops_after_its_steps_and_validates_after_the_cut_epoch(tmp_path):
    words = ["OPTIM.ITERATIONS", "4", "OPTIM.SCHEDULE_PER", "step", "OPTIM.WARMUP_EPOCHS", "0", "TRAIN.KEEP", "best"]
    found, rows = trained(tmp_path / "run", *words)
    learnt = [row for row in rows if "loss" in row]
    assert [row["lr"] for row in learnt] == learning_rates("cosine", 0.01, 4)
    size = found["pictures"]["train"] // 3
    assert 2 <= size <= 3 and found["steps"] == 4 and found["epochs"] == learnt[-1]["epoch"] + 1 == 2
    assert [row["step"] for row in rows if "val" in row] == [size - 1, 3] and "best_epoch" in found


def test_one_class_is_nothing_to_learn_from(tmp_path):
    (tmp_path / "own/cat").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (32, 32), (60 * number, 0, 0)).save(tmp_path / "own/cat" / f"{number}.png")
    words = ["DATASET.NAME", "folder", "DATASET.ROOT", str(tmp_path / "own")]
    with pytest.raises(InputError, match="there is only one class, 'cat': training needs at least two"):
        trained(tmp_path / "run", *words)
