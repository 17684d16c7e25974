"""Tools in a served prompt: the text and the token ids that sampling and training make of them."""

import json

import pytest
from transformers import AutoTokenizer

from potstill.chat import render_prompt, render_text
from serve.backends.local.preparation import dialogue_of
from serve.chat.prompt import ChatPrompt
from serve.engine.model import GgufModel
from serve.wire.chat import ChatRequest
from tests.fixtures.tools import CONVERSATIONS, TEMPLATES, TOOLS, calls_in


@pytest.fixture(scope="module", params=TEMPLATES)
def sides(request, teacher_dir, tiny_gguf):
    """A tokenizer of transformers, and the server's prompts with the same template."""
    tokenizer = AutoTokenizer.from_pretrained(teacher_dir)
    tokenizer.chat_template = TEMPLATES[request.param] or tokenizer.chat_template

    class Model(GgufModel):
        chat_template = tokenizer.chat_template

    prompt = ChatPrompt(Model(tiny_gguf))
    yield tokenizer, prompt
    prompt.close()


@pytest.mark.parametrize("tools", [TOOLS, []], ids=["tools", "learned tools"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_prompt_with_tools_is_what_the_student_was_trained_on(sides, name, tools):
    tokenizer, served = sides
    messages, listed = CONVERSATIONS[name], json.dumps(tools) if tools else None
    body = {"messages": [one.to_chat() for one in messages], "tools": tools}
    dialogue = dialogue_of(ChatRequest.model_validate_json(json.dumps(body)))
    rendered = served.render(dialogue)
    assert rendered == render_text(tokenizer, messages, tools=listed)
    assert served.token_ids(dialogue) == render_prompt(tokenizer, messages, listed)
    completed = render_text(tokenizer, messages, tools=listed, add_generation_prompt=False)
    assert rendered == completed + "<|im_start|>assistant\n"
    for function, _ in calls_in(*messages):
        assert f'<tool_call>\n{{"name": "{function}", "arguments": {{' in rendered
    assert ('"description": "Größe' in rendered) == bool(tools)
    assert "catalog" not in rendered
