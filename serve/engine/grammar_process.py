"""A service that reads grammars for an engine, so that a hostile one affects no other request.

llama.cpp reads GBNF, llguidance JSON schemas. Neither limits the cost of all that a client can
send: a short grammar can take exponential time and memory, deep nesting overflows the stack, and a
token that GBNF forbids ends the process. So it runs in a worker with limits of processor time and
memory; exceeding either ends the worker, which costs one request.

In: messages, `Message` and its fields. Out: replies, in the same order.
"""

from __future__ import annotations

import ctypes
import json
import time
from copy import copy
from dataclasses import dataclass
from enum import IntEnum
from itertools import takewhile
from pathlib import Path
from struct import Struct
from typing import Any, Protocol

import llama_cpp
import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from potstill.errors import PotstillError
from potstill.llama.library import initialize
from potstill.llama.model import LlamaModel
from potstill.workers import Handler
from serve.engine.schema_rules import UnusableSchemaError, prepared

SERVICE = f"{__name__}:service"

HEADER = Struct("<Bq")
"""Message, number of the grammar."""

TOKEN_IDS = "<i4"
"""The NumPy type of the token ids in messages and replies."""

MAX_MEMORY_BYTES = 512 << 20
"""How much the process may grow once it is ready; ordinary grammars need a few megabytes."""

MAX_MESSAGE_SECONDS = 1.0
"""Processor time of one message; reading an ordinary grammar takes less than 10 ms, a token 0.1 ms,
or 50 ms where GBNF forbids it."""

FREE_SECONDS, TOKEN_SECONDS = 2.0, 0.2
"""Processor time of one grammar: a fixed amount, and an amount per token."""

NUM_KEPT, KEPT_SECONDS = 8, 0.02
"""Schemas that stay read when their answers end, since most requests have one of a few, and the
longest processor time of reading one of them: what takes longer also takes tens of megabytes."""

LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
"""llguidance's own limits: a lexer's state takes up to 2 kB."""


class Message(IntEnum):
    """What the engine asks. A grammar that cannot be used is answered with a PotstillError."""

    OPEN = 0
    """Read the grammar that follows the header as JSON. The reply is empty."""
    ADVANCE = 1
    """Take the token ids that follow the header, as far as the grammar allows it. The reply says
    what comes after the last one if that was taken, and else what would be allowed in its place."""
    CLOSE = 2
    """Free a grammar. There is no reply."""


class Reply(IntEnum):
    """What a reply to ADVANCE begins with, as one byte."""

    TAKEN = 0
    """The token ids follow that must come next, which may be none."""
    REFUSED = 1
    """One bit per token of the vocabulary follows, least significant first, set where allowed."""


class UnusableGrammarError(PotstillError):
    """A grammar cannot be read or followed any further; `where` is the parameter at fault."""


class Matcher(Protocol):
    """A grammar, and the text it has followed so far."""

    def take(self, token_id: int) -> bool:
        """Follow a token if it is allowed, and return whether it is; an end token is not kept."""
        ...

    def allowed_bits(self) -> bytes:
        """Return one bit per token, least significant first: the tokens that may come next."""
        ...

    def forced(self) -> list[int]:
        """Return the tokens that must come next, without taking them; none if that is unknown."""
        ...

    def close(self) -> None:
        """Free memory."""
        ...


class Vocabulary:
    """A model's tokens; without a model, the 256 bytes, with which grammars can be checked."""

    def __init__(self, model: LlamaModel | None) -> None:
        self._model = model
        self.pointer = model and model.vocab
        self.size = model.vocab_size if model else 0
        if model:
            tokens = _Tokens(model)
            self.tokenizer = LLTokenizer(TokenizerWrapper(tokens), eos_token=tokens.ends)
            self.end_tokens = model.end_tokens
        else:
            self.tokenizer = LLTokenizer("byte")
            self.end_tokens = tuple(self.tokenizer.eos_tokens)

    def rule(self, text: str) -> str:
        """Return the rule of a text that may also be a control token."""
        ids = self._model.tokenize(text, parse_special=True) if self._model else []
        is_token = len(ids) == 1 and self._model is not None and self._model.is_control(ids[0])
        return json.dumps(text) + (f" | <[{ids[0]}]>" if is_token else "")


class _Tokens:
    """A model's tokens as llguidance's `TokenizerWrapper` reads them."""

    bos_token_id = None

    def __init__(self, model: LlamaModel) -> None:
        ids = range(model.vocab_size)
        self.tokens = list(map(model.full_piece, ids))
        self.special_token_ids = list(filter(model.is_control, ids))
        self.ends = list(model.end_tokens)
        if not self.ends:
            # llguidance wants an end token; this one is beyond what the engine reads of a mask.
            self.ends = [model.vocab_size]
            self.tokens.append(b"<end>")
            self.special_token_ids += self.ends
        self.eos_token_id = self.ends[0]
        self._tokenize = model.tokenize

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenize(text.decode(), parse_special=False)


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

    def forced(self) -> list[int]:
        """Return none: llama.cpp does not say."""
        return []

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

    def __init__(
        self,
        rules: str,
        schemas: list[dict[str, Any]],
        vocabulary: Vocabulary,
        opening: str = "",
    ) -> None:
        self._vocabulary = vocabulary
        numbered = enumerate(map(_schema_rule, schemas))
        lines = [rules, *(f"schema{number}: {rule}" for number, rule in numbered)]
        if opening:
            lines.append(f"opening: {vocabulary.rule(opening)}")
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

    def follow(self, text: str) -> bool:
        """Take the tokens of a text; return whether all are allowed."""
        return all(map(self.take, self._vocabulary.tokenizer.tokenize_str(text)))

    def allowed_bits(self) -> bytes:
        """Return the tokens that may come next."""
        bits = self._matcher.compute_bitmask()
        self._check()
        return bits

    def forced(self) -> list[int]:
        """Return the tokens of the text that must come next, or the end token."""
        if self._matcher.is_stopped():
            return [*self._vocabulary.end_tokens[:1]]
        token_ids: list[int] = self._matcher.compute_ff_tokens()
        self._check()
        return token_ids

    def copy(self) -> SchemaMatcher:
        """Return one that has followed the same text, in a hundredth of the time of reading it."""
        other = copy(self)
        other._matcher = self._matcher.deep_copy()
        return other

    def close(self) -> None:
        """Do nothing: memory is freed with the object."""

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UnusableGrammarError(_reason(self._matcher.get_error()))


