"""mtlbench: a benchmark suite for multi-task optimisation."""

from mtlbench.errors import ContractError, DataError, DivergedError, UsageError
from mtlbench.gramian import GramianMethod
from mtlbench.interfaces import (
    Batch,
    GradientView,
    InputGroup,
    Later,
    MethodInfo,
    MetricInfo,
    Passes,
    Protocol,
    SharpnessInfo,
    SharpnessWrapper,
    Task,
    TaskInfo,
    Update,
    WeightingMethod,
)
from mtlbench.model import MultiTaskModel
from mtlbench.problem import StepProblem
from mtlbench.step import Stepper, StepReport, train_step

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "ContractError",
    "DataError",
    "DivergedError",
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
