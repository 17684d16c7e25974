"""Where llama.cpp's own converter is: its Python files, of the version that potstill runs.

llama-cpp-python's source distribution contains them, with their own version of the gguf package.
The package that pip builds of it does not, so they are unpacked into potstill's cache, once.
"""

from __future__ import annotations

import ast
import os
import shutil
import tarfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from potstill.errors import ConfigError, ConversionError
from potstill.files import unfinished_path
from potstill.models.files import cache_dir
from potstill.models.packages import pip_download
from potstill.progress import announced

VARIABLE = "POTSTILL_LLAMA_CPP"
"""Environment variable that names a checkout of llama.cpp to take the converter from."""
LIBRARY, GGUF = "conversion", "gguf-py"
ADAPTER_SCRIPT = "convert_lora_to_gguf.py"
WANTED = (f"{LIBRARY}/", f"{GGUF}/gguf/", ADAPTER_SCRIPT, "LICENSE")


def converter_dir() -> Path:
    """Return the directory with llama.cpp's converter, fetched if it is not on this machine.

    Raises:
        ConfigError: The named checkout does not have one.
        ConversionError: It cannot be fetched.
    """
    local = local_converter_dir()
    return _fetch(_cached()) if local is None else local


def local_converter_dir() -> Path | None:
    """Return the directory with llama.cpp's converter; None if it has to be fetched.

    None, too, where llama-cpp-python is not installed, whose version it must have.

    Raises:
        ConfigError: The named checkout does not have one.
    """
    if named := os.environ.get(VARIABLE):
        directory = Path(named).expanduser().absolute()
        if not (directory / LIBRARY / "__init__.py").is_file():
            raise ConfigError(
                "llama.cpp's converter is not there",
                where=VARIABLE,
                expected=f"a checkout of llama.cpp, with a directory {LIBRARY}",
                found=named,
                hint="unset the variable to use the one of llama-cpp-python's version",
            )
        return directory
    with suppress(PackageNotFoundError):
        if (cached := _cached()).is_dir():
            return cached
    return None


def refuse_unknown(architecture: str | None, sources: Path, where: object) -> None:
    """Refuse an architecture of text models that the converter is not registered for.

    Raises:
        ConversionError: It is not.
    """
    known = _known_architectures(sources)
    if architecture not in known:
        raise ConversionError(
            f"the architecture {architecture} cannot be converted to GGUF",
            where=where,
            expected=f"one of the {len(known)} that llama.cpp's converter knows",
            found=architecture,
            hint=f"choose another model, or name a newer checkout of llama.cpp in {VARIABLE}",
        )


def _known_architectures(sources: Path) -> frozenset[str]:
    module = ast.parse((sources / LIBRARY / "__init__.py").read_text(encoding="utf-8"))
    values = (
        one.value
        for one in module.body
        if isinstance(one, ast.AnnAssign) and ast.unparse(one.target) == "TEXT_MODEL_MAP"
    )
    return frozenset(ast.literal_eval(next(filter(None, values), ast.Set([]))))


def _cached() -> Path:
    return cache_dir() / f"converters-of-llama-cpp-python-{version('llama-cpp-python')}"


def _fetch(target: Path) -> Path:
    requirement = f"llama-cpp-python=={version('llama-cpp-python')}"
    target.parent.mkdir(parents=True, exist_ok=True)
    directory = unfinished_path(target)
    try:
        with announced(f"fetching llama.cpp's converter, which is in {requirement}"):
            _unpack(_download(requirement, directory), directory)
        directory.replace(target)
    except OSError:
        # Another process that fetched it at the same time has put it there.
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return target


def _download(requirement: str, directory: Path) -> Path:
    problem = pip_download(requirement, directory, "--no-binary", "llama-cpp-python")
    if problem is not None:
        raise ConversionError(
            "llama.cpp's converter cannot be fetched",
            where=f"source distribution of {requirement}",
            found=problem,
            hint=f"check the network and pip, or name a checkout of llama.cpp in {VARIABLE}",
        )
    return next(directory.glob("*.tar.gz"))


def _unpack(archive: Path, directory: Path) -> None:
    """Extract the converter's files from a source distribution, and delete it."""
    with tarfile.open(archive) as files:
        for member in files:
            _, _, name = member.name.partition("/vendor/llama.cpp/")
            if name.startswith(WANTED) and member.isfile():
                member.name = name
                files.extract(member, directory, filter="data")
    archive.unlink()
