"""Names of methods in the literature, in the order of tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

HOSTS = {"adapter": "adapter", "prompt": "VPT", "lora": "LoRA", "ssf": "SSF"}
"""Hosts of methods that tune a ViT on the first task of a stream."""
NAMES: tuple[tuple[str, Mapping[str, Any], str], ...] = (
    ("coop/zero_shot", {}, "zero-shot CLIP"),
    ("coop/linear_probe", {}, "linear probe"),
    ("coop/coop", {"REPARAMETERIZE": ""}, "CoOp"),
    ("coop/coop", {"REPARAMETERIZE": "lstm"}, "P-tuning (LSTM)"),
    ("coop/coop", {"REPARAMETERIZE": "mlp"}, "P-tuning (MLP)"),
    ("coop/coop", {}, "CoOp"),
    ("coop/cocoop", {}, "CoCoOp"),
    ("coop/kg_coop", {}, "KgCoOp"),
    ("coop/pro_grad", {}, "ProGrad"),
    ("coop/plot", {}, "PLOT"),
    ("coop/tcp", {}, "TCP"),
    ("coop/tpt", {}, "TPT"),
    ("coop/ivlp", {"DEPTH_VISION": 0}, "deep language prompts"),
    ("coop/ivlp", {}, "IVLP"),
    ("coop/vpt", {"DEPTH": 1}, "VPT-shallow on CLIP"),
    ("coop/vpt", {}, "VPT-deep on CLIP"),
    ("coop/maple", {}, "MaPLe"),
    ("coop/prompt_src", {}, "PromptSRC"),
    ("coop/co_prompt", {}, "CoPrompt"),
    ("coop/skip_tuning", {}, "Skip Tuning"),
    ("coop/prompt_kd", {}, "PromptKD"),
    ("coop/mmrl", {}, "MMRL"),
    ("coop/mmrl_pp", {}, "MMRL++"),
    ("coop/mma_pp", {}, "MMA++"),
    *(
        (f"coop/{name}", {"HOST": host}, f"{title} + {addition}")
        for name, addition in (("at_prompt", "ATPrompt"), ("dept", "DePT"))
        for host, title in (
            ("coop", "CoOp"),
            ("kg_coop", "KgCoOp"),
            ("cocoop", "CoCoOp"),
            ("maple", "MaPLe"),
            ("prompt_src", "PromptSRC"),
            ("at_prompt", "CoOp + ATPrompt"),
        )
    ),
    ("coop/tip_adapter", {}, "Tip-Adapter"),
    ("coop/tip_adapter_f", {}, "Tip-Adapter-F"),
    ("coop/clip_adapter", {}, "CLIP-Adapter"),
    ("coop/task_res", {}, "TaskRes"),
    ("coop/clip_lora", {}, "CLIP-LoRA"),
    ("coop/two_stage", {}, "2SFS"),
    ("coop/gda", {}, "GDA"),
    ("coop/lp_plus_plus", {}, "LP++"),
    ("coop/clap", {}, "CLAP"),
    ("coop/dapl", {}, "DAPL"),
    ("vpt/knn", {}, "kNN"),
    ("vpt/linear", {"MIXTURE": True}, "linear head on all layers"),
    ("vpt/linear", {"HIDDEN_LAYERS": 0}, "linear head"),
    *(("vpt/linear", {"HIDDEN_LAYERS": hidden}, f"MLP-{hidden + 1}") for hidden in range(1, 9)),
    ("vpt/linear", {}, "linear head"),
    ("vpt/cls", {}, "class token"),
    ("vpt/bias", {}, "BitFit (bias)"),
    ("vpt/ln", {}, "LN-tuning"),
    ("vpt/diff_fit", {}, "DiffFit"),
    ("vpt/partial", {}, "partial-{BLOCKS}"),
    ("vpt/full", {"FROM_SCRATCH": True}, "from scratch"),
    ("vpt/full", {}, "full fine-tuning"),
    ("vpt/side", {}, "side-tuning"),
    ("vpt/adapter", {"PARALLEL": True, "READS": "stream"}, "AdaptFormer"),
    ("vpt/adapter", {"PARALLEL": True}, "parallel adapter"),
    ("vpt/adapter", {"AFTER_ATTENTION": True}, "Houlsby adapter"),
    ("vpt/adapter", {"SEQUENTIAL": True, "INIT": "lora"}, "Pfeiffer adapter"),
    ("vpt/adapter", {"SEQUENTIAL": True}, "sequential AdaptFormer"),
    ("vpt/adapter", {}, "adapter"),
    ("vpt/convpass", {"ATTENTION_ONLY": True}, "Convpass-attn"),
    ("vpt/convpass", {}, "Convpass"),
    ("vpt/repadapter", {}, "RepAdapter"),
    ("vpt/lora", {}, "LoRA"),
    ("vpt/ssf", {}, "SSF"),
    ("vpt/fact", {"DECOMPOSITION": "tt"}, "FacT-TT"),
    ("vpt/fact", {}, "FacT-TK"),
    ("vpt/pad", {}, "prompt padding"),
    ("vpt/below", {}, "prompt channels"),
    ("vpt/prompt", {"DEEP": False}, "VPT-shallow"),
    ("vpt/prompt", {}, "VPT-deep"),
    ("vpt/vfpt", {"DEEP": False}, "VFPT-shallow"),
    ("vpt/vfpt", {}, "VFPT"),
    ("vpt/e2vpt", {"DEEP": False}, "E2VPT-shallow"),
    ("vpt/e2vpt", {}, "E2VPT"),
    ("vpt/vqt", {}, "VQT"),
    ("vpt/dtl", {"KERNEL": 0}, "DTL"),
    ("vpt/dtl", {}, "DTL+"),
    ("vpt/prompt_ablations", {"PREFIX": True}, "prefix-tuning"),
    ("vpt/prompt_ablations", {"DEEP": False}, "VPT-shallow, ablation"),
    ("vpt/prompt_ablations", {}, "VPT-deep, ablation"),
    ("vpt/swin_prompt", {"DEEP": False}, "VPT-shallow"),
    ("vpt/swin_prompt", {}, "VPT-deep"),
    ("vpt/l2p", {}, "L2P"),
    ("vpt/dual_prompt", {}, "DualPrompt"),
    ("vpt/coda_prompt", {}, "CODA-Prompt"),
    ("vpt/layer_pools", {"TOP_K": 0}, "DualPrompt (CODA-Prompt's code)"),
    ("vpt/layer_pools", {}, "L2P++"),
    ("vpt/simple_cil", {}, "SimpleCIL"),
    *(("vpt/aper", {"HOST": host}, f"APER + {title}") for host, title in HOSTS.items()),
    ("vpt/ran_pac", {"HOST": "none", "PROJECTION": 0}, "RanPAC, no projection, nothing tuned"),
    ("vpt/ran_pac", {"HOST": "none"}, "RanPAC, nothing tuned"),
    ("vpt/ran_pac", {"PROJECTION": 0}, "RanPAC, no projection"),
    ("vpt/ran_pac", {}, "RanPAC"),
    ("vpt/ease", {}, "EASE"),
)
"""(METHOD.FAMILY/METHOD.NAME, options, name): the first row whose options all agree with the run's gives its name, with
{OPTION} filled in. Related methods are neighbours, the plain one before its variants."""
FOR_STREAMS = ("l2p", "dual_prompt", "coda_prompt", "layer_pools", "simple_cil", "aper", "ran_pac", "ease")
"""Methods made for streams of tasks."""


def method_name(result: Mapping[str, Any]) -> str:
    """Return the name of a run's method; its METHOD.NAME if the table has none."""
    number = method_order(result)
    name = NAMES[number][2].format_map(defaultdict(str, result["options"])) if number < len(NAMES) else result["method"]
    if "continual" not in result or result["method"] in FOR_STREAMS:
        return str(name)
    return f"{name}, joint" if result["continual"].get("JOINT") else f"{name}, task after task"


def method_order(result: Mapping[str, Any]) -> int:
    """Return the method's number in the order of tables; unknown methods come last."""
    method, options = f"{result['family']}/{result['method']}", result["options"]
    found = (
        number
        for number, (name, wanted, _) in enumerate(NAMES)
        if name == method and all(options.get(key) == value for key, value in wanted.items())
    )
    return next(found, len(NAMES))


def task_names(result: Mapping[str, Any]) -> list[str]:
    """Return the names of the tasks of a continual run."""
    return [task["name"] for task in result["tasks"]]


def matrix_rows(result: Mapping[str, Any]) -> list[str]:
    """Return the labels of the rows of an accuracy matrix; a joint run has a single row, after all tasks."""
    return ["all tasks"] if result["continual"]["JOINT"] else task_names(result)
