"""Streamed answers become whole ones, whoever sends the pieces."""

import time

from serve.wire.chunks import ChunkAssembler, as_chunks

HEAD = {"id": "1", "created": 1, "model": "a", "object": "chat.completion.chunk"}


def piece(index: int = 0, reason: str | None = None, **delta: object) -> dict:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
    return HEAD | {"choices": [choice]}


def assembled(*chunks: dict) -> ChunkAssembler:
    assembler = ChunkAssembler()
    for chunk in chunks:
        assembler.add(chunk)
    return assembler


def test_a_completion_becomes_chunks_and_itself_again():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "Hi", "refusal": None, "reasoning": "well"}
    choices = [
        {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop",
         "stop_reason": "."},
        {"index": 1, "message": message | {"content": "", "tool_calls": [call]},
         "logprobs": {"content": [], "refusal": None}, "finish_reason": "tool_calls"},
    ]  # fmt: skip
    completion = HEAD | {"object": "chat.completion", "system_fingerprint": "", "usage": {"a": 1}}
    completion |= {"choices": choices}
    assert assembled(*as_chunks(completion)).completion == completion


def test_an_answer_in_many_pieces_takes_linear_time():
    begin = time.process_time()
    pieces = [piece(content="a" * 100, reasoning="b" * 100)] * 12_000
    whole = assembled(*pieces, piece(reason="stop")).whole()
    assert len(whole["choices"][0]["message"]["content"]) == 1_200_000
    assert time.process_time() - begin < 5


def test_an_end_that_comes_twice_is_that_of_one_choice():
    assert assembled(piece(0), piece(1), piece(0, "stop"), piece(0, "stop")).completion is None
