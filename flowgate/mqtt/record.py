"""What the store keeps of an MQTT client, as values and as JSON: no Twisted, no clock.

Two entries under one key: the *record* (who holds the client, its subscriptions, its will), written when they change,
and the *state* (deliveries in flight, how far it has read), written all the time.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import attrs
import orjson

from flowgate.errors import Refused
from flowgate.message import Cursor
from flowgate.topics import Namespace, Topic

RECORDS = "FG_SESSIONS"
"""The bucket of records."""
STATES = "FG_SESSION_STATES"
"""The bucket of states."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def client_key(home: Namespace, client_id: str) -> str:
    """The key of a client's entries; different clients have different keys, whatever their identifiers hold."""
    if _PLAIN.match(client_id):
        return f"{home.user}.{home.app}.i-{client_id}"
    return f"{home.user}.{home.app}.h-{hashlib.blake2b(client_id.encode(), digest_size=24).hexdigest()}"


@attrs.frozen(slots=True)
class KeptWill:
    """A will, as it is published (section 3.1.2.5).

    :ivar id: unique: however many nodes publish it, it is stored once.
    """

    id: str
    topic: Topic
    payload: bytes
    qos: int
    retain: bool


@attrs.frozen(slots=True)
class Subscription:
    """One subscription of a session.

    :ivar name: the filter as the client wrote it.
    :ivar full: whether the client is shown full names.
    :ivar since: the place in the stream behind which the subscription holds.
    :ivar group: whose shared subscription it is; empty for one of the client's own.
    """

    name: str
    namespace: Namespace
    filter: str
    full: bool
    qos: int
    since: int = 0
    group: str = ""


@attrs.frozen(slots=True)
class Record:
    """A client that is connected with a will, or has a session that outlives its connections.

    :ivar client_id: as the client wrote it.
    :ivar uid: another one for every session.
    :ivar clean: there is no session: the record is about the will alone.
    :ivar owner: the node that the client is connected to; empty if it is away.
    :ivar since: when the owner changed last, in seconds since 1970 UTC.
    :ivar epoch: the stream that ``since`` of the subscriptions refers to.
    """

    client_id: str
    uid: str
    clean: bool
    owner: str
    since: float
    epoch: str
    will: KeptWill | None = None
    subscriptions: tuple[Subscription, ...] = ()

    def encode(self) -> bytes:
        document: dict[str, Any] = {
            "client": self.client_id,
            "uid": self.uid,
            "clean": self.clean,
            "owner": self.owner,
            "since": self.since,
            "epoch": self.epoch,
            "subscriptions": [
                [one.name, one.namespace.user, one.namespace.app, one.filter, one.full, one.qos, one.since, one.group]
                for one in self.subscriptions
            ],
        }
        if self.will is not None:
            topic = self.will.topic
            document["will"] = {
                "id": self.will.id,
                "topic": [topic.namespace.user, topic.namespace.app, topic.name],
                "payload": base64.b64encode(self.will.payload).decode(),
                "qos": self.will.qos,
                "retain": self.will.retain,
            }
        return orjson.dumps(document)

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Read what :meth:`encode` wrote.

        :raises ValueError: if it is something else.
        """
        try:
            document = orjson.loads(data)
            will = document.get("will")
            return cls(
                document["client"],
                document["uid"],
                document["clean"],
                document["owner"],
                document["since"],
                document["epoch"],
                None if will is None else _decode_will(will),
                tuple(
                    Subscription(name, Namespace(user, app), filter_, full, qos, since, group)
                    for name, user, app, filter_, full, qos, since, group in document["subscriptions"]
                ),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no record of an MQTT client: {error!r}") from None


def _decode_will(document: Mapping[str, Any]) -> KeptWill:
    user, app, name = document["topic"]
    return KeptWill(
        document["id"],
        Topic(Namespace(user, app), name),
        base64.b64decode(document["payload"]),
        document["qos"],
        document["retain"],
    )


@attrs.frozen(slots=True)
class SavedState:
    """How far a session has got.

    :ivar uid: of the record that it belongs to; with another one it is left over from an earlier session.
    :ivar owner: the node that wrote it; empty if it was taken from that node, which did not give it up.
    :ivar doubted: what was stored before this time (nanoseconds since 1970 UTC) and is not in ``session`` the client
        may have been sent at QoS 1.
    :ivar cursors: by namespace: everything up to there was taken, and is in ``session`` if it is not finished.
    :ivar session: what :meth:`~flowgate.mqtt.session.Session.state` gave.
    """

    uid: str
    owner: str
    doubted: int
    cursors: Mapping[Namespace, Cursor]
    session: Mapping[str, Any]

    def encode(self) -> bytes:
        cursors = {space.prefix: str(cursor) for space, cursor in self.cursors.items()}
        document = {
            "uid": self.uid,
            "owner": self.owner,
            "doubted": self.doubted,
            "cursors": cursors,
            "session": self.session,
        }
        return orjson.dumps(document)

    @classmethod
    def decode(cls, data: bytes) -> SavedState:
        """Read what :meth:`encode` wrote.

        :raises ValueError: if it is something else.
        """
        try:
            document = orjson.loads(data)
            cursors = {namespace_of(prefix): Cursor.parse(text) for prefix, text in document["cursors"].items()}
            return cls(
                document["uid"],
                document["owner"],
                document["doubted"],
                cursors,
                document["session"],
            )
        except (KeyError, TypeError, AttributeError, Refused) as error:
            raise ValueError(f"no state of an MQTT session: {error!r}") from None


def namespace_of(prefix: str) -> Namespace:
    """The namespace with this prefix."""
    user, app, _ = prefix.split("_")
    return Namespace(user, app)
