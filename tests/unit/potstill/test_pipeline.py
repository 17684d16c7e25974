import json
import shutil
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from potstill import cli, former_names
from potstill.cards import MachineConfig
from potstill.commands import stages
from potstill.config import read_config_file
from potstill.errors import (
    ArtifactError,
    ConfigError,
    ConversionError,
    ManifestMismatchError,
    PotstillError,
    TrainingError,
)
from potstill.facts.base import OPTIONAL_STAGES, STAGE_NAMES
from potstill.pipeline import (
    PIPELINE,
    SERVE,
    STAGES,
    Choice,
    estimate,
    read_estimate,
    resolve,
    run_pipeline,
    run_share,
    run_stage,
)
from potstill.plan import Machine
from potstill.rundir import RunDirectory
from potstill.task.config import TaskConfig

OWN = Choice()
TRAIN = STAGES["train"]
GENERATE = STAGES["generate"]


@pytest.fixture
def fake_room(monkeypatch):
    """Return a function that puts another `run` into a stage's room."""

    def put(name, run):
        module = ModuleType(f"{name}.stage")
        module.run = run
        monkeypatch.setitem(sys.modules, f"{name}.stage", module)

    return put


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine of known speed, measured in no time."""
    found = Machine(fast_flops=2e11, float32_flops=1e11, bytes_per_second=1e10)
    monkeypatch.setattr("potstill.pipeline.measure_machine", lambda _model: found)
    return found


@pytest.fixture
def processes(monkeypatch):
    """Record the commands that the pipeline runs; each stage's exit code can be set."""
    recorded = SimpleNamespace(commands=[], codes={})

    def child_process(command):
        recorded.commands.append(command)
        code = recorded.codes.get(command[5], 0)
        return nullcontext(SimpleNamespace(wait=lambda: code))

    monkeypatch.setattr("potstill.pipeline.child_process", child_process)
    return recorded


def max_steps(choice, run_directory):
    return resolve(choice, run_directory)["train"].max_steps


def write_config(run_directory, text):
    run_directory.root.mkdir(exist_ok=True)
    run_directory.config_path.write_text(text)


def make_student(table, run_directory):
    """Do the train stage's work without training."""
    session = run_directory.open_stage("student", table.to_json())
    if not session.finished:
        session.finish()


def test_every_directory_of_a_run_is_made_by_one_stage():
    made = [name for stage in PIPELINE for name in stage.makes]
    assert sorted([*made, *OPTIONAL_STAGES]) == sorted(STAGE_NAMES)
    assert SERVE.makes == ()
    assert list(STAGES) == ["generate", "train", "quantize", "compare", "serve"]


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_a_table_with_defaults(name):
    assert STAGES[name].table_class()().to_json()


def test_without_anything_there_are_defaults(run_directory):
    tables = resolve(OWN, run_directory)
    defaults = {name: stage.table_class()() for name, stage in STAGES.items()}
    assert tables == {"task": TaskConfig(), "machine": MachineConfig()} | defaults


def test_a_preset_a_file_or_the_runs_own_file_in_that_order(run_directory, tmp_path, monkeypatch):
    presets = {"fast": {"train": {"max_steps": 70}}}
    monkeypatch.setattr("potstill.pipeline.read_preset", presets.__getitem__)
    (tmp_path / "mine.toml").write_text("[train]\nmax_steps = 71\n")
    write_config(run_directory, "[train]\nmax_steps = 72\n")
    assert max_steps(OWN, run_directory) == 72
    assert max_steps(Choice(path=tmp_path / "mine.toml"), run_directory) == 71
    assert max_steps(Choice(preset="fast"), run_directory) == 70


@pytest.mark.parametrize("base", ["preset", "path", "own"])
def test_overrides_count_above_all_else(run_directory, tmp_path, base):
    (tmp_path / "mine.toml").write_text("[train]\nmax_steps = 71\nseed = 5\n")
    write_config(run_directory, "[train]\nmax_steps = 72\nseed = 5\n")
    choice = Choice(
        preset="general" if base == "preset" else None,
        path=tmp_path / "mine.toml" if base == "path" else None,
        overrides=("train.max_steps=73", "train.kd.weight=0.25"),
    )
    train = resolve(choice, run_directory)["train"]
    assert train.max_steps == 73
    assert train.kd.weight == 0.25
    assert train.seed == (0 if base == "preset" else 5)


