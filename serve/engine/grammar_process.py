"""A process that reads grammars for an engine, so that a poisoned one harms nobody else.

llama.cpp reads GBNF, llguidance JSON schemas. Neither bounds all that a client can send: a short
grammar can take exponential time and memory, deep nesting overflows the stack, and a token that
GBNF forbids ends the process. Here each message has a limit of processor time and the process one
of memory; exceeding either ends the process, which costs one request.

In: messages on a pipe, `Message` and its fields. Out: replies, in the same order.
Run as `python -m serve.engine.grammar_process FD [MODEL]`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import threading
import time
from enum import IntEnum
from multiprocessing.connection import Connection
from pathlib import Path
from struct import Struct
from typing import Any, Protocol

import llama_cpp
import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from serve.engine.schema_rules import UnusableSchemaError, prepared

HEADER = Struct("<Bqi")
"""Message, number of the grammar, token id."""

MAX_MEMORY_BYTES = 512 << 20
"""How far the process may grow once it is ready; ordinary grammars need a few megabytes."""

OPEN_SECONDS = 1.0
"""Processor time to read a grammar; ordinary ones take under 10 ms."""

STEP_SECONDS = 0.25
"""Processor time for one token; ordinary grammars take under 50 ms, most 0.1 ms."""

TOTAL_SECONDS = 30.0
"""Processor time of one grammar in all."""

LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
"""llguidance's own limits: a lexer's state takes up to 2 kB."""


class Message(IntEnum):
    """What the engine asks."""

    OPEN = 0
    """Read the grammar that follows the header as JSON. The reply is a `Reply`."""
    ADVANCE = 1
    """Take a token if the grammar allows it. The reply is a `Reply`; FORBIDDEN is followed by one
    bit per token of the vocabulary, least significant first, set where it would be allowed."""
    CLOSE = 2
    """Free a grammar. There is no reply."""


class Reply(IntEnum):
    """How it went."""

    DONE = 0
    FORBIDDEN = 1
    BROKEN = 2
    """Followed by JSON: the parameter at fault, and what is wrong with it."""


class UnusableGrammarError(Exception):
    """A grammar cannot be read or followed any further."""

    def __init__(self, found: str, place: str | None = None) -> None:
        self.found, self.place = found, place
        super().__init__(found)


class Matcher(Protocol):
    """A grammar, and the text it has followed so far."""

    def take(self, token_id: int) -> bool:
        """Follow a token if it is allowed, and return whether it is; an end token is not kept."""
        ...

    def allowed_bits(self) -> bytes:
        """Return one bit per token, least significant first: the tokens that may come next."""
        ...

    def close(self) -> None:
        """Free memory."""
        ...


class Vocabulary:
    """A model's tokens; without a model, the 256 bytes, with which grammars can be checked."""

    def __init__(self, model_path: str | None) -> None:
        self.pointer = None
        self.size = 0
        self.tokenizer = LLTokenizer("byte")
        self.end_tokens = list(self.tokenizer.eos_tokens)
        if model_path:
            params = llama_cpp.llama_model_default_params()
            params.vocab_only = True
            self._model = llama_cpp.llama_model_load_from_file(model_path.encode(), params)
            self.pointer = llama_cpp.llama_model_get_vocab(self._model)
            self.size = int(llama_cpp.llama_vocab_n_tokens(self.pointer))
            ids = range(self.size)
            self.end_tokens = [i for i in ids if llama_cpp.llama_vocab_is_eog(self.pointer, i)]
            self.tokenizer = self._tokenizer()

    def _tokenizer(self) -> LLTokenizer:
        """Return llguidance's view: control tokens, marked by a byte 0xFF, are never text."""
        function = ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p)
        tokenizer: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
            tokens=[self._piece(token_id) for token_id in range(self.size)],
            vocab_ptr=self.pointer,
            tokenize_fptr=function.value,
            eos_token=self.end_tokens or int(llama_cpp.llama_vocab_eos(self.pointer)),
            slices=None,
        )
        return tokenizer

    def _piece(self, token_id: int) -> bytes:
        capacity = 64
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            length = llama_cpp.llama_token_to_piece(
                self.pointer, token_id, buffer, capacity, 0, True
            )
            if length >= 0:
                break
            capacity = -length
        is_control = (
            llama_cpp.llama_vocab_get_attr(self.pointer, token_id)
            & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
        )
        return (b"\xff" if is_control else b"") + buffer.raw[:length]


