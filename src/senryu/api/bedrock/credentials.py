"""Who may call the Bedrock runtime: signatures of the configured AWS keys, checked once the body is there.

A bearer token (AWS_BEARER_TOKEN_BEDROCK) is the server's own key: the edge has checked it before.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.requests import Request

from senryu.api.bedrock.sigv4 import Claim, canonical_request, check_signature, claimed_key, is_signed, read_claim
from senryu.api.body import INLINE_BYTES
from senryu.api.edge import tenant_of
from senryu.config import Settings
from senryu.errors import SenryuError


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Credentials:
    """Checks a request in two steps, so that strangers send no bodies. Both raise SenryuError.

    The tenant of a signed request is its access key. Without any key configured every signature will do.
    """

    def __init__(self, settings: Settings, clock: Callable[[], datetime] = _utc_now) -> None:
        self._keys = settings.aws_keys or {}
        self._has_api_key = settings.api_key is not None
        self._clock = clock

    def begin(self, request: Request) -> Claim | None:
        """What the request claims; None where nothing is left to be checked."""
        if "x-amz-signature" in (name.lower() for name in request.query_params):
            raise SenryuError("aws_presigned")
        if not is_signed(request.headers):
            if self._keys and not self._has_api_key:
                raise SenryuError("aws_unsigned")
            return None
        if not self._keys:
            if self._has_api_key:
                raise SenryuError("aws_no_keys")
            request.state.tenant = tenant_of(claimed_key(request.headers))
            return None
        claim = read_claim(request.headers, self._clock())
        if claim.key_id not in self._keys:
            raise SenryuError("aws_unknown_key")
        return claim

    async def finish(self, request: Request, claim: Claim | None, body: bytes) -> None:
        """Is the claim true? Then the request has its tenant."""
        if claim is None:
            return
        digest = await asyncio.to_thread(_sha256, body) if len(body) > INLINE_BYTES else _sha256(body)
        scope = request.scope
        canonical = canonical_request(
            request.method, scope["raw_path"], scope["query_string"], request.headers, claim.signed, digest
        )
        check_signature(claim, self._keys[claim.key_id], canonical)
        request.state.tenant = tenant_of(claim.key_id)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
