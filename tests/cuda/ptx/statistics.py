"""What a launch does to memory: 32-byte sectors, passes over the banks of shared memory, bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = Any


@dataclass
class Traffic:
    """Of one instruction of the PTX, or of a sum of them."""

    accesses: int = 0  # by warps
    n_bytes: int = 0  # that lanes asked for
    units: int = 0  # sectors of global memory, or wavefronts of shared memory
    ideal: int = 0  # fewest units for these bytes

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.accesses + other.accesses,
            self.n_bytes + other.n_bytes,
            self.units + other.units,
            self.ideal + other.ideal,
        )


@dataclass
class Statistics:
    """Filled by a launch that is given one."""

    opcodes: Counter[str] = field(default_factory=Counter)  # executed by warps
    warps: Counter[int] = field(default_factory=Counter)  # that executed the instruction at a program counter
    loads: dict[str, Traffic] = field(
        default_factory=dict
    )  # of global memory, by the text of the instruction
    stores: dict[str, Traffic] = field(default_factory=dict)
    shared: dict[str, Traffic] = field(default_factory=dict)
    read: set[int] = field(default_factory=set)  # numbers of sectors
    written: set[int] = field(default_factory=set)

    def executed(self, m: Any, group: Any) -> None:
        n = m.n // 32 if group is None else int(group.mask.reshape(-1, 32).any(axis=1).sum())
        self.warps[m.at] += n
        self.opcodes[".".join(m.kernel.code[m.at].opcode)] += n

    def accessed(
        self, m: Any, memory: Any, positions: Array, lanes: Array, n_bytes: int, stores: bool
    ) -> None:
        if not len(positions):
            return
        text = m.kernel.code[m.at].text
        warps = lanes // 32
        if memory is m.memory:
            place, traffic = (self.stores if stores else self.loads), _sectors(positions, warps, n_bytes)
            touched = (self.written if stores else self.read).update
            touched(np.unique(np.concatenate([positions // 32, (positions + n_bytes - 1) // 32])).tolist())
        elif memory is m.shared:
            place, traffic = self.shared, _wavefronts(positions, warps, lanes % 32, n_bytes)
        else:
            return
        place[text] = place.get(text, Traffic()) + traffic

    def total(self, part: dict[str, Traffic]) -> Traffic:
        return sum(part.values(), Traffic())


def _sectors(addresses: Array, warps: Array, n_bytes: int) -> Traffic:
    """Ideal: the distinct bytes of each warp, packed."""
    n_warps = len(np.unique(warps))
    keys = np.unique(np.stack([warps, addresses]), axis=1)
    sectors = np.unique(np.stack([keys[0], keys[1] // 32]), axis=1).shape[1]
    _, distinct = np.unique(keys[0], return_counts=True)
    ideal = int((-(-distinct * n_bytes // 32)).sum())
    return Traffic(n_warps, len(addresses) * n_bytes, sectors, ideal)


def _wavefronts(positions: Array, warps: Array, lanes: Array, n_bytes: int) -> Traffic:
    """Lanes go in parts of 128 bytes; a part takes as many passes as its fullest bank has words."""
    words_each = max(1, n_bytes // 4)
    part = warps * 8 + lanes // (32 // words_each)
    words = (positions[:, None] // 4 + np.arange(words_each)).reshape(-1)
    keys = np.unique(np.stack([np.repeat(part, words_each), words]), axis=1)
    banks, counts = np.unique(keys[0] * 32 + keys[1] % 32, return_counts=True)
    parts, first = np.unique(banks // 32, return_index=True)
    passes = np.maximum.reduceat(counts, first)
    return Traffic(len(np.unique(warps)), len(positions) * n_bytes, int(passes.sum()), len(parts))
