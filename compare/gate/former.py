"""The student that this one would replace: another model that answers the same prompts.

In: its run. Out: its side of the comparison, and the configuration and the answers by which the
same judges compare both students.
"""

from __future__ import annotations

from collections.abc import Sequence

from compare.answers.answers import Answer, Role
from compare.answers.serving import FileSide
from compare.config import CompareConfig
from compare.gate.asking import STUDENT
from potstill.errors import ConfigError
from potstill.facts.gguf import GgufFacts
from potstill.rundir import RunDirectory

FORMER: Role = "former"
OF_PEOPLE = {"criteria", "votes"}
"""Kinds of judges whose files are people's, on student and teacher."""


def former_side(config: CompareConfig) -> FileSide | None:
    """Return the recommended file of the former student's run; None: none is named.

    Raises:
        ArtifactError: Its gguf stage is missing or damaged.
        ConfigError: It is an adapter.
    """
    if config.former_run is None:
        return None
    run = RunDirectory(config.former_run)
    hashes = {output.path: output.sha256 for output in run.require("gguf").outputs}
    file = run.facts(GgufFacts).recommended_file
    if file.adapter is not None:
        raise ConfigError(
            "a former student that is kept as an adapter cannot be compared with",
            where="compare.former_run",
            expected="a student that is one file",
            found=f"{file.file} with {file.adapter}",
        )
    path = run.stage_dir("gguf") / file.file
    return FileSide(f"{FORMER}-{file.name}", hashes[file.file], path)


def judged_alike(config: CompareConfig) -> CompareConfig:
    """Return how both students are judged: by the same judges, but for those that are people."""
    judges = tuple(one for one in config.judges if one.kind not in OF_PEOPLE)
    return config.model_copy(update={"judges": judges, "samples_per_prompt": 1})


def in_teachers_place(answers: Sequence[Answer]) -> list[Answer]:
    """Return both students' answers, the former one's as if they were the teacher's."""
    former = (one for one in answers if one.role == FORMER)
    return [
        *(one for one in answers if one.role == STUDENT),
        *(one.model_copy(update={"role": "teacher"}) for one in former),
    ]
