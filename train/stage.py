"""The train stage: conversations with log-probabilities → a student checkpoint.

In: the finished conversations of a run. Out: a Hugging Face checkpoint with the tokenizer files it
was trained with, its fidelity to the teacher on the test split before and after training, and
curves. Training itself may run in other processes; this one owns the run directory. A finished
stage is found without importing torch.
"""

from __future__ import annotations

from potstill.manifest import Manifest
from potstill.rundir import RunDirectory
from train.config import TrainConfig


def run(config: TrainConfig, run_directory: RunDirectory) -> Manifest:
    """Train the student; resume an interrupted run.

    Raises:
        ConfigError: Something that the config names does not exist.
        ManifestMismatchError: Teacher or student has another tokenizer than the conversations.
        TrainingError: The student cannot be built from the config or trained, or a split is empty.
        ArtifactError: An input is damaged or the disk is full.
    """
    if config.report_to:
        from train.arguments import refuse_absent_reporters

        refuse_absent_reporters(config.report_to)
    if config.launch is not None:
        from train.launcher import launch_options

        launch_options(config.launch)
    settings = config.deciding(exclude={"report_to", "baseline"})
    if config.replay:  # By content: a run may be moved.
        settings["replay"] = [RunDirectory(one).pinned("conversations") for one in config.replay]
    session = run_directory.open_stage("student", settings, inputs=("conversations",))
    if session.finished:
        return session.finished
    from train.making import make_student

    return make_student(config, run_directory, session)
