"""Whether memory grows with the conversations: `python benchmarks/train/memory.py`.

Peak memory to load a train split and to make every batch of an epoch, in the order of training, for
1, 10 and 100 times as many conversations, each in a process of its own. Peer: the same columns as
one table in memory, as `datasets` holds what it is given. The goal is a ratio of 1.

Two figures: the process's own memory, which no other process can have, and all that is resident.
The second counts pages of the mapped file too, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import datasets
import pyarrow as pa
from _conversations import write_split

from train.data.batches import Collator
from train.data.cache import load_split, stored_batches
from train.data.order import SimilarLengths

BATCH_SIZE, MAX_LENGTH, MEAN_TOKENS = 8, 1024, 120
SIZES = (1, 10, 100)
WAYS = ("mapped file", "table in memory")
SECONDS_BETWEEN_LOOKS = 0.05


def own_bytes() -> int:
    """Return the memory that is this process's own now: no file's pages among it."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "Anonymous":
            return int(value.split()[0]) * 1024
    raise RuntimeError("the kernel does not tell")


class Watch(threading.Thread):
    """Looks at the process's own memory all the time and keeps the most."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Look until stopped."""
        while not self._stop_asked.wait(SECONDS_BETWEEN_LOOKS):
            self.peak = max(self.peak, own_bytes())

    def stop(self) -> int:
        """Return the most that was seen."""
        self._stop_asked.set()
        self.join()
        return self.peak


def load(way: str, directory: Path) -> datasets.Dataset:
    """Open the split."""
    if way == "mapped file":
        return load_split(directory, "train", MAX_LENGTH, directory / "scratch")
    table = pa.Table.from_batches(list(stored_batches(directory, "train")))
    lengths = pa.array([len(ids) for ids in table["token_ids"]], pa.int32())
    return datasets.Dataset(table.append_column("length", lengths)).with_format("numpy")


def work(way: str, directory: Path) -> dict[str, int]:
    """Load a split, make all its batches, and return the most memory above that before."""
    before, resident_before = own_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watch = Watch()
    watch.start()
    split = load(way, directory)
    collator = Collator(MAX_LENGTH, 0)
    order = list(SimilarLengths(split["length"][:], BATCH_SIZE, seed=0))
    for start in range(0, len(order), BATCH_SIZE):
        collator(split.__getitems__(order[start : start + BATCH_SIZE]))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "own": watch.stop() - before,
        "resident": (resident - resident_before) * 1024,
        "num_conversations": len(split),
    }


def measure(way: str, size: int, conversations_per_file: int) -> dict[str, int]:
    """Do the work in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        write_split(Path(name), size, conversations_per_file, MEAN_TOKENS)
        command = [sys.executable, __file__, "--work", way, "--directory", name]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found: dict[str, int] = json.loads(output.splitlines()[-1])
        return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--conversations", type=int, default=1000, help="in the smallest split")
    parser.add_argument("--work", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(options.work, options.directory)))
        return
    for way in WAYS:
        found = [measure(way, size, options.conversations) for size in SIZES]
        for one in found:
            print(
                f"{way}: {one['num_conversations']:,} conversations, {one['own'] / 1e6:.0f} MB of "
                f"its own, {one['resident'] / 1e6:.0f} MB resident",
                flush=True,
            )
        print(
            f"{way}: ratio {found[-1]['own'] / found[0]['own']:.2f} for {SIZES[-1]} times as many"
        )


if __name__ == "__main__":
    main()
