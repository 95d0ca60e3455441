"""Webhooks as values: names, URLs, what is kept of them, and how long a retry waits."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any, Final

import attrs

from flowgate.errors import Conflict, InvalidParameter
from flowgate.topics import Namespace, matches
from flowgate.webhooks.addresses import AddressPolicy

MAX_RECEIVES: Final = 100
"""The most attempts for one message."""
RECEIVES: Final = 10
"""Attempts for one message, unless the webhook says otherwise."""
MAX_URL: Final = 2048
"""The longest URL."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
# Less than RFC 3986 allows: no user, no fragment, no text that another reader could take for another host.
_URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?(?:/[!\"$-~]*)?\Z")
_ADDRESS = re.compile(r"[0-9.]+\Z")
_PAUSES: Final = (1, 5, 30, 120, 600)
_SPREAD: Final = 0.2


class State(Enum):
    """What becomes of messages."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    REMOVING = "removing"


def home_of(place: Namespace) -> Namespace:
    """The namespace whose owner a queue works for: that of the webhook, if it is one's (:attr:`Webhook.place`)."""
    return Namespace(place.user, place.app.removeprefix("W"))


@attrs.frozen(slots=True)
class Webhook:
    """Messages on topics that match a filter are sent to a URL.

    :ivar home: the namespace that it belongs to.
    :ivar id: names this making of it: another one if it is removed and made again.
    :ivar filter: a full filter.
    :ivar full: whether its receiver is shown full names of topics.
    :ivar dead_letter: the queue at home that gets what cannot be delivered, or ``None``.
    :ivar max_receives: attempts for each message.
    :ivar secret: counts the secrets that it had, from 1.
    :ivar secret_since: since when it has this one, in seconds since 1970 UTC.
    :ivar created_at: seconds since 1970 UTC.
    :ivar modified_at: seconds since 1970 UTC.
    """

    home: Namespace
    name: str
    id: str
    filter: str
    full: bool
    url: str
    dead_letter: str | None
    max_receives: int
    secret: int
    secret_since: int
    state: State
    created_at: int
    modified_at: int

    @property
    def place(self) -> Namespace:
        """The namespace of its queue, which no user can have: theirs are of lower-case letters.

        So the queue is hidden from all that can be asked of queues, over every protocol.
        """
        return Namespace(self.home.user, f"W{self.home.app}")

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return f"{self.id}.fifo"

    def takes(self, topic: str) -> bool:
        """Whether a topic, by its full name, is (still) one of its topics."""
        user, app, rest = self.filter.split("_", 2)
        prefix = Namespace(user, app).prefix
        return topic.startswith(prefix) and matches(rest, topic.removeprefix(prefix))

    def encode(self) -> bytes:
        """What is stored of it, besides namespace and name."""
        members = attrs.asdict(self, recurse=False, filter=attrs.filters.exclude("home", "name"))
        return json.dumps({**members, "state": self.state.value}, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, home: Namespace, name: str, value: bytes) -> Webhook:
        """Read what is stored.

        :raises Conflict: if that is not possible: what a newer version promises of it, this one may not keep.
        """
        try:
            members: dict[str, Any] = json.loads(value)
            return cls(home, name, **{**members, "state": State(members["state"])})
        except (ValueError, LookupError, TypeError):
            raise Conflict("the webhook is of another version, or damaged") from None


def check_name(name: str) -> None:
    """:raises InvalidParameter: if the name of a webhook is not 1–64 of ``[A-Za-z0-9_-]``."""
    if not _NAME.match(name):
        raise InvalidParameter("the name of a webhook is 1 to 64 of A-Z, a-z, 0-9, '_' and '-'")


def check_url(url: str, policy: AddressPolicy, plain: bool) -> None:
    """Check where a webhook leads to; what a name stands for is known when it is connected to, and checked then.

    :param plain: whether ``http:`` may be used.
    :raises InvalidParameter: if ``url`` is not one that may be used.
    """
    found = _URL.match(url) if len(url) <= MAX_URL else None
    if found is None:
        raise InvalidParameter(
            f"url must be https://host[:port]/path of at most {MAX_URL} ASCII characters, without user and fragment"
        )
    scheme, host, port = found.groups()
    if scheme == "http" and not plain:
        raise InvalidParameter("url must begin with https://")
    if port is not None and not 1 <= int(port) <= 65535:
        raise InvalidParameter("the port of url must be 1 to 65535")
    literal = host.strip("[]")
    if (host != literal or _ADDRESS.match(host)) and not policy.allows(literal):
        raise InvalidParameter("the address in url is not one that webhooks may lead to")


def pause(attempt: int, random: float) -> int:
    """Seconds to wait after a failed attempt.

    :param attempt: which one it was, from 1.
    :param random: from 0 to 1; so that many that failed together do not come back together.
    """
    base = _PAUSES[min(attempt, len(_PAUSES)) - 1]
    return max(1, round(base * (1 - _SPREAD + 2 * _SPREAD * random)))
