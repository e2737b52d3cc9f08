"""The Messages body as hosted services carry it: API version and betas stand in the body, the model in the address."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.requests import Request

from senryu.api.betas import read_betas
from senryu.api.body import parse_body
from senryu.api.desk import Desk
from senryu.api.fields import Fields, array, choice, optional, string
from senryu.api.parse import MessagesRequest, Parser
from senryu.errors import SenryuError
from senryu.types import Turn


class HostedBodies:
    """Reads the bodies of one service. Its methods raise SenryuError, and give the headers of the response beside the result.

    versions: what the service calls an API version -> the version. Uploaded files cannot be referred to.
    """

    def __init__(self, desk: Desk, versions: Mapping[str, str]) -> None:
        self._desk, self._versions = desk, versions

    async def create(self, request: Request, body: bytes, model: str) -> tuple[MessagesRequest, dict[str, str]]:
        """A turn for the model that the address names."""

        def read(value: Any) -> tuple[MessagesRequest, dict[str, str]]:
            fields = Fields(value)
            parser, rest = self._parser(request, fields), fields.rest()
            if "model" in rest:
                parser.dialect.pass_over("model", SenryuError("extra", path="model"))
            return parser.create({**rest, "model": model}), parser.headers

        return await parse_body(body, read)

    async def count(self, request: Request, body: bytes) -> tuple[Turn, dict[str, str]]:
        """A turn whose tokens are to be counted; the body names its model."""

        def read(value: Any) -> tuple[Turn, dict[str, str]]:
            fields = Fields(value)
            parser = self._parser(request, fields)
            return parser.count(fields.rest()), parser.headers

        return await parse_body(body, read)

    def _parser(self, request: Request, fields: Fields) -> Parser:
        version = fields.take("anthropic_version", partial(choice, options=tuple(self._versions)))
        betas = fields.take_or("anthropic_beta", optional(_names), None) or ()
        return Parser(
            self._versions[version],
            self._desk.service.registry.canonical,
            betas=read_betas([*betas, *request.headers.getlist("anthropic-beta")]),
            lenient=self._desk.lenient,
            tenant=request.state.tenant,
            files=False,
        )


def _names(value: Any, path: str) -> tuple[str, ...]:
    return tuple(string(item, f"{path}.{index}") for index, item in enumerate(array(value, path)))
