"""Our own OpenAPI document, tried by schemathesis on our URL."""

import shutil
from pathlib import Path


def test_every_answer_is_as_the_document_describes_it(run_suite, tiny_server, tmp_path):
    shutil.copy(Path(__file__).with_name("openapi_document.py"), tmp_path / "test_document.py")
    outcomes = run_suite(tmp_path, "--tb=short", BASE_URL=tiny_server(64).root_url)
    assert not outcomes.failed
    assert outcomes.passed
