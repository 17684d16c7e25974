"""The flow of `potstill import`: read traces, write the requests, inspect them on a page.

In: files of traces. Out: JSONL, perhaps a page, and lines that describe them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from generate.imports.inspection import Inspection, inspected
from generate.imports.page import render_inspection
from generate.imports.reading import read_requests
from generate.imports.write import write_requests
from potstill.files import disk_errors, write_text_atomically
from potstill.task.stage import load_task, read_task_config


def import_traces(
    paths: Sequence[str],
    to: Path,
    *,
    page_path: Path | None,
    config_path: Path | None,
    force: bool,
) -> list[str]:
    """Write the requests in traces, and a page about them; return lines that describe them.

    Args:
        page_path: None: no page.
        config_path: A configuration whose task judges the answers on the page.

    Raises:
        ConfigError: A file cannot be read or exists already, or the task cannot be used.
        ArtifactError: There is no request, or the disk is full.
    """
    found = read_requests(paths)
    if page_path is None:
        written = write_requests(found, to, force=force)
        return [*written.sentences(), f"wrote {to}"]
    inspection = Inspection(load_task(read_task_config(config_path)) if config_path else None)
    written = write_requests(inspected(found, inspection), to, force=force)
    page = render_inspection(inspection, ", ".join(paths))
    with disk_errors("writing a page", page_path):
        write_text_atomically(page_path, page)
    return [*written.sentences(), f"wrote {to} and {page_path}"]
