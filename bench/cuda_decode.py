"""How long a decode step takes on a GPU: bytes by Little's law, issue slots, launches."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/cuda"))

import gates  # noqa: E402
import sass  # noqa: E402
from cuda_shapes import (  # noqa: E402
    CONTEXT,
    MAX_KEYS,
    OTHER_LAUNCHES,
    TYPES,
    UNIT_BYTES,
    Shape,
    matrix_bytes,
)
from gpus import Gpu  # noqa: E402

ATTAINABLE = 0.947
"""Of the maker's bandwidth: 955 of 1,008 GB/s, the most that kernels which only read reach on an RTX 4090."""
ACCESSES = {"alone": 3, "merged": 7}
"""Of a block of attention one behind the other: length, page, keys; then fence, ticket, statistics, sums."""
TILES = {"bf16": 1, "int8": 1, "int4": 2}
"""Tiles that a warp of linear_skinny sums side by side, of up to eight tokens; of more it is one."""
OWN_PLANES_TOKENS = 8
"""Up to which number of tokens each block of linear_skinny_int makes planes of them itself."""


@cache
def kernel(unit: str, name: str, arch: str) -> sass.SassKernel:
    found = [k for k in sass.kernels(ROOT / f"csrc/cuda/{unit}.cuh") if (k.name, k.arch) == (name, arch)]
    if len(found) != 1:
        raise LookupError(f"{unit}.cuh has no {name} for sm_{arch}")
    return found[0]


def gate(k: sass.SassKernel) -> gates.Gate:
    found = gates.gate_of(k)
    assert found, k.name
    return found


def read_seconds(gpu: Gpu, k: sass.SassKernel, n_blocks: int, n_bytes: float) -> float:
    """Little's law, for the blocks that are there at once, then for those of the last, partial wave.

    A block asks for no more than it has to read, and an SM gets no more than L2 brings it.
    """
    slots = gates.resident_blocks(k, gate(k).shared) * gpu.n_sms
    per_block = n_bytes / n_blocks
    each = min(k.max_threads * k.bytes_in_flight() * gate(k).useful, per_block)
    bandwidth = gpu.bandwidth * ATTAINABLE

    def seconds(blocks: int) -> float:
        if not blocks:
            return 0.0
        asked = min(blocks, slots) * each / gpu.n_sms
        brought = min(blocks, gpu.n_sms) * gpu.sm_bandwidth
        return blocks * per_block / min(bandwidth, bandwidth * asked / gpu.little, brought)

    last = n_blocks % slots if n_blocks > slots else 0
    return seconds(n_blocks - last) + seconds(last)


def skinny_name(weights: str, norm: bool, tokens: int = 1) -> str:
    block = 4 if TYPES[weights] else 8  # tokens of an mma
    blocks = next(b for b in (1, 2, 4, 8) if tokens <= b * block)
    type = f"_int_kernel<{TYPES[weights]}, {blocks}" if TYPES[weights] else f"_kernel<{blocks}"
    return f"linear_skinny{type}, {str(norm).lower()}>"


def skinny_kernel(weights: str, norm: bool, arch: str, tokens: int = 1) -> sass.SassKernel:
    name = skinny_name(weights, norm, tokens)
    return kernel(name.split("_kernel")[0], name, arch)


