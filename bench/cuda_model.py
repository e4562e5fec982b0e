"""Predicts what the CUDA kernels reach on GPUs, from their machine code: nothing here was measured.

    python bench/cuda_model.py            prints the tables
    python bench/cuda_model.py --write    puts them into README.md

Of each kernel the machine code says how many bytes an SM has asked for at once, how many blocks fit on it and
what the main loop costs in issue slots; the rest are makers' figures (tests/cuda/gpus.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/cuda"))

import gates  # noqa: E402
import sass  # noqa: E402
from cuda_shapes import (  # noqa: E402
    CONTEXT,
    MAX_KEYS,
    OTHER_LAUNCHES,
    SHAPES,
    TYPES,
    UNIT_BYTES,
    Shape,
    matrix_bytes,
    step_bytes,
    title_of,
)
from gpus import GPUS, Gpu  # noqa: E402

BEGIN, END = "<!-- cuda predictions: begin -->\n", "<!-- cuda predictions: end -->\n"
ATTAINABLE = 0.947
"""Of the maker's bandwidth: 955 of 1,008 GB/s, the most that kernels which only read reach on an RTX 4090."""
ACCESSES = {"alone": 3, "merged": 7}
"""Of a block of attention one behind the other: length, page, keys; then fence, ticket, statistics, sums."""
TARGET, TARGET_BYTES = 0.9, 30e6
"""Share of the bandwidth that decoding is to reach, and from which size of a matrix on."""

TILES = {"bf16": 1, "int8": 1, "int4": 2}
ENOUGH_WARPS = 1400
"""Tiles that a warp of linear_skinny sums side by side, and warps from which on none share a tile."""


def kernel(unit: str, name: str, arch: str) -> sass.SassKernel:
    found = [k for k in sass.kernels(ROOT / f"csrc/cuda/{unit}.cuh") if (k.name, k.arch) == (name, arch)]
    if len(found) != 1:
        raise LookupError(f"{unit}.cuh has no {name} for sm_{arch}")
    return found[0]


def gate(k: sass.SassKernel) -> gates.Gate:
    found = gates.gate_of(k)
    assert found, k.name
    return found


# --- decoding: bytes --------------------------------------------------------------------------------------


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


def skinny_name(weights: str, norm: bool) -> str:
    return f"linear_skinny_kernel<{TYPES[weights]}, 1, {str(norm).lower()}>"


