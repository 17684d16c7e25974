"""The generate stage: prompts → the teacher's conversations with log-probabilities.

In: the configuration, and the sources of prompts it names. Out: the stages `prompts`, `samples`
and `conversations` of a run. The teacher is loaded only when there is something to sample.
"""

from __future__ import annotations

from generate.config import GenerateConfig
from generate.copies import copy_stage, find_target
from generate.curated import make_conversations
from generate.prompt_stage import make_prompts
from generate.samples import finish_samples, make_parts, open_samples
from generate.shards import make_parts_in_replicas
from generate.teachers.at_hand import TeacherAtHand
from potstill.manifest import Manifest
from potstill.rundir import RunDirectory


def run(config: GenerateConfig, run_directory: RunDirectory) -> Manifest:
    """Make what is missing; go on where a run was cut off.

    Raises:
        ConfigError: A source of prompts cannot be read, or a filter is unknown.
        ArtifactError: A row of a source is no prompt, or the disk is full.
        TeacherError: The teacher cannot be loaded or sampled.
    """
    if config.copy_to is not None:
        find_target(config.copy_to)  # What cannot be reached is said before the work begins.
    teacher = TeacherAtHand(config)
    try:
        make_prompts(config, teacher, run_directory)
        session = open_samples(config, run_directory)
        if not session.finished:
            if config.has_replicas:
                teacher.close()
                make_parts_in_replicas(config, run_directory, session)
            else:
                make_parts(config, teacher, run_directory, session)
            finish_samples(config, teacher, session, run_directory)
            teacher.close()
        manifest = make_conversations(config, run_directory)
    finally:
        teacher.close()
    if config.copy_to is not None:
        copy_stage(run_directory.stage_dir("conversations"), config.copy_to)
    return manifest
