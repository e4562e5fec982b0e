"""What the machine code of each kernel must be like: one table, in which every kernel has a row."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from gpus import GATED, KB, SMS
from sass import SassKernel, Step, load_bytes


@dataclass(frozen=True)
class Gate:
    """Limits hold on every architecture the kernel is compiled for."""

    pattern: str
    """Of the name with its template arguments; * matches anything. The first row that fits counts."""
    registers: int
    blocks: int
    """That must fit on an SM of `shared` bytes a block."""
    shared: int = 0
    needs: tuple[str, ...] = ()
    """Opcodes that must occur, by their beginnings."""
    saturates: bool = False
    """Resident lanes have asked for as many bytes as keep DRAM busy (Little's law)."""
    useful: float = 1.0
    """Of the bytes that whole warps would copy; the rest are copies which only some lanes take part in."""
    tensor: dict[str, float] = field(default_factory=dict)
    """Least share of the rate of mma.sync, or wgmma, that the main loop leaves, by architecture."""


WIDE = ("LDG.E.128", "STG.E.128")
COPIES = ("LDGSTS.E.BYPASS.128",)
PRODUCTS = (*COPIES, "HMMA.16816", "LDSM")
LOOP_1 = {"80": 0.6, "86": 1.0, "89": 1.0, "90a": 0.5, "100": 0.8, "120": 1.0}
LOOP_2 = {"80": 0.95, "86": 1.0, "89": 1.0, "90a": 0.95, "100": 0.95, "120": 1.0}
# Of linear_skinny: rings of eight warps, and the slots of 32 tokens; of 8 and 4 bits also the roots of their
# norms and the planes of up to eight.
SKINNY_SHARED = 8 * 8192 + 128
SKINNY_INT_SHARED = {1: 8 * 7616 + 256, 2: 8 * 7680 + 256}
PLANES = {1: 14 * KB, 2: 14 * KB, 4: 0, 8: 0}
TILED = (*COPIES, "HMMA.16816", "LDS.128", "STG.E.128")
TABLE = [
    # A thread has 8 or 16 elements, or a few vectors of 8.
    Gate("add_kernel", 32, 6, needs=WIDE),
    Gate("add_positions_kernel", 40, 4, needs=WIDE),
    Gate("activate_kernel", 48, 4, needs=WIDE),
    Gate("scale_kernel<*>", 32, 6, needs=WIDE),
    Gate("softcap_kernel<*>", 32, 6, needs=WIDE),
    Gate("gather_rows_kernel", 32, 6, needs=WIDE),
    Gate("embed_kernel<0>", 40, 4, needs=WIDE),
    Gate("embed_kernel<*>", 64, 4),
    Gate("rope_table_kernel", 64, 4),
    Gate("rope_append_kernel", 64, 4),
    Gate("head_norm_kernel<*>", 64, 4),
    # A row of a block in registers: 8 vectors of 8 elements and their weights.
    Gate("rms_norm_kernel<8>", 112, 2, shared=128, needs=WIDE),
    Gate("rms_norm_kernel<*>", 64, 4, shared=128, needs=WIDE),
    Gate("qk_norm_kernel<8>", 128, 2, shared=128, needs=WIDE),
    Gate("qk_norm_kernel<*>", 64, 4, shared=128, needs=WIDE),
    Gate("layer_norm_kernel<8>", 128, 2, shared=256, needs=WIDE),
    Gate("layer_norm_kernel<*>", 64, 4, shared=256, needs=WIDE),
    # Softmax: a row in a warp's registers, in a block's shared memory, in global memory, split over blocks.
    Gate("softmax_warp_kernel<*, 32>", 128, 4),
    Gate("softmax_warp_kernel<*, 1, *>", 64, 7),
    Gate("softmax_warp_kernel<*>", 96, 5),
    Gate("softmax_block_kernel<*, 1>", 40, 2, shared=32 * KB + 256),
    Gate("softmax_block_kernel<*>", 48, 2, shared=32 * KB + 256),
    Gate("softmax_long_kernel<*>", 64, 2, shared=256),
    Gate("softmax_parts_kernel<*>", 64, 2, shared=256),
    Gate("softmax_merge_kernel<*>", 96, 1),
    # Draws: bins of 12 bytes; candidates, digits and sums of stretches of the one block of a row.
    Gate("sample_highest_kernel", 48, 4),
    Gate("sample_weigh_kernel", 64, 4, shared=15 * KB),
    Gate("sample_draw_kernel", 128, 1, shared=42 * KB),
    # Few tokens: weights stream through a ring of each warp; the products are on tensor cores.
    Gate("linear_skinny_kernel<*>", 128, 1, shared=SKINNY_SHARED, needs=(*COPIES, "HMMA.16816"),
         saturates=True),
    # Of a unit's copies of 512 bytes, that of scales brings 64 (int8) or 128 (int4).
    *[Gate(f"linear_skinny_int_kernel<{type}, {blocks}, *>", 80 if blocks == 1 else 128, 1,
           shared=SKINNY_INT_SHARED[type] + planes, needs=(*COPIES, "IMMA.16832"), saturates=True,
           useful={1: 1088 / 1536, 2: 640 / 1024}[type])
      for type in SKINNY_INT_SHARED for blocks, planes in PLANES.items()],
    Gate("token_planes_kernel<*>", 64, 4, needs=WIDE),
    # Many tokens: 128 sums a thread, and two blocks to an SM, so that one computes while the other waits.
    Gate("linear_tiled_kernel<TiledShape<*, 128> >", 255, 2, shared=49 * KB, needs=TILED,
         tensor={"80": 1.0, "86": 1.0, "89": 1.0, "90a": 1.0, "100": 1.0, "120": 1.0}),
    Gate("linear_tiled_kernel<*>", 112, 2, shared=49 * KB, needs=TILED),
    # One block to an SM: 24 registers for who copies, 240 for who computes, as many as 168 for all.
    Gate("linear_sm90_kernel", 168, 1, shared=225 * KB,
         needs=("HGMMA.64x256x16", "UTMALDG.2D", "SYNCS", "USETMAXREG", "STG.E.128"), tensor={"90a": 1.0}),
    # Attention: a unit of keys and values of each warp, or tiles of the block, in a ring.
    Gate("attention_decode_kernel<*>", 255, 1, shared=64 * KB, needs=PRODUCTS, saturates=True),
    Gate("attention_prefill_kernel<64, 1>", 168, 3, shared=25 * KB, needs=PRODUCTS, tensor=LOOP_1),
    Gate("attention_prefill_kernel<64, 2>", 255, 2, shared=25 * KB, needs=PRODUCTS, tensor=LOOP_2),
    Gate("attention_prefill_kernel<128, 1>", 240, 2, shared=49 * KB, needs=PRODUCTS, tensor=LOOP_1),
    Gate("attention_prefill_kernel<128, 2>", 255, 1, shared=81 * KB, needs=PRODUCTS, tensor=LOOP_2),
    Gate("attention_prefill_kernel<256, 1>", 255, 1, shared=81 * KB, needs=PRODUCTS, tensor=LOOP_1),
]  # fmt: skip


def gate_of(kernel: SassKernel) -> Gate | None:
    return gate_named(kernel.name)


def gate_named(name: str) -> Gate | None:
    return next((g for g in TABLE if fnmatch.fnmatchcase(name, g.pattern)), None)


def resident_blocks(kernel: SassKernel, shared: int) -> int:
    return SMS[kernel.arch].resident(kernel.max_threads, kernel.registers, shared)


def in_flight_per_sm(kernel: SassKernel, gate: Gate) -> float:
    """Bytes that the resident lanes of an SM have asked for, at most."""
    n_lanes = resident_blocks(kernel, gate.shared) * kernel.max_threads
    return n_lanes * kernel.bytes_in_flight() * gate.useful


def short_of_bytes(kernel: SassKernel) -> float | None:
    """Share of the bytes that keep DRAM busy, of a kernel that has not asked for so many, and should have."""
    gate = gate_of(kernel)
    if not gate or not gate.saturates:
        return None
    share = in_flight_per_sm(kernel, gate) / LITTLE[kernel.arch]
    return share if share < 1 else None


LITTLE = {g.arch: g.little for g in GATED}
MMA_CYCLES = {g.arch: g.mma_cycles for g in GATED}
WGMMA_GROUPS = 2
"""Warpgroups of linear_sm90 that multiply: each has 64 tokens of its own, and all have the same rows."""


def tensor_share(kernel: SassKernel) -> float:
    """Of the rate of mma.sync, what the rest of the main loop leaves: cycles of HMMA to those of the fullest.

    A quarter of an SM issues one instruction a clock, and has a quarter of 16 special functions and of 128
    bytes of shared memory a clock.
    """
    if (loop := kernel.main_loop("HGMMA")) and kernel.arch == "90a":
        return _wgmma_share(loop)
    loop = kernel.main_loop("HMMA")
    if not loop:
        return 0.0
    products = kernel.count("HMMA", loop) * MMA_CYCLES[kernel.arch]
    special = kernel.count("MUFU", loop) * 8
    moved = sum(_shared_bytes(step.opcode) for step in loop if not step.dead)
    return min(1.0, products / max(len(loop), special, moved / 128 * 4))


def _wgmma_share(loop: list[Step]) -> float:
    """Of the rate of wgmma, in a turn of one warpgroup, which has a warp in each quarter of the SM.

    Each product reads both operands from shared memory, where its share of the ring is written as well.
    """
    h100 = next(g for g in GATED if g.arch == "90a")
    products = moved = 0.0
    for step in loop:
        if found := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", step.opcode):
            m, n, k = map(int, found.groups())
            products += m * n * k / h100.fma
            moved += 2 * k * (m + n) + 2 * k * (m + n / WGMMA_GROUPS)
    return min(1.0, products / max(len(loop), moved / 128))


def _shared_bytes(opcode: str) -> int:
    """That a warp moves in or out of shared memory."""
    if opcode.startswith("LDSM"):
        return 128 * int(opcode[-1]) if opcode[-1].isdigit() else 128
    return 32 * load_bytes(opcode) if opcode.startswith(("LDS", "STS", "LDGSTS")) else 0


def problems(kernel: SassKernel, gate: Gate) -> Iterator[str]:
    """What is wrong with the machine code, each a sentence."""
    if kernel.spills or kernel.stack or kernel.count("LDL") or kernel.count("STL"):
        yield f"uses local memory: {kernel.stack} bytes of stack, {kernel.spills} bytes of spills"
    for warning in kernel.warnings:
        yield f"has a warning: {warning}"
    for opcode in gate.needs:
        if not kernel.count(opcode):
            yield f"has no {opcode}"
    if kernel.registers > gate.registers:
        yield f"takes {kernel.registers} registers, at most {gate.registers} were wanted"
    blocks = resident_blocks(kernel, gate.shared)
    if blocks < gate.blocks:
        yield f"fits {blocks} times on an SM, {gate.blocks} blocks were wanted"
    if gate.saturates:
        asked, wanted = in_flight_per_sm(kernel, gate), LITTLE[kernel.arch]
        if asked < wanted:
            yield f"asks for {asked / KB:.1f} KB at once on an SM, {wanted / KB:.1f} KB keep DRAM busy"
    if kernel.arch in gate.tensor and (share := tensor_share(kernel)) < gate.tensor[kernel.arch]:
        yield f"leaves tensor cores {share:.0%} of their rate, {gate.tensor[kernel.arch]:.0%} were wanted"
