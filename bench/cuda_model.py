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
from gpus import GPUS, Gpu  # noqa: E402

BEGIN, END = "<!-- cuda predictions: begin -->\n", "<!-- cuda predictions: end -->\n"
ATTAINABLE = 0.947
"""Of the maker's bandwidth: 955 of 1,008 GB/s, the most that kernels which only read reach on an RTX 4090."""
CONTEXT = 1024
OTHER_LAUNCHES = 4
"""Of a step: embedding, gathering of outputs, head, sampling."""
LAYER_LAUNCHES = 5

TYPES = {"bf16": 0, "int8": 1, "int4": 2}
UNIT_BYTES = {"bf16": 2048, "int8": 1024 + 64, "int4": 512 + 128}
"""Of 16 rows by 64 columns, with scales (csrc/cuda/weights.h)."""
UNIT_COPIES = {"bf16": 4, "int8": 3, "int4": 2}
TILES = {"bf16": 1, "int8": 1, "int4": 2}
ENOUGH_WARPS = 1400
"""Tiles that a warp of linear_skinny sums side by side, and warps from which on none share a tile."""


@dataclass(frozen=True)
class Shape:
    """Of a model: d, layers, heads, KV heads, head_dim, d_ff, vocabulary."""

    name: str
    d: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    d_ff: int
    vocab: int

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(n, k) of the matrices of a layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "qkv": (q + 2 * kv, self.d), "o": (self.d, q),
            "gate_up": (2 * self.d_ff, self.d), "down": (self.d, self.d_ff),
        }  # fmt: skip

    @property
    def kv_bytes(self) -> int:
        """That one token's attention reads behind CONTEXT positions."""
        return self.layers * 2 * self.kv_heads * self.head_dim * 2 * CONTEXT


SHAPES = [
    Shape("Llama-3-8B", 4096, 32, 32, 8, 128, 14336, 128256),
    Shape("Llama-3.2-1B", 2048, 16, 32, 8, 64, 8192, 128256),
    Shape("Qwen3-0.6B", 1024, 28, 16, 8, 128, 3072, 151936),
]


def kernel(unit: str, name: str, arch: str) -> sass.SassKernel:
    found = [k for k in sass.kernels(ROOT / f"csrc/cuda/{unit}.cuh") if (k.name, k.arch) == (name, arch)]
    if len(found) != 1:
        raise LookupError(f"{unit}.cuh has no {name} for sm_{arch}")
    return found[0]


def shared_of(k: sass.SassKernel) -> int:
    gate = gates.gate_of(k)
    assert gate, k.name
    return gate.shared


# --- decoding: bytes --------------------------------------------------------------------------------------


