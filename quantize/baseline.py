"""The baseline's checkpoint as a verified GGUF file, compared as the student's files are.

In: the checkpoint in the stage `baseline`, and the task. Out: one Q8_0 file beside it.
"""

from __future__ import annotations

from potstill.facts.gguf import GgufFile
from potstill.progress import track
from potstill.rundir import StageSession
from potstill.task.known_answers import known_conversations
from potstill.task.task import Task
from quantize.config import QuantizeConfig
from quantize.loading import load_tokenizer
from quantize.models import SourceModel
from quantize.quantization.file_types import FileTypeName
from quantize.stage import make_files
from quantize.tokenized import in_tokens_of
from quantize.verification.reference import held_out_of

FILE_TYPE: FileTypeName = "Q8_0"
"""Nearly exact, and made without an importance matrix."""
TITLE = "known-answers"


def convert(config: QuantizeConfig, task: Task, session: StageSession) -> GgufFile:
    """Make the file, unless it is there and intact.

    Raises:
        ConversionError: The checkpoint cannot be converted, or the file does not match it.
    """
    tokenizer = load_tokenizer(session.dir)
    known = known_conversations(task, [*task.references, *task.examples])
    tokenized = (in_tokens_of(tokenizer, one.given, [one.answer], one.tools) for one in known)
    model = SourceModel(
        title=TITLE,
        role="student",
        checkpoint_dir=session.dir,
        types=(FILE_TYPE,),
        mixes={},
        aware_type=None,
        has_own_tokenizer=True,
        held_out=held_out_of(tokenized, config.verification_tokens, session.dir),
        conversations_dir=None,
        scratch_dir=session.scratch_dir,
    )
    settings = config.model_copy(update={"imatrix": "never"})
    with track("GGUF files", 1, "files") as progress:
        (file,) = make_files(model, settings, session.dir, progress)
    return file
