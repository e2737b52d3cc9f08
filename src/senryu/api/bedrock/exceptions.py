"""What our errors are called by AWS: the exceptions of the Bedrock runtime, as HTTP answers and as frames of a stream."""

from __future__ import annotations

from starlette.responses import Response

from senryu.api.bedrock.eventstream import exception
from senryu.api.wire import json_response
from senryu.errors import SenryuError

NAMED = {  # code -> exception, where the code says more than its status
    "aws_bearer": "AccessDeniedException",
    "aws_elsewhere": "UnknownOperationException",
    "aws_incomplete": "IncompleteSignatureException",
    "aws_invalid": "InvalidSignatureException",
    "aws_mismatch": "InvalidSignatureException",
    "aws_no_keys": "UnrecognizedClientException",
    "aws_presigned": "IncompleteSignatureException",
    "aws_unknown_key": "UnrecognizedClientException",
    "aws_unsigned": "MissingAuthenticationTokenException",
    "body_stalled": "RequestTimeoutException",
    "no_route": "UnknownOperationException",
}
BY_STATUS = {  # status of ours -> the status and exception that AWS has for it
    400: (400, "ValidationException"),
    401: (403, "AccessDeniedException"),
    403: (403, "AccessDeniedException"),
    404: (404, "ResourceNotFoundException"),
    408: (408, "ModelTimeoutException"),
    413: (413, "RequestEntityTooLargeException"),
    429: (429, "ThrottlingException"),
    500: (500, "InternalServerException"),
    503: (503, "ServiceUnavailableException"),
    504: (408, "ModelTimeoutException"),
    529: (429, "ThrottlingException"),
}
IN_STREAMS = frozenset({"InternalServerException", "ServiceUnavailableException", "ThrottlingException", "ValidationException"})


def named(error: SenryuError) -> tuple[int, str]:
    """(HTTP status, exception) of an error."""
    status, name = BY_STATUS[error.status]
    return status, NAMED.get(error.code, name)


def refusal(error: SenryuError, request_id: str) -> Response:
    """An error as AWS's SDKs read it: the exception in a header, its message in the body."""
    if error.code == "key_missing":
        error = SenryuError("aws_unsigned")
    elif error.code == "key_wrong":
        error = SenryuError("aws_bearer")
    status, name = named(error)
    return json_response({"message": error.message}, status, {"x-amzn-ErrorType": name})


def failure(error: SenryuError) -> bytes:
    """The exception frame that ends a stream; one that streams do not have is an error of the model's."""
    _, name = named(error)
    name = name if name in IN_STREAMS else "ModelStreamErrorException"
    return exception(name[0].lower() + name[1:], error.message)
