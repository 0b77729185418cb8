"""Optimizers and schedulers, as a protocol has them."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mtlbench.interfaces import Protocol


def make_optimizer(protocol: Protocol, model: nn.Module, lr: float | None = None) -> Optimizer:
    """A fresh optimizer, as the protocol has it but for the learning rate, if one is given."""
    made: Optimizer = getattr(torch.optim, protocol.optimizer)(
        model.parameters(),
        lr=protocol.lr if lr is None else lr,
        weight_decay=protocol.weight_decay,
        **protocol.optimizer_options,
    )
    return made


def make_scheduler(protocol: Protocol, optimizer: Optimizer) -> LRScheduler | None:
    """A fresh scheduler of an optimizer, if the protocol has one."""
    if protocol.scheduler is None:
        return None
    name, options = protocol.scheduler
    made: LRScheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
    return made
