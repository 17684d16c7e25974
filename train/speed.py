"""The speed of training and of memory on this machine, for estimates of time.

`probe` is a service of `potstill.workers`: the core, which makes the estimates, imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from potstill.workers import Handler, json_handler
from train.students.plan import fast_dtype

SECONDS = 1.0
"""Duration of each of the three measurements."""
NUM_TOKENS = 512
"""Tokens of a small batch."""
NUM_LAYERS = 2
NUM_COPIED = 1 << 26
"""Values that are copied at once: 256 MB, more than any cache."""
FLOPS_PER_WEIGHT = 6.0
"""For each token: forward pass, gradient of a layer's input, gradient of its weights."""


class Mlp(nn.Module):
    """A decoder layer without its attention: the larger part of its products."""

    def __init__(self, hidden_size: int, num_neurons: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(hidden_size)
        self.gate, self.up = (nn.Linear(hidden_size, num_neurons, bias=False) for _ in range(2))
        self.down = nn.Linear(num_neurons, hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the layer's output, residual included."""
        normed = self.norm(hidden)
        out: Tensor = hidden + self.down(nn.functional.silu(self.gate(normed)) * self.up(normed))
        return out


def probe(hidden_size: int, num_neurons: int) -> Handler:
    """Return a handler that measures the fields of `potstill.plan.Machine`.

    Args:
        hidden_size: Width of the model that the estimates are for.
        num_neurons: Of each of its MLPs.
    """

    def measure(_request: object) -> dict[str, float]:
        layers = nn.Sequential(*(Mlp(hidden_size, num_neurons) for _ in range(NUM_LAYERS)))
        dtypes = {"fast_flops": fast_dtype("auto"), "float32_flops": torch.float32}
        flops = {name: training_flops(layers, hidden_size, one) for name, one in dtypes.items()}
        return {**flops, "bytes_per_second": bytes_per_second()}

    return json_handler(measure)


def training_flops(layers: nn.Module, hidden_size: int, dtype: torch.dtype) -> float:
    """Return the operations per second of forward and backward passes, as training makes them."""
    hidden = torch.randn(1, NUM_TOKENS, hidden_size, requires_grad=True)

    def step() -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            out = layers(hidden)
        out.float().sum().backward()
        layers.zero_grad()

    num_weights = sum(parameter.numel() for parameter in layers.parameters())
    return FLOPS_PER_WEIGHT * num_weights * NUM_TOKENS / shortest_seconds(step)


def bytes_per_second() -> float:
    """Return the memory bandwidth, of reading and writing together."""
    source = torch.ones(NUM_COPIED)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / shortest_seconds(lambda: target.copy_(source))


def shortest_seconds(work: Callable[[], object]) -> float:
    """Repeat work and return the shortest time: other processes can only lengthen it."""
    work()
    seconds: list[float] = []
    end = time.perf_counter() + SECONDS
    while not seconds or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
