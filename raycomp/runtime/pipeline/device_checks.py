"""What a job with budgets for devices would fail on later."""

from __future__ import annotations

from raycomp.config.budget import BUDGET_KINDS, BudgetSettings
from raycomp.deployment.cpu import describe_cpu
from raycomp.deployment.onnx_export import MAX_ONNX_MB
from raycomp.deployment.openvino_files import missing_openvino_packages
from raycomp.deployment.peak_memory import STATUS
from raycomp.deployment.runtimes import missing_onnx_packages
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.encoder.device_table import Conditions
from raycomp.encoder.layers import EncoderConfig
from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_method_class, load_settings
from raycomp.search.device_budgets import conditions_of, find_recorded_tables


def find_device_problems(context: RunContext) -> list[str]:
    """Return one message per budget whose limits a method or this machine does not support.

    Args:
        context: The run's context.
    """
    budgets = [budget for budget in context.job.budget if budget.kind not in BUDGET_KINDS]
    problems = [problem for budget in budgets for problem in _find_method_problems(context, budget)]
    # A run that resumes needs neither its file of lengths nor a profile.
    recorded = find_recorded_tables(context.layout) or {}

    for budget in budgets:
        if budget.is_for_device:
            if budget.name in recorded:
                conditions = recorded[budget.name].conditions
            else:
                conditions = conditions_of(context.job, budget)
            is_local = budget.node is None and budget.profile is None
            problems += find_runtime_problems(budget, conditions, context.config, is_local=is_local)
    return problems


def _find_method_problems(context: RunContext, budget: BudgetSettings) -> list[str]:
    problems = [
        f"Budget {budget.name} has {_list_limits(budget)}, which method {name} cannot keep. Use a method "
        "that searches a super-network, such as yoco or hat, or a budget of params, encoder_params or "
        "flops."
        for name in context.job.run.methods
        if load_settings(name).needs_budget and not load_method_class(name).takes_all_limits
    ]
    if context.job.train.budget_share:
        problems.append(
            f"train.budget_share draws architectures for one limit on parameters or FLOPs, and budget "
            f"{budget.name} has {_list_limits(budget)}. Set train.budget_share = 0; train.cost_share "
            "works with every budget."
        )
    return problems


def find_runtime_problems(
    budget: BudgetSettings, conditions: Conditions, config: EncoderConfig, *, is_local: bool
) -> list[str]:
    """Return one message per reason why the files of a budget cannot be made or measured.

    Args:
        budget: A budget for a device.
        conditions: Its conditions.
        config: Shapes of the full network.
        is_local: Whether this machine is the device.
    """
    return [
        *_find_format_problems(budget, config),
        *_find_length_problems(budget, conditions, config),
        *(_find_machine_problems(budget) if is_local else []),
    ]


def _find_format_problems(budget: BudgetSettings, config: EncoderConfig) -> list[str]:
    # An export without its packages would fail after all training.
    problems = _find_missing_packages(budget)
    full = Architecture(len(config.layer_heads), tuple(config.layer_heads), tuple(config.layer_ffn))
    weights_mb = 4 * CostModel(EncoderShape.from_config(config), 1).cost("params", full) / 1e6

    # A run exports the teacher too, and compares the models with it.
    if budget.runtime != "torch" and weights_mb > MAX_ONNX_MB:
        problems.append(
            f"Budget {budget.name}: an ONNX file has at most {MAX_ONNX_MB:,.0f} MB, and that of the "
            f'teacher would have {weights_mb:,.0f} MB in fp32. Set runtime = "torch", or choose a '
            "smaller model."
        )
    return problems


def _find_length_problems(
    budget: BudgetSettings, conditions: Conditions, config: EncoderConfig
) -> list[str]:
    longest = conditions.max_length
    if longest <= config.max_positions:
        return []

    remedy = "Set length to this number or less."
    if budget.lengths is not None:
        remedy = f"Remove the longer texts from {budget.lengths}, or write this number for them."
    return [
        f"Budget {budget.name} is measured with {longest} tokens, and the model reads at most "
        f"{config.max_positions}. {remedy}"
    ]


def _find_machine_problems(budget: BudgetSettings) -> list[str]:
    """Return why this machine cannot measure; a node is checked when the run has connected."""
    problems = []
    cpus = int(str(describe_cpu()["cpus"]))
    if budget.threads > cpus:
        problems.append(
            f"Budget {budget.name} has threads = {budget.threads}, and this machine has {cpus} CPUs. Set "
            "threads to this number or less, or profile the device and set profile."
        )

    if budget.memory_mb is not None and not STATUS.exists():
        problems.append(
            f"Budget {budget.name} limits memory_mb, which only Linux reports. Leave the limit out, or "
            "profile a device with Linux and set profile."
        )
    return problems


def _find_missing_packages(budget: BudgetSettings) -> list[str]:
    """Return one message if the runtime of a budget is not installed: exports would fail at the end."""
    if budget.runtime == "torch":
        return []
    # The files of OpenVINO are made from those of ONNX.
    onnx, openvino = missing_onnx_packages(), missing_openvino_packages({budget.runtime})
    missing = [*openvino, *onnx]
    if not missing:
        return []

    extra = "openvino" if budget.runtime.startswith("openvino") else "onnx"
    other = "torch" if onnx else budget.runtime.replace("openvino", "onnxruntime")
    words, verb = ("package", "is") if len(missing) == 1 else ("packages", "are")
    return [
        f"Budget {budget.name}: the runtime {budget.runtime} needs the {words} {' and '.join(missing)}, "
        f"which {verb} not installed. Run pip install 'raycomp[{extra}]', or set runtime = \"{other}\"."
    ]


def _list_limits(budget: BudgetSettings) -> str:
    limits = [f"{kind} = {limit}" for kind, limit in budget.limits.items()]
    if len(limits) == 1:
        return f"the limit {limits[0]}"
    return f"the limits {', '.join(limits)}"
