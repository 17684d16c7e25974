import shutil
import tomllib
from dataclasses import replace

import pytest
import tomli_w
from pydantic import ValidationError

from potstill.checkpoints import ModelShape
from potstill.config import dump_toml
from potstill.errors import ArtifactError, ConfigError, ConversionError, ManifestMismatchError
from potstill.files import sha256_file
from potstill.lineage import LINEAGE_KEY, lineage_of_run, read_lineage
from potstill.models.dequantized import SOURCE_NAME
from potstill.models.header import GgufHeader
from potstill.plan import Workload
from quantize.config import QuantizeConfig
from quantize.conversion.convert import write_base_gguf
from quantize.estimate import estimate
from quantize.stage import _recommend, run
from tests.fixtures.facts import gguf_file

pytestmark = pytest.mark.slow

CONFIG = QuantizeConfig(
    types=("F16", "Q4_K_M"), teacher_types=("Q8_0",), verification_tokens=40, num_threads=1
)
STUDENT_ONLY = {"teacher_types": ()}
OWN_FILE = {"types": ("F16",), "teacher_types": None}


def test_files_card_and_modelfile_are_made_and_described(tiny_quantize_run, capfd):
    manifest = run(CONFIG, tiny_quantize_run)
    gguf_dir = tiny_quantize_run.stage_dir("gguf")
    assert {output.path for output in manifest.outputs} == {
        "student-F16.gguf",
        "student-Q4_K_M.gguf",
        "teacher-Q8_0.gguf",
        "student.imatrix.gguf",
        "README.md",
        "quality.png",
        "Modelfile",
    }
    files = {file.name: file for file in manifest.facts.files}
    for file in files.values():
        assert file.bytes == (gguf_dir / file.file).stat().st_size
        assert file.kl_to_checkpoint_nats <= file.kl_bound_nats
        assert 0.5 < file.top1_agreement_with_checkpoint <= 1.0
    assert files["teacher-Q8_0"].num_parameters > files["student-F16"].num_parameters
    assert files["student-F16"].bits_per_weight > files["student-Q4_K_M"].bits_per_weight
    assert manifest.facts.recommended == "student-Q4_K_M"
    card = (gguf_dir / "README.md").read_text()
    assert "CC0-1.0" in card
    assert "arithmetic.jsonl" in card
    assert all(file.file in card for file in files.values())
    assert "in bold, is the smallest." in card
    assert (gguf_dir / "Modelfile").read_text().startswith("FROM ./student-Q4_K_M.gguf\n")
    lineage = lineage_of_run(tiny_quantize_run, judged=False)
    for name in ("student-F16", "student-Q4_K_M"):
        assert read_lineage(gguf_dir / f"{name}.gguf") == lineage
    assert LINEAGE_KEY not in GgufHeader.read(gguf_dir / "teacher-Q8_0.gguf").metadata
    assert run(CONFIG, tiny_quantize_run) == manifest
    assert "llama_" not in capfd.readouterr().err


def test_a_missing_teacher_does_not_matter_when_it_gets_no_files(make_checkpoint, make_run):
    teacher_dir = make_checkpoint("teacher")
    tiny_run = make_run(make_checkpoint("student"), teacher_dir)
    shutil.rmtree(teacher_dir)
    run(CONFIG.model_copy(update=STUDENT_ONLY | {"types": ("F16",)}), tiny_run)


def test_a_teacher_that_was_trained_further_gets_no_files(make_checkpoint, make_run):
    teacher_dir = make_checkpoint("teacher")
    tiny_run = make_run(make_checkpoint("student"), teacher_dir)
    path = teacher_dir / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ManifestMismatchError, match="the teacher's checkpoint has changed"):
        run(CONFIG, tiny_run)
    assert not list(tiny_run.partial_dir("gguf").rglob("*.gguf"))


def test_file_beyond_its_bound_leaves_the_stage_unfinished(tiny_quantize_run):
    changes = {"types": ("Q4_K_M",), "kl_bounds_nats": {"Q4_K_M": 1e-9}}
    config = CONFIG.model_copy(update=changes)
    with pytest.raises(ConversionError, match=r"student-Q4_K_M\.gguf"):
        run(config, tiny_quantize_run)
    assert not tiny_quantize_run.is_finished("gguf")


def test_unsupported_teacher_is_refused_before_any_work(make_checkpoint, make_run):
    teacher = make_checkpoint("teacher")
    path = teacher / "config.json"
    path.write_text(path.read_text().replace("LlamaForCausalLM", "ClvpForCausalLM"))
    tiny_run = make_run(make_checkpoint("student"), teacher)
    with pytest.raises(ConversionError, match="ClvpForCausalLM"):
        run(CONFIG, tiny_run)
    assert not list(tiny_run.partial_dir("gguf").rglob("*.gguf"))


@pytest.fixture
def gguf_teacher_run(make_checkpoint, make_run, tmp_path):
    """A run whose teacher came as a GGUF file, of an architecture that is not converted here."""
    teacher_dir, path = make_checkpoint("teacher"), tmp_path / "downloaded.gguf"
    write_base_gguf(teacher_dir, path, "F16", "teacher")
    source = {"path": str(path), "sha256": sha256_file(path)}
    (teacher_dir / SOURCE_NAME).write_text(tomli_w.dumps(source))
    config_path = teacher_dir / "config.json"
    config_path.write_text(config_path.read_text().replace("LlamaForCausalLM", "NewForCausalLM"))
    return make_run(make_checkpoint("student", num_hidden_layers=1), teacher_dir), path


