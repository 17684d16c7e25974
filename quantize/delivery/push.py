"""Publish a run's student: its GGUF files, card, importance matrix, Modelfile and lineage.

In: a run, and a repository on a hub or a directory. Out: the files there, or what would go.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from potstill.errors import ArtifactError, ConfigError
from potstill.facts.comparison import ComparisonFacts
from potstill.facts.gguf import GgufFacts
from potstill.facts.memorization import Memorization
from potstill.files import disk_errors, write_text_atomically
from potstill.lineage import LINEAGE_NAME, Lineage, lineage_of_run
from potstill.models.header import GgufHeader
from potstill.rundir import RunDirectory
from quantize.delivery.copies import copy_file
from quantize.delivery.model_yaml import NAME as MODEL_YAML
from quantize.delivery.model_yaml import model_yaml
from quantize.delivery.ollama import NAME as MODELFILE
from quantize.delivery.ollama import modelfile_of
from quantize.delivery.refusals import (
    Checked,
    Refusal,
    in_licenses,
    in_memorization,
    in_texts,
)
from quantize.report.card import memorization_section

logger = logging.getLogger(__name__)

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CARD, PLOT = "README.md", "quality.png"
IMATRIX = "student.imatrix.gguf"
TEMPLATE_KEY = "tokenizer.chat_template"
UNMEASURED = "memorization: not measured; `potstill compare` measures it"


@dataclass(frozen=True)
class Shipment:
    """What would be published.

    Attributes:
        to: A directory, or a repository (`user/name`), see `prepare`.
        models: GGUF files, whose copies get the lineage.
        others: Files that are copied as they are.
        texts: Texts to write, by the file's name.
        memorization: What the student gives back of its training answers; None: not measured.
        refusals: What forbids it.
    """

    run: RunDirectory
    to: str
    lineage: Lineage
    models: tuple[Path, ...]
    others: tuple[Path, ...]
    texts: Mapping[str, str]
    memorization: Memorization | None
    refusals: tuple[Refusal, ...]

    def lines(self, checked: Collection[Checked] = ()) -> list[str]:
        """Return the files with their sizes, what was memorized, and the refusals.

        Args:
            checked: What the user has checked, which refuses nothing.
        """
        sizes = {path.name: path.stat().st_size for path in (*self.models, *self.others)}
        sizes |= {name: len(text.encode()) for name, text in self.texts.items()}
        lines = [f"{name}  {size:,} bytes" for name, size in sizes.items()]
        found = self.memorization
        lines += [UNMEASURED] if found is None else [f"memorization: {' '.join(found.sentences)}"]
        for one in self.refusals:
            state = "checked" if one.unless in checked else "refused"
            lines.append(f"{state}: {one.where}: {one.found}")
        return lines

    def write(self, directory: Path) -> None:
        """Write all files into a directory."""
        for path in self.models:
            copy_file(path, directory / path.name, self.lineage)
        with disk_errors("copying files", directory):
            for path in self.others:
                shutil.copyfile(path, directory / path.name)
            for name, text in self.texts.items():
                write_text_atomically(directory / name, text)


def prepare(run_directory: RunDirectory, to: str) -> Shipment:
    """Return what of a run would be published, after its hashes were verified.

    Teachers' files are left out. A repository gets a `model.yaml` too.

    Args:
        to: A text that names an existing directory, or begins with `.`, `/` or `~`, is a directory;
            others are repositories.

    Raises:
        ConfigError: The place is neither.
        ArtifactError: The run has no student, or a file is damaged.
    """
    is_repository = _directory(to) is None
    run_directory.require("gguf")
    directory = run_directory.stage_dir("gguf")
    gguf = run_directory.facts(GgufFacts)
    students = [one for one in gguf.files if one.role == "student"]
    names = dict.fromkeys(
        name for one in students for name in (one.file, one.adapter) if name is not None
    )
    models = tuple(directory / name for name in names)
    others = tuple(path for name in (IMATRIX, PLOT) if (path := directory / name).is_file())
    lineage = lineage_of_run(run_directory)
    # The lineage has a verdict if these files were judged.
    judged = run_directory.facts(ComparisonFacts) if lineage.verdict else None
    memorization = judged.memorization if judged else None
    texts = {}
    if (directory / CARD).is_file():
        texts[CARD] = (directory / CARD).read_text("utf-8") + memorization_section(memorization)
    if (directory / MODELFILE).is_file():
        texts[MODELFILE] = modelfile_of(run_directory, gguf.recommended_file.file)
    texts[LINEAGE_NAME] = lineage.document
    if is_repository:
        texts[MODEL_YAML] = model_yaml(run_directory, to)
    template = GgufHeader.read(models[0]).metadata.get(TEMPLATE_KEY)
    refusals = (
        *in_texts(texts | {TEMPLATE_KEY: str(template or "")}),
        *in_licenses(lineage),
        *in_memorization(memorization),
    )
    return Shipment(run_directory, to, lineage, models, others, texts, memorization, refusals)


def push(shipment: Shipment, *, private: bool, checked: Collection[Checked] = ()) -> str:
    """Publish to a repository or into a directory, and return where it is.

    Args:
        private: Whether a new repository is private.
        checked: What the user has checked: licenses that are not stated, answers that the student
            has memorized.

    Raises:
        ConfigError: Something in it may not be published.
        ArtifactError: The hub or the disk fails.
    """
    refuse(shipment, checked)
    if shipment.memorization is None:
        logger.warning("%s", UNMEASURED)
    path = _directory(shipment.to)
    if path is not None:
        with disk_errors("pushing into a directory", path):
            path.mkdir(parents=True, exist_ok=True)
        shipment.write(path)
        return str(path)
    with tempfile.TemporaryDirectory(dir=shipment.run.root, prefix=".push-") as staged:
        shipment.write(Path(staged))
        return _upload(Path(staged), shipment.to, private)


def refuse(shipment: Shipment, checked: Collection[Checked]) -> None:
    """Raise what forbids publishing, apart from what the user has checked.

    Raises:
        ConfigError: Something in it may not be published.
    """
    left = [one for one in shipment.refusals if one.unless not in checked]
    if not left:
        return
    more = f", and {len(left) - 1} more: see --dry-run" if len(left) > 1 else ""
    options = dict.fromkeys(f"--{one.unless}-checked" for one in left)
    raise ConfigError(
        "the student may not be published as it is",
        where=left[0].where,
        found=left[0].found + more,
        hint=f"check it and give {' '.join(options)}"
        if all(one.unless for one in left)
        else "remove what is found from the file's source and make the stage again",
    )


def _directory(to: str) -> Path | None:
    """Return the directory that `to` names; None where it names a repository."""
    path = Path(to).expanduser()
    if to.startswith((".", "/", "~")) or path.is_dir():
        return path
    if REPOSITORY.fullmatch(to):
        return None
    raise ConfigError(
        "not a place to push to",
        where="--to",
        expected="user/name, or a directory such as ./name",
        found=to,
    )


def _upload(directory: Path, repository: str, private: bool) -> str:
    from huggingface_hub import HfApi  # Here, because the verb starts without it.

    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        message = "Upload a student made with potstill"
        done = api.upload_folder(repo_id=repository, folder_path=directory, commit_message=message)
        return str(done.commit_url)
    except Exception as error:  # The library raises many kinds, its own and httpx's.
        raise ArtifactError(
            "the hub did not take the student",
            where=repository,
            found=next(iter(str(error).strip().splitlines()), type(error).__name__),
            hint="log in with `hf auth login`, check the repository's name and your rights, and "
            "set HF_HUB_DISABLE_XET=1 for a hub without Xet storage",
        ) from error
