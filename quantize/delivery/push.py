"""Publish a run's student: its GGUF files, card, importance matrix, Modelfile and lineage.

In: a run, and a repository on a hub or a directory. Out: the files there, or what would go.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from potstill.errors import ArtifactError, ConfigError
from potstill.facts.gguf import GgufFacts
from potstill.files import disk_errors, write_text_atomically
from potstill.lineage import LINEAGE_NAME, Lineage, lineage_of_run
from potstill.models.header import GgufHeader
from potstill.rundir import RunDirectory
from quantize.delivery.copies import copy_file
from quantize.delivery.refusals import Refusal, in_licenses, in_texts

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CARD, MODELFILE, PLOT = "README.md", "Modelfile", "quality.png"
IMATRIX = "student.imatrix.gguf"
TEMPLATE_KEY = "tokenizer.chat_template"


@dataclass(frozen=True)
class Shipment:
    """What would be published.

    Attributes:
        models: GGUF files, whose copies get the lineage.
        others: Files that are copied as they are.
        refusals: What forbids it.
    """

    run: RunDirectory
    lineage: Lineage
    models: tuple[Path, ...]
    others: tuple[Path, ...]
    refusals: tuple[Refusal, ...]

    def lines(self) -> list[str]:
        """Return the files with their sizes, and the refusals."""
        lines = [f"{path.name}  {path.stat().st_size:,} bytes" for path in self.files]
        lines.append(f"{LINEAGE_NAME}  {len(self.lineage.document.encode()):,} bytes")
        lines += [f"refused: {one.where}: {one.found}" for one in self.refusals]
        return lines

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the run that would go."""
        return (*self.models, *self.others)

    def write(self, directory: Path) -> None:
        """Write all files into a directory."""
        for path in self.models:
            copy_file(path, directory / path.name, self.lineage)
        with disk_errors("copying files", directory):
            for path in self.others:
                shutil.copyfile(path, directory / path.name)
            write_text_atomically(directory / LINEAGE_NAME, self.lineage.document)


def prepare(run_directory: RunDirectory) -> Shipment:
    """Return what of a run would be published, after its hashes were verified.

    Teachers' files are left out.

    Raises:
        ArtifactError: The run has no student, or a file is damaged.
    """
    run_directory.require("gguf")
    directory = run_directory.stage_dir("gguf")
    students = [one for one in run_directory.facts(GgufFacts).files if one.role == "student"]
    names = dict.fromkeys(
        name for one in students for name in (one.file, one.adapter) if name is not None
    )
    models = tuple(directory / name for name in names)
    wanted = (directory / name for name in (CARD, MODELFILE, IMATRIX, PLOT))
    others = tuple(path for path in wanted if path.is_file())
    lineage = lineage_of_run(run_directory)
    texts = {
        path.name: path.read_text("utf-8") for path in others if path.name in (CARD, MODELFILE)
    }
    template = GgufHeader.read(models[0]).metadata.get(TEMPLATE_KEY)
    texts |= {LINEAGE_NAME: lineage.document, TEMPLATE_KEY: str(template or "")}
    refusals = (*in_texts(texts), *in_licenses(lineage))
    return Shipment(run_directory, lineage, models, others, refusals)


def push(shipment: Shipment, to: str, *, private: bool, license_checked: bool) -> str:
    """Publish to a repository (`user/name`) or into a directory, and return where it is.

    A text that names an existing directory, or begins with `.`, `/` or `~`, is one.

    Args:
        private: Whether a new repository is private.
        license_checked: Whether the user vouches for licenses that are not stated.

    Raises:
        ConfigError: Something in it may not be published, or the place is not one.
        ArtifactError: The hub or the disk fails.
    """
    _refuse(shipment, license_checked)
    path = Path(to).expanduser()
    if to.startswith((".", "/", "~")) or path.is_dir():
        with disk_errors("pushing into a directory", path):
            path.mkdir(parents=True, exist_ok=True)
        shipment.write(path)
        return str(path)
    if not REPOSITORY.fullmatch(to):
        raise ConfigError(
            "not a place to push to",
            where="--to",
            expected="user/name, or a directory such as ./name",
            found=to,
        )
    with tempfile.TemporaryDirectory(dir=shipment.run.root, prefix=".push-") as staged:
        shipment.write(Path(staged))
        return _upload(Path(staged), to, private)


def _refuse(shipment: Shipment, license_checked: bool) -> None:
    left = [one for one in shipment.refusals if not (license_checked and one.by_user)]
    if not left:
        return
    more = f", and {len(left) - 1} more: see --dry-run" if len(left) > 1 else ""
    raise ConfigError(
        "the student may not be published as it is",
        where=left[0].where,
        found=left[0].found + more,
        hint="check the license and give --license-checked"
        if all(one.by_user for one in left)
        else "remove what is found from the file's source and make the stage again",
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
            hint="log in with `hf auth login` and check the repository's name and your rights",
        ) from error