def test_a_teacher_that_came_as_a_gguf_file_is_compared_as_that_file(gguf_teacher_run):
    run_directory, path = gguf_teacher_run
    manifest = run(CONFIG.model_copy(update=OWN_FILE), run_directory)
    outputs = {output.path: output.sha256 for output in manifest.outputs}
    assert outputs["teacher-F16.gguf"] == sha256_file(path)
    assert "teacher.imatrix.gguf" not in outputs
    (file,) = manifest.facts.teacher_files
    assert (file.is_original, file.type, file.imatrix) == (True, "F16", None)
    assert 0 <= file.kl_to_checkpoint_nats < file.kl_bound_nats
    assert not any(file.is_original for file in manifest.facts.files if file.role == "student")
    card = (run_directory.stage_dir("gguf") / "README.md").read_text()
    assert "teacher-F16.gguf is the file that the teacher came in." in card


def test_a_gguf_file_that_is_another_than_its_checkpoints_is_refused(gguf_teacher_run):
    run_directory, path = gguf_teacher_run
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        ManifestMismatchError, match="the teacher's GGUF file has changed"
    ) as caught:
        run(CONFIG.model_copy(update=OWN_FILE), run_directory)
    assert caught.value.where == path
    assert not list(run_directory.partial_dir("gguf").rglob("teacher-*"))
    path.unlink()
    with pytest.raises(ArtifactError, match=r"downloaded\.gguf"):
        run(CONFIG.model_copy(update=OWN_FILE), run_directory)


def test_a_gguf_teacher_costs_no_conversion_and_no_importance_matrix():
    shape = ModelShape("LlamaForCausalLM", 10**9, 24, 2048, 32_000, 8192, 9 * 10**8)
    workload = Workload(teacher=shape, student=shape)
    converted, _ = estimate(QuantizeConfig(types=("F16",)), workload)
    came = replace(shape, architecture="qwen35", gguf_bytes=600_000_000)
    own, after = estimate(QuantizeConfig(types=("F16",)), replace(workload, teacher=came))
    assert after.num_files == 2
    assert converted.float32_flops - own.float32_flops == 2.0 * (10**9 * 2048 + 9 * 10**8 * 32_768)
    assert own.disk_bytes - 600_000_000 < converted.disk_bytes - 2 * 10**9
    with pytest.raises(ConversionError, match="qwen35"):
        estimate(QuantizeConfig(teacher_types=("F16",)), replace(workload, teacher=came))


def test_damaged_student_is_refused(tiny_quantize_run):
    path = tiny_quantize_run.stage_dir("student") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        run(CONFIG, tiny_quantize_run)


def test_student_of_other_conversations_is_refused(make_checkpoint, make_run):
    student = make_checkpoint("student", num_hidden_layers=1)
    tiny_run = make_run(student, student, chat_template_sha256="0" * 64)
    with pytest.raises(ManifestMismatchError, match="chat_template_sha256"):
        run(CONFIG, tiny_run)


@pytest.mark.parametrize(
    "changes",
    [
        {"types": ()},
        {"types": ("F16", "F16")},
        {"types": ("Q3_K",)},
        {"types": ("IQ2_XS",), "imatrix": "never"},
        {"target_megabytes": (60, 60)},
        {"target_megabytes": 0},
        {"types": ("F16",), "target_megabytes": 60, "recommended": "61MB"},
        {"recommended": "Q6_K"},
        {"verification_tokens": 0},
        {"kl_bounds_nats": {"Q8_0": 0}},
        {"kl_bounds_nats": {"Q9_0": 0.1}},
    ],
)
def test_impossible_configuration_is_refused(changes):
    with pytest.raises(ValidationError):
        QuantizeConfig(**changes)


def sized_file(name, size, tokens_per_second):
    return gguf_file(name, bytes=size, batch_decode_tokens_per_second=tokens_per_second)


@pytest.mark.parametrize(
    ("recommended", "chosen", "reason"),
    [
        (None, "student-Q4_K_M", "the smallest"),
        ("Q8_0", "student-Q8_0", "named"),
        ("fastest", "student-Q4_0", "the smallest of those that decode 16"),
    ],
)
def test_the_recommended_file_is_named_the_smallest_or_the_fastest(recommended, chosen, reason):
    files = [
        sized_file("student-Q8_0", 145, 500.0),
        sized_file("student-Q4_0", 106, 460.0),
        sized_file("student-Q4_K_M", 105, 386.0),
        sized_file("teacher-Q4_0", 90, 900.0),
    ]
    config = QuantizeConfig(types=("Q8_0", "Q4_0", "Q4_K_M"), recommended=recommended)
    file, why = _recommend(files, config)
    assert file.name == chosen
    assert why.startswith(reason)


def test_a_size_may_be_a_single_number_and_recommended_by_name():
    config = QuantizeConfig(target_megabytes=60.5, recommended="60.5MB")
    assert config.mixes == {"60.5MB": 60.5e6}
    assert QuantizeConfig.model_validate(config.to_json()) == config
    assert QuantizeConfig.model_validate(tomllib.loads(dump_toml({"a": config}))["a"]) == config


def test_an_impossible_size_is_refused_with_the_smallest_possible(tiny_quantize_run):
    changes = STUDENT_ONLY | {"types": ("F16",), "target_megabytes": (0.01,)}
    with pytest.raises(ConfigError, match=r"at least 0\.\d\d"):
        run(CONFIG.model_copy(update=changes), tiny_quantize_run)
