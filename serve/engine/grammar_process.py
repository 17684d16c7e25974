"""A process that reads grammars for an engine, so that a poisoned one harms nobody else.

llama.cpp's grammar code has no limits: a short grammar can take exponential time and memory, deep
nesting overflows the stack, and a token it forbids ends the process. Here that costs one request.

In: messages on a pipe, `Message` and its fields. Out: replies, in the same order.
Knows nothing of sampling. Run as `python -m serve.engine.grammar_process FD [MODEL]`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
import threading
import time
from enum import IntEnum
from multiprocessing.connection import Connection
from pathlib import Path
from struct import Struct

import llama_cpp
import numpy as np

HEADER = Struct("<Bqi")
"""Message, number of the grammar, token id."""

MAX_MEMORY_BYTES = 1 << 30
"""How far the process may grow once it is ready; ordinary grammars need a few megabytes."""


class Message(IntEnum):
    """What the engine asks."""

    OPEN = 0
    """Make a grammar of the text that follows the header. The reply is a `Reply`."""
    ADVANCE = 1
    """Take a token if the grammar allows it. The reply is a `Reply`; FORBIDDEN is followed by one
    bit per token of the vocabulary, set where the token would be allowed."""
    CLOSE = 2
    """Free a grammar. There is no reply."""


class Reply(IntEnum):
    """How it went."""

    DONE = 0
    FORBIDDEN = 1
    BROKEN = 2


class GrammarServer:
    """The grammars of one vocabulary; without a model they can be opened only."""

    def __init__(self, model_path: str | None) -> None:
        self._vocab = None
        self._size = 0
        if model_path:
            params = llama_cpp.llama_model_default_params()
            params.vocab_only = True
            self._model = llama_cpp.llama_model_load_from_file(model_path.encode(), params)
            self._vocab = llama_cpp.llama_model_get_vocab(self._model)
            self._size = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self._grammars: dict[int, object] = {}
        self._all = np.zeros(self._size, [("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        self._one = np.zeros(1, self._all.dtype)

    def answer(self, message: bytes) -> bytes | None:
        """Do what a message asks, and return the reply to it."""
        kind, number, token_id = HEADER.unpack_from(message)
        if kind == Message.OPEN:
            text = message[HEADER.size :]
            grammar = llama_cpp.llama_sampler_init_grammar(self._vocab, text, b"root")
            self._grammars[number] = grammar
            return bytes([Reply.DONE if grammar else Reply.BROKEN])
        if kind == Message.ADVANCE:
            grammar = self._grammars[number]
            return self._advance(grammar, token_id) if grammar else bytes([Reply.BROKEN])
        if grammar := self._grammars.pop(number, None):
            llama_cpp.llama_sampler_free(grammar)
        return None

    def _advance(self, grammar: object, token_id: int) -> bytes:
        self._one["id"], self._one["logit"] = token_id, 0.0
        if self._allowed(grammar, self._one)[0]:
            if not llama_cpp.llama_vocab_is_eog(self._vocab, token_id):
                llama_cpp.llama_sampler_accept(grammar, token_id)
            return bytes([Reply.DONE])
        self._all["id"], self._all["logit"] = np.arange(self._size), 0.0
        return bytes([Reply.FORBIDDEN]) + np.packbits(self._allowed(grammar, self._all)).tobytes()

    @staticmethod
    def _allowed(grammar: object, rows: np.ndarray) -> np.ndarray:
        data = rows.ctypes.data_as(llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(data, len(rows), -1, False)
        llama_cpp.llama_sampler_apply(grammar, ctypes.byref(array))
        allowed: np.ndarray = rows["logit"] == 0.0
        return allowed


def main() -> None:
    """Answer messages until the other end of the pipe closes."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    llama_cpp.llama_log_set(_silent, None)
    connection = Connection(int(sys.argv[1]))
    server = GrammarServer(sys.argv[2] if len(sys.argv) > 2 else None)
    if sys.platform == "linux":
        limit = _address_space_bytes() + MAX_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    connection.send_bytes(bytes([Reply.DONE]))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            reply = server.answer(connection.recv_bytes())
            if reply is not None:
                connection.send_bytes(reply)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(_level: int, _text: bytes, _user_data: object) -> None:
    """Say nothing: what is wrong with a grammar is told by the engine."""


def _end_with_parent(parent_id: int) -> None:
    """End even in the midst of an endless grammar: ctypes lets other threads run meanwhile."""
    while os.getppid() == parent_id:
        time.sleep(1.0)
    os._exit(1)


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
