"""The Messages body as hosted services carry it: API version and betas stand in the body, the model in the address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from senryu.api.fields import Fields, array, choice, optional, string
from senryu.api.parse import Parser
from senryu.errors import SenryuError

NewParser = Callable[[str, frozenset[str]], Parser]  # API version, betas


def open_body(
    body: Any, versions: Mapping[str, str], new_parser: NewParser, default: str | None = None
) -> tuple[Parser, dict[str, Any]]:
    """(what reads the rest of the body, that rest). Raises SenryuError.

    versions: what the service calls an API version -> the version. default: of a body that need not say it.
    """
    fields = Fields(body)
    known = partial(choice, options=tuple(versions))
    version = fields.take_or("anthropic_version", known, default) if default else fields.take("anthropic_version", known)
    betas = fields.take_or("anthropic_beta", optional(names), None) or frozenset()
    return new_parser(versions[version], betas), fields.rest()


def placed(parser: Parser, rest: dict[str, Any], **said: Any) -> dict[str, Any]:
    """A Messages body, with what the address says. Raises SenryuError("extra") where the body says it again."""
    for name in said:
        if name in rest:
            parser.dialect.pass_over(name, SenryuError("extra", path=name))
    return {**rest, **said}


def names(value: Any, path: str) -> frozenset[str]:
    """`anthropic_beta`: a list of names. Raises SenryuError."""
    return frozenset(string(item, f"{path}.{index}") for index, item in enumerate(array(value, path)))
