import pytest
import torch
import yaml

from potstill.errors import ConfigError, PotstillError
from train import launcher
from train.launcher import NUM_CPU_PROCESSES, SHIPPED_DIR, launch_options


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
@pytest.mark.parametrize(("num_gpus", "expected"), [(8, 8), (0, NUM_CPU_PROCESSES)])
def test_a_shipped_configuration_starts_a_process_for_each_gpu(
    name, num_gpus, expected, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    options = dict(zip(*[iter(launch_options(name))] * 2, strict=True))
    assert options["--config_file"] == str(SHIPPED_DIR / f"{name}.yaml")
    assert options["--num_processes"] == str(expected)


@pytest.mark.parametrize("path", sorted(SHIPPED_DIR.glob("*.yaml")), ids=lambda path: path.stem)
def test_precision_is_left_to_the_stage(path):
    content = yaml.safe_load(path.read_text())
    assert content["mixed_precision"] == "no"
    assert "num_processes" not in content


def test_a_file_of_the_users_own_is_taken_as_it_is(tmp_path):
    path = tmp_path / "mine.yaml"
    with pytest.raises(ConfigError, match="unknown configuration"):
        launch_options(str(path))
    path.touch()
    assert launch_options(str(path)) == ["--config_file", str(path)]


def test_memory_of_measurements_is_given_back_before_processes_share_the_gpu(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("freed"))
    monkeypatch.setattr(launcher, "_launch", lambda *_: order.append("launched"))
    with pytest.raises(PotstillError):  # Nothing was trained.
        launcher.run_phase(tmp_path, "offline", "ddp")
    assert order == ["freed", "launched"]
