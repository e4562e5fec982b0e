"""What is known of GPUs: limits of an SM by architecture, and the machines that predictions are for."""

from __future__ import annotations

from dataclasses import dataclass

KB = 1024


@dataclass(frozen=True)
class Sm:
    """Limits of one multiprocessor (CUDA programming guide, compute capabilities)."""

    threads: int
    blocks: int
    shared: int  # bytes, of which each block takes 1 KB more than it asks for
    registers: int = 65536
    shared_per_block: int = 0

    def resident(self, n_threads: int, registers: int, shared: int) -> int:
        """Blocks that fit: registers go to warps in steps of 256 and stay in a quarter of the SM."""
        warps = -(-n_threads // 32)
        per_warp = -(-registers * 32 // 256) * 256
        by_registers = self.registers // 4 // per_warp * 4 // warps
        by_shared = self.shared // (-(-(shared + KB) // 128) * 128)
        return min(self.blocks, self.threads // (warps * 32), by_registers, by_shared)


SMS = {
    "80": Sm(2048, 32, 164 * KB, shared_per_block=163 * KB),
    "86": Sm(1536, 16, 100 * KB, shared_per_block=99 * KB),
    "89": Sm(1536, 24, 100 * KB, shared_per_block=99 * KB),
    "90a": Sm(2048, 32, 228 * KB, shared_per_block=227 * KB),
    "100": Sm(2048, 32, 228 * KB, shared_per_block=227 * KB),
    "120": Sm(1536, 24, 100 * KB, shared_per_block=99 * KB),
}


@dataclass(frozen=True)
class Gpu:
    name: str
    arch: str
    n_sms: int
    bandwidth: float  # of DRAM, bytes a second
    clock: float  # boost, in Hz
    fma: int  # bf16 with float32 sums, an SM and clock, dense, on the tensor cores' own instructions
    mma_share: float  # of that rate which mma.sync reaches
    l2: int  # bytes
    latency: float  # of DRAM under load, seconds
    gap: float = 1.3e-6  # from the end of a kernel to the next one's start inside a graph, seconds

    @property
    def sm(self) -> Sm:
        return SMS[self.arch]

    @property
    def flops(self) -> float:
        return 2.0 * self.fma * self.n_sms * self.clock

    @property
    def sm_bandwidth(self) -> float:
        """Bytes a second that one SM can get from L2: 64 a clock."""
        return 64 * self.clock

    @property
    def little(self) -> float:
        """Bytes that an SM must have asked for, so that DRAM is always busy."""
        return self.bandwidth * self.latency / self.n_sms

    @property
    def mma_cycles(self) -> float:
        """Of a quarter of an SM for one m16n8k16."""
        return 16 * 8 * 16 / (self.fma / 4 * self.mma_share)


MB = 1024 * KB
GPUS = [
    Gpu("A100-80", "80", 108, 2.039e12, 1.41e9, 1024, 1.0, 40 * MB, 0.6e-6),
    Gpu("RTX 4090", "89", 128, 1.008e12, 2.52e9, 256, 1.0, 72 * MB, 0.65e-6),
    Gpu("RTX 5090", "120", 170, 1.792e12, 2.407e9, 256, 1.0, 96 * MB, 0.67e-6),
    Gpu("H100 SXM", "90a", 132, 3.35e12, 1.83e9, 2048, 0.62, 50 * MB, 0.7e-6),
    Gpu("B200", "100", 148, 8.0e12, 1.85e9, 4096, 0.2, 126 * MB, 0.72e-6),
]
"""Makers' figures, but for mma_share: what measured kernels reach without wgmma (H100) and tcgen05 (B200).
Latency and gap are assumptions.
"""
GATED = [*GPUS, Gpu("RTX 3090", "86", 82, 0.936e12, 1.695e9, 256, 1.0, 6 * MB, 0.6e-6)]
"""One of each architecture that there is code for: what the gates ask for is for it."""
