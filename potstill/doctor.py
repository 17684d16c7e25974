"""What this machine has, and what of potstill fits on it: one line each, with advice.

In: the machine, the packages that are installed, the lock of a checkout. Out: findings.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from potstill.cards import Cards, MachineConfig, listed
from potstill.config import preset_names
from potstill.errors import PotstillError, first_line
from potstill.models.files import cache_dir
from potstill.pipeline import Choice, cards_of, estimate, resolve
from potstill.plan import Placed, misfits
from potstill.processor import features, memory_bytes, usable_threads
from potstill.rundir import RunDirectory

LOCKS_DIR = Path(__file__).resolve().parent.parent / "requirements"
LOCKED = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;+]+)", re.MULTILINE)
LEAST_DISK_BYTES = 10e9
"""A run of the smallest preset with vLLM's and torch's files beside it."""
MOST_NAMED = 4
FEATURES = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX"}


@dataclass(frozen=True)
class Finding:
    """One line."""

    subject: str
    found: str
    advice: str | None = None
    """What to do; None: nothing."""

    def line(self) -> str:
        """Return the finding in words."""
        mark = "ok" if self.advice is None else "->"
        advice = "" if self.advice is None else f": {self.advice}"
        return f"{mark}  {self.subject}: {self.found}{advice}"


def examine() -> Iterator[Finding]:
    """Yield what was found, from the machine to the presets."""
    yield _processor()
    yield _memory()
    yield from (_disk("here", Path.cwd()), _disk("the cache of models", cache_dir()))
    yield _cards()
    yield _versions(LOCKS_DIR)
    here = Cards.of(MachineConfig())
    for name in preset_names():
        yield _preset(name, here)


def _processor() -> Finding:
    known = [name for key, name in FEATURES.items() if key in features()]
    found = f"{usable_threads()} threads; {', '.join(known) or 'features unknown'}"
    if "avx512_bf16" in features() or not features():
        return Finding("processor", found)
    advice = "bfloat16 is computed by way of float32 here; expect training at half the speed"
    return Finding("processor", found, advice)


def _memory() -> Finding:
    total, free = memory_bytes(), free_memory()
    found = f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
    if free < total / 2:
        return Finding("memory", found, "end other programs before a run")
    return Finding("memory", found)


def free_memory() -> float:
    """Return the memory that programs can have without swapping, in bytes."""
    return float(psutil.virtual_memory().available)


def _disk(where: str, path: Path) -> Finding:
    existing = next(one for one in (path, *path.parents) if one.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / 1e9:.1f} GB free on the disk of {path}"
    advice = f"a run needs about {LEAST_DISK_BYTES / 1e9:.0f} GB; use another disk"
    return Finding(f"disk, {where}", found, advice if free < LEAST_DISK_BYTES else None)


def _cards() -> Finding:
    try:
        cards = listed("name", "memory.total", "driver_version")
    except FileNotFoundError:
        return Finding("GPU", "none of NVIDIA's; everything runs on the processor")
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("GPU", f"nvidia-smi fails ({type(error).__name__})", "repair the driver")
    return Finding("GPU", "; ".join(cards))


def _versions(locks_dir: Path) -> Finding:
    """Compare what is installed with the lock that is nearest to it."""
    subject = "versions"
    locks = [path for path in sorted(locks_dir.glob("*.txt")) if "torch" not in path.name]
    compared = [(_other_versions(path), path.name) for path in locks]
    if not compared:
        return Finding(subject, "no lock beside this installation; ranges are in its metadata")
    others, name = min(compared, key=lambda one: len(one[0]))
    if not others:
        return Finding(subject, f"those of requirements/{name}, which are tested")
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    found = f"{', '.join(others[:MOST_NAMED])}{more} differ from requirements/{name}"
    return Finding(subject, found, "run make setup for the tested ones")


def _other_versions(lock: Path) -> list[str]:
    """Return the packages of a lock with another version, or none, installed."""
    return [
        f"{name} {found or 'missing'} (tested: {version})"
        for name, version in LOCKED.findall(lock.read_text(encoding="utf-8"))
        if (found := _installed(name)) != version
    ]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def _preset(name: str, here: Cards | None) -> Finding:
    """Return whether a preset fits.

    Args:
        here: The GPUs of this machine.
    """
    subject = f"preset {name}"
    try:
        tables = resolve(Choice(name))
        with tempfile.TemporaryDirectory() as directory:
            estimates, _ = estimate(tables, RunDirectory(Path(directory)))
    except (PotstillError, ImportError) as error:
        advice = getattr(error, "hint", None) or "see potstill run --dry-run"
        return Finding(subject, f"not estimated, {first_line(error)}", advice)
    cards = here or cards_of(tables)
    rows = [one.placed(None, cards) for one in estimates]
    return Finding(subject, *_fit(rows, cards, is_here=here is not None))


def _fit(rows: Sequence[Placed], cards: Cards | None, *, is_here: bool) -> tuple[str, str | None]:
    """Return what stages take, in words, and what to do where this machine has too little.

    Args:
        cards: GPUs for the stages that use some.
        is_here: Whether they are this machine's.
    """
    found = _sizes(rows, cards)
    if cards is not None and not is_here:
        return found, f"for a machine with {cards.number} x {cards.name}; here are no such GPUs"
    if cards is not None and (notes := misfits(rows, cards)):
        return found, notes[0]
    if _memory_bytes(rows) > free_memory():
        return found, "more memory than is free; choose a smaller preset or model"
    if sum(row.cost.disk_bytes for row in rows) > shutil.disk_usage(Path.cwd()).free:
        return found, "more disk than is free here; run it on another disk"
    return f"fits, {found}", None


def _sizes(rows: Sequence[Placed], cards: Cards | None) -> str:
    """Return the most memory and disk that stages take, in words."""
    on_cards = {row.cost.stage: row.card_bytes for row in rows if row.card_bytes}
    on_host = {row.cost.stage: row.cost.memory_bytes for row in rows if not row.card_bytes}
    parts = []
    if on_cards and cards is not None:
        most = f"{max(on_cards.values()) / 1e9:.1f} GB on each of {cards.number} x {cards.name}"
        parts.append(f"{most} ({_by_stage(on_cards)})")
    if on_host:
        parts.append(f"{_memory_bytes(rows) / 1e9:.1f} GB of memory ({_by_stage(on_host)})")
    disk = sum(row.cost.disk_bytes for row in rows)
    found = f"about {', '.join(parts)} and {disk / 1e9:.1f} GB of disk"
    to_fetch = sum(row.cost.bytes_to_fetch for row in rows)
    return found + (f", and {to_fetch / 1e9:.1f} GB of models to fetch" if to_fetch else "")


def _memory_bytes(rows: Iterable[Placed]) -> float:
    return max((row.cost.memory_bytes for row in rows if not row.card_bytes), default=0.0)


def _by_stage(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{stage} {size / 1e9:.1f}" for stage, size in sizes.items())
