import io
import os

import pytest
from rich.console import Console

from potstill import pipeline
from potstill.cards import CARDS, Cards, MachineConfig
from potstill.pipeline import Choice, plan
from potstill.plan import SHARE_OF_DATASHEET, Machine
from potstill.rundir import RunDirectory

HOST = Machine(fast_flops=1e12, float32_flops=1e12, bytes_per_second=1e11)
BYTES_TO_FETCH = {
    "gpu-24gb": ("15.23 GB", "0.99 GB"),
    "gpu": ("15.23 GB", "0.99 GB"),
    "gpu-8": ("145.41 GB", "15.23 GB"),
    "gpu-2x8": ("145.41 GB", "15.23 GB"),
}
"""Of teacher and student."""


def nvidia_smi(directory, output, code=0):
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {code}\n")
    program.chmod(0o755)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("NVIDIA H100 80GB HBM3", Cards("H100", 1)),
        ("NVIDIA GeForce RTX 4090", Cards("RTX 4090", 1)),
        ("NVIDIA A100-SXM4-80GB\nNVIDIA A100-SXM4-80GB", Cards("A100 80GB", 2)),
        ("NVIDIA L40S", Cards("L40S", 1)),
        ("NVIDIA A100-SXM4-80GB\nNVIDIA L4", None),
        ("Matrox Millennium", None),
    ],
)
def test_the_cards_of_this_machine_are_those_that_the_driver_lists(
    listed, found, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", nvidia_smi(tmp_path, listed))
    assert Cards.of(MachineConfig()) == found
    assert Cards.of(MachineConfig(card="L4", cards_per_machine=2)) == Cards("L4", 2)


def test_without_a_driver_or_with_a_broken_one_there_are_no_cards(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert Cards.of(MachineConfig()) is None
    monkeypatch.setenv("PATH", nvidia_smi(tmp_path, "no devices were found", code=9))
    assert Cards.of(MachineConfig()) is None


def test_several_cards_are_as_fast_as_their_number():
    one, all_of_them = (Machine.of_cards(Cards("H100", 8), number) for number in (1, None))
    assert one.fast_flops == SHARE_OF_DATASHEET * CARDS["H100"].bfloat16_flops
    assert all_of_them.bytes_per_second == pytest.approx(8 * one.bytes_per_second)
    assert Machine.of_cards(Cards("H100", 8), 9) == all_of_them


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Return a function: the text that `--dry-run` prints for a preset, with no model here."""
    monkeypatch.setattr(pipeline, "measure_machine", lambda _shape: HOST)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))

    def text(preset, *overrides):
        file = io.StringIO()
        choice = Choice(preset=preset, overrides=overrides)
        table = plan(choice, RunDirectory(tmp_path / "run"), force=False)
        Console(width=200, file=file).print(table)
        return file.getvalue()

    return text


def cells(text, stage):
    line = next(line for line in text.splitlines() if line.startswith(f" {stage} "))
    return [cell.strip() for cell in line.split("│")]


@pytest.mark.parametrize("preset", BYTES_TO_FETCH)
def test_the_presets_for_gpus_fit_their_cards(preset, planned):
    text = planned(preset)
    assert "does not fit" not in text
    assert "configured for" not in text
    for stage in ("generate", "train"):
        _, _, minutes, _, memory, on_each_card = cells(text, stage)
        assert 1 < float(minutes) < 30 * 24 * 60
        assert memory == "-"
        assert 5 < float(on_each_card.removesuffix(" GB")) < 80
    assert cells(text, "quantize")[-1] == "-"
    for stage, size in zip(("generate", "train"), BYTES_TO_FETCH[preset], strict=True):
        assert f"{stage} first fetches a model of {size} into" in text


def test_what_does_not_fit_a_card_is_reported(planned):
    text = planned("gpu", "machine.card=RTX 4090", "generate.engine.tensor_parallel_size=2")
    assert "generate is configured for 2 cards, found 1" in text
    assert "train does not fit" not in text


def test_a_teacher_that_is_too_large_for_a_card_is_reported(planned):
    text = planned("gpu-8", "generate.engine.tensor_parallel_size=1")
    assert "generate does not fit: " in text
    assert "train does not fit" not in text
    assert "datasheet of 8 x H100" in text
