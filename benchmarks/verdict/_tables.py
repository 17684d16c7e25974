"""Tables of simulations: computed row by row, kept until the code changes, written into pages.

In: tables whose rows are functions. Out: text, the same each time for the same number of runs.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.random import Generator

from potstill.errors import ConfigError
from potstill.files import write_text_atomically

Row = Callable[[Generator, int], Sequence[object]]
"""From a random generator and the number of runs to a row's cells."""
Map = Callable[..., Iterable[str]]
CODE = ("benchmarks/verdict", "compare/verdict", "compare/judges", "potstill/verdict")
"""What tables depend on."""


@dataclass(frozen=True)
class Table:
    """A table of a page."""

    name: str
    header: Sequence[str]
    rows: Sequence[Row]
    is_exact: bool = False
    """Whether nothing is drawn."""

    def lines(self, num_runs: int, map_rows: Map) -> Iterator[str]:
        """Yield the table's lines, and before it the number of runs."""
        if not self.is_exact:
            near, half = (math.sqrt(rate * (1 - rate) / num_runs) for rate in (0.05, 0.5))
            yield f"{num_runs} runs: standard error {near:.3f} near 0.05, {half:.3f} near 0.5."
            yield ""
        yield line(self.header)
        yield line(["---", *["--:"] * (len(self.header) - 1)])
        seeds = [(crc32(self.name.encode()), number) for number in range(len(self.rows))]
        yield from map_rows(_computed, self.rows, seeds, [num_runs] * len(self.rows))


def line(cells: Sequence[object]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def stored_or_computed(table: Table, num_runs: int, directory: Path, map_rows: Map) -> str:
    """Return a table's text; print its lines as they come.

    Args:
        directory: Where it is kept; a table that is there is not computed again.
    """
    path = directory / f"{table.name}-{num_runs}.md"
    print(f"\n### {table.name}\n", flush=True)
    if path.exists():
        text = path.read_text(encoding="utf-8")
        print(text)
        return text
    lines = []
    for one in table.lines(num_runs, map_rows):
        print(one, flush=True)
        lines.append(one)
    directory.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines)
    write_text_atomically(path, text)
    return text


def fill(pages: Sequence[Path], name: str, text: str) -> None:
    """Write a table into the page that has its marks, between them.

    Raises:
        ConfigError: No page has such marks, or several have.
    """
    marks = re.compile(rf"(<!-- simulated: {name} -->\n)(?:(?!<!--).)*(<!-- end -->)", re.DOTALL)
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    places = [page for page, before in texts.items() for _ in marks.finditer(before)]
    if len(places) != 1:
        raise ConfigError(
            "there is no place for a table",
            where=", ".join(map(str, pages)),
            expected=f"<!-- simulated: {name} --> and <!-- end -->, once",
            found=f"{len(places)} of them",
        )
    (page,) = places
    filled = marks.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", texts[page])
    write_text_atomically(page, filled)


@contextmanager
def mapping(num_processes: int) -> Iterator[Map]:
    """Yield a function like `map`, in this process or in several."""
    if num_processes == 1:
        yield map
        return
    with ProcessPoolExecutor(num_processes) as executor:
        yield executor.map


def digest_of_code() -> str:
    """Return a digest of the code that tables depend on."""
    found = hashlib.sha256()
    for folder in CODE:
        for path in sorted(Path(folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _computed(row: Row, seed: Sequence[int], num_runs: int) -> str:
    return line(row(np.random.default_rng(seed), num_runs))