def test_a_library_that_is_absent_is_reported_with_its_extra(run_directory, fake_room):
    def run(_table, _run_directory):
        import a_library_that_nobody_wrote  # noqa: F401

    fake_room("train", run)
    with pytest.raises(PotstillError, match="a_library_that_nobody_wrote") as caught:
        TRAIN.run(TRAIN.table_class()(), run_directory)
    assert "'potstill[train]'" in caught.value.hint


def test_an_error_names_where_the_value_came_from(run_directory, tmp_path):
    (tmp_path / "mine.toml").write_text("[train]\nmax_steps = 0\n")
    with pytest.raises(ConfigError) as caught:
        resolve(Choice(path=tmp_path / "mine.toml", overrides=("train.seed=-1",)), run_directory)
    assert caught.value.where == str(tmp_path / "mine.toml")
    with pytest.raises(ConfigError) as caught:
        resolve(Choice(overrides=("train.max_steps=0",)), run_directory)
    assert caught.value.where == "--set"
    write_config(run_directory, "[trian]\n")
    with pytest.raises(ConfigError, match="did you mean 'train'") as caught:
        resolve(OWN, run_directory)
    assert caught.value.where == str(run_directory.config_path)


@pytest.mark.parametrize(
    "choice",
    [
        Choice(),
        Choice(preset="general"),
        Choice(path=Path("my configs/mine.toml"), overrides=("train.seed=1",)),
        Choice(
            preset="general",
            overrides=(
                "generate.teacher.model=/models/a b",
                'serve.models=["a", "b"]',
                "train.x=y=z",
            ),
        ),
    ],
)
def test_a_choice_comes_back_from_its_options(choice, monkeypatch):
    """As the command line of each stage's own process reads them."""
    seen = []
    monkeypatch.setattr(stages, "run_stage", lambda _stage, choice, *_, **__: seen.append(choice))
    monkeypatch.setattr("potstill.commands.options.set_up_logging", lambda **_: None)
    cli.app(["stage", "runs/x", "train", *choice.options()], standalone_mode=False)
    assert seen == [choice]


def test_all_stages_run_in_order_in_processes_of_their_own(run_directory, processes):
    choice = Choice(preset="general", overrides=("train.seed=1",))
    code = run_pipeline(choice, run_directory, force=False, options=["--verbose"])
    assert code == 0
    options = ["--set=train.seed=1", "--preset=general", "--verbose"]
    assert processes.commands == [
        [sys.executable, "-m", "potstill", "stage", str(run_directory.root), name, *options]
        for name in ("generate", "train", "quantize", "compare")
    ]


def test_force_sets_all_stages_aside_once(run_directory, processes):
    made = set(STAGE_NAMES) - OPTIONAL_STAGES
    for name in made:
        run_directory.open_stage(name, {}).finish()
    run_pipeline(OWN, run_directory, force=True)
    for name in made:
        assert not run_directory.is_finished(name)
        assert run_directory.replaced_dir(name).is_dir()
    assert all("--force" not in command for command in processes.commands)


@pytest.mark.usefixtures("processes")
def test_what_a_run_will_take_is_logged_and_kept_before_its_first_stage(
    run_directory, machine, caplog
):
    caplog.set_level("INFO")
    run_pipeline(OWN, run_directory, force=False)
    costs, _ = estimate(resolve(OWN), run_directory)
    assert read_estimate(run_directory) == {
        cost.stage: round(cost.seconds(machine)) for cost in costs
    }
    minutes = sum(cost.seconds(machine) for cost in costs) / 60
    assert f"about {minutes:.0f} minutes" in caplog.text
    run_directory.estimate_path.unlink()
    run_directory.open_stage("prompts", {}).finish()
    run_pipeline(OWN, run_directory, force=False)
    assert read_estimate(run_directory) == {}, "of a part of the run nothing is said"


