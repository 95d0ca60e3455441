"""What each code means and what to do about it, for the pages that the ``type`` of a problem points to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from flowgate.errors import Refused


@attrs.frozen(slots=True)
class Explanation:
    """Text for the page of one code.  What stands between backticks is shown as code.

    :ivar means: what has happened.
    :ivar remedy: what to do.
    """

    means: str
    remedy: str


_WAIT = "Wait as many seconds as `Retry-After` says, then try again."

EXPLAINED: Final[Mapping[str, Explanation]] = {
    "invalid_json": Explanation(
        "The body or frame is not the JSON object that is expected.",
        "Send one JSON object, in UTF-8. `detail` says where reading stopped.",
    ),
    "invalid_topic": Explanation(
        "Not a valid topic or filter.",
        "A topic has 1 to 512 bytes of UTF-8, without NUL, `+` and `#`. In a filter `+` stands alone in its level and "
        "`#` alone in the last one. In a URL `#` is written `%23` and `+` is written `%2B`.",
    ),
    "missing_field": Explanation(
        "A member or parameter that is required is missing.", "`detail` names it. Add it and send the request again."
    ),
    "invalid_parameter": Explanation(
        "A member, parameter or header is unknown, of another type, or out of range; or the request is not HTTP/1.1.",
        "`detail` names it, and what is allowed. Unknown members are refused so that a misspelt one does not pass "
        "silently.",
    ),
    "receipt_invalid": Explanation(
        "The receipt was never issued by this queue.",
        "Use the `receipt` that came with the message, unchanged, and at the queue that it came from.",
    ),
    "receipt_expired": Explanation(
        "The visibility of a FIFO queue's message has ended, or another receive came after it.",
        "Somebody else may have the message now. Receive it again, and ask for a longer visibility.",
    ),
    "visibility_total": Explanation(
        "A message is with one receiver for 12 hours at most, counted from the receive.",
        "Ask for less, or let the message become visible and receive it again.",
    ),
    "invalid_characters": Explanation(
        "The body of a queue's message has characters that XML 1.0 does not allow.",
        "Send such bytes as `body_base64`.",
    ),
    "invalid_attribute": Explanation(
        "An attribute of a queue's message is malformed, or there are too many.",
        "A message has at most 10 attributes, each a text, a number, or `type` and `value`. `detail` names the one "
        "that is wrong.",
    ),
    "batch_empty": Explanation("The batch has no entries.", "Send 1 to 10 entries."),
    "batch_too_many": Explanation("The batch has more than 10 entries.", "Send them in several batches."),
    "batch_id_invalid": Explanation(
        "The id of an entry is not 1 to 80 of A-Z, a-z, 0-9, `_` and `-`.", "Give the entry another id."
    ),
    "batch_id_repeated": Explanation(
        "Two entries of the batch have the same id.", "Give each entry an id of its own: it names the entry's result."
    ),
    "missing_token": Explanation(
        "There is no token, or not where it is looked for.",
        "Send `Authorization: Bearer` and the token. Streams and WebSockets take it as `token` in the query too. API "
        "keys are taken by `POST /token/` alone.",
    ),
    "invalid_token": Explanation(
        "The token is wrong, expired or revoked. One code for all of these, so that nothing is learned from trying.",
        "Get a new one with `POST /token/`. If that is refused too, the API key is not good any more.",
    ),
    "limit_reached": Explanation("The plan's limit is reached.", "Wait until `resets_at`, or have the plan changed."),
    "insufficient_balance": Explanation("The balance does not cover this.", "Add to the balance."),
    "insufficient_scope": Explanation(
        "The token does not grant this topic, filter or queue, or not what is to be done with it.",
        "Ask for a token with the grant, or have an API key made that has it. A filter needs one grant that takes in "
        "every topic it can name.",
    ),
    "key_disabled": Explanation("The API key was revoked.", "Have a new key made."),
    "account_suspended": Explanation("The user is suspended.", "Ask those who run the gateway."),
    "origin_not_allowed": Explanation(
        "Pages of this origin may not open WebSockets here.",
        "Ask those who run the gateway to add the origin to the option `websocket.origins`.",
    ),
    "not_found": Explanation(
        "There is no such path, queue, task, subscription, key or user.",
        "Check the spelling. Queues belong to the application of the token.",
    ),
    "method_not_allowed": Explanation(
        "The path exists, and not with this method.", "`Allow` says which methods there are."
    ),
    "conflict": Explanation(
        "It exists already, and differs from what was asked for; `differing` names the members of a queue's "
        "configuration.",
        "Ask for what is there, or change it with `PATCH`.",
    ),
    "immutable": Explanation(
        "A queue cannot become one of the other type.", "Make another queue; a FIFO queue's name ends in `.fifo`."
    ),
    "redrive_running": Explanation(
        "The messages of the dead-letter queue are being moved already.", "Wait for that task, or cancel it."
    ),
    "idempotency_in_progress": Explanation(
        "A message with the same key is being stored at this moment.",
        "Wait a second, then try again: the answer is the first message's.",
    ),
    "message_too_large": Explanation(
        "The message, or the body of the request, is too large.",
        "`detail` says how much is taken. Store what is larger elsewhere, and publish where it is.",
    ),
    "unsupported_media_type": Explanation(
        "The content type is not one that this call takes.",
        "Send `Content-Type: application/json`; to publish a text or bytes, `text/plain` or "
        "`application/octet-stream`.",
    ),
    "idempotency_key_reused": Explanation(
        "The key was used within the last 5 minutes for a message with another topic or content. Nothing was "
        "stored now.",
        "Give each message a key of its own, and use it again for the repetitions of that message alone.",
    ),
    "target_too_long": Explanation(
        "The target of the request (path and query) is too long.",
        "Send less in it; a long list of topics may be read in several streams.",
    ),
    "head_too_large": Explanation(
        "The request line and the header fields are too large together, or too many.",
        "Send fewer or shorter ones; a long list of topics may be read in several streams.",
    ),
    "coding_not_supported": Explanation(
        "The transfer coding is not supported.", "Send the body with `Content-Length`, or `chunked`."
    ),
    "version_not_supported": Explanation("The version of HTTP is not supported.", "Speak HTTP/1.1."),
    "rate_limited": Explanation("There were more messages, bytes or requests than the rate permits.", _WAIT),
    "in_flight_limit": Explanation(
        "120,000 messages of the queue are with receivers.", "Delete those that are done; " + _WAIT.lower()
    ),
    "queue_full": Explanation("The queue holds 1,000,000 messages.", "Receive and delete some. " + _WAIT),
    "too_many_connections": Explanation(
        "The node serves as many connections as it may, or the account has as many as its plan permits.",
        f"{_WAIT} Close connections that are not needed.",
    ),
    "too_many_subscriptions": Explanation(
        "The account's connections have as many subscriptions as its plan permits.",
        "End some, or subscribe by wildcards.",
    ),
    "internal": Explanation(
        "A fault of the gateway. The log holds the reason, the answer does not.",
        "Tell those who run the gateway the `request_id`.",
    ),
    "bus_unavailable": Explanation(
        "NATS is away, does not answer, or is behind; or the node is going away.",
        f"{_WAIT} A message may or may not have been stored: publish again with the same `Idempotency-Key`.",
    ),
}


def codes() -> dict[str, type[Refused]]:
    """Every code of the gateway with what it stands for, by status and code."""

    def kinds(kind: type[Refused]) -> Iterator[type[Refused]]:
        yield kind
        for one in kind.__subclasses__():
            yield from kinds(one)

    found: dict[str, type[Refused]] = {}
    for kind in kinds(Refused):
        if kind.__module__.partition(".")[0] == "flowgate":
            known = found.get(kind.code)
            # Of several with the same code the one that gives it its name.
            if known is None or issubclass(known, kind):
                found[kind.code] = kind
    return dict(sorted(found.items(), key=lambda item: (item[1].status, item[0])))
