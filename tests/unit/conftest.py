"""Fixtures of all unit tests; nothing waits that no unit test needs to wait for."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import httpcore2
import pytest

from potstill.rundir import RunDirectory


@pytest.fixture(scope="session", autouse=True)
def no_waiting() -> Iterator[None]:
    """Let nothing wait for the disk, and let clients of plain HTTP read the CAs' certificates once.

    Whether a file is on the disk shows when the power fails only; the rest is as it always is.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        tls = functools.cache(httpcore2.default_ssl_context)
        patch.setattr(httpcore2, "default_ssl_context", tls)
        yield


@pytest.fixture
def run_directory(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")