def skinny_splits(n: int, k: int, weights: str, at_once: int) -> int:
    """As the launcher has it, on a GPU with room for `at_once` blocks of the kernel for the fewest tokens."""

    def time(splits: int) -> float:
        waves, last = divmod(skinny_blocks(n, weights, splits), at_once)
        return (waves + (max(0.25, last / at_once) if last else 0.0)) / splits

    times = {splits: time(splits) for splits in (1, 2, 4, 8) if splits <= k // 64}
    return next(splits for splits, t in times.items() if t <= 1.05 * min(times.values()))


def skinny_blocks(n: int, weights: str, splits: int, tokens: int = 1) -> int:
    """Eight warps each, `splits` of which share the tiles that one sums side by side."""
    tiles = TILES[weights] if tokens <= OWN_PLANES_TOKENS else 1
    groups = -(-n // (16 * tiles))
    return -(-groups * splits // 8)


def planes_slots(tokens: int) -> int:
    return 16 if tokens <= 16 else 32


def planes_name(weights: str, norm: bool, tokens: int) -> str:
    return f"token_planes_kernel<{TYPES[weights]}, {planes_slots(tokens)}, {str(norm).lower()}>"


def planes_issued(arch: str, k: int, weights: str, norm: bool, tokens: int, n_blocks: int) -> float:
    """Instructions that make planes of tokens: in every block of the product, or in a kernel of its own."""
    if tokens <= OWN_PLANES_TOKENS:
        code = skinny_kernel(weights, norm, arch, tokens)
        return n_blocks * -(-tokens * k // 256) * body_of(code, "PRMT")
    code = kernel("linear_skinny_int", planes_name(weights, norm, tokens), arch)
    return planes_slots(tokens) * k / 256 * body_of(code, "PRMT")


def body_of(code: sass.SassKernel, opcode: str) -> int:
    """Instructions of the longest innermost loop with the opcode, whatever branches there are in it."""
    return max(len(body) for _, body in code.bodies if code.count(opcode, body))


def skinny_limits(gpu: Gpu, n: int, k: int, weights: str, norm: bool, tokens: int = 1) -> tuple[float, float]:
    """Seconds of y = W x by the bytes of W, and by issue slots; in the latter a launch that makes planes."""
    code = skinny_kernel(weights, norm, gpu.arch, tokens)
    loop = code.main_loop("IMMA" if TYPES[weights] else "HMMA")
    copies = UNIT_BYTES[weights] / gate(code).useful / 512
    units_a_turn = code.count("LDGSTS", loop) / copies
    smallest = skinny_kernel(weights, False, gpu.arch)
    at_once = gates.resident_blocks(smallest, gate(smallest).shared) * gpu.n_sms
    n_blocks = skinny_blocks(n, weights, skinny_splits(n, k, weights, at_once), tokens)
    n_units = -(-n // 16) * (k // 64)
    issued = n_units / units_a_turn * len(loop)
    if TYPES[weights]:
        issued += planes_issued(gpu.arch, k, weights, norm, tokens, n_blocks)
    issue = issued / (4 * gpu.n_sms * gpu.clock)
    return read_seconds(gpu, code, n_blocks, n_units * UNIT_BYTES[weights]), issue


def skinny_seconds(gpu: Gpu, n: int, k: int, weights: str, norm: bool, tokens: int = 1) -> float:
    own_launch = TYPES[weights] > 0 and tokens > OWN_PLANES_TOKENS
    return max(skinny_limits(gpu, n, k, weights, norm, tokens)) + own_launch * gpu.gap


def skinny_share(gpu: Gpu, n: int, k: int, weights: str, norm: bool) -> float:
    return matrix_bytes(n, k, weights) / gpu.bandwidth / skinny_seconds(gpu, n, k, weights, norm)


def attention_splits(kv_heads: int, at_once: int) -> int:
    """As the launcher of attention_decode has it, for one sequence."""
    most = min(-(-MAX_KEYS // 32 // 4), 64)
    times = [-(-kv_heads * n // at_once) / n for n in range(1, most + 1)]
    return next(n for n, time in enumerate(times, 1) if time <= 1.15 * min(times))


def attention_seconds(gpu: Gpu, shape: Shape) -> float:
    """Of a layer: its keys and values, read by the splits that have some, and what waits for one another."""
    code = kernel("attention_decode", f"attention_decode_kernel<{shape.head_dim}>", gpu.arch)
    at_once = gates.resident_blocks(code, gate(code).shared) * gpu.n_sms
    n_pages = CONTEXT // 32
    split_pages = max(4, -(-n_pages // attention_splits(shape.kv_heads, at_once)))
    n_splits = -(-n_pages // split_pages)
    waits = ACCESSES["alone" if n_splits == 1 else "merged"] * gpu.latency
    return waits + read_seconds(gpu, code, shape.kv_heads * n_splits, shape.layer_kv_bytes)


def step_seconds(gpu: Gpu, shape: Shape, weights: str) -> float:
    """Of a decode step of one sequence: matrices, KV cache, and what lies between launches."""
    norms = {"qkv": True, "o": False, "gate_up": True, "down": False}
    layer = sum(skinny_seconds(gpu, n, k, weights, norms[m]) for m, (n, k) in shape.matrices.items())
    layer += attention_seconds(gpu, shape) + shape.layer_launches * gpu.gap
    head = skinny_seconds(gpu, shape.vocab, shape.d, weights, True)
    return shape.layers * layer + head + OTHER_LAUNCHES * gpu.gap
