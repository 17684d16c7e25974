import numpy as np
import pytest

from generate import hidden_states
from generate.hidden_states import HiddenStateReader
from potstill.distributions import TokenDistributions
from potstill.errors import TeacherError
from potstill.schema import Conversation, Message, Prompt, Turn

VOCABULARY, WIDTH = 96, 16


@pytest.fixture(scope="module")
def checkpoint_dir(tmp_path_factory):
    """A random Llama without a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    directory = tmp_path_factory.mktemp("tiny") / "teacher"
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def lora_dir(checkpoint_dir, tmp_path_factory):
    """A random adapter that changes the model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(checkpoint_dir)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    directory = tmp_path_factory.mktemp("lora") / "adapter"
    adapted.save_pretrained(directory)
    return directory


def conversation(num_tokens, *spans) -> Conversation:
    """Random tokens, of which the spans (start, length) are the teacher's."""
    rng = np.random.default_rng(num_tokens)
    count = sum(length for _, length in spans)
    message = Message(role="user", content="x")
    return Conversation(
        prompt=Prompt(
            prompt_id="x", cluster_id="x", split="train", messages=(message,), source="a test"
        ),
        answer_index=0,
        given=(message,),
        completion=(message,),
        token_ids=rng.integers(0, VOCABULARY, num_tokens).astype(np.int32),
        turns=tuple(
            Turn(start=start, num_tokens=length, finish_reason="stop", seed=0)
            for start, length in spans
        ),
        signal=TokenDistributions(
            np.full(count, -1, np.float32),
            np.ones(count, np.int64),
            np.zeros(count, np.int32),
            np.full(count, -1, np.float32),
        ),
    )


CONVERSATIONS = [
    conversation(5, (2, 3)),
    conversation(40, (1, 4), (20, 20)),
    conversation(3, (1, 1)),
    conversation(17, (10, 2)),
]


def assert_states_give_the_models_logits(states, model) -> None:
    """The states times the head are what the whole model says of each conversation alone."""
    import torch

    head = model.get_output_embeddings()
    for one, hidden_TD in zip(CONVERSATIONS, states, strict=True):
        with torch.no_grad():
            logits_LV = model(torch.from_numpy(one.token_ids.astype(int))[None]).logits[0]
            found_TV = head(torch.from_numpy(hidden_TD))
        assert hidden_TD.dtype == np.float32
        assert hidden_TD.shape == (len(one.signal.counts_T), WIDTH)
        np.testing.assert_allclose(found_TV, logits_LV[one.positions_T - 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("max_batched_tokens", [4096, 80, 1])
def test_states_times_the_head_are_the_logits(checkpoint_dir, monkeypatch, max_batched_tokens):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(hidden_states, "MAX_BATCHED_TOKENS", max_batched_tokens)
    states = HiddenStateReader(checkpoint_dir, "float32").read(CONVERSATIONS)
    model = AutoModelForCausalLM.from_pretrained(checkpoint_dir)
    assert_states_give_the_models_logits(states, model)


def test_an_adapter_counts(checkpoint_dir, lora_dir):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = HiddenStateReader(checkpoint_dir, "float32").read(CONVERSATIONS)
    states = HiddenStateReader(checkpoint_dir, "float32", lora_dir).read(CONVERSATIONS)
    assert np.abs(states[0] - plain[0]).max() > 0.01
    model = AutoModelForCausalLM.from_pretrained(checkpoint_dir)
    adapted = PeftModel.from_pretrained(model, lora_dir).merge_and_unload()
    assert_states_give_the_models_logits(states, adapted)


def test_no_conversations_have_no_states(checkpoint_dir):
    assert HiddenStateReader(checkpoint_dir, "float32").read([]) == []


def test_batches_hold_the_longest_first_and_fit(monkeypatch):
    monkeypatch.setattr(hidden_states, "MAX_BATCHED_TOKENS", 20)
    assert list(hidden_states._batches([3, 30, 9, 10, 1])) == [[1], [3, 2], [0, 4]]


@pytest.mark.parametrize("damage", ["checkpoint", "adapter"])
def test_what_cannot_be_loaded_is_named(checkpoint_dir, tmp_path, damage):
    places = (tmp_path, None) if damage == "checkpoint" else (checkpoint_dir, tmp_path)
    with pytest.raises(TeacherError, match="cannot be loaded") as caught:
        HiddenStateReader(places[0], "float32", places[1])
    assert str(tmp_path) in str(caught.value)
