"""Training states that survive kill -9, and files of the trained weights alone.

In: a trainer and its model, whole or sharded over processes. Out: files that hold the trained
parameters only; everything else can be rebuilt.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from potstill.errors import ArtifactError, first_line
from potstill.files import disk_errors, replacing

WHOLE_NAME = "whole"
"""Written into a training state last: a state without it is incomplete."""


class TrainedStates:
    """Mixin for a transformers trainer that saves trained parameters only."""

    accelerator: Any
    args: Any
    control: Any
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool
    model: Any
    model_wrapped: Any
    state: Any

    def save_trained(self, path: Path) -> None:
        """Write the trained parameters into one file; every process calls this."""
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        state = self.accelerator.get_state_dict(self.model_wrapped) if sharded else None
        if self.args.should_save:
            with _saving("the trained weights", path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as temporary:
                    _write(self.model, state, temporary)
        self.accelerator.wait_for_everyone()

    def create_model_card(self, *_arguments: Any, **_options: Any) -> None:  # noqa: ANN401
        """Write no model card: a training state is not published."""

    def _save(self, output_dir: str, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the trained parameters; a resumed run rebuilds everything else."""
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        _write(self.model, state_dict, Path(output_dir) / SAFE_WEIGHTS_NAME)

    def _issue_warnings_after_load(self, load_result: Any) -> None:  # noqa: ANN401
        """Suppress the warning: a training state lacks the frozen weights by design."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ANN401
        """Save a state, and mark it as complete last.

        No state is saved at the end of training: the trained weights are saved then, and
        transformers 5.19 would resume from such a state with one step too many.
        """
        if self.control.should_training_stop:
            return
        state_dir = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with _saving("the training state", state_dir):
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                (state_dir / WHOLE_NAME).touch()


def newest_whole_state(states_dir: Path) -> Path | None:
    """Return the newest complete training state."""
    whole = [path for path in _states(states_dir) if (path / WHOLE_NAME).is_file()]
    return whole[-1] if whole else None


def remove_other_states(states_dir: Path) -> None:
    """Remove all training states but the newest complete one; only one process may call this."""
    newest = newest_whole_state(states_dir)
    for path in _states(states_dir):
        if path != newest:
            shutil.rmtree(path)


def load_trained(model: Any, path: Path) -> None:  # noqa: ANN401  (untyped library)
    """Load the parameters that `save_trained` wrote from an equal model.

    Raises:
        ArtifactError: The file is damaged, or is of another model.
    """
    try:
        stored = load_file(path)
        unexpected = model.load_state_dict(stored, strict=False).unexpected_keys
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _unreadable(path, first_line(error)) from error
    if unexpected:
        raise _unreadable(path, f"no place for {unexpected[0]}")
    trained = (name for name, one in model.named_parameters() if one.requires_grad)
    for name in trained:
        if name not in stored:
            raise _unreadable(path, f"no {name}")


def _states(states_dir: Path) -> list[Path]:
    """Return all training states, complete or not, the oldest first."""
    found = states_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _unreadable(path: Path, found: str) -> ArtifactError:
    return ArtifactError(
        "the trained weights cannot be read",
        where=path,
        found=found,
        hint="train again with --force",
    )


def _write(model: Any, state: dict[str, Tensor] | None, path: Path) -> None:  # noqa: ANN401
    """Write the parameters that are trained, from a gathered state where the model is sharded."""
    trained = {
        name: (parameter if state is None else state[name]).detach().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    save_file(trained, path, metadata={"format": "pt"})


@contextmanager
def _saving(what: str, path: Path) -> Iterator[None]:
    """Turn libraries' errors of writing into an ArtifactError."""
    with disk_errors(f"saving {what}", path):
        try:
            yield
        except (RuntimeError, SafetensorError) as error:
            raise ArtifactError(
                f"{what} cannot be saved",
                where=path,
                found=first_line(error),
                hint="free disk space, then run the same command again",
            ) from error
