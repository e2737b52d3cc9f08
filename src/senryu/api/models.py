"""GET /v1/models and /v1/models/{id}: the registry's ids as ModelInfo."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from senryu.api.paging import page_json, page_limit
from senryu.api.wire import api_version, json_response
from senryu.errors import SenryuError
from senryu.service.registry import Registry, Served

YES, NO = {"supported": True}, {"supported": False}
CAPABILITIES = {
    "batch": YES,
    "citations": YES,
    "code_execution": NO,
    "context_management": {"supported": False},
    "effort": {"supported": False, "low": NO, "medium": NO, "high": NO, "max": NO},
    "image_input": NO,
    "pdf_input": YES,
    "server_tools": {"supported": False, "web_search": NO, "code_execution": NO},
    "structured_outputs": YES,
    "thinking": {
        "supported": False,
        "types": {"adaptive": NO, "between_tools": NO, "disabled": YES, "enabled": NO},
    },
}


class Models:
    """The two endpoints, over one registry."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    async def list(self, request: Request) -> Response:
        """A page of models, newest first."""
        api_version(request)
        served = self.registry.served()
        ids = [one.id for one in served]
        query = request.query_params
        limit = page_limit(query)
        after, before = query.get("after_id"), query.get("before_id")
        start = ids.index(_known(after, ids, "after_id")) + 1 if after else 0
        stop = ids.index(_known(before, ids, "before_id")) if before else len(ids)
        window = served[start:stop]
        page = window[-limit:] if before and not after else window[:limit]
        return json_response(page_json([model_info(one) for one in page], len(window) > len(page)))

    async def retrieve(self, request: Request) -> Response:
        """One model, by id or alias."""
        api_version(request)
        return json_response(model_info(self.registry.resolve(request.path_params["model_id"])))


def model_info(served: Served) -> dict[str, Any]:
    """A ModelInfo that old and new SDKs accept."""
    return {
        "type": "model",
        "id": served.id,
        "display_name": served.display_name,
        "created_at": served.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "line": "haiku",
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": served.model.limits.context,
        "max_tokens": served.model.limits.output,
        "capabilities": CAPABILITIES,
    }


def _known(cursor: str, ids: list[str], path: str) -> str:
    if cursor not in ids:
        raise SenryuError("bad_cursor", path=path, thing="model")
    return cursor
