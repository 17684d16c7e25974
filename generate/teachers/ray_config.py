"""Configuration of a teacher on a Ray cluster."""

from __future__ import annotations

from pydantic import Field

from potstill.config import Table


class RayConfig(Table):
    """How many copies of the teacher run on which cluster; `[generate.engine]` holds for each."""

    address: str | None = None
    """The cluster's address, such as 10.0.0.1:6379; "local" starts one on this machine alone. None
    takes $RAY_ADDRESS, else the cluster this machine belongs to, else starts one here."""
    num_replicas: int | None = Field(default=None, ge=1)
    """Copies of the teacher. None takes as many as the cluster has room for when the stage begins:
    by its GPUs, or without GPUs one on each machine."""
    gpus_per_replica: int | None = Field(default=None, ge=0)
    """GPUs one copy takes, all on one machine. None takes `tensor_parallel_size` where the cluster
    has a GPU, else 0."""
    cpus_per_replica: int | None = Field(default=None, ge=1)
    """CPU cores reserved for one copy, and its threads unless $OMP_NUM_THREADS says otherwise. None
    takes 1 beside a GPU, since one thread drives it; without GPUs a machine's cores, shared among
    the copies on it."""
    start_seconds: int = Field(default=3600, ge=1)
    """Longest wait for the first copy, in seconds; an hour reads a large checkpoint from a slow
    disk. The others join as they are ready."""
