"""What the lanes of a warp, or of a block, do together: shuffles, votes, barriers, matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from .access import active, address_of, check_written, resolve
from .machine import REGROUP, Group, Machine, Run, source
from .parser import Instruction, Pair, PtxError, Register, Vector

Array = Any
EVERY = np.uint32(0xFFFFFFFF)


def build(inst: Instruction, symbols: Any) -> Run | None:
    base = inst.opcode[0]
    makers = {"shfl": _shuffle, "vote": _vote, "ldmatrix": _load_matrices, "mma": _multiply}
    if base in makers:
        return _collective(makers[base](inst, symbols))
    if base == "activemask":
        return _active_mask(inst)
    if base in ("bar", "barrier"):
        return _barrier(inst, symbols)
    return None


def _collective(run: Run) -> Run:
    """Of whole warps: those that are not whole yet wait for the rest."""

    def collect(m: Machine, group: Group | None) -> Any:
        whole, same = m.whole_warps(group)
        if same:
            return run(m, group)
        assert whole is not None
        if len(whole.lanes):
            run(m, whole)
        return REGROUP

    return collect


def _whole_mask(m: Machine, masks: Array) -> None:
    if (masks != EVERY).any():
        raise PtxError(
            f"{m.kernel.name}: '{m.kernel.code[m.at].text}' is of a part of a warp, which no kernel asks for"
        )


def _registers(operand: Any) -> list[Register]:
    return [
        r for r in (operand.items if isinstance(operand, Vector) else [operand]) if isinstance(r, Register)
    ]


# --- shuffles and votes -----------------------------------------------------------------------------------


def _shuffle(inst: Instruction, symbols: Any) -> Run:
    mode = inst.opcode[2]
    out, a, b, c, mask = inst.operands
    value, distance, limits, members = (source(o, np.uint32, symbols) for o in (a, b, c, mask))
    first, second = (out.first, out.second) if isinstance(out, Pair) else (out, None)

    def run(m: Machine, group: Group | None) -> None:
        _whole_mask(m, active(m, members(m), group))
        values = active(m, value(m), group).reshape(-1, 32)
        by = active(m, distance(m), group).reshape(-1, 32).astype(np.int64) & 31
        limit = active(m, limits(m), group).reshape(-1, 32).astype(np.int64)
        lane = np.arange(32)
        segment, clamp = limit >> 8 & 31, limit & 31
        lowest = lane & segment
        last = lowest | (clamp & ~segment)
        match mode:
            case "up":
                wanted = lane - by
                inside = wanted >= last
            case "down":
                wanted = lane + by
                inside = wanted <= last
            case "bfly":
                wanted = lane ^ by
                inside = wanted <= last
            case _:
                wanted = lowest | (by & ~segment)
                inside = wanted <= last
        taken = np.take_along_axis(values, np.where(inside, wanted, lane), axis=1)
        if isinstance(first, Register):
            m.write(first, taken.reshape(-1), group)
        if second is not None:
            m.write(second, inside.reshape(-1), group)

    return run


def _vote(inst: Instruction, symbols: Any) -> Run:
    mode = inst.opcode[2]
    out, predicate, mask = inst.operands
    votes, members = source(predicate, np.bool_, symbols), source(mask, np.uint32, symbols)

    def run(m: Machine, group: Group | None) -> None:
        _whole_mask(m, active(m, members(m), group))
        yes = active(m, votes(m), group).reshape(-1, 32)
        if mode == "ballot":
            result: Array = (
                (yes.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(axis=1).astype(np.uint32)
            )
        else:
            result = {"all": yes.all, "any": yes.any}[mode](axis=1)
        m.write(out, np.repeat(result, 32), group)  # type: ignore[arg-type]

    return run


def _active_mask(inst: Instruction) -> Run:
    out = inst.operands[0]

    def run(m: Machine, group: Group | None) -> None:
        mask = np.ones(m.n, bool) if group is None else group.mask
        bits = (mask.reshape(-1, 32).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(axis=1)
        m.write(out, active(m, np.repeat(bits.astype(np.uint32), 32), group).copy(), group)  # type: ignore[arg-type]

    return run


# --- barriers ---------------------------------------------------------------------------------------------


def _barrier(inst: Instruction, symbols: Any) -> Run:
    if "warp" in inst.opcode:
        members = source(inst.operands[0], np.uint32, symbols)
        return _collective(lambda m, group: _whole_mask(m, active(m, members(m), group)))
    if "red" in inst.opcode or "arrive" in inst.opcode:
        raise PtxError(f"'{inst.text}' is not known")
    numbers = [source(o, np.uint32, symbols) for o in inst.operands]

    def run(m: Machine, group: Group | None) -> Any:
        found = [active(m, n(m), group) for n in numbers]
        if any((f != f[0]).any() for f in found):
            return _one_barrier_each(m, group, found)
        n_threads = int(found[1][0]) if len(found) > 1 else 0
        _check_size(m, n_threads)
        return m.wait_at_barrier(group, int(found[0][0]), n_threads)

    return run


def _check_size(m: Machine, n_threads: int) -> None:
    if n_threads % 32 or n_threads > m.n_threads:
        raise PtxError(
            f"{m.kernel.name}: '{m.kernel.code[m.at].text}' of {n_threads} threads, of {m.n_threads}"
        )


def _one_barrier_each(m: Machine, group: Group | None, found: list[Array]) -> Any:
    """Warps that name different barriers at one place."""
    lanes = m.lanes(group)
    for number in np.unique(found[0]):
        here = found[0] == number
        mask = np.zeros(m.n, bool)
        mask[lanes[here]] = True
        n_threads = int(found[1][here][0]) if len(found) > 1 else 0
        _check_size(m, n_threads)
        m.wait_at_barrier(Group(mask), int(number), n_threads)
    return REGROUP


# --- matrices ---------------------------------------------------------------------------------------------


def _load_matrices(inst: Instruction, symbols: Any) -> Run:
    """Row r of matrix i at the address of lane 8 i + r; lane l gets elements 2 (l % 4), + 1 of row l / 4."""
    out, address = _registers(inst.operands[0]), address_of(inst.operands[1], symbols)
    n, transposed = len(out), "trans" in inst.opcode

    def run(m: Machine, group: Group | None) -> None:
        lanes = m.lanes(group).reshape(-1, 32)[:, : 8 * n].reshape(-1)
        addresses = active(m, address(m), group).reshape(-1, 32)[:, : 8 * n].reshape(-1)
        _, positions = resolve(m, "shared", addresses, lanes, 16)
        check_written(m, positions, lanes, np.uint32, 4)
        if m.statistics:
            m.statistics.accessed(m, m.shared, positions, lanes, 16, stores=False)
        rows = m.shared.bytes.gather(positions, np.uint32, 4).reshape(-1, n, 8, 4)
        if transposed:
            halves = rows.view(np.uint16)  # (warps, n, 8, 8)
            rows = np.ascontiguousarray(halves.transpose(0, 1, 3, 2)).view(np.uint32)
        for i, register in enumerate(out):
            m.write(register, rows[:, i].reshape(-1).copy(), group)

    return run


def _multiply(inst: Instruction, symbols: Any) -> Run:
    if inst.opcode[3:] == ("m16n8k32", "row", "col", "s32", "s8", "s8", "s32"):
        return _multiply_bytes(inst, symbols)
    if inst.opcode[3:] != ("m16n8k16", "row", "col", "f32", "bf16", "bf16", "f32"):
        raise PtxError(f"opcode {'.'.join(inst.opcode)} is not known")
    out, a, b, c = (list(o.items) if isinstance(o, Vector) else [] for o in inst.operands)
    a_sources, b_sources = ([source(o, np.uint32, symbols) for o in part] for part in (a, b))
    c_sources = [source(o, np.float32, symbols) for o in c]

    def run(m: Machine, group: Group | None) -> None:
        rows = _unpacked(m, a_sources, group, _rows)
        columns = _unpacked(m, b_sources, group, _columns)
        sums = [active(m, s(m), group) for s in c_sources]
        for register, values in zip(out, _multiply_add(rows, columns, sums), strict=True):
            m.write(register, values, group)  # type: ignore[arg-type]

    return run


def _multiply_bytes(inst: Instruction, symbols: Any) -> Run:
    """Lane l = 4 g + t of a warp has a: [g + 8 (i % 2)][4 t + 16 (i / 2) + 0..3], b: [4 t + 16 i + 0..3][g],
    c and d: [g + 8 (i / 2)][2 t + i % 2]. Products of 32 bytes are exact in float32.
    """
    out, a, b, c = (list(o.items) if isinstance(o, Vector) else [] for o in inst.operands)
    sources = [[source(o, np.uint32, symbols) for o in part] for part in (a, b, c)]

    def run(m: Machine, group: Group | None) -> None:
        bits_a, bits_b, bits_c = ([active(m, s(m), group) for s in part] for part in sources)
        rows = _bytes(bits_a).reshape(-1, 8, 4, 2, 2, 4).transpose(0, 4, 1, 3, 2, 5).reshape(-1, 16, 32)
        columns = _bytes(bits_b).reshape(-1, 8, 4, 2, 4).transpose(0, 1, 3, 2, 4).reshape(-1, 8, 32)
        product = (rows @ columns.transpose(0, 2, 1)).astype(np.int32).reshape(-1, 2, 8, 4, 2)
        for i, (register, sums) in enumerate(zip(out, bits_c, strict=True)):
            part = np.ascontiguousarray(product[:, i // 2, :, :, i % 2]).reshape(-1)
            m.write(register, sums + part.view(np.uint32), group)  # type: ignore[arg-type]

    return run


def _bytes(bits: list[Array]) -> Array:
    """Signed bytes of the registers, lane by lane, as float32."""
    return np.stack(bits, axis=1).view(np.int8).astype(np.float32)


def _unpacked(m: Machine, sources: list[Any], group: Group | None, unpack: Any) -> Array:
    """The operand of all lanes as float32, kept while its registers are as they were."""
    if group is not None:
        return unpack([active(m, s(m), group) for s in sources])
    bits = [s(m) for s in sources]
    key = tuple(map(id, bits))
    if key not in m.unpacked:
        if len(m.unpacked) > 64:
            m.unpacked.clear()
        m.unpacked[key] = bits, unpack(bits)  # an id is its array's as long as the array is held
    return m.unpacked[key][1]


def multiply(a: list[Array], b: list[Array], c: list[Array]) -> list[Array]:
    """Lane l = 4 g + t of a warp has a: [g + 8 (i % 2)][2 t + 8 (i / 2) + (0, 1)],
    b: [2 t + 8 i + (0, 1)][g], c and d: [g + 8 (i / 2)][2 t + i % 2].
    """
    return _multiply_add(_rows(a), _columns(b), c)


# Columns of a and rows of b are taken in the order (i / 2, lower or upper half, t): the sum is the same. Four
# values, of the lanes of a g, are moved as one of 16 bytes.
def _rows(bits: list[Array]) -> Array:
    """(warps, 16, 16)"""
    whole = np.empty((len(bits[0]) // 32, 2, 8, 2, 2), np.complex128)
    for i, one in enumerate(bits):
        _put_halves(whole[:, i % 2, :, i // 2], one)
    return whole.view(np.float32).reshape(-1, 16, 16)


def _columns(bits: list[Array]) -> Array:
    """(warps, 8, 16), columns in the order (even or odd, t): a lane's two are then four apart."""
    whole = np.empty((len(bits[0]) // 32, 2, 4, 2, 2), np.complex128)
    for i, one in enumerate(bits):
        _put_halves(whole[:, :, :, i].transpose(0, 2, 1, 3), one)
    return whole.view(np.float32).reshape(-1, 8, 16)


def _put_halves(into: Array, bits: Array) -> None:
    shape = into.shape[:-1]
    into[..., 0] = (bits << np.uint32(16)).view(np.complex128).reshape(shape)
    into[..., 1] = (bits & np.uint32(0xFFFF0000)).view(np.complex128).reshape(shape)


def _multiply_add(rows: Array, columns: Array, c: list[Array]) -> list[Array]:
    product = (rows @ columns.transpose(0, 2, 1)).view(np.complex128).reshape(-1, 2, 8, 2)
    parts = (np.ascontiguousarray(product[:, i // 2, :, i % 2]).reshape(-1) for i in range(4))
    return [values + part.view(np.float32) for values, part in zip(c, parts, strict=True)]
