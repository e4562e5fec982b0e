"""ld, st, atom, red and cp.async."""

from __future__ import annotations

from typing import Any

import numpy as np

from .machine import SHARED_WINDOW, Group, Machine, Run, Source, source
from .parser import TYPES, Address, Instruction, Kernel, Name, PtxError, Register, Vector

Array = Any
SPACES = ("global", "shared", "local", "param", "const")


def build(inst: Instruction, symbols: Any, kernel: Kernel) -> Run | None:
    base = inst.opcode[0]
    if base == "ld" and "param" in inst.opcode:
        return _load_param(inst, symbols, kernel)
    if base == "ld":
        return _load(inst, symbols)
    if base == "st":
        return _store(inst, symbols)
    if base in ("atom", "red"):
        return _atomic(inst, symbols)
    if base == "cp" and inst.opcode[1] == "async":
        return _copy(inst, symbols)
    return None


# --- addresses --------------------------------------------------------------------------------------------


def _space(opcode: tuple[str, ...]) -> str:
    spaces = [o.split("_")[0] for o in opcode if o.split("_")[0] in SPACES]
    space = spaces[0] if spaces else "generic"
    return "global" if space == "const" else space


def address_of(operand: Any, symbols: Any) -> Source:
    """int64 addresses of all lanes, or one."""
    if not isinstance(operand, Address):
        raise PtxError(f"{operand} is no address")
    offset = operand.offset
    if operand.base is None:
        return lambda m: np.int64(offset)
    if isinstance(operand.base, Name):
        whole = np.int64(symbols(operand.base.name) + offset)
        return lambda m: whole
    i = operand.base.index
    return lambda m: m.regs[i].astype(np.int64) + offset


def active(m: Machine, values: Array, group: Group | None) -> Array:
    """Of the group's lanes: an array, also where one number is given."""
    if values.ndim == 0:
        return np.full(m.n_lanes(group), values)
    return values if group is None else values[group.lanes]


def resolve(m: Machine, space: str, addresses: Array, lanes: Array, n_bytes: int) -> tuple[Any, Array]:
    """The memory, and positions in it. Generic addresses must all be of one memory."""
    if space == "generic" and len(addresses):
        windows = addresses >> 56
        if (windows != windows[0]).any():
            raise PtxError(f"{m.kernel.name}: '{m.kernel.code[m.at].text}' goes to two memories at once")
        space = ("global", "shared", "local")[int(windows[0])]
        addresses = addresses & (SHARED_WINDOW - 1)
    if (addresses & (n_bytes - 1)).any():
        i = int(np.flatnonzero(addresses & (n_bytes - 1))[0])
        m.fail(lanes[i], f"is misaligned: address {addresses[i]:#x}, {n_bytes} bytes")
    memory = {"shared": m.shared, "local": m.local}.get(space, m.memory)
    bad = memory.outside(addresses, n_bytes)
    if bad is not None:
        i = int(bad[0])
        m.fail(lanes[i], f"is out of bounds of {space} memory: address {addresses[i]:#x}, {n_bytes} bytes")
    if memory is m.memory:
        return memory, addresses
    return memory, addresses + memory.origin[lanes]


def check_written(m: Machine, positions: Array, lanes: Array, dtype: Any, vec: int) -> None:
    bad = m.shared.unwritten(positions, dtype, vec)
    if bad is not None:
        i = int(bad[0])
        offset = int(positions[i] - m.shared.origin[lanes[i]])
        m.fail(
            lanes[i],
            f"reads shared memory that nothing was written to, or a copy is under way to: byte {offset}",
        )


# --- loads and stores -------------------------------------------------------------------------------------


def _shape(inst: Instruction) -> tuple[Any, int]:
    vec = next((int(o[1:]) for o in inst.opcode if o in ("v2", "v4")), 1)
    return TYPES[inst.opcode[-1]], vec


