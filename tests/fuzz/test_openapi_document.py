"""Every answer is as the OpenAPI document describes it, whatever schemathesis sends."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.served import Server, run_of_gguf

DOCUMENT = Path(__file__).with_name("openapi_document.py")


@pytest.mark.parametrize(
    "num_examples", [3, pytest.param(300, marks=[pytest.mark.nightly, pytest.mark.timeout(7200)])]
)
def test_every_answer_is_as_the_document_describes_it(tiny_gguf, tmp_path, num_examples):
    # In a directory of its own, where pytest takes schemathesis' plugin.
    shutil.copy(DOCUMENT, tmp_path / "test_document.py")
    run_directory = run_of_gguf(tmp_path / "run", tiny_gguf)
    variants = {"student": {"model": "other", "weight": 1}, "teacher": {"weight": 1}}
    server = Server(
        run_directory,
        tmp_path / "log",
        key=None,
        context_tokens=64,
        max_parallel=2,
        fallback_model="student",
        paths={"teacher": str(tiny_gguf), "other": str(tiny_gguf)},
        experiments={"experiment": {"variants": variants}},
    )
    environment = {"BASE_URL": server.root_url, "NUM_EXAMPLES": str(num_examples)}
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "test_document.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    server.stop()
    assert done.returncode == 0, done.stdout[-8000:]
