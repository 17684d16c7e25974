"""The server's OpenAPI document, tried by schemathesis with bodies that follow it and that do not.

`test_openapi_document.py` runs it with pytest: the server's address is in BASE_URL, the number of
requests for each operation in NUM_EXAMPLES.
"""

import os

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
NUM_EXAMPLES = int(os.environ["NUM_EXAMPLES"])
document = schemathesis.openapi.from_url(f"{os.environ['BASE_URL']}/openapi.json")


@document.parametrize()
@settings(max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_they_are_described(case):
    # A response that takes a minute is a hang.
    case.call_and_validate(checks=CHECKS, timeout=60)
