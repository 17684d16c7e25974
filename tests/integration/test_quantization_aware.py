"""Quantization-aware training on a tiny run, its weights compared with llama.cpp's file."""

import ctypes
import json
import shutil

import gguf
import llama_cpp
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from potstill.facts.shared import Fidelity
from potstill.facts.student import QuantizationAware
from quantize.conversion.convert import write_base_gguf
from tests.fixtures.devices import alike, for_two
from train.config import TrainConfig
from train.job import read_job, write_job
from train.launcher import run_phase
from train.quantization_aware.weights import Quantization
from train.stage import run

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "student": {"num_layers": 3},
    "dtype": "float32",
    "kd": {"weight": 1.0},
    "learning_rate": 1e-3,
    "max_steps": 2,
    "save_steps": 2,
    "logging_steps": 1,
    "batch_size": 4,
    "quantization_aware": {"type": "Q4_0", "max_steps": 6, "learning_rate": 1e-3},
}
NUM_HEADS, NUM_KEY_VALUE_HEADS = 4, 2


def config(**changes):
    return TrainConfig.model_validate(SETTINGS | changes)


def lines(run_directory, phase):
    found = map(json.loads, run_directory.metrics_path.read_text().splitlines())
    return [line for line in found if line.get("phase") == phase]


def losses(run_directory):
    found = lines(run_directory, "quantization_aware")
    return {line["step"]: line["loss"] for line in found if "loss" in line}


def weights(run_directory):
    return load_file(run_directory.stage_dir("student") / "model.safetensors")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_student_becomes_better_as_its_file(tiny_run, tiny_teacher_dir, method):
    evaluation = {"every_steps": 3, "patience": 5, "num_generations": 1, "max_new_tokens": 4}
    manifest = run(config(method=method, evaluation=evaluation), tiny_run)
    facts = manifest.facts
    measured = {name: one.kl_nats for name, one in facts.evaluation if isinstance(one, Fidelity)}
    assert list(measured) == [
        *("untrained", "offline", "quantized_plain", "trained", "quantized_aware")
    ]
    plain, aware = measured["quantized_plain"], measured["quantized_aware"]
    assert facts.quantization_aware == QuantizationAware(
        type="Q4_0", kl_nats_plain=plain, kl_nats_aware=aware
    )
    assert aware < plain
    assert plain != measured["offline"]
    assert aware != measured["trained"]
    assert list(losses(tiny_run)) == [3, 4, 5, 6, 7, 8]
    on_the_way = [one for one in lines(tiny_run, "quantization_aware") if "eval_loss" in one]
    assert [one["step"] for one in on_the_way] == [5, 8]
    assert manifest.stats["steps"] == 8
    student = AutoModelForCausalLM.from_pretrained(tiny_run.stage_dir("student"))
    full = {name: one.clone() for name, one in student.named_parameters()}
    Quantization.of(student, "Q4_0", "float32").replace_weights(student)
    for name, one in student.named_parameters():
        assert torch.equal(one, full[name]) == (one.ndim == 1)  # what is saved is not rounded
    teacher = load_file(tiny_teacher_dir / "model.safetensors")
    embedding = "model.embed_tokens.weight"
    assert torch.equal(weights(tiny_run)[embedding], teacher[embedding])


def test_the_last_measurement_is_that_of_the_saved_student(tiny_run):
    """Measurements during training are of the quantized student, with the weights that are kept."""
    evaluation = {"every_steps": 6, "num_generations": 0}
    manifest = run(config(evaluation=evaluation), tiny_run)
    (on_the_way,) = [one for one in lines(tiny_run, "quantization_aware") if "eval_loss" in one]
    measured = [one for one in manifest.facts.evaluation if isinstance(one[1], Fidelity)]
    kl_nats = on_the_way["eval_kl_nats"]  # of the validation split
    distance = {name: abs(one.kl_nats - kl_nats) for name, one in measured}
    assert min(distance, key=distance.__getitem__) == "quantized_aware"


