"""Every stage ended at random moments, and on disks that are full: what is there can be resumed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from potstill.facts.base import StageName
from potstill.manifest import verify_manifest
from potstill.rundir import RunDirectory
from tests.fixtures.disks import tiny_disk

from .conftest import HALF_DONE, POTSTILL, START_SECONDS, potstill

__all__ = ["tiny_disk"]
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]

STAGES = list(HALF_DONE)
ROOMS: dict[StageName, str] = {
    "prompts": "generate",
    "samples": "generate",
    "conversations": "generate",
    "student": "train",
    "gguf": "quantize",
    "comparison": "compare",
}
"""What `potstill stage` calls the part of the line that makes it. Its exit code is no verdict."""
NUM_MOMENTS = 5
"""Of each signal in each stage."""
FIRST_SECONDS, LAST_SECONDS = 0.05, 40.0
"""Between these, on a logarithmic scale, lies the moment after a stage has begun."""
SPARE_BYTES = 3 << 30


def before(line, stage: StageName, root: Path, *, linked: bool) -> RunDirectory:
    """Copy a finished run as it was before a stage."""
    root.mkdir()
    for path in line.run_directory.root.iterdir():
        if path.is_file():
            shutil.copy2(path, root)
    for name in STAGES[: STAGES.index(stage)]:
        shutil.copytree(
            line.run_directory.stage_dir(name),
            root / name,
            copy_function=os.link if linked else shutil.copy2,
        )
    return RunDirectory(root)


def is_ended(run_directory: RunDirectory, stage: StageName, number: int, seconds: float) -> bool:
    """End a stage so long after it began; return whether it was unfinished then."""
    command = [POTSTILL, "stage", run_directory.root, ROOMS[stage]]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + START_SECONDS
    partial = run_directory.root / f"{stage}.partial"
    while not partial.exists() and not run_directory.is_finished(stage):
        assert process.poll() is None, f"it ended before {stage}"
        assert time.monotonic() < deadline, f"{stage} did not begin"
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(number)
    process.wait(timeout=60)
    return not run_directory.is_finished(stage)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_ended_at_random_moments_can_be_resumed(line, stage, number, tmp_path):
    run_directory = before(line, stage, tmp_path / "run", linked=True)
    draw = random.Random(f"{stage} {number}")
    num_ended, latest = 0, LAST_SECONDS
    while num_ended < NUM_MOMENTS:
        moment = FIRST_SECONDS * (latest / FIRST_SECONDS) ** draw.random()
        if is_ended(run_directory, stage, number, moment):
            num_ended += 1
        else:  # It was quicker: again from its beginning, and ended sooner.
            latest = moment
            for later in STAGES[STAGES.index(stage) :]:
                for directory in run_directory.root.glob(f"{later}*/"):
                    shutil.rmtree(directory)
    assert_finishes(run_directory, stage, line)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_on_a_full_disk_says_so_and_can_be_resumed(line, stage, share, tiny_disk):
    finished_dir = line.run_directory.stage_dir(stage)
    num_bytes = sum(path.stat().st_size for path in finished_dir.iterdir())
    disk = tiny_disk(SPARE_BYTES)
    run_directory = before(line, stage, disk / "run", linked=False)
    left = shutil.disk_usage(disk).free - round(share * num_bytes)
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, left)
    result = potstill("stage", run_directory.root, ROOMS[stage])
    assert result.returncode == 1, result.stderr[-3000:]
    assert "hint: free disk space" in result.stderr
    assert "Traceback" not in result.stderr
    assert not run_directory.is_finished(stage)
    (disk / "filler").unlink()
    assert_finishes(run_directory, stage, line)


def assert_finishes(run_directory: RunDirectory, stage: StageName, line) -> None:
    """Assert that a stage ends with the files that it has in the finished run, and no others."""
    result = potstill("stage", run_directory.root, ROOMS[stage])
    assert result.returncode == 0, result.stderr[-3000:]
    manifest = verify_manifest(run_directory.stage_dir(stage))
    expected = verify_manifest(line.run_directory.stage_dir(stage))
    names, expected_names = (sorted(one.path for one in of.outputs) for of in (manifest, expected))
    assert names == expected_names
    assert type(manifest.facts) is type(expected.facts)
    left = {path.name for path in run_directory.root.iterdir()}
    assert not [name for name in left if name.endswith(".partial")]
