"""A kept adapter: exported on its base, verified, and served beside others on one base."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from potstill.checkpoints import checkpoint_fingerprint
from potstill.errors import ArtifactError, ConfigError, ConversionError, ManifestMismatchError
from potstill.facts.student import KeptAdapter
from potstill.manifest import verify_manifest
from potstill.rundir import RunDirectory
from quantize.config import QuantizeConfig
from quantize.conversion.adapter import write_adapter_gguf
from quantize.stage import run
from serve.adapters import own_adapters, with_adapters_of_runs
from serve.config import ServeConfig
from serve.loading import load_models
from serve.metrics import Metrics
from serve.models import model_paths

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = QuantizeConfig(
    types=("F16", "Q4_K_M"), teacher_types=(), verification_tokens=40, num_threads=1
)
Q4_ONLY = CONFIG.model_copy(update={"types": ("Q4_K_M",)})
SMALL = {"context_tokens": 128, "max_parallel": 2, "max_batch_tokens": 16, "threads": 1}


@pytest.fixture
def make_adapted_run(make_checkpoint, make_run, tmp_path):
    """Return a function that makes a run whose student is a random adapter on a base.

    Args of it: the strength with which the adapter is merged into the checkpoint.
    """

    def make(strength: float = 1.0) -> RunDirectory:
        base_dir, student_dir = make_checkpoint("base"), tmp_path / "student"
        shutil.copytree(base_dir, student_dir)
        torch.manual_seed(0)
        settings = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
        model = get_peft_model(base, settings)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(student_dir / KeptAdapter.DIRECTORY, save_embedding_layers=False)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data *= strength
        model.merge_and_unload().save_pretrained(student_dir)
        kept = KeptAdapter(
            base_path=str(base_dir), base_fingerprint=checkpoint_fingerprint(base_dir)
        )
        return make_run(student_dir, base_dir, method="lora", adapter=kept)

    return make


def test_a_kept_adapter_is_exported_verified_and_served_on_one_base(make_adapted_run):
    adapted_run = make_adapted_run()
    other_run = RunDirectory(adapted_run.root.parent / "other")
    shutil.copytree(adapted_run.root, other_run.root)
    manifest = run(CONFIG, adapted_run)
    gguf_dir = adapted_run.stage_dir("gguf")
    assert verify_manifest(gguf_dir) == manifest
    adapter_path = gguf_dir / "student-adapter.gguf"
    assert [(file.name, file.file, file.adapter) for file in manifest.facts.files] == [
        ("student-F16", "base-F16.gguf", adapter_path.name),
        ("student-Q4_K_M", "base-Q4_K_M.gguf", adapter_path.name),
    ]
    for file in manifest.facts.files:
        assert file.kl_to_checkpoint_nats <= file.kl_bound_nats
        assert file.bytes == (gguf_dir / file.file).stat().st_size + adapter_path.stat().st_size
        assert not file.imatrix
    modelfile = (gguf_dir / "Modelfile").read_text()
    assert modelfile.startswith("FROM ./base-Q4_K_M.gguf\nADAPTER ./student-adapter.gguf\n")
    assert "LoRA adapter student-adapter.gguf" in (gguf_dir / "README.md").read_text()

    # The same base gives the same file in every run, so that one serves them all.
    other = {one.path: one.sha256 for one in run(Q4_ONLY, other_run).outputs}
    own = {one.path: one.sha256 for one in manifest.outputs}
    assert other["base-Q4_K_M.gguf"] == own["base-Q4_K_M.gguf"]

    named = {
        "other": {"base": "student", "path": other_run.root},
        "off": {"base": "student", "path": adapter_path, "scale": 0.0},
    }
    config = ServeConfig(models=("student",), adapters=named, **SMALL)
    paths = model_paths(config, manifest.facts, gguf_dir)
    adapters = own_adapters(config, manifest.facts, gguf_dir, paths)
    assert adapters == {"student": adapter_path}
    bare = ServeConfig(paths={"bare": gguf_dir / "base-F16.gguf"})
    assert own_adapters(bare, manifest.facts, gguf_dir, bare.paths) == {}
    resolved, _ = with_adapters_of_runs(config, paths)
    backends = load_models(resolved, paths, Metrics(), None, adapters)
    models = {name: backend.model for name, backend in backends.items()}
    assert len({id(model.pointer) for model in models.values()}) == 1
    scales = {name: model.adapter.scale for name, model in models.items()}
    assert scales == {"student": 1.0, "other": 1.0, "off": 0.0}

    with pytest.raises(ConfigError, match=r"another base(.|\n)*base-Q4_K_M.gguf, sha256"):
        with_adapters_of_runs(config, {"student": gguf_dir / "base-F16.gguf"})
    shutil.rmtree(other_run.stage_dir("gguf"))
    with pytest.raises(ArtifactError):
        with_adapters_of_runs(config, paths)


def test_an_adapter_that_is_not_the_students_is_refused(make_adapted_run):
    """Planted: the checkpoint has half of the adapter."""
    adapted_run = make_adapted_run(strength=0.5)
    with pytest.raises(ConversionError, match="too far from the checkpoint's"):
        run(CONFIG.model_copy(update={"types": ("F16",)}), adapted_run)
    assert not adapted_run.is_finished("gguf")


def test_a_base_that_has_changed_is_refused(make_adapted_run):
    adapted_run = make_adapted_run()
    path = adapted_run.root.parent / "base" / "config.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(ManifestMismatchError, match="the adapter's base has changed"):
        run(CONFIG, adapted_run)


def test_an_adapter_that_is_more_than_low_rank_is_refused(make_adapted_run, tmp_path):
    student_dir = make_adapted_run().stage_dir("student")
    adapter_dir = student_dir / KeptAdapter.DIRECTORY
    path = adapter_dir / "adapter_model.safetensors"
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    save_file(load_file(path) | {name: torch.ones(4)}, path)
    with pytest.raises(ConversionError, match="converter cannot convert the adapter") as caught:
        write_adapter_gguf(adapter_dir, student_dir, tmp_path / "adapter.gguf", "F16")
    assert name in str(caught.value.found)
    assert not (tmp_path / "adapter.gguf").exists()
    (adapter_dir / "adapter_config.json").write_text(json.dumps({}))
    with pytest.raises(ConversionError, match="cannot convert the adapter"):
        write_adapter_gguf(adapter_dir, student_dir, tmp_path / "adapter.gguf", "F16")