class GbnfMatcher:
    """llama.cpp's grammar."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._grammar = llama_cpp.llama_sampler_init_grammar(
            vocabulary.pointer, text.encode(), b"root"
        )
        if not self._grammar:
            raise UnusableGrammarError("is not valid GBNF")

    def take(self, token_id: int) -> bool:
        """Follow a token if it is allowed."""
        if not self._allowed(np.array([token_id]))[0]:
            return False
        if not llama_cpp.llama_vocab_is_eog(self._vocabulary.pointer, token_id):
            llama_cpp.llama_sampler_accept(self._grammar, token_id)
        return True

    def allowed_bits(self) -> bytes:
        """Return the tokens that may come next."""
        allowed_V = self._allowed(np.arange(self._vocabulary.size))
        return np.packbits(allowed_V, bitorder="little").tobytes()

    def close(self) -> None:
        """Free the grammar."""
        llama_cpp.llama_sampler_free(self._grammar)

    def _allowed(self, token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        rows = np.zeros(len(token_ids), [("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        rows["id"] = token_ids
        data = rows.ctypes.data_as(llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(data, len(rows), -1, False)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        allowed: npt.NDArray[np.bool_] = rows["logit"] == 0.0
        return allowed


class SchemaMatcher:
    """llguidance's grammar: rules over JSON schemas."""

    def __init__(self, rules: str, schemas: list[dict[str, Any]], vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        numbered = enumerate(map(_schema_rule, schemas))
        lines = [rules, *(f"schema{number}: {rule}" for number, rule in numbered)]
        self._matcher = LLMatcher(
            vocabulary.tokenizer, "\n".join(lines), log_level=0, limits=LIMITS
        )
        self.allowed_bits()

    def take(self, token_id: int) -> bool:
        """Follow a token if it is allowed."""
        if token_id in self._vocabulary.end_tokens:
            return self._matcher.is_accepting()
        if self._matcher.validate_tokens([token_id]) != 1:
            self._check()
            return False
        self._matcher.consume_token(token_id)
        self._check()
        return True

    def allowed_bits(self) -> bytes:
        """Return the tokens that may come next."""
        bits = self._matcher.compute_bitmask()
        self._check()
        return bits

    def close(self) -> None:
        """Do nothing: memory is freed with the object."""

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UnusableGrammarError(_reason(self._matcher.get_error()))


def _schema_rule(schema: dict[str, Any]) -> str:
    """Return a schema as llguidance reads it, or raise what is wrong with it."""
    reason = ""
    for patterns in (True,) if schema["is_exact"] else (True, False):
        try:
            ready = prepared(schema["text"], is_exact=schema["is_exact"], patterns=patterns)
        except UnusableSchemaError as error:
            raise UnusableGrammarError(str(error), schema["place"]) from error
        rule = f"%json {json.dumps(ready)}"
        problem = LLMatcher.validate_grammar(f"start: {rule}", limits=LIMITS)
        if not problem:
            return rule
        reason = reason or _reason(problem)
    raise UnusableGrammarError(reason, schema["place"])


class GrammarServer:
    """The grammars of one vocabulary."""

    def __init__(self, model_path: str | None) -> None:
        self._vocabulary = Vocabulary(model_path)
        self._matchers: dict[int, Matcher] = {}
        self._seconds: dict[int, float] = {}
        """Processor time that each grammar has taken."""

    def answer(self, message: bytes) -> bytes | None:
        """Do what a message asks, and return the reply to it."""
        kind, number, token_id = HEADER.unpack_from(message)
        if kind == Message.CLOSE:
            self._close(number)
            return None
        begin = time.process_time()
        try:
            if kind == Message.OPEN:
                self._matchers[number] = self._opened(json.loads(message[HEADER.size :]))
                self._seconds[number] = 0.0
                return bytes([Reply.DONE])
            reply = self._advance(number, token_id)
            self._seconds[number] += time.process_time() - begin
            return reply
        except UnusableGrammarError as error:
            self._close(number)
            reason = json.dumps([error.place, error.found])
            return bytes([Reply.BROKEN]) + reason.encode()

    def _opened(self, source: dict[str, Any]) -> Matcher:
        if source["schemas"]:
            return SchemaMatcher(source["rules"], source["schemas"], self._vocabulary)
        return GbnfMatcher(source["rules"], self._vocabulary)

    def _close(self, number: int) -> None:
        self._seconds.pop(number, None)
        if matcher := self._matchers.pop(number, None):
            matcher.close()

    def _advance(self, number: int, token_id: int) -> bytes:
        if number not in self._matchers:
            raise UnusableGrammarError("could not be read")
        if self._seconds[number] > TOTAL_SECONDS:
            raise UnusableGrammarError("takes too much time")
        matcher = self._matchers[number]
        if matcher.take(token_id):
            return bytes([Reply.DONE])
        return bytes([Reply.FORBIDDEN]) + matcher.allowed_bits()


def main() -> None:
    """Answer messages until the other end of the pipe closes."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    llama_cpp.llama_log_set(_silent, None)
    connection = Connection(int(sys.argv[1]))
    server = GrammarServer(sys.argv[2] if len(sys.argv) > 2 else None)
    if sys.platform == "linux":
        limit = _address_space_bytes() + MAX_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send_bytes(bytes([Reply.DONE]))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            message = connection.recv_bytes()
            # SIGPROF ends the process, wherever it is.
            limit_seconds = OPEN_SECONDS if message[0] == Message.OPEN else STEP_SECONDS
            signal.setitimer(signal.ITIMER_PROF, limit_seconds)
            reply = server.answer(message)
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            if reply is not None:
                connection.send_bytes(reply)


def _reason(error: str) -> str:
    """Return llguidance's error on one line, without its copy of the grammar."""
    text = error.split("\n   1 | ")[0].split("<non-verbose/>")[0]
    text = text.split("failed to compile JSON schema: ")[-1].split(" <backtrace>")[0]
    text = text.replace("NoExtensionBias", "no text can be complete")
    return " ".join(text.split())[:300]


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(_level: int, _text: bytes, _user_data: object) -> None:
    """Drop the line: the engine reports what is wrong with a grammar."""


def _end_with_parent(parent_id: int) -> None:
    """End even in the midst of an endless grammar: ctypes lets other threads run meanwhile."""
    while os.getppid() == parent_id:
        time.sleep(1.0)
    os._exit(1)


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
