"""mtlbench: a benchmark suite for multi-task optimisation.

Names are imported when they are first used, so that a command that needs no torch starts without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtlbench.engine.gramian import GramianMethod
    from mtlbench.engine.step import StepReport, train_step
    from mtlbench.errors import ContractError, DataError, DivergedError, UsageError
    from mtlbench.interfaces import (
        Batch,
        Further,
        GradientView,
        InputGroup,
        Later,
        MethodInfo,
        MetricInfo,
        MultiTaskModel,
        Passes,
        Protocol,
        SharpnessInfo,
        SharpnessWrapper,
        StepProblem,
        Task,
        TaskInfo,
        Update,
        WeightingMethod,
    )
    from mtlbench.training.gradients import GradientLog
    from mtlbench.training.stepper import Stepper

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "ContractError",
    "DataError",
    "DivergedError",
    "Further",
    "GradientLog",
    "GradientView",
    "GramianMethod",
    "InputGroup",
    "Later",
    "MethodInfo",
    "MetricInfo",
    "MultiTaskModel",
    "Passes",
    "Protocol",
    "SharpnessInfo",
    "SharpnessWrapper",
    "StepProblem",
    "StepReport",
    "Stepper",
    "Task",
    "TaskInfo",
    "Update",
    "UsageError",
    "WeightingMethod",
    "train_step",
]

_ELSEWHERE = {
    "ContractError": "errors",
    "DataError": "errors",
    "DivergedError": "errors",
    "GradientLog": "training.gradients",
    "GramianMethod": "engine.gramian",
    "StepReport": "engine.step",
    "Stepper": "training.stepper",
    "UsageError": "errors",
    "train_step": "engine.step",
}
"""Where a public name is defined that is none of the contracts."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_ELSEWHERE.get(name, 'interfaces')}")
    globals()[name] = found = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
