"""OpenRouter's shape: OpenAI's chat completions with cache markers and costs, its list of models, and what a key has used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from senryu.api.desk import Desk
from senryu.api.dialect import Dialect
from senryu.api.doors import Door
from senryu.api.fields import Fields, boolean, free, natural, optional, string
from senryu.api.openai import errors as openai_errors
from senryu.api.openai.chunks import REASONS, renamed
from senryu.api.openai.door import Answered, Chat
from senryu.api.openai.options import USAGE_DETAILS, ChatOptions, prompt_tokens
from senryu.api.openai.reading import asks_nothing
from senryu.api.ratelimits import openai_rates
from senryu.api.wire import json_response
from senryu.errors import SenryuError
from senryu.ledger.clock import as_datetime
from senryu.ledger.prices import Tier, load_prices, usd
from senryu.ledger.rows import UsageRow
from senryu.service.registry import Served, aliases_of
from senryu.service.usage_reader import UsageReader
from senryu.types import Finished

PROVIDER = "Senryu"
PREFIX = "anthropic/"  # of the names that the service gives to Claude models
ID = re.compile(r"(?:gen-|msg_)([A-Za-z0-9]{1,60})")
NANO = 10**9
UNHEARD: Mapping[str, tuple[str, tuple[Any, ...]]] = {  # field -> what it asks for; the values that ask for nothing
    "models": ("models to fall back to are", ([],)),
    "route": ("routes are", ("fallback",)),
    "transforms": ("transforms of the prompt are", ([],)),
    "plugins": ("plugins are", ([],)),
    "min_p": ("min_p is", (0,)),
    "top_a": ("top_a is", (0,)),
    "repetition_penalty": ("penalties are", (1,)),
    "include_reasoning": ("reasoning is", (False,)),
}
ONE_PROVIDER = (  # who may answer, in which order: here there is one to answer, and it keeps what it is told
    "allow_fallbacks", "data_collection", "enforce_distillable_text", "ignore", "only", "order", "require_parameters", "sort",
    "zdr",
)  # fmt: skip
PARAMETERS = [
    "max_tokens", "response_format", "seed", "stop", "structured_outputs", "temperature", "tool_choice", "tools", "top_k",
    "top_p",
]  # fmt: skip


def _status(error: SenryuError) -> int:
    """A model that is not there is a bad request in this shape; all else is as OpenAI's."""
    return 400 if error.code == "model_unknown" else openai_errors.refusal(error, "").status_code


def _error_json(error: SenryuError) -> dict[str, Any]:
    told = openai_errors.error_json(error)["error"]
    message = f"{error.values['model']} is not a valid model ID" if error.code == "model_unknown" else told["message"]
    where = {"metadata": {"param": told["param"]}} if told["param"] else {}
    return {"error": {"code": _status(error), "message": message, **where}}


def _failure(error: SenryuError) -> dict[str, Any]:
    """The last chunk of a stream that fails midway."""
    return _error_json(error) | {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}


def _refusal(error: SenryuError, request_id: str) -> Response:
    return json_response(_error_json(error), _status(error))


def owns(path: str) -> bool:
    """Its Messages routes are the Claude API's."""
    return path.startswith("/api/") and not path.startswith("/api/v1/messages")


OPENROUTER = Door("openrouter", owns, _refusal, rates=openai_rates)


