"""Runs a batch of blocks: the threads that share the lowest program counter execute one instruction at once.

A lane is a thread of the batch. Registers are NumPy arrays with one element per lane. Minimum program counter
first makes lanes meet again after a branch. Barriers and collectives park lanes until all have come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .memory import GlobalMemory, PrivateMemory, SharedMemory
from .parser import Immediate, Kernel, Name, Operand, PtxError, Register
from .statistics import Statistics

Array = Any
END = np.iinfo(np.int64).max
SHARED_WINDOW, LOCAL_WINDOW = 1 << 56, 2 << 56
"""Where generic addresses of shared and local memory begin: far beyond any address of the host."""

REGROUP = object()
"""What an instruction returns after which lanes stand at different places; it has set their counters."""


class Group:
    """Some lanes of the batch, in order. Functions take None for all of them."""

    def __init__(self, mask: Array) -> None:
        self.mask = mask
        self.lanes = np.flatnonzero(mask)
        self.dense = 3 * len(self.lanes) > len(mask)


Run = Callable[["Machine", "Group | None"], Any]


class Machine:
    def __init__(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        n_threads: int,
        blocks: Array,
        params: list[bytes],
        memory: GlobalMemory,
        shared_bytes: int,
        symbols: dict[str, int],
        statistics: Statistics | None,
    ) -> None:
        self.kernel, self.grid, self.n_threads, self.blocks = kernel, grid, n_threads, blocks
        self.params, self.symbols, self.statistics = params, symbols, statistics
        n = self.n = len(blocks) * n_threads
        self.all = np.arange(n)
        self.block = np.repeat(np.arange(len(blocks)), n_threads)  # in the batch, of a lane
        self.regs = [np.zeros(n, dtype) for dtype in kernel.registers]
        self.memory = memory
        self.shared = SharedMemory(len(blocks), shared_bytes, self.block)
        self.local = PrivateMemory(
            n, sum(v.n_bytes + v.align for v in kernel.variables.values() if v.space == "local")
        )
        self.pc = np.zeros(n, np.int64)  # END while a lane is parked and after its end
        self.exited = np.zeros(n, bool)
        self.barrier = np.full(n, -1)  # that the lane waits at
        self.barrier_size = np.zeros(n, np.int64)
        self.collective = np.full(n, -1)  # program counter of what the lane waits at
        self.committed = np.zeros(n, np.int64)  # groups of copies
        self.copies: list[Any] = []
        self.unpacked: dict[Any, Any] = {}  # operands of mma, by the ids of their registers' arrays
        self.at = 0
        self.special: dict[str, Array] = {}

    # --- operands -----------------------------------------------------------------------------------------

    def write(self, register: Register, value: Array, group: Group | None) -> None:
        """`value`: an array of its own, of all lanes or of the group's, or one number."""
        dtype = np.dtype(register.dtype)
        if value.dtype != dtype:
            value = value.view(dtype) if value.dtype.itemsize == dtype.itemsize else value.astype(dtype)
        if group is None:
            self.regs[register.index] = value if value.ndim else np.full(self.n, value)
        else:
            self.regs[register.index][group.lanes] = value
            self.unpacked.clear()

    def special_register(self, name: str) -> Array:
        if name not in self.special:
            self.special[name] = np.broadcast_to(np.asarray(self._special(name), np.uint32), self.n).copy()
        return self.special[name]

    def _special(self, name: str) -> Any:
        thread = self.all % self.n_threads
        lane = (self.all % 32).astype(np.uint32)
        block = self.blocks[self.block]
        x, y, _ = self.grid
        match name:
            case "%tid.x":
                return thread
            case "%ntid.x":
                return self.n_threads
            case "%tid.y" | "%tid.z" | "%clusterid.x":
                return 0
            case "%ntid.y" | "%ntid.z":
                return 1
            case "%laneid":
                return lane
            case "%warpid":
                return thread // 32
            case "%ctaid.x":
                return block % x
            case "%ctaid.y":
                return block // x % y
            case "%ctaid.z":
                return block // (x * y)
            case "%nctaid.x" | "%nctaid.y" | "%nctaid.z":
                return self.grid["xyz".index(name[-1])]
            case "%lanemask_eq":
                return np.uint32(1) << lane
            case "%lanemask_lt":
                return (np.uint32(1) << lane) - np.uint32(1)
            case "%dynamic_smem_size":
                return self.shared.n_bytes
        raise PtxError(f"special register {name} is not known")

    # --- the loop -----------------------------------------------------------------------------------------

    def run(self, code: list[Run], limit: int) -> None:
        executed = 0
        while True:
            pc = int(self.pc.min())
            if pc == END:
                if self.exited.all():
                    return
                self._deadlock()
            mask = self.pc == pc
            group = None if mask.all() else Group(mask)
            stop = END if group is None else int(self.pc[~mask].min())
            while True:
                executed += 1
                if executed > limit:
                    raise PtxError(
                        f"{self.kernel.name}: more than {limit} instructions; does a block wait for another?"
                    )
                self.at = pc
                result = code[pc](self, group)
                if self.statistics:
                    self.statistics.executed(self, group)
                if result is REGROUP:
                    break
                pc = pc + 1 if result is None else result
                if pc >= stop:
                    self.set_pc(group, pc)
                    break

    def set_pc(self, group: Group | None, pc: Any) -> None:
        if group is None:
            self.pc[:] = pc
        else:
            self.pc[group.lanes] = pc

    def lanes(self, group: Group | None) -> Array:
        return self.all if group is None else group.lanes

    def n_lanes(self, group: Group | None) -> int:
        return self.n if group is None else len(group.lanes)

    # --- meeting ------------------------------------------------------------------------------------------

    def exit(self, group: Group | None) -> object:
        self.set_pc(group, END)
        self.exited[self.lanes(group)] = True
        if (self.barrier >= 0).any():
            for barrier in np.unique(self.barrier[self.barrier >= 0]):
                self._release(barrier)
        return REGROUP

    def wait_at_barrier(self, group: Group | None, barrier: int, n_threads: int) -> object | None:
        """`n_threads` of 0: all of the block that are still there."""
        if group is None and n_threads in (0, self.n_threads):
            return None
        lanes = self.lanes(group)
        self.barrier[lanes] = barrier
        self.barrier_size[lanes] = n_threads
        self.set_pc(group, END)
        self.collective[lanes] = -2 - (self.at + 1)  # where it goes on
        self._release(barrier)
        return REGROUP

    def _release(self, barrier: int) -> None:
        waiting = self.barrier == barrier
        n_blocks = len(self.blocks)
        here = np.bincount(self.block[waiting], minlength=n_blocks)
        wanted = np.bincount(self.block[~self.exited], minlength=n_blocks)
        named = np.zeros(n_blocks, np.int64)
        named[self.block[waiting]] = self.barrier_size[waiting]
        wanted = np.where(named > 0, named, wanted)
        free = waiting & ((here >= wanted) & (here > 0))[self.block]
        self.pc[free] = -2 - self.collective[free]
        self.barrier[free] = -1
        self.collective[free] = -1

    def whole_warps(self, group: Group | None) -> tuple[Group | None, bool]:
        """The lanes whose whole warp is here, and whether these are just the group. Parks the others."""
        if group is None:
            return None, True
        mask = group.mask
        waiting = self.collective == self.at
        if waiting.any():
            mask = mask | waiting
        whole = mask.reshape(-1, 32).all(axis=1)
        complete = np.repeat(whole, 32) & mask
        if complete.sum() == len(group.lanes) == mask.sum():
            return group, True
        parked = mask & ~complete
        self.pc[parked] = END
        self.collective[parked] = self.at
        self.collective[complete] = -1
        self.pc[complete] = self.at + 1
        return Group(complete), False

    def _deadlock(self) -> None:
        stuck = np.flatnonzero(~self.exited)
        lane = stuck[0]
        if self.barrier[lane] >= 0:
            where = f"barrier {self.barrier[lane]}, which others of the block never reach"
        else:
            text = self.kernel.code[self.collective[lane]].text
            where = f"'{text}', which other lanes of the warp never reach"
        raise PtxError(f"{self.place(lane)} waits at {where}")

    def place(self, lane: int) -> str:
        block = int(self.blocks[self.block[lane]])
        x, y, _ = self.grid
        at = block % x, block // x % y, block // (x * y)
        return f"{self.kernel.name}: block {at}, thread {int(lane) % self.n_threads}"

    def fail(self, lane: int, what: str) -> None:
        raise PtxError(f"{self.place(lane)}: '{self.kernel.code[self.at].text}' {what}")


