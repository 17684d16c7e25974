"""NVIDIA cards for estimates: the table `[machine]`, and the figures of datasheets.

In: the configuration, or what nvidia-smi lists. Out: the cards of a run, for `potstill.plan`.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Self

from pydantic import Field, field_validator

from potstill.config import Table

SMI_SECONDS = 20.0
"""How long nvidia-smi may take; the first call after a start loads the driver."""


@dataclass(frozen=True)
class Card:
    """The figures of a card's datasheet, without sparsity."""

    memory_bytes: float
    bfloat16_flops: float
    """Operations per second of matrix products in bfloat16."""
    float32_flops: float
    bytes_per_second: float
    """Memory bandwidth."""


CARDS = {
    "RTX 3090": Card(24e9, 71e12, 35.6e12, 0.936e12),
    "RTX 4090": Card(24e9, 165e12, 82.6e12, 1.008e12),
    "RTX 5090": Card(32e9, 210e12, 104.8e12, 1.792e12),
    "A10": Card(24e9, 125e12, 31.2e12, 0.6e12),
    "L4": Card(24e9, 121e12, 30.3e12, 0.3e12),
    "L40S": Card(48e9, 362e12, 91.6e12, 0.864e12),
    "A100 40GB": Card(40e9, 312e12, 19.5e12, 1.555e12),
    "A100 80GB": Card(80e9, 312e12, 19.5e12, 2.039e12),
    "H100": Card(80e9, 989e12, 67e12, 3.35e12),
    "H200": Card(141e9, 989e12, 67e12, 4.8e12),
}
"""By name: each word of it is one of the words of nvidia-smi's name."""


class MachineConfig(Table):
    """The cards that an estimate is for. No stage reads this: each takes the GPUs it finds."""

    card: str | None = None
    """A card by the name that potstill knows (potstill/cards.py). None: what nvidia-smi lists on
    this machine, and without a GPU its processor."""
    cards_per_machine: int = Field(default=1, ge=1)
    """Number of cards of each machine, where `card` is given."""
    num_machines: int = Field(default=1, ge=1)
    """Number of machines with these cards."""

    @field_validator("card")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in CARDS:
            raise ValueError(f"a card among {', '.join(CARDS)}")
        return name


@dataclass(frozen=True)
class Cards:
    """Equal cards of one machine or several."""

    name: str
    number: int

    @property
    def card(self) -> Card:
        """The figures of one."""
        return CARDS[self.name]

    @classmethod
    def of(cls, config: MachineConfig) -> Self | None:
        """Return the configured cards, else those of this machine; None where there are none.

        Cards that are not in `CARDS`, or not all equal, count as none.
        """
        if config.card is not None:
            return cls(config.card, config.cards_per_machine * config.num_machines)
        names = listed_names()
        known = {_known_name(name) for name in names}
        if len(known) != 1 or (name := known.pop()) is None:
            return None
        return cls(name, len(names) * config.num_machines)


def listed_names() -> list[str]:
    """Return the names of this machine's GPUs as nvidia-smi lists them; [] without a driver."""
    try:
        return listed("name")
    except (OSError, subprocess.SubprocessError):
        return []


def listed(*properties: str) -> list[str]:
    """Return a line of properties for each GPU of this machine, as nvidia-smi names them.

    Raises:
        FileNotFoundError: There is no driver.
        OSError: The program cannot be started.
        SubprocessError: It fails.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(properties)}", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=SMI_SECONDS, check=True)
    return [line.strip() for line in found.stdout.splitlines() if line.strip()]


def _known_name(listed: str) -> str | None:
    words = set(listed.replace("-", " ").split())
    return next((name for name in CARDS if words.issuperset(name.split())), None)
