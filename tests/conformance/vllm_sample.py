"""Sample and score in vLLM: `python -m tests.conformance.vllm_sample CHECKPOINT OUT.json`.

Writes the prompt's token ids, and of both answers the token ids with their log-probabilities.
"""

import json
import sys
from pathlib import Path

from generate.teachers.config import EngineConfig
from generate.teachers.protocol import SampleRequest, ScoreRequest
from generate.teachers.vllm_engine import EngineSpec, VllmTeacher
from potstill.chat import render_prompt, tokenize
from potstill.schema import Message, SamplingParams
from tests.fixtures.feeding import feed


def main(checkpoint: str, out: Path) -> None:
    """Sample an answer, score another, and write both."""
    spec = EngineSpec(checkpoint, "float32", max_model_len=128, max_logprobs=8, seed=0)
    teacher = VllmTeacher(spec, EngineConfig(max_num_seqs=4, kv_cache_bytes=64 << 20))
    prompt = render_prompt(teacher.tokenizer, [Message(role="user", content="Name three rivers.")])
    params = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=6, seed=1)
    answer = tokenize(teacher.tokenizer, "The Rhine, the Nile and the Congo.")
    (sampled,) = teacher.sample(feed([SampleRequest("", prompt, params)]), top_logprobs=8)
    text = ScoreRequest("", [*prompt, *answer], len(prompt))
    (scored,) = teacher.score(feed([text]), top_logprobs=8)
    answers = [
        {"token_ids": [*one.token_ids], "logprobs": one.signal.sampled_logprobs_T.tolist()}
        for one in (sampled, scored)
    ]
    out.write_text(json.dumps({"prompt": prompt, "answers": answers}), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
