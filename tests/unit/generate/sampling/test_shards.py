import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from generate.lazy_teacher import LazyTeacher
from generate.prompts.stage import make_prompts
from generate.sampling.shards import devices, make_parts_in_replicas, run_shard
from generate.sampling.stage import open_samples
from generate.stage import run
from potstill.errors import ArtifactError, ConfigError, TeacherError
from potstill.rundir import RunDirectory

TOY_REPLICA = Path(__file__).parents[3] / "fixtures" / "toy_replica.py"
FEW = {"engine": {"conversations_per_part": 2}}
"""Five parts."""


def part_names(directory: Path) -> list[str]:
    return [path.name for path in sorted(directory.glob("part-*.parquet"))]


@pytest.fixture
def undivided(configured, run_directory, toys) -> RunDirectory:
    """The same run, made by one process."""
    whole = RunDirectory(run_directory.root.with_name("whole"))
    run(configured(**FEW), whole)
    toys.loaded.clear()
    return whole


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_make_together_what_one_process_makes(
    configured, run_directory, toys, stored, undivided, order
):
    config = configured(**FEW)
    lasts = [run_shard(config, run_directory, f"{index}/3") for index in order]
    assert lasts == [False, False, True]
    assert len(toys.loaded) == 3
    assert all(teacher.closed for teacher in toys.loaded)
    asked = [len(teacher.asked) for teacher in toys.loaded]
    assert [asked[order.index(shard)] for shard in (1, 2, 3)] == [4, 4, 2]
    manifest = run(config, run_directory)
    assert len(toys.loaded) == 3
    assert manifest == run_directory.require("conversations")
    assert stored.samples(run_directory) == stored.samples(undivided)
    assert stored.prompts(run_directory) == stored.prompts(undivided)
    for name in part_names(undivided.stage_dir("samples")):
        made = (run_directory.stage_dir("samples") / name).read_bytes()
        assert made == (undivided.stage_dir("samples") / name).read_bytes()


def test_a_shard_makes_its_own_parts_only(configured, run_directory, toys):
    run_shard(configured(**FEW), run_directory, "2/2")
    directory = run_directory.partial_dir("samples")
    assert part_names(directory) == ["part-00001.parquet", "part-00003.parquet"]
    assert run_directory.is_finished("prompts")
    assert len(toys.loaded[0].asked) == 4


def test_a_shard_that_was_killed_goes_on(configured, run_directory, toys):
    config = configured(**FEW)
    toys.lives = 2
    with pytest.raises(KeyboardInterrupt):
        run_shard(config, run_directory, "1/2")
    assert toys.loaded[0].closed
    toys.lives = None
    assert not run_shard(config, run_directory, "1/2")
    assert len(toys.loaded[1].asked) == 4
    assert run_shard(config, run_directory, "2/2")


def test_a_shard_with_nothing_to_do_loads_no_teacher(configured, run_directory, toys):
    config = configured(**FEW)
    assert not run_shard(config, run_directory, "9/9")
    assert toys.loaded == []
    assert not run_shard(config, run_directory, "1/2")
    assert not run_shard(config, run_directory, "1/2")
    assert run_shard(config, run_directory, "2/2")
    run(config, run_directory)
    assert run_shard(config, run_directory, "1/2")
    assert len(toys.loaded) == 2


def test_the_same_shard_twice_at_once_is_refused(configured, run_directory, toys):
    config = configured(**FEW)
    refused: list[str] = []
    last: list[bool] = []

    def answer(_request):
        if last:
            return "So.|"
        toys.answer = lambda _: "So.|"
        for work in (lambda: run_shard(config, run_directory, "1/2"), lock):
            with pytest.raises(ArtifactError) as caught:
                work()
            refused.append(caught.value.what)
        last.append(run_shard(config, run_directory, "2/2"))
        return "So.|"

    def lock():
        with run_directory.locked():
            pass

    toys.answer = answer
    assert run_shard(config, run_directory, "1/2")
    assert refused == ["another potstill process is working on this run"] * 2
    assert last == [False]


def test_a_whole_run_keeps_shards_out(configured, run_directory, toys):
    with run_directory.locked(), pytest.raises(ArtifactError, match="another potstill process"):
        run_shard(configured(**FEW), run_directory, "1/2")
    assert toys.loaded == []


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_what_is_no_shard_is_refused(configured, run_directory, toys, text):
    with pytest.raises(ConfigError, match="invalid shard") as caught:
        run_shard(configured(), run_directory, text)
    assert caught.value.where == f"--shard {text}"
    assert not run_directory.root.exists()
    assert toys.loaded == []


