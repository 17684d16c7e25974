"""A student whose tokens are not the teacher's, from its training to the report."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from compare.comparison import Report
from compare.config import CompareConfig
from compare.stage import run as compare
from potstill.chat import chat_template_sha256, tokenizer_sha256
from potstill.errors import ManifestMismatchError
from potstill.facts.conversations import ConversationsFacts
from potstill.tables import conversation_paths, read_conversations
from quantize.config import QuantizeConfig
from quantize.stage import run as quantize
from train.config import TrainConfig
from train.data.inputs import load_data
from train.stage import run as train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def config(tiny_student_dir):
    return TrainConfig.model_validate(
        {
            "student": {"checkpoint": str(tiny_student_dir)},
            "kd": {"weight": 0.0},
            "freeze": {"embeddings": False},
            "dtype": "float32",
            "learning_rate": 1e-2,
            "max_steps": 12,
            "batch_size": 8,
            "logging_steps": 1,
        }
    )


def test_its_line_is_made_in_its_own_tokens(
    tiny_run, config, tiny_student_dir, tiny_teacher_dir, capsys
):
    facts = train(config, tiny_run).facts
    hashes = {
        "tokenizer_sha256": tokenizer_sha256(tiny_student_dir),
        "chat_template_sha256": chat_template_sha256(
            (tiny_student_dir / "chat_template.jinja").read_text()
        ),
    }
    assert hashes["tokenizer_sha256"] != tokenizer_sha256(tiny_teacher_dir)
    assert facts.model_copy(update=hashes) == facts
    assert facts.own_tokenizer
    student_dir = tiny_run.stage_dir("student")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (student_dir / name).read_bytes() == (tiny_student_dir / name).read_bytes()
    untrained, trained = facts.evaluation.untrained, facts.evaluation.trained
    assert trained.nats_per_token < untrained.nats_per_token
    assert trained.kl_nats is untrained.kl_nats is None
    assert facts.improved

    gguf = quantize(
        QuantizeConfig(types=("F16",), teacher_types=("F16",), verification_tokens=64), tiny_run
    ).facts
    assert gguf.model_copy(update=hashes) == gguf
    assert {file.name for file in gguf.files} == {"student-F16", "teacher-F16"}
    assert all(file.kl_to_checkpoint_nats < 1e-3 for file in gguf.files)
    assert "its own tokenizer" in (tiny_run.stage_dir("gguf") / "README.md").read_text()

    settings = CompareConfig(
        num_prompts=2,
        max_tokens=8,
        speed_rounds=2,
        speed_tokens=8,
        judges=({"kind": "llm", "max_tokens": 16},),
    )
    compare(settings, tiny_run)
    report_path = tiny_run.stage_dir("comparison") / "report.json"
    report = Report.model_validate_json(report_path.read_text())
    rows = {row.name: row for row in report.rows}
    assert rows["teacher-F16"].kl_nats < 1e-3
    for name in ("student, untrained", "student, trained", "student-F16"):
        assert rows[name].kl_nats is rows[name].top1_agreement is None
    assert rows["student-F16"].tokens_per_second > 0
    assert report.num_prompts == 2
    assert any("a tokenizer of its own" in note for note in report.notes)
    page = (tiny_run.stage_dir("comparison") / "report.html").read_text()
    assert "a tokenizer of its own" in page
    assert "None" not in page
    assert "student-F16" in capsys.readouterr().out


def test_it_is_trained_on_what_the_teacher_said(tiny_run, config, tiny_student_dir, tmp_path):
    """The answers' text, decoded from labels, is the teacher's: no more and no less."""
    data = load_data(config, tiny_run, tmp_path / "scratch")
    assert data.has_own_tokenizer
    (path,) = conversation_paths(tiny_run.stage_dir("conversations"), "train")
    stored = {one.conversation_id: one for one in read_conversations(path)}
    tokenizer = AutoTokenizer.from_pretrained(tiny_student_dir)
    assert len(data.train) >= 20
    for row in data.train:
        batch = data.collator([row])
        labels = batch["labels"][0]
        said = [
            message.content.strip() + "<|im_end|>"
            for message in stored[row["conversation_id"]].completion
            if message.role == "assistant"
        ]
        assert tokenizer.decode(labels[labels >= 0]) == "".join(said)
        assert batch["top_token_ids"].shape == (int((labels >= 0).sum()), 0)


def test_its_first_loss_is_transformers_own(tiny_run, config, tiny_student_dir, tmp_path):
    """On one batch: the mean cross-entropy of its labeled tokens."""
    train(config.model_copy(update={"max_steps": 1, "batch_size": 64}), tiny_run)
    lines = map(json.loads, tiny_run.metrics_path.read_text().splitlines())
    (loss,) = [line["loss"] for line in lines if "loss" in line]
    data = load_data(config, tiny_run, tmp_path / "scratch")
    batch = data.collator(list(data.train))
    model = AutoModelForCausalLM.from_pretrained(tiny_student_dir, dtype=torch.float32)
    with torch.no_grad():
        expected = model(
            **{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        ).loss
    assert loss == pytest.approx(float(expected), rel=1e-4)


def test_the_teachers_distributions_are_not_for_it(tiny_run, config, tiny_student_dir):
    tokens = config.kd.model_copy(update={"weight": 0.5})
    with pytest.raises(ManifestMismatchError, match="another tokenizer than the teacher") as caught:
        train(config.model_copy(update={"kd": tokens}), tiny_run)
    assert tiny_run.facts(ConversationsFacts).tokenizer_sha256 in caught.value.expected
    assert tokenizer_sha256(tiny_student_dir) in caught.value.found
    for way_out in ("train.kd.weight=0", "train.on_policy", "the teacher's family"):
        assert way_out in caught.value.hint
