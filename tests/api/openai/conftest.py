"""One server in each profile for the OpenAI-compatible door's tests."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from openai_door import Door, reply

from serving import scripted_model, serving


@pytest.fixture(scope="session")
def door() -> Iterator[Door]:
    model = scripted_model(reply)
    with serving(model) as url, httpx.Client(base_url=url, timeout=120) as client:
        yield Door(client, model)


@pytest.fixture(scope="session")
def lenient() -> Iterator[Door]:
    model = scripted_model(reply)
    with serving(model, profile="lenient") as url, httpx.Client(base_url=url, timeout=120) as client:
        yield Door(client, model)
