"""What many calls share: who asks, and what any call can be refused with."""

from __future__ import annotations

from flowgate.errors import (
    AccountSuspended,
    BusUnavailable,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InsufficientBalance,
    InsufficientScope,
    Internal,
    InvalidJson,
    InvalidParameter,
    InvalidToken,
    LimitReached,
    MessageTooLarge,
    MissingField,
    MissingToken,
    Refused,
    UnsupportedMediaType,
)
from flowgate.http.describing import shapes
from flowgate.http.describing.values import Parameter
from flowgate.http.wire import HeadTooLarge, TargetTooLong

Refusals = tuple[type[Refused], ...]

ANY: Refusals = (InvalidParameter, MessageTooLarge, TargetTooLong, HeadTooLarge, Internal, BusUnavailable)
"""What every call can be refused with: the request is none, or too large, or the fault is ours."""

WITH_TOKEN: Refusals = (*ANY, MissingToken, InvalidToken, AccountSuspended)
WITH_KEY: Refusals = (IdempotencyInProgress, IdempotencyKeyReused)
"""What a message with an idempotency key can be refused with."""
PAID: Refusals = (LimitReached, InsufficientBalance)
"""What a message can be refused with that somebody pays for."""
WITH_GRANT: Refusals = (*WITH_TOKEN, InsufficientScope)
WITH_BODY: Refusals = (InvalidJson, MissingField, UnsupportedMediaType)
ADMIN: Refusals = (*ANY, MissingToken, InvalidToken)

TOKEN, QUERY_TOKEN, ADMIN_TOKEN = ("token",), ("token", "query_token"), ("admin",)
NOBODY: tuple[str, ...] = ()

QUEUE_NAME = Parameter("name", "path", shapes.QUEUE, "the queue")
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "header",
    shapes.text("printable ASCII", minLength=1, maxLength=255, pattern="^[!-~]([ -~]*[!-~])?$"),
    "what comes again under the same key within 5 minutes is stored once",
)