class Unbound:
    """Any text: what an answer has begun does not follow the grammar that was to bind it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._num_bytes = -(-vocabulary.size // 8)

    def take(self, token_id: int) -> bool:  # noqa: ARG002
        """Allow every token."""
        return True

    def allowed_bits(self) -> bytes:
        """Return that every token may come next."""
        return b"\xff" * self._num_bytes

    def forced(self) -> list[int]:
        """Return none."""
        return []

    def close(self) -> None:
        """Do nothing."""


def _schema_rule(schema: dict[str, Any]) -> str:
    """Return a schema as llguidance reads it; raise an error if it cannot be enforced."""
    reason = ""
    for patterns in (True,) if schema["is_exact"] else (True, False):
        try:
            ready = prepared(schema["text"], is_exact=schema["is_exact"], patterns=patterns)
        except UnusableSchemaError as error:
            raise UnusableGrammarError(str(error), where=schema["place"]) from error
        rule = " | ".join(f"%json {json.dumps(one)}" for one in ready)
        problem = LLMatcher.validate_grammar(f"start: {rule}", limits=LIMITS)
        if not problem:
            return rule
        reason = reason or _reason(problem)
    raise UnusableGrammarError(reason, where=schema["place"])


@dataclass
class Work:
    """A grammar in use."""

    matcher: Matcher
    seconds_left: float = FREE_SECONDS
    """Of processor time."""


class GrammarServer:
    """The grammars of one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._works: dict[int, Work] = {}
        self._kept: dict[str, SchemaMatcher] = {}

    def answer(self, message: bytes) -> bytes | None:
        """Do what a message asks, and return the reply to it.

        Raises:
            UnusableGrammarError: The grammar cannot be used any more.
        """
        kind, number = HEADER.unpack_from(message)
        if kind == Message.CLOSE:
            self._close(number)
            return None
        if kind == Message.OPEN:
            self._works[number] = Work(self._opened(json.loads(message[HEADER.size :])))
            return b""
        try:
            return self._advance(number, np.frombuffer(message, TOKEN_IDS, offset=HEADER.size))
        except UnusableGrammarError:
            self._close(number)
            raise

    def _opened(self, source: dict[str, Any]) -> Matcher:
        if not source["schemas"]:
            return GbnfMatcher(source["rules"], self._vocabulary)
        begun = source.pop("begun")
        matcher = self._read(source)
        return matcher if matcher.follow(begun) else Unbound(self._vocabulary)

    def _read(self, source: dict[str, Any]) -> SchemaMatcher:
        key = json.dumps(source)
        if kept := self._kept.get(key):
            return kept.copy()
        begin = time.process_time()
        matcher = SchemaMatcher(
            source["rules"], source["schemas"], self._vocabulary, source["opening"]
        )
        if time.process_time() - begin < KEPT_SECONDS:
            if len(self._kept) == NUM_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = matcher.copy()
        return matcher

    def _advance(self, number: int, token_ids: npt.NDArray[np.int32]) -> bytes:
        work = self._works.get(number)
        if work is None:
            raise UnusableGrammarError("could not be read")
        begin = time.process_time()
        num_taken = len(list(takewhile(work.matcher.take, token_ids.tolist())))
        if num_taken == len(token_ids):
            forced = np.array(work.matcher.forced(), TOKEN_IDS)
            reply = bytes([Reply.TAKEN]) + forced.tobytes()
        else:
            reply = bytes([Reply.REFUSED]) + work.matcher.allowed_bits()
        work.seconds_left += begin - time.process_time() + TOKEN_SECONDS * num_taken
        if work.seconds_left < 0.0:
            raise UnusableGrammarError("takes too much time")
        return reply

    def _close(self, number: int) -> None:
        if work := self._works.pop(number, None):
            work.matcher.close()


def service(model_path: str | None) -> Handler:
    """Return the handler of the grammars over a GGUF file's vocabulary; see `Vocabulary`."""
    initialize()
    model = LlamaModel(Path(model_path), vocabulary_only=True) if model_path else None
    return GrammarServer(Vocabulary(model)).answer


def _reason(error: str) -> str:
    """Return llguidance's error on one line, without its copy of the grammar."""
    text = error.split("\n   1 | ")[0].split("<non-verbose/>")[0]
    text = text.split("failed to compile JSON schema: ")[-1].split(" <backtrace>")[0]
    text = text.replace("NoExtensionBias", "no text can be complete")
    return " ".join(text.split())[:300]