def skinny_blocks(n: int, k: int, weights: str) -> int:
    """As the launcher has it."""
    tiles, units, side_by_side = -(-n // 16), k // 64, TILES[weights]
    splits = 1
    while splits < 8 and -(-tiles // side_by_side) * splits < ENOUGH_WARPS and splits < units:
        splits *= 2
    return -(-(-(-tiles // side_by_side) * splits) // 8)


def skinny_seconds(gpu: Gpu, n: int, k: int, weights: str, norm: bool) -> float:
    """Of y = W x for one token: bytes of W, or issue slots."""
    code = kernel("linear_skinny", skinny_name(weights, norm), gpu.arch)
    loop = code.main_loop("HMMA")
    copies = UNIT_BYTES[weights] / gate(code).useful / 512
    units_a_turn = code.count("LDGSTS", loop) / copies
    n_units = -(-n // 16) * (k // 64)
    issue = n_units / units_a_turn * len(loop) / (4 * gpu.n_sms * gpu.clock)
    return max(issue, read_seconds(gpu, code, skinny_blocks(n, k, weights), n_units * UNIT_BYTES[weights]))


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


# --- prefill: tensor cores --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Product:
    """A kernel on tensor cores, and what kernels of its kind have been measured to reach elsewhere."""

    title: str
    unit: str
    name: str
    measured: dict[str, str]


FLASH = {"A100-80": "72 %", "RTX 5090": "94 %", "H100 SXM": "35 %"}
"""FlashAttention-2 on A100 and H100, learn-cuda's attention with mma.sync on RTX 5090."""
TILED = {"A100-80": "77 %", "RTX 5090": "85 %", "B200": "18 %"}
"""learn-cuda's matmul with mma.sync."""
RING = {"H100 SXM": "79 %"}
"""fast.cu's matmul with wgmma, TMA and a ring."""
PRODUCTS = [
    Product("matmul, bf16", "linear_tiled", "linear_tiled_kernel<TiledShape<0, 128> >", TILED),
    Product("matmul, int8", "linear_tiled", "linear_tiled_kernel<TiledShape<1, 128> >", {}),
    Product("matmul, int4", "linear_tiled", "linear_tiled_kernel<TiledShape<2, 128> >", {}),
    Product("matmul, bf16, wgmma", "linear_sm90", "linear_sm90_kernel", RING),
    Product("attention, head_dim 128", "attention_prefill", "attention_prefill_kernel<128, 2>", FLASH),
    Product("attention, head_dim 64", "attention_prefill", "attention_prefill_kernel<64, 2>", FLASH),
]


def peak_share(gpu: Gpu, product: Product) -> float | None:
    """Most of the maker's rate that the main loop leaves. None where the kernel does not run."""
    by_wgmma = product.unit.endswith("_sm90")
    if by_wgmma and gpu.arch != "90a":
        return None
    share = gates.tensor_share(kernel(product.unit, product.name, gpu.arch))
    return share if by_wgmma else share * gpu.mma_share


def _product_row(product: Product) -> list[str]:
    cells = []
    for gpu in GPUS:
        share = peak_share(gpu, product)
        known = product.measured.get(gpu.name)
        cells.append("-" if share is None else f"{share:.0%}" + (f" ({known})" if known else ""))
    return [product.title, *cells]


# --- tables -----------------------------------------------------------------------------------------------


def rows_of_matrices(weights: str = "bf16") -> Iterator[tuple[str, float, list[float]]]:
    """Name, megabytes, share of the bandwidth on each GPU."""
    for shape in SHAPES:
        cases = [*shape.matrices.items(), ("head", (shape.vocab, shape.d))]
        for matrix, (n, k) in cases:
            norm = matrix in ("qkv", "gate_up", "head")
            shares = [skinny_share(gpu, n, k, weights, norm) for gpu in GPUS]
            yield f"{shape.name} {matrix} {n} x {k}", matrix_bytes(n, k, weights) / 1e6, shares


def misses() -> dict[str, list[str]]:
    """By GPU and type, the matrices that are large enough and miss the target."""
    found: dict[str, list[str]] = {}
    for weights in TYPES:
        for name, size, shares in rows_of_matrices(weights):
            for gpu, share in zip(GPUS, shares, strict=True):
                if size * 1e6 > TARGET_BYTES and share < TARGET:
                    found.setdefault(f"{gpu.name}, {weights}", []).append(f"{name} ({share:.0%})")
    return found


def short_kernels() -> list[str]:
    """Kernels that ask for fewer bytes at once than Little's law wants."""
    units = ("linear_skinny", "attention_decode")
    kernels = (k for unit in units for k in sass.kernels(ROOT / f"csrc/cuda/{unit}.cuh"))
    shares = [(k, gates.short_of_bytes(k)) for k in kernels]
    return [f"{title_of(k.name)} on sm_{k.arch} ({s:.0%} of them)" for k, s in shares if s is not None]


def _missed() -> str:
    """What the README says of targets that are missed."""
    lines = [f"- {name}: {'; '.join(matrices)}\n" for name, matrices in misses().items()]
    return f"""{TARGET:.0%} of the bandwidth were wanted of matrices over {TARGET_BYTES / 1e6:.0f} MB, in all
three types. Predicted to miss them:

{"".join(lines) or "- none" + chr(10)}
In bf16 the blocks are too few or the last wave is short; in 4 and 8 bits the issue slots do not suffice.
Kernels with fewer bytes in flight than keep DRAM busy: {", ".join(short_kernels()) or "none"}.
"""


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables() -> str:
    names = [gpu.name for gpu in GPUS]
    matrices = [
        [name, f"{size:.0f}", *(f"{s:.0%}" for s in shares)] for name, size, shares in rows_of_matrices()
    ]
    steps = []
    for shape in SHAPES:
        for weights in TYPES:
            row = [f"{shape.name}, {weights}", f"{step_bytes(shape, weights) / 1e9:.2f}"]
            for gpu in GPUS:
                seconds = step_seconds(gpu, shape, weights)
                floor = step_bytes(shape, weights) / gpu.bandwidth
                row.append(f"{1 / seconds:.0f} ({floor / seconds:.0%})")
            steps.append(row)
    products = [_product_row(p) for p in PRODUCTS]
    in_flight = ["KB in flight on an SM (KB that keep DRAM busy)", ""]
    for gpu in GPUS:
        code = kernel("linear_skinny", skinny_name("bf16", False), gpu.arch)
        asked = gates.in_flight_per_sm(code, gate(code)) / 1024
        in_flight.append(f"{asked:.0f} ({gpu.little / 1024:.0f})")
    return f"""**Predicted, not measured: no GPU was at hand.** `python bench/cuda_model.py` computes these
tables from the machine code of the kernels and the makers' figures.

Decoding, tokens per second of one sequence behind {CONTEXT} tokens, and the share of what bandwidth allows.
A row has all matrices in one type; of a Q4_K_M file a third (8B) to a half (0.6B) of the bytes are 8 bits:

{_table(["model, weights", "GB a step", *names], steps)}
The matrices of these models in bf16, share of the DRAM bandwidth (at most {ATTAINABLE:.0%} can be had):

{_table(["matrix", "MB", *names], [*matrices, in_flight])}
{_missed()}
Prompts, the most of the tensor cores' rate that the main loop leaves (mma.sync reaches 62 % of it on an H100
and 20 % on a B200; the operands of wgmma keep shared memory as busy as the tensor cores). In brackets what
others have published of kernels of the same kind: FlashAttention-2 for attention on A100 and H100, fast.cu
for wgmma, learn-cuda for the rest:

{_table(["kernel", *names], products)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    text = tables()
    if not parser.parse_args().write:
        print(text)
        return
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(before + BEGIN + text + END + after)


if __name__ == "__main__":
    main()
