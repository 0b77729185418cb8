r"""The contracts: a task says what is learnt, a wrapper where each gradient is taken, a method how
the K become one.

Notation: K tasks (objectives), P shared parameters, ``losses`` (K,), ``jacobian`` J of shape (K, P)
with the gradient of loss k with respect to the shared parameters in row k, ``gramian`` :math:`G = J
J^\top` (K, K).
"""

from mtlbench.interfaces.batch import (
    Batch,
    Divisible,
    Ignore,
    Ignored,
    InputGroup,
    JointLoss,
    Loss,
    SizedLoss,
)
from mtlbench.interfaces.gradients import (
    DenseView,
    GradientView,
    GramianPoint,
    HeadPolicy,
    Passes,
    Update,
    check_update,
)
from mtlbench.interfaces.methods import Claim, Further, MethodInfo, WeightingMethod
from mtlbench.interfaces.models import MultiTaskModel
from mtlbench.interfaces.options import Later, Nested
from mtlbench.interfaces.problem import Move, Parameters, PointView, Shift, StepProblem
from mtlbench.interfaces.recipes import Common, Recipe
from mtlbench.interfaces.tasks import Fault, MetricInfo, Picture, Protocol, Task, TaskInfo
from mtlbench.interfaces.wrappers import PlainStep, SharpnessInfo, SharpnessWrapper

__all__ = [
    "Batch",
    "Claim",
    "Common",
    "DenseView",
    "Divisible",
    "Fault",
    "Further",
    "GradientView",
    "GramianPoint",
    "HeadPolicy",
    "Ignore",
    "Ignored",
    "InputGroup",
    "JointLoss",
    "Later",
    "Loss",
    "MethodInfo",
    "MetricInfo",
    "Move",
    "MultiTaskModel",
    "Nested",
    "Parameters",
    "Passes",
    "Picture",
    "PlainStep",
    "PointView",
    "Protocol",
    "Recipe",
    "SharpnessInfo",
    "SharpnessWrapper",
    "Shift",
    "SizedLoss",
    "StepProblem",
    "Task",
    "TaskInfo",
    "Update",
    "WeightingMethod",
    "check_update",
]
