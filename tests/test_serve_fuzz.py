"""Requests made up from the API's own description: none makes the server fail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serve_helpers import BASE, Stub, make_app, stub_backend

HEADERS = {"Host": BASE.removeprefix("http://")}


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def fuzz(folder: Path, examples: int) -> Counter[int]:
    """Send made-up requests to every operation, half of them wrong on purpose; return how many statuses came back."""
    app = make_app(folder, stub_backend(Stub()), requests_per_minute=10**6, max_sessions=50, keep_seconds=0)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)
    statuses: Counter[int] = Counter()
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 10
    for operation in operations:
        takes_something = operation.body or operation.path_parameters or operation.query or operation.headers
        for mode in (
            (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if takes_something else [GenerationMode.POSITIVE]
        ):
            attack(operation.as_strategy(generation_mode=mode), examples, statuses)
    return statuses


def attack(requests: Any, examples: int, statuses: Counter[int]) -> None:
    """Send requests of one kind; fail if an answer is not as described."""
    health = list(HealthCheck)
    options = {"max_examples": examples, "derandomize": True, "database": None, "suppress_health_check": health}

    @settings(phases=[Phase.generate], **options)
    @given(case=requests)
    def send(case: Any) -> None:
        answer = case.call(headers=HEADERS)
        statuses[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    send()


def test_made_up_requests_never_make_the_server_fail(tmp_path: Path) -> None:
    statuses = fuzz(tmp_path, 8)
    assert statuses[200] > 15
    assert statuses[400] > 15


@pytest.mark.slow
def test_many_made_up_requests_never_make_the_server_fail(tmp_path: Path) -> None:
    assert sum(fuzz(tmp_path, 200).values()) > 1500