def test_an_interrupted_phase_goes_on_and_ends_alike(tiny_run, tmp_path, interrupt_a_run):
    whole = type(tiny_run)(tmp_path / "whole")
    shutil.copytree(tiny_run.root, whole.root)
    finished = run(config(), whole)
    interrupt_a_run(tiny_run, config(), "quantization_aware", 7)

    resumed = run(config(), tiny_run)
    assert list(losses(whole)) == [3, 4, 5, 6, 7, 8]
    assert alike(losses(tiny_run), losses(whole))
    assert alike(resumed.facts, finished.facts)
    assert alike(weights(tiny_run), weights(whole))


@pytest.mark.nightly
@pytest.mark.usefixtures("on_one_device")
def test_two_processes_share_out_quantized_weights(tiny_run, tmp_path, monkeypatch):
    """FSDP2 on a CPU, after the same first phase: each quantizes its own rows."""
    scratch_dir, together = tmp_path / "scratch", type(tiny_run)(tmp_path)

    def keep_what_it_begins_with(stage_dir, phase, launch):
        if phase == "quantization_aware":
            shutil.copytree(stage_dir, scratch_dir)
        return run_phase(stage_dir, phase, launch)

    monkeypatch.setattr("train.training.run_phase", keep_what_it_begins_with)
    evaluation = {"every_steps": 3, "num_generations": 0}
    run(config(batch_size=8, freeze={"embeddings": False}, evaluation=evaluation), tiny_run)
    job = read_job(scratch_dir)
    half = job.config.model_copy(update={"batch_size": 4})
    changes = {"config": half, "metrics_path": together.metrics_path}
    write_job(job.model_copy(update=changes), scratch_dir)
    run_phase(scratch_dir, "quantization_aware", for_two("fsdp2"))
    for name, count in {"loss": 6, "eval_loss": 2}.items():
        found, expected = (
            [line[name] for line in lines(one, "quantization_aware") if name in line]
            for one in (together, tiny_run)
        )
        assert len(found) == count
        assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("file_type", "width", "tied"),
    [
        ("Q4_0", 64, True),
        ("Q4_0", 256, True),
        ("Q4_0", 256, False),
        ("Q4_1", 64, False),
        ("Q5_0", 64, True),
        ("Q5_1", 64, True),
        ("Q8_0", 256, True),
        ("Q4_0", 48, True),
    ],
)
def test_weights_are_those_of_llama_cpps_file(tmp_path, tiny_teacher_dir, file_type, width, tied):
    """Tensor by tensor and bit by bit, though the file has rows of queries and keys in pairs."""
    model = checkpoint(tmp_path / "model", tiny_teacher_dir, width, tied)
    quantization = Quantization.of(model, file_type, "float32")
    quantization.replace_weights(model)
    expected = {name: one.detach().numpy() for name, one in model.named_parameters()}
    tensors = quantized_file(tmp_path, file_type).tensors
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    found = {table.get_name(name, (".weight",)): name for name in expected}
    assert {one.name for one in tensors} == found.keys()
    for tensor in tensors:
        name = found[tensor.name]
        if name in quantization.types:
            assert tensor.tensor_type.name == quantization.types[name]
        read = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(expected[name].shape)
        assert (in_halves(read, name) == expected[name]).all(), name


def checkpoint(directory, teacher_dir, width, tied):
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=8_192,
        hidden_size=width,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_KEY_VALUE_HEADS,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(settings)
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(teacher_dir / name, directory / name)
    return model


def quantized_file(directory, file_type):
    """Return what llama.cpp makes of the checkpoint's F16 file."""
    base_path, path = directory / "base.gguf", directory / "file.gguf"
    write_base_gguf(directory / "model", base_path, "F16", "a model")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{file_type}")
    params.nthread = 1
    paths = (str(base_path).encode(), str(path).encode())
    assert llama_cpp.llama_model_quantize(*paths, ctypes.byref(params)) == 0
    return gguf.GGUFReader(path)


def in_halves(weights, name):
    """Undo llama.cpp's order of a Llama's queries and keys: pairs of rotary halves."""
    num_heads = {"q_proj": NUM_HEADS, "k_proj": NUM_KEY_VALUE_HEADS}.get(name.split(".")[-2])
    if num_heads is None:
        return weights
    pairs = weights.reshape(num_heads, -1, 2, weights.shape[1])
    return pairs.swapaxes(1, 2).reshape(weights.shape)
