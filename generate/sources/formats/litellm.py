"""Logs of LiteLLM: its standard payload, as callbacks and buckets get it, and its spend logs.

Source: `StandardLoggingPayload` in litellm.types.utils 1.x, and the table LiteLLM_SpendLogs.
"""

from __future__ import annotations

from collections.abc import Iterable

from generate.sources.formats.exchange import read_exchange
from generate.sources.formats.reader import Reader, Row, Trace, error_text, mapping
from generate.sources.messages import parsed
from generate.sources.rows import RowError

CHATS = {"completion", "acompletion", "anthropic_messages", "responses", "aresponses"}
"""Kinds of calls with messages; others are skipped."""
REDACTED = "redacted-by-litellm"


def _read(row: Row) -> Iterable[Trace]:
    if str(row["call_type"]) not in CHATS:
        return
    messages = row.get("messages")
    if isinstance(messages, str) and messages.lstrip()[:1] in ("[", "{"):
        messages = parsed(messages)
    if REDACTED in str(messages)[:200]:
        raise RowError("messages that LiteLLM redacted")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    request = {
        "model": row.get("model"),
        "messages": messages or mapping(parsed(row.get("proxy_server_request"))).get("messages"),
        "tools": _tools(row),
    }
    found = read_exchange(request, row.get("response"), "row")
    error = error_text(row.get("error_str")) or found.error
    failed = row.get("status") == "failure"
    yield Trace(
        found.messages,
        () if failed else found.answers,
        found.tools,
        found.model,
        error or ("failure" if failed else None),
    )


def _tools(row: Row) -> object:
    for key in ("model_parameters", "optional_params", "proxy_server_request"):
        if tools := mapping(parsed(row.get(key))).get("tools"):
            return tools
    return None


READER = Reader(
    "LiteLLM",
    lambda row: "call_type" in row,
    _read,
    frozenset(
        {
            "call_type", "messages", "response", "status", "error_str", "model",
            "model_parameters", "optional_params", "proxy_server_request",
        }
    ),
)  # fmt: skip
