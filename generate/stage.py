"""The generate stage: prompts → the teacher's conversations with log-probabilities.

In: the configuration, and the sources of prompts it names. Out: the stages `prompts`, `samples`
and `conversations` of a run. The teacher is loaded only if there is something to sample.
"""

from __future__ import annotations

from generate.config import GenerateConfig
from generate.dataset.stage import make_dataset
from generate.dataset.upload import find_target, upload_stage
from generate.lazy_teacher import LazyTeacher
from generate.prompts.stage import make_prompts
from generate.sampling.shards import make_parts_in_replicas, run_shard
from generate.sampling.stage import finish_samples, make_parts, open_samples
from potstill.manifest import Manifest
from potstill.rundir import RunDirectory

__all__ = ["run", "run_shard"]


def run(config: GenerateConfig, run_directory: RunDirectory) -> Manifest:
    """Run the three stages; resume an interrupted run.

    Raises:
        ConfigError: A source of prompts cannot be read, or a filter is unknown.
        ArtifactError: A row of a source is not a prompt, or the disk is full.
        TeacherError: The teacher cannot be loaded or sampled.
    """
    if config.copy_to is not None:
        find_target(config.copy_to)  # Raises before the work begins.
    teacher = LazyTeacher(config)
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
        manifest = make_dataset(config, teacher, run_directory)
    finally:
        teacher.close()
    if config.copy_to is not None:
        upload_stage(run_directory.stage_dir("conversations"), config.copy_to)
    return manifest