def _load(inst: Instruction, symbols: Any) -> Run:
    dtype, vec = _shape(inst)
    space, address = _space(inst.opcode), address_of(inst.operands[1], symbols)
    out = inst.operands[0].items if isinstance(inst.operands[0], Vector) else inst.operands[:1]
    n_bytes = np.dtype(dtype).itemsize * vec

    def run(m: Machine, group: Group | None) -> None:
        addresses, lanes = active(m, address(m), group), m.lanes(group)
        memory, positions = resolve(m, space, addresses, lanes, n_bytes)
        if memory is m.shared:
            check_written(m, positions, lanes, dtype, vec)
        if m.statistics:
            m.statistics.accessed(m, memory, positions, lanes, n_bytes, stores=False)
        values = (
            memory.gather(positions, dtype, vec)
            if memory is m.memory
            else memory.bytes.gather(positions, dtype, vec)
        )
        if vec == 1:
            m.write(out[0], values, group)
        else:
            for i, register in enumerate(out):
                m.write(register, values[:, i].copy(), group)

    return run


PARAM_WINDOW = 1 << 32  # addresses of the parameters of a kernel lie so far apart


def param_address(kernel: Kernel, name: str) -> int:
    return (kernel.params[name][0] + 1) * PARAM_WINDOW


def _load_param(inst: Instruction, symbols: Any, kernel: Kernel) -> Run:
    dtype, vec = _shape(inst)
    address = address_of(inst.operands[1], symbols)
    sizes = [n_bytes for _, n_bytes in kernel.params.values()]
    out = inst.operands[0].items if isinstance(inst.operands[0], Vector) else inst.operands[:1]
    size = np.dtype(dtype).itemsize

    def run(m: Machine, group: Group | None) -> None:
        addresses = active(m, address(m), group)
        if not len(addresses):
            return
        if (addresses != addresses[0]).any():
            raise PtxError(f"'{inst.text}': lanes read parameters at several addresses")
        number, offset = divmod(int(addresses[0]), PARAM_WINDOW)
        n_bytes = sizes[number - 1] if 0 < number <= len(sizes) else 0
        if offset % (size * vec) or offset + size * vec > n_bytes:
            raise PtxError(f"'{inst.text}' leaves its parameter of {n_bytes} bytes")
        values = np.frombuffer(m.params[number - 1], dtype, vec, offset)
        for register, value in zip(out, values, strict=True):
            m.write(register, value, group)

    return run


def _store(inst: Instruction, symbols: Any) -> Run:
    dtype, vec = _shape(inst)
    space, address = _space(inst.opcode), address_of(inst.operands[0], symbols)
    operands = inst.operands[1].items if isinstance(inst.operands[1], Vector) else inst.operands[1:]
    sources = [source(o, dtype, symbols) for o in operands]
    n_bytes = np.dtype(dtype).itemsize * vec

    def run(m: Machine, group: Group | None) -> None:
        addresses, lanes = active(m, address(m), group), m.lanes(group)
        memory, positions = resolve(m, space, addresses, lanes, n_bytes)
        values = [active(m, s(m), group) for s in sources]
        if m.statistics:
            m.statistics.accessed(m, memory, positions, lanes, n_bytes, stores=True)
        stored = values[0] if vec == 1 else np.stack(values, axis=1)
        if memory is m.memory:
            memory.scatter(positions, stored)
            return
        memory.bytes.scatter(positions, stored)
        if memory is m.shared:
            memory.mark(positions, dtype, vec, True)

    return run


# --- atomics ----------------------------------------------------------------------------------------------


