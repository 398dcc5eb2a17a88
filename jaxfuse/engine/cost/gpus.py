"""Graphics cards that programs are compiled for without having one.

XLA's compiler for CUDA needs a description of the card, and neither the card nor its driver. Figures of a card are its
maker's: H200 and H100 SXM by their data sheets and the tuning guide of Hopper, A100 SXM 80 GB by those of Ampere, L40S
by its data sheet and the tuning guide of Ada. So are those of the links between cards: NVLink of the fourth generation
(900 GB/s in both directions together) and the third (600), and PCI Express 4.0 x16 (64). Between machines each card has
an adapter of InfiniBand NDR to itself (400 Gb/s), as in a DGX H100.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jaxlib.version
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from jax.stages import Compiled, Wrapped

from jaxfuse.errors import UserError

# A launch of a kernel takes about so long where each waits for the one before.
LAUNCH_S = 2.5e-6

# Cards of one machine, whose links among each other are faster than those between machines.
IN_A_MACHINE = 8

# Tiles of Triton's matrix products are chosen on a card, and without one XLA finds none for some; its library's are
# compiled in their place.
_OPTIONS: dict[str, str | bool] = {"xla_gpu_enable_triton_gemm": False}


@dataclass(frozen=True)
class Gpu:
    """A card as the compiler has to know it.

    Attributes:
        name: as its driver says it.
        capability: major and minor number of its instructions.
        multiprocessors, lanes: their count, and float32 units of each.
        threads: that a multiprocessor holds at most.
        shared_bytes: shared memory of a multiprocessor; a block may have all but 1 kB of it.
        cache_bytes, memory_bytes: second-level cache, and memory.
        bandwidth: of the memory, in bytes per second.
        clock_ghz: at its highest.
        link: bytes per second from it to the other cards of a machine, in one direction.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    lanes: int
    threads: int
    shared_bytes: int
    cache_bytes: int
    memory_bytes: int
    bandwidth: float
    clock_ghz: float
    link: float

    def target(self) -> str:
        """Writes the card as text of XLA's message GpuTargetConfigProto."""
        major, minor = self.capability
        facts = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 48 * 1024,
            "shared_memory_per_core": self.shared_bytes,
            "shared_memory_per_block_optin": self.shared_bytes - 1024,
            "threads_per_core_limit": self.threads,
            "core_count": self.multiprocessors,
            "fpus_per_core": self.lanes,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 2**16 - 1,
            "block_dim_limit_z": 2**16 - 1,
            "registers_per_core_limit": 2**16,
            "registers_per_block_limit": 2**16,
            "memory_bandwidth": int(self.bandwidth),
            "l2_cache_size": self.cache_bytes,
            "clock_rate_ghz": self.clock_ghz,
            "device_memory_size": self.memory_bytes,
        }
        lines = [f"  {name}: {value}" for name, value in facts.items()]
        lines.append(f"  cuda_compute_capability {{ major: {major} minor: {minor} }}")
        versions = "dnn_version_info { major: 9 minor: 12 }\nruntime_version { major: 13 minor: 0 }\n"
        return (
            "gpu_device_info {\n" + "\n".join(lines) + "\n}\n"
            f'platform_name: "CUDA"\n{versions}device_description_str: "{self.name}"\n'
        )


GPUS: Mapping[str, Gpu] = {
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 128, 2048, 228 << 10, 60 << 20, 141 * 10**9, 4.8e12, 1.98, 450e9),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 2048, 228 << 10, 50 << 20, 80 * 10**9, 3.35e12, 1.98, 450e9),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 2048, 164 << 10, 40 << 20, 80 * 10**9, 2.04e12, 1.41, 300e9),
    "l40s": Gpu("NVIDIA L40S", (8, 9), 142, 128, 1536, 100 << 10, 96 << 20, 48 * 10**9, 0.864e12, 2.52, 32e9),
}


def gpu_named(name: str) -> Gpu:
    """Returns the card of this name.

    Raises:
        UserError: the name is not one of GPUS.
    """
    if name not in GPUS:
        raise UserError(f"the device {name!r} is not known; choose one of {', '.join(GPUS)}")
    return GPUS[name]


def compiled_for(gpu: Gpu, program: Wrapped, *shapes: Any) -> Compiled:
    """Compiles a program for arguments of these shapes on one such card; nothing runs, and no card is needed.

    Convolutions are not tuned, as that takes a card: their workspaces and times are not in the result.

    Raises:
        UserError: JAX's plugin for CUDA is not installed, or of another version than jaxlib.
    """
    here = SingleDeviceSharding(cards(gpu, 1)[0])
    bound = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
    return compiled_where_bound(program, *bound)


def compiled_where_bound(program: Wrapped, *bound: Any) -> Compiled:
    """Compiles a program for shapes that are bound to `cards`; nothing runs."""
    return program.lower(*bound).compile(compiler_options=_OPTIONS)


def cards(gpu: Gpu, count: int) -> Sequence[Any]:
    """Returns so many such cards as devices of JAX, which only compile; eight are in a machine.

    Raises:
        UserError: they do not fill their machines, or the plugin is missing.
    """
    machines = -(-count // IN_A_MACHINE)
    if count % machines:
        raise UserError(
            f"{count} cards are described as machines of {IN_A_MACHINE}, which they do not fill; give up to "
            f"{IN_A_MACHINE}, or a multiple of it"
        )
    topology = f"1x{machines}x{count // machines}"
    try:
        found = topologies.get_topology_desc(platform="cuda", target_config=gpu.target(), topology=topology)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"programs for a {gpu.name} are compiled by JAX's plugin for CUDA, which is not there or does not fit "
            f'jaxlib {jaxlib.version.__version__}; install it by pip install "jaxfuse[h200]"'
        ) from error
    return found.devices
