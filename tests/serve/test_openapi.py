"""schemathesis reads `/openapi.json` and asks whatever it allows, and what it does not."""

from __future__ import annotations

import pytest

from brigade import LLM
from tests.serve.raw import ask, becomes, is_error
from tests.serve.servers import serving

schemathesis = pytest.importorskip("schemathesis")


def test_the_document_names_every_address_and_what_errors_look_like(server) -> None:
    document = ask(server.port, "/openapi.json").json
    assert document["openapi"].startswith("3.1")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert "default" in operation["responses"] and operation["operationId"], path
            if method == "get":
                assert ask(server.port, path).status == 200
            else:
                reply = ask(server.port, path, b"[]")
                assert reply.status == 400 and is_error(reply.json)


@pytest.mark.slow
def test_what_the_document_says_is_true() -> None:
    """Every answer has a status, a type and a shape that it names; no input has status 500."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks as known

    checks = (
        not_a_server_error, known.status_code_conformance, known.content_type_conformance, known.response_schema_conformance,
        known.response_headers_conformance,
    )  # fmt: skip

    with LLM(max_batch_size=16, kv_blocks=64, max_model_len=128) as llm, serving(llm) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) == 9
        seen: dict[str, set[int]] = {}
        for operation in operations:
            modes = schemathesis.GenerationMode
            cases = st.one_of(
                operation.as_strategy(generation_mode=modes.POSITIVE), operation.as_strategy(generation_mode=modes.NEGATIVE)
            )

            @settings(
                max_examples=300, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=cases)
            def try_it(case) -> None:
                reply = case.call(timeout=60)
                seen.setdefault(case.path, set()).add(reply.status_code)
                assert reply.status_code != 500
                case.validate_response(reply, checks=checks)

            try_it()
        assert {path for path, found in seen.items() if 200 in found} >= {"/v1/models", "/health", "/tokenize", "/detokenize"}
        assert seen["/v1/completions"] >= {200, 400}
        assert becomes(lambda: server.app.desk.open == 0) and llm.thread.wait_idle(10)
        assert llm.engine.pool.num_free == llm.engine.pool.num_blocks
