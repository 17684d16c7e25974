"""The real teacher's hidden states give the distributions that it sampled from.

In float32, so that what should be equal is so to the rounding of float32.
"""

import numpy as np
import pyarrow as pa
import pytest

from generate.hidden_states import HiddenStateReader
from generate.teachers.engine_config import EngineConfig
from generate.teachers.protocol import Sample, SampleRequest
from generate.teachers.vllm_engine import EngineSpec, VllmTeacher
from potstill.chat import render_prompt
from potstill.hidden_states import HiddenStateCodec
from potstill.schema import Conversation, Message, Prompt, SamplingParams, Turn

TOP_LOGPROBS, MAX_TOKENS, DTYPE = 20, 32, "float32"
QUESTIONS = [
    "What is a cat?",
    "Name three colors, and say in a few words what each of them makes people think of.",
    "Say hello.",
    "Who wrote Hamlet?",
    "How do I boil an egg?",
    "Write a line about the sea.",
]
NEAR_NATS = 2e-3
MAX_KL_NATS = 0.005


@pytest.fixture(scope="module")
def conversations(teacher_dir) -> list[Conversation]:
    """What the teacher sampled in vLLM."""
    spec = EngineSpec(str(teacher_dir), DTYPE, 256, TOP_LOGPROBS, seed=0)
    teacher = VllmTeacher(spec, EngineConfig(max_num_seqs=6, kv_cache_bytes=256 << 20))
    prompts = {
        str(number): render_prompt(teacher.tokenizer, [Message(role="user", content=question)])
        for number, question in enumerate(QUESTIONS)
    }
    waiting = [
        SampleRequest(
            number,
            token_ids,
            SamplingParams(temperature=1.0, top_p=1.0, max_tokens=MAX_TOKENS, seed=int(number)),
        )
        for number, token_ids in prompts.items()
    ]

    def take(room: int) -> list[SampleRequest]:
        taken, waiting[:] = waiting[:room], waiting[room:]
        return taken

    try:
        samples = list(teacher.sample(take, top_logprobs=TOP_LOGPROBS))
    finally:
        teacher.close()
    return [to_conversation(prompts[one.request_id], one) for one in samples]


def to_conversation(prompt_token_ids, sample: Sample) -> Conversation:
    message = Message(role="user", content=QUESTIONS[int(sample.request_id)])
    turn = Turn(
        start=len(prompt_token_ids),
        num_tokens=len(sample.token_ids),
        finish_reason=sample.finish_reason,
        seed=0,
    )
    return Conversation(
        prompt=Prompt(
            prompt_id=sample.request_id,
            cluster_id=sample.request_id,
            split="train",
            messages=(message,),
            source="a test",
        ),
        answer_index=0,
        given=(message,),
        completion=(),
        token_ids=np.array([*prompt_token_ids, *sample.token_ids], np.int32),
        turns=(turn,),
        signal=sample.signal,
    )


@pytest.fixture(scope="module")
def states(teacher_dir, conversations) -> list[np.ndarray]:
    return HiddenStateReader(teacher_dir, DTYPE).read(conversations)


@pytest.fixture(scope="module")
def logprobs(teacher_dir):
    """What the teacher's head makes of hidden states."""
    import torch
    from transformers import AutoModelForCausalLM

    head_VD = AutoModelForCausalLM.from_pretrained(teacher_dir).get_output_embeddings().weight

    def multiply(hidden_TD: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return (torch.from_numpy(hidden_TD) @ head_VD.T).log_softmax(-1).double().numpy()

    return multiply


def test_states_give_the_stored_top_log_probabilities(conversations, states, logprobs):
    assert len(conversations) == len(QUESTIONS)
    for one, hidden_TD in zip(conversations, states, strict=True):
        ids_TK, stored_TK = one.signal.padded()
        found_TK = np.take_along_axis(logprobs(hidden_TD), ids_TK, axis=1)
        np.testing.assert_allclose(found_TK, stored_TK, atol=NEAR_NATS)


def test_eight_bits_lose_little_of_the_whole_distribution(states, logprobs):
    codec = HiddenStateCodec.fit(states)
    batch = pa.RecordBatch.from_arrays(
        list(codec.encode(states).values()), schema=pa.schema(codec.fields())
    )
    kl = []
    for hidden_TD, decoded_TD in zip(states, codec.decode(batch), strict=True):
        full_TV = logprobs(hidden_TD)
        kl.append((np.exp(full_TV) * (full_TV - logprobs(decoded_TD))).sum(axis=1))
    assert 0 < np.concatenate(kl).mean() <= MAX_KL_NATS
