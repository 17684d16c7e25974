"""Checkpoints by name: a directory on this machine, or a model of the Hugging Face hub.

In: what the user wrote. Out: a local directory. Knows nothing of what a checkpoint holds.
"""

from __future__ import annotations

from pathlib import Path

from potstill.errors import ArtifactError

WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md"]


def find_checkpoint(name: str) -> Path:
    """Return the directory of a checkpoint, fetched from the hub when it is not a local one.

    Raises:
        ArtifactError: There is no such directory and the hub does not give it.
    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory.resolve()
    # Imported here: the core starts without it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=WANTED_FILES))
    except (OSError, ValueError, HFValidationError) as error:
        raise ArtifactError(
            "the checkpoint cannot be found",
            where=name,
            expected="a checkpoint directory, or the name of a model on the Hugging Face hub",
            found=str(error).splitlines()[0],
            hint="check the spelling, or download the model and name its directory",
        ) from error
