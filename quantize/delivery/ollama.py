"""The Modelfile of a student for its task, as it was compared and as `potstill serve` samples.

In: a run with the Modelfile that `quantize` wrote. Out: the same with what the task sets.
"""

from __future__ import annotations

from potstill.files import disk_errors
from potstill.rundir import RunDirectory
from potstill.task.stage import read_task
from quantize.modelfile import can_be_quoted

NAME = "Modelfile"
TEMPERATURE = "PARAMETER temperature "


def modelfile_of(run_directory: RunDirectory, file: str) -> str:
    """Return the Modelfile of one of the student's files.

    Args:
        file: Its name, such as student-Q4_K_M.gguf.

    Raises:
        ArtifactError: The run has no Modelfile, or no task that can be read.
    """
    path = run_directory.stage_dir("gguf") / NAME
    with disk_errors("reading the Modelfile", path):
        lines = path.read_text(encoding="utf-8").splitlines()
    lines = [f"FROM ./{file}" if one.startswith("FROM ") else one for one in lines]
    task = read_task(run_directory)
    if task and task.metrics:
        lines = [one for one in lines if not one.startswith(TEMPERATURE)] + [f"{TEMPERATURE}0"]
    if task and task.student_instructions and can_be_quoted(task.student_instructions):
        lines.append(f'SYSTEM """{task.student_instructions}"""')  # Of several the last counts.
    return "\n".join(lines) + "\n"
