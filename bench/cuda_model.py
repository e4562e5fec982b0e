"""Predicts what the CUDA kernels reach on GPUs, from their machine code: nothing here was measured.

    python bench/cuda_model.py            prints the tables
    python bench/cuda_model.py --write    puts them into README.md

Of each kernel the machine code says how many bytes an SM has asked for at once, how many blocks fit on it and
what the main loop costs in issue slots; the rest are makers' figures (tests/cuda/gpus.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from cuda_decode import (
    ATTAINABLE,
    ROOT,
    gate,
    gates,
    kernel,
    sass,
    skinny_kernel,
    skinny_limits,
    skinny_seconds,
    skinny_share,
    step_seconds,
)
from cuda_shapes import CONTEXT, SHAPES, TYPES, matrix_bytes, step_bytes, title_of
from gpus import GPUS, Gpu

NEWLINE = "\n"
BEGIN, END = "<!-- cuda predictions: begin -->\n", "<!-- cuda predictions: end -->\n"
TARGET, TARGET_BYTES = 0.9, 30e6
"""Share of the bandwidth that decoding is to reach, and from which size of a matrix on."""


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


def matrices() -> Iterator[tuple[str, int, int, bool]]:
    """Name, n, k, and whether a norm stands before it."""
    for shape in SHAPES:
        for matrix, (n, k) in [*shape.matrices.items(), ("head", (shape.vocab, shape.d))]:
            yield f"{shape.name} {matrix} {n} x {k}", n, k, matrix in ("qkv", "gate_up", "head")


def rows_of_matrices(weights: str = "bf16") -> Iterator[tuple[str, float, list[float]]]:
    """Name, megabytes, share of the bandwidth on each GPU."""
    for name, n, k, norm in matrices():
        shares = [skinny_share(gpu, n, k, weights, norm) for gpu in GPUS]
        yield name, matrix_bytes(n, k, weights) / 1e6, shares


def batch_rows() -> Iterator[list[str]]:
    """Share of the bandwidth of the matrices of the first model for more tokens than one."""
    model = [(n, k, norm) for name, n, k, norm in matrices() if name.startswith(SHAPES[0].name)]
    for weights in TYPES:
        n_bytes = sum(matrix_bytes(n, k, weights) for n, k, _ in model)
        for tokens in (1, 8, 16, 32):
            times = [
                sum(skinny_seconds(gpu, n, k, weights, norm, tokens) for n, k, norm in model) for gpu in GPUS
            ]
            shares = [n_bytes / gpu.bandwidth / t for gpu, t in zip(GPUS, times, strict=True)]
            yield [f"{weights}, {tokens}", *(f"{share:.0%}" for share in shares)]


def busiest() -> Iterator[tuple[str, str, float]]:
    """By type: the GPU whose issue slots are taken most while it reads a matrix, and their share."""
    for weights in TYPES:
        found = []
        for gpu in GPUS:
            limits = [skinny_limits(gpu, n, k, weights, norm) for _, n, k, norm in matrices()]
            found.append((max(issue / max(read, issue) for read, issue in limits), gpu.name))
        share, name = max(found)
        yield weights, name, share


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
    units = ("linear_skinny", "linear_skinny_int", "attention_decode")
    kernels = (k for unit in units for k in sass.kernels(ROOT / f"csrc/cuda/{unit}.cuh"))
    shares = [(k, gates.short_of_bytes(k)) for k in kernels]
    return [f"{title_of(k.name)} on sm_{k.arch} ({s:.0%} of them)" for k, s in shares if s is not None]


def _missed() -> str:
    """What the README says of targets that are missed."""
    lines = [f"- {name}: {'; '.join(matrices)}" for name, matrices in misses().items()]
    busy = ", ".join(f"{share:.0%} with {weights} ({name})" for weights, name, share in busiest())
    return f"""{TARGET:.0%} of the bandwidth were wanted of matrices over {TARGET_BYTES / 1e6:.0f} MB with one
token, in all three types. Predicted to miss them:

{NEWLINE.join(lines or ["- none"])}

With one token they take at most {busy}
of the issue slots, as if each could be used: expect less than is shown of a B200 with 4 bits.
Kernels with fewer bytes in flight than keep DRAM busy: {", ".join(short_kernels()) or "none"}.

The matrices of {SHAPES[0].name} one after the other, by the tokens of a step:

{_table(["weights, tokens", *(gpu.name for gpu in GPUS)], list(batch_rows()))}"""


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables() -> str:
    names = [gpu.name for gpu in GPUS]
    shares_of = [
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
        code = skinny_kernel("bf16", False, gpu.arch)
        asked = gates.in_flight_per_sm(code, gate(code)) / 1024
        in_flight.append(f"{asked:.0f} ({gpu.little / 1024:.0f})")
    return f"""**Predicted, not measured: no GPU was at hand.** `python bench/cuda_model.py` computes these
tables from the machine code of the kernels and the makers' figures.

Decoding, tokens per second of one sequence behind {CONTEXT} tokens, and the share of what bandwidth allows.
A row has all matrices in one type; of a Q4_K_M file a third (8B) to a half (0.6B) of the bytes are 8 bits:

{_table(["model, weights", "GB a step", *names], steps)}
The matrices of these models in bf16 with one token, share of the DRAM bandwidth (at most
{ATTAINABLE:.0%} can be had):

{_table(["matrix", "MB", *names], [*shares_of, in_flight])}
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
