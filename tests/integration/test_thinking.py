"""A student without thinking from a teacher with it: rows, template, file and answers."""

import json
import shutil

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from transformers import AutoModelForCausalLM, AutoTokenizer

from generate.config import GenerateConfig
from generate.dataset.thinking import ThinkingRows
from potstill.chat import answer_message, chat_template_sha256, render_prompt
from potstill.distributions import TokenDistributions
from potstill.rundir import RunDirectory
from potstill.schema import Message
from potstill.thinking import without_thinking
from quantize.config import QuantizeConfig
from quantize.stage import run as quantize
from serve.engine.model import GgufModel
from tests.unit.serve.conftest import (
    make_app,  # noqa: F401  (a fixture)
    tiny_model,  # noqa: F401  (a fixture)
)
from train.config import TrainConfig
from train.stage import run as train

pytestmark = pytest.mark.usefixtures("one_thread")

TEMPLATE = (
    "{% for one in messages %}<|im_start|>{{ one.role }}\n"
    "{% if one.role == 'assistant' and one.reasoning_content %}<think>\n"
    "{{ one.reasoning_content }}\n</think>\n\n{% endif %}{{ one.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
EMPTY = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
THOUGHT = "<think>\nSeven and one is eight.\n</think>\n\n"
TOP = 8
NUM_TOKENS = 6


@pytest.fixture(scope="module")
def thinking_dir(tiny_teacher_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("thinking") / "teacher"
    shutil.copytree(tiny_teacher_dir, directory)
    (directory / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def teacher(thinking_dir):
    model = AutoModelForCausalLM.from_pretrained(thinking_dir, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(thinking_dir)


@pytest.fixture(scope="module")
def thought(teacher, make_conversation):
    """Conversations whose answers the tiny teacher drew after a given thought."""
    model, tokenizer = teacher
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    conversations = []
    for number in range(12):
        given = (Message(role="user", content=f"What is {number} and one?"),)
        ids = render_prompt(tokenizer, given)
        start = len(ids)
        ids += tokenizer(THOUGHT, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            while len(ids) < start + NUM_TOKENS + 20:
                probabilities = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
                probabilities[: end + 1] = 0.0
                ids.append(int(torch.multinomial(probabilities, 1)))
            ids.append(end)
            logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        rows = logprobs[start - 1 : -1]
        top, drawn = rows.topk(TOP), rows.gather(-1, torch.tensor(ids[start:])[:, None])[:, 0]
        conversations.append(
            make_conversation(
                ids,
                [(start, len(ids) - start)],
                given=given,
                completion=(answer_message(tokenizer, ids[start:], has_tools=False),),
                signal=TokenDistributions.from_padded(
                    top.indices.numpy(), top.values.numpy(), drawn.numpy()
                ),
                name=f"prompt{number}",
                split=("train", "validation", "test")[max(0, number - 9)],
            )
        )
    return conversations


@pytest.fixture(scope="module")
def bare(thought, teacher):
    config = GenerateConfig.model_validate({"thinking": {"student": "answer"}})
    rows = ThinkingRows(config, teacher[1], len(teacher[1]))
    _, made, drops = rows.rewrite(thought, [None] * len(thought))
    assert drops == [None] * len(thought)
    return made


def test_each_row_is_the_teachers_distribution_of_the_answers_token(thought, bare, teacher):
    """After its thinking, that is; asked again of the model, token by token."""
    model, tokenizer = teacher
    for before, after in zip(thought, bare, strict=True):
        assert before.completion[0].reasoning_content == "Seven and one is eight."
        (turn,) = after.turns
        prompt = tokenizer.decode(after.token_ids[: turn.start])
        assert prompt.endswith(EMPTY)
        answer = after.token_ids[turn.start :].tolist()
        assert tokenizer.decode(answer[:-1]).lstrip() == after.completion[0].content
        assert before.token_ids[-len(answer) :].tolist() == answer
        with torch.no_grad():
            logits_LV = model(torch.tensor([before.token_ids.tolist()])).logits[0].double()
        expected = logits_LV.log_softmax(-1)[-len(answer) - 1 : -1]
        drawn = expected.gather(-1, torch.tensor(answer)[:, None])[:, 0].numpy()
        assert after.signal.sampled_logprobs_T == pytest.approx(drawn, abs=1e-4)
        best = expected.argmax(-1).numpy()
        assert (after.signal.top_token_ids_N[after.signal.starts_T] == best).all()
        assert len(after.signal.counts_T) == turn.num_tokens == len(answer)


def test_its_student_never_shows_a_tag(
    thinking_dir,
    bare,
    teacher,
    finish_conversations,
    tmp_path,
    make_app,  # noqa: F811
):
    run_directory = RunDirectory(tmp_path / "run")
    template = without_thinking(TEMPLATE)
    facts = {"thinking": "answer", "chat_template_sha256": chat_template_sha256(template)}
    finish_conversations(run_directory, thinking_dir, bare, **facts)
    settings = {
        "student": {"num_layers": 3},
        "dtype": "float32",
        "max_steps": 2,
        "evaluation": {"num_generations": 0},
    }
    student = train(TrainConfig.model_validate(settings), run_directory).facts
    assert student.evaluation.trained.kl_nats is not None
    assert student.chat_template_sha256 == facts["chat_template_sha256"]
    student_dir = run_directory.stage_dir("student")
    assert AutoTokenizer.from_pretrained(student_dir).chat_template == template

    quantize(
        QuantizeConfig(types=("F16",), teacher_types=(), verification_tokens=32), run_directory
    )
    model = GgufModel(run_directory.stage_dir("gguf") / "student-F16.gguf")
    with TestClient(make_app(model=model)) as client:
        asked = {"model": "a", "messages": [{"role": "user", "content": "What is 2 and one?"}]}
        # The switch of a student without thinking cannot be turned on.
        on = {"chat_template_kwargs": {"enable_thinking": True}}
        prompt = client.post("/apply-template", json=asked | on).json()["prompt"]
        assert prompt.endswith(EMPTY)
        expected = render_prompt(teacher[1], bare[2].given)
        counted = client.post("/v1/chat/completions", json=asked | {"max_tokens": 1}).json()
        assert counted["usage"]["prompt_tokens"] == bare[2].turns[0].start > len(expected)
        for text, content in (
            ("</think>\n\nIt is 3.", "It is 3."),
            ("It is </think>3.", "It is 3."),
            ("<think>\nHm.\n</think>\n\nIt is 3.", "It is 3."),
        ):
            bound = {"grammar": f"root ::= {json.dumps(text)}", "max_tokens": 60}
            whole = client.post("/v1/chat/completions", json=asked | bound).json()
            streamed = client.post("/v1/chat/completions", json=asked | bound | {"stream": True})
            chunks = [
                json.loads(line.removeprefix("data: "))
                for line in streamed.text.splitlines()
                if line.startswith("data: {")
            ]
            said = [one["delta"].get("content") or "" for c in chunks for one in c["choices"]]
            assert whole["choices"][0]["message"]["content"] == "".join(said) == content
            assert "think>" not in json.dumps(whole) + streamed.text
    assert np.isfinite(student.evaluation.trained.kl_nats)