def test_force_keeps_what_is_finished_where_the_settings_are_wrong(
    run_directory, processes, monkeypatch
):
    def fail(*_arguments):
        raise ConversionError("cannot be converted")

    monkeypatch.setattr("potstill.pipeline.estimate", fail)
    run_directory.open_stage("prompts", {}).finish()
    with pytest.raises(ConversionError):
        run_pipeline(OWN, run_directory, force=True)
    assert run_directory.is_finished("prompts")
    assert processes.commands == []


@pytest.mark.parametrize(("code", "told"), [(1, 1), (2, 2), (130, 130)])
def test_the_first_stage_that_fails_stops_the_pipeline(run_directory, processes, code, told):
    processes.codes = {"train": code, "quantize": 99}
    assert run_pipeline(OWN, run_directory, force=False) == told
    assert [command[5] for command in processes.commands] == ["generate", "train"]


def test_a_stage_that_is_killed_is_told_with_what_kills(run_directory, processes):
    processes.codes = {"train": -signal.SIGKILL}
    with pytest.raises(PotstillError, match="the train stage was killed") as caught:
        run_pipeline(OWN, run_directory, force=False)
    assert caught.value.found == "SIGKILL"
    assert "without --force" in caught.value.hint


def test_a_wrong_setting_of_a_late_stage_is_told_before_any_stage_runs(run_directory, processes):
    with pytest.raises(ConfigError, match=r"compare\.speed_rounds"):
        run_pipeline(Choice(overrides=("compare.speed_rounds=0",)), run_directory, force=False)
    assert processes.commands == []
    assert not run_directory.root.exists()


def test_a_teacher_that_cannot_become_gguf_is_told_before_any_stage_runs(
    run_directory, processes, tiny_teacher_dir, tmp_path
):
    teacher_dir = shutil.copytree(tiny_teacher_dir, tmp_path / "teacher")
    content = json.loads((teacher_dir / "config.json").read_text())
    content["architectures"] = ["NewForCausalLM"]
    (teacher_dir / "config.json").write_text(json.dumps(content))
    choice = Choice(
        overrides=(f"generate.teacher.model={teacher_dir}", "train.student.num_layers=3")
    )
    with pytest.raises(ConversionError, match="cannot be converted"):
        run_pipeline(choice, run_directory, force=False)
    assert processes.commands == []


def test_a_run_keeps_the_configuration_that_made_it(run_directory, fake_room):
    fake_room("train", make_student)
    run_stage(TRAIN, Choice(overrides=("train.max_steps=7",)), run_directory, force=False)
    assert read_config_file(run_directory.config_path)["train"]["max_steps"] == 7
    with pytest.raises(ManifestMismatchError, match=r"student\.max_steps = 8"):
        run_stage(TRAIN, Choice(overrides=("train.max_steps=8",)), run_directory, force=False)
    assert read_config_file(run_directory.config_path)["train"]["max_steps"] == 7
    run_stage(TRAIN, Choice(overrides=("train.max_steps=8",)), run_directory, force=True)
    assert read_config_file(run_directory.config_path)["train"]["max_steps"] == 8


@pytest.mark.parametrize(
    ("arguments", "num_warnings"), [(["train", "{}"], 1), (["stage", "{}", "train"], 0)]
)
def test_a_former_name_is_reported_by_the_process_that_the_user_starts(
    run_directory, fake_room, caplog, arguments, num_warnings
):
    fake_room("train", make_student)
    former_names._warn.cache_clear()
    run_directory.root.mkdir()
    (former,) = former_names.VALUES["tail"]
    run_directory.config_path.write_text(f'[train]\nkd = {{tail = "{former}"}}\n')
    given = [argument.format(run_directory.root) for argument in arguments]
    cli.app(given, standalone_mode=False)
    assert caplog.text.count("rename it") == num_warnings


def test_a_stage_that_fails_leaves_its_configuration_to_go_on_with(run_directory, fake_room):
    def fail(_table, _run_directory):
        raise TrainingError("out of memory")

    fake_room("train", fail)
    with pytest.raises(TrainingError):
        run_stage(TRAIN, Choice(overrides=("train.max_steps=7",)), run_directory, force=False)
    assert max_steps(OWN, run_directory) == 7