def _atomic(inst: Instruction, symbols: Any) -> Run:
    """One lane after the other, in order."""
    base, *flags = inst.opcode
    name = next(
        f for f in flags if f in ("add", "max", "min", "and", "or", "xor", "exch", "cas", "inc", "dec")
    )
    dtype = TYPES[flags[-1]]
    if np.issubdtype(dtype, np.floating):
        raise PtxError(f"'{inst.text}': atomics on floats give sums that depend on the order")
    space, n_bytes = _space(inst.opcode), np.dtype(dtype).itemsize
    result = inst.operands[0] if base == "atom" else None
    operands = inst.operands[1:] if base == "atom" else inst.operands
    address = address_of(operands[0], symbols)
    sources = [source(o, dtype, symbols) for o in operands[1:]]
    mask = (1 << 8 * n_bytes) - 1

    def update(old: int, x: int, y: int) -> int:
        match name:
            case "add":
                return old + x
            case "max" | "min":
                return max(old, x) if name == "max" else min(old, x)
            case "and" | "or" | "xor":
                return {"and": old & x, "or": old | x, "xor": old ^ x}[name]
            case "inc":
                return 0 if old >= x else old + 1
            case "dec":
                return x if old == 0 or old > x else old - 1
            case "cas":
                return y if old == x else old
        return x

    def run(m: Machine, group: Group | None) -> None:
        addresses, lanes = active(m, address(m), group), m.lanes(group)
        memory, positions = resolve(m, space, addresses, lanes, n_bytes)
        values = [active(m, s(m), group) for s in sources]
        if memory is m.shared:
            check_written(m, positions, lanes, dtype, 1)
        if m.statistics:
            m.statistics.accessed(m, memory, positions, lanes, n_bytes, stores=True)
        view, _ = memory.bytes.view(dtype, 1)
        index = (positions - (memory.base if memory is m.memory else 0)) // n_bytes
        before = np.empty(len(lanes), dtype)
        for i, at in enumerate(index.tolist()):
            before[i] = view[at]
            new = update(int(view[at]), int(values[0][i]), int(values[-1][i])) & mask
            view[at] = np.array(new, f"u{n_bytes}").view(dtype)[()]
        if isinstance(result, Register):
            m.write(result, before, group)

    return run


# --- asynchronous copies ----------------------------------------------------------------------------------


def _copy(inst: Instruction, symbols: Any) -> Run:
    kind = inst.opcode[2]
    if kind == "commit_group":

        def commit(m: Machine, group: Group | None) -> None:
            m.committed[m.lanes(group)] += 1

        return commit
    if kind in ("wait_group", "wait_all"):
        last = 0 if kind == "wait_all" else inst.operands[0].value  # type: ignore[union-attr]
        return lambda m, group: _deliver(m, group, -1 if kind == "wait_all" else int(last))
    if kind not in ("ca", "cg"):
        raise PtxError(f"'{inst.text}' is not known")
    operands = list(inst.operands)
    if "L2_cache_hint" in inst.opcode:
        operands.pop()
    to, frm = address_of(operands[0], symbols), address_of(operands[1], symbols)
    n_bytes = operands[2].value  # type: ignore[union-attr]
    filled = source(operands[3], np.uint32, symbols) if len(operands) > 3 else None

    def run(m: Machine, group: Group | None) -> None:
        lanes = m.lanes(group)
        _, positions = resolve(m, "shared", active(m, to(m), group), lanes, n_bytes)
        addresses = active(m, frm(m), group)
        sizes = active(m, filled(m), group) if filled else np.full(len(lanes), n_bytes, np.uint32)
        if ((sizes != 0) & (sizes != n_bytes)).any():
            raise PtxError(f"'{inst.text}' fills in part of the bytes, which no kernel does")
        read = sizes > 0
        resolve(m, "global", addresses[read], lanes[read], n_bytes)
        if m.statistics:
            m.statistics.accessed(m, m.memory, addresses[read], lanes[read], n_bytes, stores=False)
            m.statistics.accessed(m, m.shared, positions, lanes, n_bytes, stores=True)
        m.shared.mark(positions, np.uint32, n_bytes // 4, False)
        m.copies.append((lanes, m.committed[lanes], positions, addresses, read, n_bytes // 4))

    return run


def _deliver(m: Machine, group: Group | None, n_later: int) -> None:
    """What must have arrived, at the last moment: of each lane all but its last n_later groups."""
    limit = np.full(m.n, -1)
    lanes = m.lanes(group)
    limit[lanes] = m.committed[lanes] - n_later
    left = []
    for copy in m.copies:
        due = copy[1] < limit[copy[0]]
        if not due.all():
            left.append(copy if not due.any() else (*(part[~due] for part in copy[:5]), copy[5]))
        if not due.any():
            continue
        _, _, positions, addresses, read, vec = copy if due.all() else (*(p[due] for p in copy[:5]), copy[5])
        values = np.zeros((len(positions), vec), np.uint32)
        values[read] = m.memory.gather(addresses[read], np.uint32, vec).reshape(-1, vec)
        m.shared.bytes.scatter(positions, values if vec > 1 else values[:, 0])
        m.shared.mark(positions, np.uint32, vec, True)
    m.copies = left
