"""Accelerators that this machine doesn't have, as jax's compilers know them."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

# libtpu asks a TPU host's metadata for these where nothing is set, and lets one process in.
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
}

from jax.experimental import topologies

# An H100 SXM as NVIDIA's data sheet and the CUDA programming guide (compute capability 9.0)
# describe it: 132 SMs, 80 GB, 3.35 TB/s.
H100_DEVICE = dict(
    threads_per_block_limit=1024,
    threads_per_warp=32,
    shared_memory_per_block=48 * 1024,
    shared_memory_per_block_optin=227 * 1024,
    shared_memory_per_core=228 * 1024,
    threads_per_core_limit=2048,
    core_count=132,
    fpus_per_core=128,
    block_dim_limit_x=2**31 - 1,
    block_dim_limit_y=2**16 - 1,
    block_dim_limit_z=2**16 - 1,
    memory_bandwidth=3_352_000_000_000,
    l2_cache_size=50 * 2**20,
    clock_rate_ghz=1.98,
    device_memory_size=79 * 2**30,
    registers_per_core_limit=2**16,
    registers_per_block_limit=2**16,
)
H100 = (
    "gpu_device_info { cuda_compute_capability { major: 9 } "
    + " ".join(f"{name}: {value}" for name, value in H100_DEVICE.items())
    + ' } platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } '
    + 'device_description_str: "NVIDIA H100 80GB HBM3"'
)


@dataclasses.dataclass(frozen=True)
class Target:
    """Some devices of one kind.

    Args:
      platform: ``cuda`` or ``tpu``.
      topology: jax's name; for CUDA hosts x processes x GPUs.
      memory_gb: of one device.
      ghz: clock of a TPU, to make milliseconds of cycles; None for a GPU.
    """

    platform: str
    topology: str
    memory_gb: float
    ghz: float | None = None

    def devices(self) -> np.ndarray:
        """The devices; programs can be compiled for them, not run."""
        if self.platform == "tpu":
            described = topologies.get_topology_desc(self.topology, "tpu")
        else:
            described = topologies.get_topology_desc(
                "cuda", "cuda", topology=self.topology, target_config=H100
            )
        return np.asarray(described.devices)


# Memory and clocks: Google Cloud's pages of each version.
TARGETS = {
    "H100": Target("cuda", "1x1x1", 84.0),
    "8 H100": Target("cuda", "1x1x8", 84.0),
    "v5e": Target("tpu", "v5e:1x1", 16.0, 1.5),
    "4 v5e": Target("tpu", "v5e:2x2", 16.0, 1.5),
    "v5p": Target("tpu", "v5p:1x1x1", 95.0, 1.75),
    "v6e": Target("tpu", "v6e:1x1", 32.0, 1.75),
}