Source = Callable[[Machine], Array]


def source(operand: Operand, dtype: type[np.generic], symbols: Callable[[str], int]) -> Source:
    """A function that gives the operand as an array of all lanes, or as one number."""
    if isinstance(operand, Register):
        return _register_source(operand, np.dtype(dtype))
    if isinstance(operand, Immediate):
        constant = convert_immediate(operand.value, dtype)
        return lambda m: constant
    if isinstance(operand, Name) and operand.name.startswith("%"):
        name = operand.name
        return lambda m: m.special_register(name)
    if isinstance(operand, Name):
        address = np.asarray(symbols(operand.name) + operand.offset).astype(dtype)[()]
        return lambda m: address
    raise PtxError(f"{operand} is no source")


def _register_source(register: Register, dtype: np.dtype[Any]) -> Source:
    i, own = register.index, np.dtype(register.dtype)
    if own == dtype:
        if register.negated:
            return lambda m: ~m.regs[i]
        return lambda m: m.regs[i]
    if own.itemsize == dtype.itemsize:
        return lambda m: m.regs[i].view(dtype)
    return lambda m: m.regs[i].astype(dtype)


def convert_immediate(value: Any, dtype: type[np.generic]) -> Any:
    if isinstance(value, int):
        if np.issubdtype(dtype, np.floating):
            return dtype(value)  # type: ignore[arg-type]
        bits = 8 * np.dtype(dtype).itemsize
        if dtype is np.bool_:
            return np.bool_(value != 0)
        return np.array(value & ((1 << bits) - 1), f"u{bits // 8}").view(dtype)[()]
    if value.dtype == np.dtype(dtype):
        return value
    if value.dtype.itemsize == np.dtype(dtype).itemsize:
        return value.view(dtype)
    return value.astype(dtype)