@pytest.fixture
def open_session(configured, run_directory, toys, monkeypatch):
    """Return a function that makes the prompts and opens the samples for two replicas."""
    monkeypatch.setattr("generate.sampling.shards.POLL_SECONDS", 0.01)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert toys.loaded == []

    def make(**tables):
        config = configured(engine=FEW["engine"] | {"data_parallel_size": 2}, **tables)
        make_prompts(config, LazyTeacher(config), run_directory)
        return config, run_directory, open_samples(config, run_directory)

    return make


@pytest.fixture
def toy_replicas(monkeypatch, tmp_path):
    """Put the toy teacher into the processes of replicas."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {TOY_REPLICA} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.mark.slow
@pytest.mark.usefixtures("toy_replicas")
def test_replicas_go_on_where_one_was_killed_and_make_what_one_process_makes(
    open_session, undivided, toys, stored, monkeypatch
):
    monkeypatch.setenv("TOY_LIVES", "2")
    config, run_directory, session = open_session()
    with pytest.raises(TeacherError, match="a replica of the teacher failed") as caught:
        make_parts_in_replicas(config, run_directory, session)
    assert "KeyboardInterrupt" in Path(caught.value.where).read_text()
    assert caught.value.found in ("exit code 1", f"exit code {-signal.SIGINT}")
    monkeypatch.delenv("TOY_LIVES")
    run(config, run_directory)
    assert stored.samples(run_directory) == stored.samples(undivided)
    assert toys.loaded == []
    assert not (run_directory.stage_dir("samples") / "scratch").exists()


def test_a_damaged_part_is_no_finished_one(open_session, undivided, monkeypatch):
    """Its replica makes it again."""
    config, run_directory, session = open_session()
    shards: list[str] = []

    class Started(Exception):
        pass

    def start(_config, _run, _session, shard):
        shards.append(str(shard))
        raise Started

    for path in undivided.stage_dir("samples").glob("part-*.parquet"):
        shutil.copy(path, session.dir)
    monkeypatch.setattr("generate.sampling.shards._Replica", start)
    make_parts_in_replicas(config, run_directory, session)
    assert shards == []
    damaged = session.dir / "part-00003.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(Started):
        make_parts_in_replicas(config, run_directory, session)
    assert shards == ["1/2"]
    assert not damaged.exists()


@pytest.mark.slow
def test_an_error_of_a_replica_is_reported(open_session, tmp_path):
    """The real process: it has no toys, and does not find the model."""
    config, run_directory, session = open_session(teacher={"model": str(tmp_path / "none")})
    with pytest.raises(TeacherError, match="a replica of the teacher failed") as caught:
        make_parts_in_replicas(config, run_directory, session)
    assert caught.value.where.parent == session.scratch_dir
    assert caught.value.where.name in ("replica-1.log", "replica-2.log")
    assert caught.value.found == "error: the checkpoint cannot be found"


def test_replicas_on_a_cpu_share_its_cores(configured, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 2, 3, 11, 4})
    config = configured(engine={"data_parallel_size": 2})
    assert [devices(config, index) for index in range(2)] == [
        {"OMP_NUM_THREADS": "3"},
        {"OMP_NUM_THREADS": "2"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    crowded = configured(engine={"data_parallel_size": 7})
    assert devices(crowded, 1) == {"OMP_NUM_THREADS": "1"}
    assert devices(crowded, 6) == {"OMP_NUM_THREADS": "1"}


def test_each_replica_sees_its_own_gpus(configured, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-ab,6,1,0")
    config = configured(engine={"data_parallel_size": 2, "tensor_parallel_size": 2})
    assert [devices(config, index) for index in range(2)] == [
        {"CUDA_VISIBLE_DEVICES": "4,GPU-ab"},
        {"CUDA_VISIBLE_DEVICES": "6,1"},
    ]


def test_too_few_gpus_are_an_error(configured, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    config = configured(engine={"data_parallel_size": 2, "tensor_parallel_size": 2})
    with pytest.raises(ConfigError, match="too few GPUs") as caught:
        devices(config, 0)
    assert (caught.value.expected, caught.value.found) == ("2 times 2 GPUs", 3)
