"""Every refusal a peer or an operator can meet, as one flat family.

A room raises one of these; each protocol turns it into its own words (HTTP problem, WebSocket error frame, MQTT
return code) through one table.  ``status`` and ``code`` are the same on every protocol.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Refused(Exception):
    """A request that is not carried out: base of all refusals.

    :ivar status: the HTTP status that names the kind of refusal.
    :ivar code: a stable slug, the same on every protocol.
    :ivar title: what the code means, for people.
    :ivar retry_after: whole seconds after which a retry makes sense, or ``None``.
    :ivar members: further members of the answer (``limit``, ``resets_at`` …).
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    default_retry_after: ClassVar[int | None] = None

    def __init__(self, detail: str = "", *, retry_after: int | None = None, **members: object) -> None:
        super().__init__(detail or self.title)
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        self.members = members

    @property
    def detail(self) -> str:
        return str(self.args[0])


class InvalidJson(Refused):
    status, code, title = 400, "invalid_json", "The body is not the JSON that is expected"


class InvalidTopic(Refused):
    status, code, title = 400, "invalid_topic", "Not a valid topic or filter"


class TopicTooLong(InvalidTopic):
    """It would be valid MQTT, but is longer than we take."""


class MissingField(Refused):
    status, code, title = 400, "missing_field", "A required member is missing"


class InvalidParameter(Refused):
    status, code, title = 400, "invalid_parameter", "A parameter is unknown or out of range"


class ReceiptInvalid(Refused):
    status, code, title = 400, "receipt_invalid", "The receipt was never issued by this queue"


class MissingToken(Refused):
    status, code, title = 401, "missing_token", "A token is required"


class InvalidToken(Refused):
    """One code for every defect, so that nothing is learned from trying (RFC 6750 section 3.1)."""

    status, code, title = 401, "invalid_token", "The token is wrong, expired or revoked"


class LimitReached(Refused):
    status, code, title = 402, "limit_reached", "The plan's limit is reached"


class InsufficientBalance(Refused):
    status, code, title = 402, "insufficient_balance", "The balance does not cover this"


class InsufficientScope(Refused):
    status, code, title = 403, "insufficient_scope", "The token does not permit this"


class KeyDisabled(Refused):
    status, code, title = 403, "key_disabled", "The API key is disabled"


class AccountSuspended(Refused):
    status, code, title = 403, "account_suspended", "The account is suspended"


class OriginNotAllowed(Refused):
    status, code, title = 403, "origin_not_allowed", "Pages of this origin may not connect"


class NotFound(Refused):
    status, code, title = 404, "not_found", "No such thing here"


class MethodNotAllowed(Refused):
    status, code, title = 405, "method_not_allowed", "The method is not allowed here"


class Conflict(Refused):
    status, code, title = 409, "conflict", "It exists already, and differs"


class IdempotencyInProgress(Refused):
    status, code, title, default_retry_after = 409, "idempotency_in_progress", "The key's first message is under way", 1


class MessageTooLarge(Refused):
    status, code, title = 413, "message_too_large", "The message is too large"


class UnsupportedMediaType(Refused):
    status, code, title = 415, "unsupported_media_type", "The content type is not supported"


class IdempotencyKeyReused(Refused):
    status, code, title = 422, "idempotency_key_reused", "The key was used for another message"


class RateLimited(Refused):
    """The peer is too fast.

    :ivar standings: where it stands with each rate, as :class:`flowgate.limits.Standing`.
    """

    status, code, title, default_retry_after = 429, "rate_limited", "Too many requests", 1

    def __init__(
        self, detail: str = "", *, retry_after: int | None = None, standings: tuple[Any, ...] = (), **members: object
    ) -> None:
        super().__init__(detail, retry_after=retry_after, **members)
        self.standings = standings


class TooManyConnections(Refused):
    status, code, title, default_retry_after = 429, "too_many_connections", "Too many connections", 5


class TooManySubscriptions(Refused):
    status, code, title, default_retry_after = 429, "too_many_subscriptions", "Too many subscriptions", 5


class Internal(Refused):
    """A fault of ours: the log holds the reason, the peer learns nothing of it."""


class BusUnavailable(Refused):
    status, code, title, default_retry_after = 503, "bus_unavailable", "The message bus is away; try again", 1


class ProtocolViolation(Exception):
    """A peer's bytes break its protocol: the connection is closed, nobody else is affected."""


class StartError(Exception):
    """The gateway cannot start; the text is one sentence for the operator."""
