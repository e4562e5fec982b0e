"""Executes kernels from the PTX that nvcc made of them, on the memory that the emulated runtime gives out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from . import access, arithmetic, control, warp
from .machine import LOCAL_WINDOW, REGROUP, SHARED_WINDOW, Group, Machine, Run, source
from .memory import GlobalMemory
from .parser import Instruction, Kernel, PtxError, Register, parse
from .statistics import Statistics

__all__ = ["Module", "PtxError", "Statistics", "as_callback"]

BATCH_LANES = 8192
"""Lanes that run at once: enough to hide the cost of a call of NumPy, few enough for the cache."""
LIMIT = 50_000_000
"""Instructions of a batch, so that blocks that wait for one another are found out."""


class Module:
    """The kernels of one PTX text."""

    def __init__(self, ptx_text: str) -> None:
        self.kernels, variables = parse(ptx_text)
        self.symbols: dict[str, int] = {}
        self.constants = []
        self.static_shared = 0
        for name, variable in variables.items():
            if variable.space in ("global", "const"):
                data = np.frombuffer(variable.data.ljust(variable.n_bytes, b"\0"), np.uint8)
                aligned = np.zeros(len(data) + 256, np.uint8)
                skip = -aligned.ctypes.data % 256
                aligned[skip : skip + len(data)] = data
                self.constants.append(aligned)
                self.symbols[name] = aligned.ctypes.data + skip
            elif variable.n_bytes:
                raise PtxError(f"{name}: all shared memory is dynamic")
            else:
                self.symbols[name] = 0
        self.code: dict[str, list[Run]] = {}

    def launch(
        self,
        symbol: str,
        grid: tuple[int, int, int],
        block: int | tuple[int, int, int],
        shared_bytes: int,
        params: list[bytes],
        allocations: Iterable[tuple[int, int]],
        statistics: Statistics | None = None,
    ) -> None:
        """Runs all blocks, BATCH_LANES threads at a time. Raises PtxError for what a GPU would not do."""
        kernel = self.kernels[symbol]
        n_threads = block if isinstance(block, int) else int(np.prod(block))
        if n_threads % 32 or not 0 < n_threads <= 1024:
            raise PtxError(f"{symbol}: {n_threads} threads a block; whole warps were wanted, up to 1024")
        wanted = [n_bytes for _, n_bytes in kernel.params.values()]
        if [len(p) for p in params] != wanted:
            raise PtxError(f"{symbol}: parameters of {[len(p) for p in params]} bytes, {wanted} were wanted")
        code = self.code.get(symbol) or self.code.setdefault(symbol, _compile(kernel, self.symbols))
        own = [(c.ctypes.data, len(c)) for c in self.constants]
        memory = GlobalMemory([*allocations, *own])
        n_blocks = int(np.prod(grid))
        step = max(1, BATCH_LANES // n_threads)
        with np.errstate(all="ignore"):
            for first in range(0, n_blocks, step):
                blocks = np.arange(first, min(first + step, n_blocks))
                machine = Machine(
                    kernel, grid, n_threads, blocks, params, memory, shared_bytes, self.symbols, statistics
                )
                machine.run(code, LIMIT)


def as_callback(
    modules: Iterable[Module],
    allocations: Callable[[], list[tuple[int, int]]],
    statistics: Statistics | None = None,
) -> Callable[[dict[str, Any]], None]:
    """What the emulator's set_interpreter takes: runs each launch from the module that has its kernel."""
    by_name = {name: module for module in modules for name in module.kernels}

    def run(launch: dict[str, Any]) -> None:
        symbol = launch["symbol"]
        if symbol not in by_name:
            raise PtxError(f"no PTX has a kernel {symbol}")
        by_name[symbol].launch(
            symbol,
            tuple(launch["grid"]),
            launch["block"],
            launch["shared_bytes"],
            launch["params"],
            allocations(),
            statistics,
        )

    return run


# --- from instructions to functions -----------------------------------------------------------------------

NOTHING = (
    "membar",
    "fence",
    "createpolicy",
    "prefetch",
    "prefetchu",
    "griddepcontrol",
    "applypriority",
    "discard",
    "nanosleep",
)
"""Instructions that have no effect here: blocks see each other's writes at once."""


