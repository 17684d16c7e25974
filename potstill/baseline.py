"""The stage `baseline`: the student trained on the known answers alone, without a teacher.

In: a run's task and configuration. Out: `baseline/` with a checkpoint, which `train` makes,
and its GGUF file, which `quantize` makes. It shows what the teacher brings.
"""

from __future__ import annotations

from potstill.errors import ConfigError
from potstill.facts.baseline import BaselineFacts
from potstill.manifest import Manifest
from potstill.pipeline import STAGES, Choice, resolve, working
from potstill.rundir import RunDirectory
from potstill.task.stage import read_task


def make_baseline(choice: Choice, run_directory: RunDirectory, *, force: bool = False) -> Manifest:
    """Train and convert the baseline; what is finished already is left alone.

    Raises:
        ConfigError: The run has no task, or too few known answers.
        PotstillError: As the stages that train and convert, or another process works on the run.
    """
    tables = resolve(choice, run_directory)
    with working(run_directory, tables):
        task = read_task(run_directory)
        if task is None:
            raise ConfigError(
                "a baseline needs a task with known answers",
                where=run_directory.root,
                expected="[task] with examples",
                found="no [task]",
            )
        if force:
            run_directory.set_aside("baseline")
        train = STAGES["train"].call("baseline", "train", tables["train"], task, run_directory)
        session, trained = train
        if session.finished is not None:
            finished: Manifest = session.finished
            return finished
        places = (session.dir, session.dir, session.scratch_dir, "known-answers")
        quantize = STAGES["quantize"]
        file = quantize.call("task_file", "convert", tables["quantize"], task, *places)
        manifest: Manifest = session.finish(facts=BaselineFacts(**dict(trained), file=file))
        return manifest
