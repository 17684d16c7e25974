"""Fuzzing of one parser in this process: `python -m tests.fuzz.harness TARGET --runs 100000`.

atheris, which is libFuzzer for Python, changes inputs and keeps those that reach new code. A run
fails if a parser raises anything but its typed errors, if one input takes 60 s, or if the process
takes 2 GiB. The input at fault is then in the directory of `--found`, and replayed by naming it:
`python -m tests.fuzz.harness TARGET --replay FILE`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

SEEDS = Path(__file__).with_name("corpus")
"""One directory of small inputs for each target."""
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "fuzz"
"""Where inputs that reach new code are kept between runs."""
INPUT_SECONDS = 60
MEMORY_MEGABYTES = 2048
INSTRUMENTED = ["potstill", "generate", "serve"]
"""Packages in which atheris sees what code an input reaches."""

Take = Callable[[bytes], object]
"""Reads one input; any exception is a finding."""
Mutate = Callable[[bytes, int, int], bytes]
"""Returns a changed input, given the largest size and a seed."""


@dataclass(frozen=True)
class Target:
    """A parser of bytes that others send.

    Attributes:
        name: Also that of its directory of seeds.
        prepare: Imports the parser and returns the function that takes one input.
        nightly_runs: Inputs of the nightly lane.
        short_runs: Inputs of a run of seconds.
        mutate: Changes an input beside libFuzzer's own ways; None leaves all to them.
        max_bytes: Of an input.
    """

    name: str
    prepare: Callable[[], Take]
    nightly_runs: int
    short_runs: int = 500
    mutate: Mutate | None = None
    max_bytes: int = 4096

    @property
    def seed_dir(self) -> Path:
        """The directory of its seeds."""
        return SEEDS / self.name


MODULES = (
    "tests.fuzz.bodies",
    "tests.fuzz.connections",
    "tests.fuzz.grammars",
    "tests.fuzz.headers",
    "tests.fuzz.prompts",
    "tests.fuzz.traces",
)


def targets() -> dict[str, Target]:
    """Return all targets by name."""
    return {one.name: one for module in MODULES for one in import_module(module).TARGETS}


def main(arguments: Sequence[str]) -> None:
    """Fuzz one target; libFuzzer ends the process, with 0 if nothing was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=sorted(targets()))
    parser.add_argument("--runs", type=int, default=-1, help="inputs; all that fit without it")
    parser.add_argument("--seconds", type=int, default=0, help="at most; no limit without it")
    parser.add_argument("--kept", type=Path, help="where inputs that reach new code are kept")
    parser.add_argument("--found", type=Path, default=Path(), help="where an input at fault goes")
    parser.add_argument("--replay", type=Path, help="one input to take, and no others")
    parser.add_argument("--seed", type=int, default=0, help="of the changes; another one without")
    given = parser.parse_args(arguments)
    target = targets()[given.target]
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        take = target.prepare()
    if given.replay:
        take(given.replay.read_bytes())
        return
    kept = given.kept or CACHE / target.name
    kept.mkdir(parents=True, exist_ok=True)
    options = {
        "runs": given.runs,
        "max_total_time": given.seconds,
        "seed": given.seed,
        "timeout": INPUT_SECONDS,
        "rss_limit_mb": MEMORY_MEGABYTES,
        "max_len": target.max_bytes,
        "artifact_prefix": f"{given.found}/",
        "print_final_stats": 1,
        "verbosity": 1,
        # Collecting garbage of a Python process shows no leaks of C.
        "detect_leaks": 0,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    mutators = {} if target.mutate is None else {"custom_mutator": _mixed(target.mutate)}
    directories = [str(kept), str(target.seed_dir)]
    atheris.Setup([sys.argv[0], *flags, *directories], take, **mutators)
    atheris.Fuzz()


def _mixed(mutate: Mutate) -> Mutate:
    """Return a mutator that leaves every fourth input to libFuzzer."""
    import atheris

    def mixed(data: bytes, max_size: int, seed: int) -> bytes:
        if seed % 4 == 0:
            return bytes(atheris.Mutate(data, max_size))
        return mutate(data, max_size, seed)[:max_size]

    return mixed


if __name__ == "__main__":
    main(sys.argv[1:])