def test_force_sets_aside_only_what_the_stage_makes(run_directory, fake_room):
    run_directory.open_stage("prompts", {}).finish()
    run_directory.open_stage("student", {}).finish()
    seen = {}

    def look(_table, run_directory):
        seen.update({name: run_directory.is_finished(name) for name in ("prompts", "student")})

    fake_room("train", look)
    run_stage(TRAIN, OWN, run_directory, force=True)
    assert seen == {"prompts": True, "student": False}
    assert (run_directory.replaced_dir("student") / "manifest.json").is_file()


def test_a_stage_does_not_run_while_another_process_works_on_the_run(run_directory, fake_room):
    fake_room("train", lambda *_: pytest.fail("ran all the same"))
    with run_directory.locked(), pytest.raises(ArtifactError, match="another potstill process"):
        run_stage(TRAIN, OWN, run_directory, force=True)
    assert not run_directory.config_path.exists()


def test_serving_neither_waits_for_the_run_nor_writes_to_it(run_directory, fake_room):
    seen = []
    fake_room("serve", lambda table, _run_directory: seen.append(table.port))
    with run_directory.locked():
        run_stage(SERVE, Choice(overrides=("serve.port=8123",)), run_directory, force=False)
    assert seen == [8123]
    assert [path.name for path in run_directory.root.iterdir()] == [".lock"]


@pytest.fixture
def shares(fake_room):
    """Stand in for the work on shares; `is_last` says whether all others are done.

    Recorded are the shares, and the tables that the stage was finished with.
    """
    recorded = SimpleNamespace(is_last=False, seen=[], finished=[])

    def run_shard(table, _run_directory, share):
        recorded.seen.append((share, table.sampling.seed))
        return recorded.is_last

    fake_room("generate", lambda table, _run_directory: recorded.finished.append(table))
    sys.modules["generate.stage"].run_shard = run_shard
    return recorded


def test_the_last_share_finishes_the_stage(run_directory, shares):
    choice = Choice(overrides=("generate.sampling.seed=7",))
    run_share(GENERATE, choice, run_directory, "1/2")
    assert shares.finished == []
    shares.is_last = True
    run_share(GENERATE, choice, run_directory, "2/2")
    assert shares.seen == [("1/2", 7), ("2/2", 7)]
    assert [table.sampling.seed for table in shares.finished] == [7]


def test_the_first_share_writes_the_configuration_and_others_go_on_with_it(run_directory, shares):
    run_share(GENERATE, Choice(overrides=("generate.sampling.seed=7",)), run_directory, "1/2")
    assert read_config_file(run_directory.config_path)["generate"]["sampling"]["seed"] == 7
    run_share(GENERATE, OWN, run_directory, "2/2")
    run_share(GENERATE, Choice(overrides=("generate.sampling.seed=8",)), run_directory, "2/2")
    assert shares.seen == [("1/2", 7), ("2/2", 7), ("2/2", 8)]
    assert resolve(OWN, run_directory)["generate"].sampling.seed == 7


def test_shares_work_side_by_side_and_the_last_waits_for_the_others_to_end(
    run_directory, shares, monkeypatch
):
    held = []
    locked = RunDirectory.locked

    def record(self, name="", **how):
        held.append((name, how))
        return locked(self, name, **how)

    monkeypatch.setattr(RunDirectory, "locked", record)
    with run_directory.locked(shared=True):
        run_share(GENERATE, OWN, run_directory, "1/2")
    shares.is_last = True
    run_share(GENERATE, OWN, run_directory, "2/2")
    assert held[-1] == ("", {"wait": True})
    assert len(shares.finished) == 1


def test_a_wrong_setting_is_told_before_a_share_is_begun(run_directory, shares):
    with pytest.raises(ConfigError, match="num_prompts"):
        run_share(
            GENERATE, Choice(overrides=("generate.prompts.num_prompts=0",)), run_directory, "1/2"
        )
    assert shares.seen == []
    assert not run_directory.root.exists()
