"""The notebook of examples/, executed from its first cell to its last by a real kernel."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from potstill.rundir import RunDirectory

PATH = Path(__file__).parents[2] / "examples" / "small.ipynb"
CELL_SECONDS = 3400
"""Patience for one cell, on a machine that does other work too."""


def text_of(cell):
    """Return what a cell printed."""
    return "".join(one["text"] for one in cell.outputs if one.output_type == "stream")


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(PATH, as_version=4)


def test_it_is_stored_without_results(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.nightly
@pytest.mark.timeout(CELL_SECONDS + 200)
def test_it_ends_with_an_answer_of_the_student(notebook, teacher_dir, tmp_path, monkeypatch):
    assert teacher_dir.is_dir(), "dequantized first"
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    executed = nbformat.from_dict(notebook)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(executed, timeout=CELL_SECONDS, kernel_name="python3", resources=place).execute()
    run = RunDirectory(tmp_path / "runs" / "notebook")
    assert run.is_finished("comparison")
    by_content = {cell.source: cell for cell in executed.cells if cell.cell_type == "code"}
    shown = next(cell for source, cell in by_content.items() if "curves.png" in source)
    assert shown.outputs[0].data["image/png"]
    report = next(cell for source, cell in by_content.items() if "report.json" in source)
    assert "student-Q4_K_M" in text_of(report)
    *_, last = by_content.values()
    assert text_of(last).rpartition("student:")[2].strip()
