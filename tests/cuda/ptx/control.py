"""Branches: lanes that part get program counters of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from .access import active
from .machine import REGROUP, Group, Machine, Run, source
from .parser import Instruction, Kernel, Name


def branch(inst: Instruction, kernel: Kernel) -> Run:
    label = inst.operands[0]
    assert isinstance(label, Name)
    target = kernel.labels[label.name]
    if inst.guard is None:
        return _jump(target)
    predicate = source(inst.guard, np.bool_, lambda name: 0)
    jump = _jump(target)

    def run(m: Machine, group: Group | None) -> Any:
        taken = predicate(m)
        if group is not None:
            taken = taken & group.mask
        n = int(np.count_nonzero(taken))
        if not n:
            return None
        if n == m.n_lanes(group):
            return jump(m, group)
        m.set_pc(group, m.at + 1)
        m.pc[taken] = target
        return REGROUP

    return run


def _jump(target: int) -> Run:
    """Forward, others may be on the way: the loop looks again who is where."""

    def jump(m: Machine, group: Group | None) -> Any:
        if group is None or target <= m.at:
            return target
        m.set_pc(group, target)
        return REGROUP

    return jump


def indexed_branch(inst: Instruction, kernel: Kernel) -> Run:
    index, table = inst.operands[:2]
    assert isinstance(table, Name)
    targets = np.array([kernel.labels[t] for t in kernel.targets[table.name]])
    which = source(index, np.uint32, lambda name: 0)

    def run(m: Machine, group: Group | None) -> Any:
        m.set_pc(group, targets[active(m, which(m), group)])
        return REGROUP

    return run