class OpenRouter:
    """The endpoints, to be mounted under /api. used: the ledger's rows."""

    def __init__(self, desk: Desk, used: UsageReader) -> None:
        self.registry, self.used, self.prices = desk.service.registry, used, load_prices()
        self.most = desk.service.rates.limits.get("requests", 0)  # in a minute
        options = ChatOptions(
            read=_read,
            cache_control=True,
            id_prefix="gen-",
            model=lambda asked, started: asked,
            extra={"provider": PROVIDER},
            choice=lambda finished: {"native_finish_reason": finished.stop_reason if finished else None},
            usage=self._usage,
            always_usage=True,
            failure=_failure,
            keep_alive=b": OPENROUTER PROCESSING\n\n",
        )
        self.chat = Chat(desk, options)

    def routes(self) -> list[Route]:
        """All but the Messages routes."""
        return [
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/user", self.models, methods=["GET"]),  # those that the caller has not ruled out: all
            Route("/v1/key", self.key, methods=["GET"]),
            Route("/v1/auth/key", self.key, methods=["GET"]),  # its older address
            Route("/v1/generation", self.generation, methods=["GET"]),
        ]

    async def complete(self, request: Request) -> Answered:
        """A completion, or a stream of chunks."""
        return await self.chat.create(request)

    async def models(self, request: Request) -> Response:
        """Every model, newest first, with its prices."""
        return json_response({"data": [self._model(served) for served in self.registry.served()]})

    async def key(self, request: Request) -> Response:
        """What the caller's key has used, in dollars, which nothing bounds, and how many requests it may send."""
        spent = await self.used.spent(request.state.tenant)
        data = {
            "label": request.state.tenant or "no key",
            "limit": None,
            "limit_remaining": None,
            "limit_reset": None,
            "usage": _dollars(spent.total),
            "usage_daily": _dollars(spent.day),
            "usage_weekly": _dollars(spent.week),
            "usage_monthly": _dollars(spent.month),
            "is_free_tier": False,
            "rate_limit": {"requests": self.most or -1, "interval": "60s"},
        }
        return json_response({"data": data})

    async def generation(self, request: Request) -> Response:
        """What one answer of the caller used and cost. Raises SenryuError("generation_unknown")."""
        id = request.query_params.get("id")
        if id is None:
            raise SenryuError("required", path="id")
        ours = ID.fullmatch(id)
        row = await self.used.row(request.state.tenant, f"msg_{ours[1]}") if ours else None
        if row is None:
            raise SenryuError("generation_unknown", id=id[:128])
        return json_response({"data": self._generation(row)})

    def _usage(self, finished: Finished) -> dict[str, Any]:
        """Tokens as they are billed, and what they cost."""
        usage = finished.usage
        prompt, prompt_nano = prompt_tokens(usage), self.prices["standard"].input_cost(usage)
        written = usage.cache_write_5m + usage.cache_write_1h
        return {
            "prompt_tokens": prompt,
            "completion_tokens": usage.output_tokens,
            "total_tokens": prompt + usage.output_tokens,
            "cost": _dollars(finished.cost_nano),
            "is_byok": False,
            "prompt_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": written, "audio_tokens": 0},
            "cost_details": {
                "upstream_inference_cost": None,
                "upstream_inference_prompt_cost": _dollars(prompt_nano),
                "upstream_inference_completions_cost": _dollars(finished.cost_nano - prompt_nano),
            },
            "completion_tokens_details": dict.fromkeys(USAGE_DETAILS, 0),
        }

    def _model(self, served: Served) -> dict[str, Any]:
        limits, prices = served.model.limits, self.prices["standard"]
        slug, canonical = _slugs(served.id)
        return {
            "id": slug,
            "canonical_slug": canonical,
            "name": served.display_name,
            "created": int(served.created.timestamp()),
            "description": f"Answered by {served.model.name} on this server.",
            "context_length": limits.context,
            "architecture": {
                "modality": "text->text",
                "input_modalities": ["text"],
                "output_modalities": ["text"],
                "tokenizer": "Other",
                "instruct_type": None,
            },
            "pricing": {
                "prompt": _price(prices.input),
                "completion": _price(prices.output),
                "input_cache_read": _price(prices.cache_read),
                "input_cache_write": _price(prices.cache_write_5m),
                "request": "0",
                "image": "0",
            },
            "top_provider": {
                "context_length": limits.context,
                "max_completion_tokens": limits.output,
                "is_moderated": False,
            },
            "per_request_limits": None,
            "supported_parameters": PARAMETERS,
        }

    def _generation(self, row: UsageRow) -> dict[str, Any]:
        tier: Tier = row.tier
        prompt = prompt_tokens(row.usage)
        saved = prompt * self.prices[tier].input - row.input_cost_nano  # negative where more was written than read
        reasons: Mapping[str, str] = REASONS  # type: ignore[assignment]
        return {
            "id": renamed(row.id, "gen-"),
            "upstream_id": row.id,
            "created_at": as_datetime(row.at).isoformat(),
            "model": _slugs(row.model)[0],
            "provider_name": PROVIDER,
            "total_cost": _dollars(row.cost_nano),
            "usage": _dollars(row.cost_nano),
            "cache_discount": _dollars(saved) if row.input_cost_nano else None,
            "is_byok": False,
            "streamed": None,  # the ledger does not keep it
            "cancelled": row.outcome == "aborted",
            "latency": row.first_token_ms,
            "generation_time": row.total_ms - (row.first_token_ms or 0),
            "finish_reason": reasons.get(row.stop_reason or ""),
            "native_finish_reason": row.stop_reason,
            "tokens_prompt": prompt,
            "tokens_completion": row.usage.output_tokens,
            "native_tokens_prompt": prompt,
            "native_tokens_completion": row.usage.output_tokens,
            "native_tokens_cached": row.usage.cache_read,
            "native_tokens_reasoning": 0,
        }


def _read(fields: Fields, dialect: Dialect) -> dict[str, Any]:
    """Fields beyond OpenAI's."""

    def unheard(what: str, path: str) -> None:
        dialect.pass_over(path, SenryuError("unsupported", path=path, what=what))

    for name, (what, nothing) in UNHEARD.items():
        value = fields.take_or(name, lambda value, path: value, None)
        if not asks_nothing(value, nothing):
            unheard(what, name)
    reasoning = fields.take_or("reasoning", optional(free), None) or {}
    if reasoning.get("enabled") or reasoning.get("max_tokens") or reasoning.get("effort") not in (None, "none"):
        unheard("reasoning is", "reasoning")
    if provider := fields.take_or("provider", optional(Fields), None):
        for name in ONE_PROVIDER:
            provider.take_or(name, lambda value, path: value, None)
        for name in list(provider.rest()):
            provider.take(name, lambda value, path: value)
            unheard("this preference is", provider.path(name))
    if usage := fields.take_or("usage", optional(Fields), None):  # it is always told
        usage.take_or("include", boolean, True)
        dialect.finish(usage)
    fields.take_or("structured_outputs", optional(boolean), None)  # a schema is always kept to
    fields.take_or("session_id", optional(partial(string, high=256)), None)
    fields.take_or("trace", optional(free), None)
    return {"top_k": fields.take_or("top_k", optional(natural), None) or 0}


def _slugs(id: str) -> tuple[str, str]:
    """(the name of a model here, the one that names its version)."""
    names = [name for name in aliases_of(id) if name.startswith(PREFIX)]
    return (names[0], max(names, key=len)) if names else (id, id)


def _dollars(nano: int) -> float:
    return nano / NANO


def _price(nano: int) -> str:
    """Dollars for a token, in plain digits."""
    return usd(nano).rstrip("0").rstrip(".")
