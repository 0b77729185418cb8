"""Where a record belongs: the group whose rows are compared, the row, the seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mtlbench.runs.identity import Code, RunIdentity
from mtlbench.runs.record import RunRecord

GROUP = [
    "task",
    "task_options",
    "protocol",
    "protocol_version",
    "epochs",
    "data_source",
    "stand_in",
    "architecture",
    "device_class",
]
"""What two rows have to share to be compared."""
ROW = ["method", "method_options", "sharpness", "sharpness_options"]
"""What tells the rows of a group apart."""
LEARNING_RATE = "learning_rate"
"""How a row says that its learning rate is not the protocol's."""
RANDOM = "random init"
"""How a group says that it was given none of the weights that its protocol begins with."""


def cell(record: RunRecord) -> tuple[Any, ...]:
    """What no two records of a board may share: the row, and the seed."""
    identity = record.identity
    return (*group_of(record).values(), *row_of(identity).values(), identity.seed)


def group_of(record: RunRecord) -> dict[str, Any]:
    """The group of a record, by the names of :data:`GROUP`."""
    identity = record.identity
    group = {
        name: _text(value) if isinstance(value := getattr(identity, name), dict) else value
        for name in GROUP
    }
    if identity.among is not None:
        group |= identity.among.model_dump()
    group["data_source"] = identity.data_label
    group["device_class"] += f" {identity.numerics}".rstrip()
    if identity.ranks > 1:
        group["device_class"] += f", {identity.ranks} processes"
    if identity.weights is not None:
        group["architecture"] += f" from {identity.weights.file} {identity.weights.sha256[:12]}"
    elif identity.without_weights:
        group["architecture"] += f" {RANDOM}"
    return group


def row_of(identity: RunIdentity) -> dict[str, str]:
    """The row that a run belongs to: what :data:`ROW` names. What is not the protocol's is an
    option of the method: a learning rate, a bound of the gradient; and of the single-task reference
    what it has by the protocol and the others have not."""
    lr = {} if identity.lr is None else {LEARNING_RATE: identity.lr}
    steps = {name: getattr(identity, name) for name in ("gradient_scale", "clip_norm")}
    given = {name: value for name, value in steps.items() if value is not None}
    among = {} if identity.among is None else identity.among.model_dump()
    own = {n: getattr(identity, n) for n in among if getattr(identity, n) != among[n]}
    options = {**identity.method_options, **lr, **given, **own}
    return {
        "method": identity.method,
        "method_options": _text(options, identity.method_code),
        "sharpness": identity.sharpness,
        "sharpness_options": _text(identity.sharpness_options, identity.sharpness_code),
    }


def epochs_of(identity: RunIdentity) -> int:
    """Epochs of the rows that a run stands among: its own, unless it is a reference that has others
    by its protocol."""
    return identity.epochs if identity.among is None else identity.among.epochs


def _text(options: Mapping[str, Any], code: Code | None = None) -> str:
    """Options as on the command line, ``c=0.4,solver=nnls``, and where the class is from if that is
    not here."""
    origin = {} if code is None else {"code": str(code)}
    return ",".join(option_texts({**options, **origin}))


def option_texts(options: Mapping[str, Any]) -> list[str]:
    """Each option as a row writes it."""
    values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in sorted(options.items())}
    return [f"{name}={value}" for name, value in values.items()]


def place_of(record: RunRecord) -> dict[str, Any]:
    """The group and the row that a record belongs to."""
    return group_of(record) | row_of(record.identity)