def read_seconds(gpu: Gpu, k: sass.SassKernel, n_blocks: int, n_bytes: float, useful: float = 1.0) -> float:
    """Little's law, for the blocks that are there at once, then for those of the last, partial wave.

    `useful`: how much of what the machine code copies at once is copied by all lanes.
    """
    slots = gates.resident_blocks(k, shared_of(k)) * gpu.n_sms
    each = k.max_threads * k.bytes_in_flight() * useful
    bandwidth = gpu.bandwidth * ATTAINABLE

    def seconds(blocks: int, of_bytes: float) -> float:
        asked = min(blocks, slots) * each / gpu.n_sms
        return of_bytes / (bandwidth * min(1.0, asked / gpu.little)) if blocks else 0.0

    last = n_blocks % slots if n_blocks > slots else 0
    per_block = n_bytes / n_blocks
    return seconds(n_blocks - last, (n_blocks - last) * per_block) + seconds(last, last * per_block)


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
    # Copies of a unit: its codes, 512 bytes each, and its scales, by some of the lanes.
    copies = UNIT_COPIES[weights]
    units_a_turn = code.count("LDGSTS", loop) / copies
    n_units = -(-n // 16) * (k // 64)
    issue = n_units / units_a_turn * len(loop) / (4 * gpu.n_sms * gpu.clock)
    useful = UNIT_BYTES[weights] / (copies * 512)
    return max(
        issue, read_seconds(gpu, code, skinny_blocks(n, k, weights), n_units * UNIT_BYTES[weights], useful)
    )


def matrix_bytes(n: int, k: int, weights: str) -> int:
    return -(-n // 16) * (k // 64) * UNIT_BYTES[weights]


def skinny_share(gpu: Gpu, n: int, k: int, weights: str, norm: bool) -> float:
    return matrix_bytes(n, k, weights) / gpu.bandwidth / skinny_seconds(gpu, n, k, weights, norm)


def step_bytes(shape: Shape, weights: str) -> int:
    layer = sum(matrix_bytes(n, k, weights) for n, k in shape.matrices.values())
    return shape.layers * layer + matrix_bytes(shape.vocab, shape.d, weights) + shape.kv_bytes


def step_seconds(gpu: Gpu, shape: Shape, weights: str) -> float:
    """Of a decode step of one sequence: matrices, KV cache, and what lies between launches."""
    norms = {"qkv": True, "o": False, "gate_up": True, "down": False}
    layer = sum(skinny_seconds(gpu, n, k, weights, norms[m]) for m, (n, k) in shape.matrices.items())
    attention = kernel("attention_decode", f"attention_decode_kernel<{shape.head_dim}>", gpu.arch)
    slots = gates.resident_blocks(attention, shared_of(attention)) * gpu.n_sms
    reading = read_seconds(gpu, attention, slots, shape.kv_bytes)
    head = skinny_seconds(gpu, shape.vocab, shape.d, weights, True)
    gaps = (LAYER_LAUNCHES * shape.layers + OTHER_LAUNCHES) * gpu.gap
    return shape.layers * layer + reading + head + gaps


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
    if product.unit.endswith("_sm90"):
        return 1.0 if gpu.arch == "90a" else None
    return gates.tensor_share(kernel(product.unit, product.name, gpu.arch)) * gpu.mma_share


def _product_row(product: Product) -> list[str]:
    cells = []
    for gpu in GPUS:
        share = peak_share(gpu, product)
        known = product.measured.get(gpu.name)
        cells.append("-" if share is None else f"{share:.0%}" + (f" ({known})" if known else ""))
    return [product.title, *cells]


# --- tables -----------------------------------------------------------------------------------------------


def rows_of_matrices() -> Iterator[tuple[str, float, list[float]]]:
    """Name, megabytes, share of the bandwidth on each GPU."""
    for shape in SHAPES:
        cases = [*shape.matrices.items(), ("head", (shape.vocab, shape.d))]
        for matrix, (n, k) in cases:
            norm = matrix in ("qkv", "gate_up", "head")
            shares = [skinny_share(gpu, n, k, "bf16", norm) for gpu in GPUS]
            yield f"{shape.name} {matrix} {n} x {k}", matrix_bytes(n, k, "bf16") / 1e6, shares


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
    little = ["KB in flight on an SM, of KB wanted"]
    for gpu in GPUS:
        code = kernel("linear_skinny", skinny_name("bf16", False), gpu.arch)
        asked = gates.in_flight_per_sm(code, shared_of(code)) / 1024
        little.append(f"{asked:.0f} of {gpu.little / 1024:.0f}")
    return f"""**Predicted, not measured: no GPU was at hand.** `python bench/cuda_model.py` computes these
tables from the machine code of the kernels and the makers' figures.

Decoding, tokens per second of one sequence behind {CONTEXT} tokens, and the share of what bandwidth allows:

{_table(["model, weights", "GB a step", *names], steps)}
Its matrices in bf16, share of the DRAM bandwidth (at most {ATTAINABLE:.0%} can be had):

{_table(["matrix", "MB", *names], [*matrices, [little[0], "", *little[1:]]])}
Prompts, the most of the tensor cores' rate that the main loop leaves (mma.sync reaches 62 % of it on an H100
and 20 % on a B200), and in brackets what others have measured of kernels of the same kind:

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
