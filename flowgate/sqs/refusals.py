"""Our refusals in SQS's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flowgate.errors import (
    AccountSuspended,
    BusUnavailable,
    Conflict,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InsufficientBalance,
    InsufficientScope,
    Internal,
    InvalidJson,
    InvalidParameter,
    InvalidToken,
    InvalidTopic,
    KeyDisabled,
    LimitReached,
    MessageTooLarge,
    MethodNotAllowed,
    MissingField,
    MissingToken,
    NotFound,
    OriginNotAllowed,
    RateLimited,
    ReceiptInvalid,
    Refused,
    TooManyConnections,
    TooManySubscriptions,
    UnsupportedMediaType,
)
from flowgate.queues.model import InFlightLimit, InvalidCharacters, QueueFull, ReceiptExpired
from flowgate.sqs.names import NO_QUEUE
from flowgate.sqs.wire import SqsError

BAD_RECEIPT: Final = "The input receipt handle is invalid."

_NO_TOKEN = "The security token included in the request is invalid."

REFUSALS: Final[Mapping[type[Refused], tuple[str, str]]] = {
    InvalidJson: ("SerializationException", ""),
    InvalidTopic: ("InvalidParameterValue", ""),
    MissingField: ("MissingParameter", ""),
    InvalidParameter: ("InvalidParameterValue", ""),
    InvalidCharacters: (
        "InvalidMessageContents",
        "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | "
        "#xE000 to #xFFFD | #x10000 to #x10FFFF",
    ),
    ReceiptInvalid: ("ReceiptHandleIsInvalid", BAD_RECEIPT),
    ReceiptExpired: ("InvalidParameterValue", "The receipt handle has expired."),
    MissingToken: ("MissingAuthenticationToken", "Request is missing Authentication Token."),
    InvalidToken: ("InvalidClientTokenId", _NO_TOKEN),
    KeyDisabled: ("InvalidClientTokenId", _NO_TOKEN),
    AccountSuspended: ("AccessDenied", ""),
    InsufficientScope: ("AccessDenied", ""),
    OriginNotAllowed: ("AccessDenied", ""),
    LimitReached: ("OverLimit", ""),
    InsufficientBalance: ("OverLimit", ""),
    NotFound: ("QueueDoesNotExist", NO_QUEUE),
    MethodNotAllowed: ("UnknownOperationException", ""),
    Conflict: ("UnsupportedOperation", ""),
    MessageTooLarge: ("InvalidParameterValue", ""),
    UnsupportedMediaType: ("SerializationException", ""),
    IdempotencyKeyReused: ("InvalidParameterValue", ""),
    IdempotencyInProgress: ("UnsupportedOperation", ""),
    RateLimited: ("RequestThrottled", ""),
    TooManyConnections: ("RequestThrottled", ""),
    TooManySubscriptions: ("OverLimit", ""),
    InFlightLimit: ("OverLimit", "The maximum number of in flight messages is reached."),
    QueueFull: ("RequestThrottled", ""),  # which SDKs try again
    Internal: ("InternalFailure", "The request processing has failed because of an unknown error."),
    BusUnavailable: ("ServiceUnavailable", ""),
}
"""Every kind of refusal, or one that it is derived from: the error, and Amazon's text where it is not our own."""


def in_words_of_sqs(refusal: Refused) -> SqsError:
    """The error for a refusal."""
    for kind in type(refusal).__mro__:
        if kind in REFUSALS:
            name, text = REFUSALS[kind]
            return SqsError(name, text or refusal.detail)
    return SqsError(*REFUSALS[Internal])
