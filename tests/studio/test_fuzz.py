"""Whatever a fuzzer makes of the studio's own schema is answered or refused in words; nothing breaks (no 5xx).

As an admin and as a labeler, on a studio with something of everything in it. Paths get ids that exist in turn with
ids that do not, so that the requests come past the first check.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from made_studio import Made
from starlette.testclient import TestClient

from tutelage.studio import accounts, queue
from tutelage.studio.app import COOKIE
from tutelage.studio.store import Store

TRAINS = ("/rounds", "/rounds/{number}/resume", "/rounds/{number}/decide", "/values/train", "/api/playground/answer")
"""They start a process that trains or answers; their refusals are tested where they are."""


FEW = settings(max_examples=6, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))


def _written(value: Any) -> str | bytes:
    return value if isinstance(value, str | bytes) else str(value)


@pytest.mark.attack("random requests to every route, as every role")
@pytest.mark.parametrize("role", ["admin", "labeler"])
def test_nothing_breaks(app: FastAPI, store: Store, made: Made, role: str) -> None:
    who = made.account(role)
    batch = made.filled("compare", 2, k=3)
    made.filled("demonstrate", 2)
    task = queue.claim(store, who.id, "compare") if role == "labeler" else None
    known = {
        "number": [batch, who.id, "1"],
        "assignment": [str(task)],
        "name": [made.prompts(1)[0]],
        "kind": ["compare"],
    }
    app.add_api_route("/openapi.json", app.openapi, include_in_schema=False)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    broken: list[str] = []
    asked = 0
    client = TestClient(app, base_url="http://localhost:8400", raise_server_exceptions=False)
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in TRAINS:
            continue

        @settings(
            max_examples=6, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            nonlocal asked
            asked += 1
            for name, values in known.items():
                if name in case.path_parameters and asked % 2:
                    case.path_parameters[name] = values[asked // 2 % len(values)]
            cookie = f"{COOKIE}={accounts.open_session(store, who.id)}"  # a session each: some requests end it
            sent = case.as_transport_kwargs(headers={"Cookie": cookie, "Sec-Fetch-Site": "same-origin"})
            sent.pop("cookies", None)
            if isinstance(sent.get("data"), bytes):
                sent["content"] = sent.pop("data")
            if sent.get("files"):  # the client writes numbers into no form
                sent["files"] = [(name, (file, _written(value))) for name, (file, value) in sent["files"]]
            answer = client.request(**sent, follow_redirects=False)
            if answer.status_code >= 500:
                broken.append(f"{case.method} {case.formatted_path}: {answer.status_code} {answer.text[:200]}")

        ask()
    assert broken == []
    assert asked > 150
