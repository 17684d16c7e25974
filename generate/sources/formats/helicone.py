"""Exports of Helicone: `request_body` and `response_body` among other keys.

Source: `HeliconeRequest` of its query API, and its export tool (@helicone/export, with
`--include-body`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from generate.sources.formats.exchange import read_exchange
from generate.sources.formats.reader import Reader, Row, Trace
from generate.sources.rows import RowError


def _read(row: Row) -> Iterable[Trace]:
    if not row.get("request_body"):
        raise RowError("no request_body (export with --include-body)")
    found = read_exchange(row["request_body"], row.get("response_body"), "request_body")
    status = row.get("response_status")
    if not found.answers and found.error is None and status not in (None, 200):
        found = replace(found, error=f"status {status}")
    yield found


READER = Reader(
    "Helicone",
    lambda row: "request_body" in row or "signed_body_url" in row,
    _read,
    frozenset({"request_body", "response_body", "response_status", "signed_body_url"}),
)