def _compile(kernel: Kernel, module_symbols: dict[str, int]) -> list[Run]:
    symbols = dict(module_symbols) | {name: access.param_address(kernel, name) for name in kernel.params}
    at = 0
    for name, variable in kernel.variables.items():
        if variable.space != "local":
            raise PtxError(
                f"{kernel.name}: variable {name} in {variable.space} memory; all shared memory is dynamic"
            )
        at = -(-at // variable.align) * variable.align
        symbols[name] = at
        at += variable.n_bytes

    def address(name: str) -> int:
        if name not in symbols:
            raise PtxError(f"{kernel.name}: {name} is not known")
        return symbols[name]

    return [
        *(_guarded(inst, _build(inst, kernel, address)) for inst in kernel.code),
        lambda m, group: m.exit(group),
    ]


def _guarded(inst: Instruction, run: Run) -> Run:
    if inst.guard is None or inst.opcode[0] == "bra":
        return run
    predicate = source(inst.guard, np.bool_, lambda name: 0)

    def guarded(m: Machine, group: Group | None) -> Any:
        mask = predicate(m)
        if group is None and mask.all():
            return run(m, None)
        mask = mask & group.mask if group is not None else mask
        if not mask.any():
            return None
        some = Group(mask)
        result = run(m, some)
        if result is REGROUP and len(some.lanes) < m.n_lanes(group):
            rest = m.lanes(group)[~mask[m.lanes(group)]]
            m.pc[rest] = m.at + 1
        return result

    return guarded


def _build(inst: Instruction, kernel: Kernel, symbols: Callable[[str], int]) -> Run:
    base = inst.opcode[0]
    if base == "bra":
        return control.branch(inst, kernel)
    if base == "brx":
        return control.indexed_branch(inst, kernel)
    if base in ("ret", "exit"):
        return lambda m, group: m.exit(group)
    if base == "trap":
        return lambda m, group: m.fail(m.lanes(group)[0], "stops the kernel")
    if base in NOTHING:
        return lambda m, group: None
    if base == "cvta":
        return _change_window(inst, symbols)
    run = access.build(inst, symbols, kernel) or warp.build(inst, symbols)
    if run:
        return run
    found = arithmetic.rule(inst.opcode)
    if found is None:
        raise arithmetic.unknown(inst.opcode)
    return _lane_by_lane(inst, found, symbols)


def _lane_by_lane(inst: Instruction, rule: arithmetic.Rule, symbols: Callable[[str], int]) -> Run:
    function, types, _dtype = rule
    out = inst.operands[0]
    if inst.opcode[0] == "mov" and any(hasattr(o, "items") for o in inst.operands):
        return _move_parts(inst, symbols)
    if not isinstance(out, Register) or len(types) != len(inst.operands) - 1:
        raise PtxError(f"'{inst.text}' has operands that are not known")
    sources = [source(o, t, symbols) for o, t in zip(inst.operands[1:], types, strict=True)]

    def run(m: Machine, group: Group | None) -> None:
        values = [s(m) for s in sources]
        if group is None:
            m.write(out, np.asarray(function(*values)), None)
        elif group.dense:
            result = np.asarray(function(*values))
            into = m.regs[out.index]
            if result.dtype != into.dtype:
                same = result.dtype.itemsize == into.dtype.itemsize
                result = result.view(into.dtype) if same else result.astype(into.dtype)
            np.copyto(into, result, where=group.mask)
            m.unpacked.clear()
        else:
            values = [v[group.lanes] if v.ndim else v for v in values]
            m.write(out, np.asarray(function(*values)), group)

    return run


def _move_parts(inst: Instruction, symbols: Callable[[str], int]) -> Run:
    """mov between one register and the vector of its parts, the lowest first."""
    out, value = inst.operands
    bits = int(inst.opcode[-1][1:])
    parts = next(o for o in (value, out) if hasattr(o, "items")).items  # type: ignore[union-attr]
    small: Any = np.dtype(f"u{bits // 8 // len(parts)}").type
    whole: Any = np.dtype(f"u{bits // 8}").type
    if isinstance(out, Register):
        sources = [source(o, small, symbols) for o in parts]

        def pack(m: Machine, group: Group | None) -> None:
            columns = np.stack([access.active(m, s(m), group) for s in sources], axis=1)
            m.write(out, columns.view(whole)[:, 0].copy(), group)

        return pack
    one = source(value, whole, symbols)

    def unpack(m: Machine, group: Group | None) -> None:
        columns = np.ascontiguousarray(access.active(m, one(m), group))[:, None].view(small)
        for i, register in enumerate(parts):
            if isinstance(register, Register):
                m.write(register, columns[:, i].copy(), group)

    return unpack


def _change_window(inst: Instruction, symbols: Callable[[str], int]) -> Run:
    window = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(
        next(o for o in inst.opcode if o in access.SPACES), 0
    )
    step = np.uint64(window)
    away = "to" in inst.opcode

    def change(x: Any) -> Any:
        return x - step if away else x + step

    return _lane_by_lane(inst, (change, [np.uint64], np.uint64), symbols)
