import io

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from generate.sources.otlp_files import MAX_MESSAGE_BYTES, read_messages
from generate.sources.rows import RowError


def traces(name="chat"):
    data = TracesData()
    data.resource_spans.add().scope_spans.add().spans.add(trace_id=b"t" * 16, name=name)
    return data.SerializeToString()


def logs():
    data = LogsData()
    data.resource_logs.add().scope_logs.add().log_records.add(
        time_unix_nano=1, span_id=b"s" * 8, event_name="gen_ai.choice"
    )
    return data.SerializeToString()


def framed(*messages):
    return b"".join(len(one).to_bytes(4, "big") + one for one in messages)


def read(content):
    return list(read_messages(io.BytesIO(content)))


def test_spans_and_log_records_are_told_apart():
    (found,) = read(traces())
    assert found["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] == "chat"
    (found,) = read(logs())
    assert found["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["eventName"] == "gen_ai.choice"


def test_messages_after_their_lengths_are_read_one_by_one():
    assert len(read(framed(traces(), logs()))) == 2
    assert read(b"") == []


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (framed(traces())[:-1], "of which"),
        (framed(traces()) + b"\0", "cut off"),
        ((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"), "beyond"),
        (framed(b"\xff\xff\xff"), "not OTLP"),
        (b"\n\xff\xff\xff", "not OTLP"),
    ],
)
def test_damaged_files_are_refused_where_they_are_damaged(content, found):
    *_, last = read(content)
    assert isinstance(last, RowError)
    assert found in str(last)
