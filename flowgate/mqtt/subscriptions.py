"""What one MQTT connection has subscribed to: SUBSCRIBE and UNSUBSCRIBE, retained messages, shared subscriptions."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Protocol

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.auth.permissions import Principal
from flowgate.errors import (
    BusUnavailable,
    Internal,
    InvalidParameter,
    InvalidTopic,
    ProtocolViolation,
    Refused,
    TopicTooLong,
)
from flowgate.gateway import Gateway, Interest
from flowgate.interfaces import IGroupMember, IMembership, ISubscriber
from flowgate.message import Run
from flowgate.mqtt import packets
from flowgate.mqtt.durable import Durable
from flowgate.mqtt.packets import Subscribe, Type, Unsubscribe
from flowgate.mqtt.record import Subscription
from flowgate.mqtt.session import Session
from flowgate.replay import BEGINNING, Place, Replay
from flowgate.topics import Namespace, Topic, check_filter, matches, resolve

_log = Logger()

NOTICES = "$SYS/notices"
"""The topic on which a client is told what concerns itself."""

SHARED = "$share/"
_NAMES_BYTES = 384 * 1024
"""The names of a session's subscriptions: with its will they are one value in the store."""
_SHARED_SUBSCRIPTIONS = 100
"""Shared subscriptions of one connection: each is a request that the bus keeps open."""
_SHARED_AT_ONCE = 64
"""Messages of a shared subscription that one member has before it has finished any."""
_RETRY_SECONDS = 1.0


class ISubscribingClient(Protocol):
    """What subscriptions need of their connection."""

    @property
    def taking_part(self) -> bool:
        """Whether the client takes part."""

    @property
    def principal(self) -> Principal:
        """Who the client is."""

    @property
    def session(self) -> Session:
        """What is in flight to it."""

    def send(self, data: bytes) -> None:
        """Write what may not be left out."""

    def write(self, data: bytes, count: int) -> bool:
        """Write packets of ``count`` messages that may be left out; tell whether the client is given them."""

    def pump(self) -> None:
        """Send what the session has waiting, as far as the client takes it."""

    def room(self, window: bool) -> Deferred[None]:
        """:returns: a Deferred, fired once the client reads on, with ``window`` also acknowledges, or is gone."""

    def behind(self) -> bool:
        """Whether the client reads or acknowledges too slowly to be given more now."""

    def lost(self, reason: Refused) -> None:
        """A subscription cannot go on."""

    def cut_if_overfull(self) -> None:
        """Cut the client off if it has been given more than it may have waiting."""

    def deliver(self, run: Run, full: bool, qos: int) -> None:
        """Take what is published, as :class:`~flowgate.interfaces.ISubscriber` does."""


@implementer(IGroupMember)
class _Member:
    """A shared subscription of the client.  At QoS 1 at most: a message may go to another member after all."""

    def __init__(self, subscriptions: Subscriptions, interest: Interest, qos: int) -> None:
        self._subscriptions = subscriptions
        self.interest = interest
        self.qos = min(qos, 1)
        self._membership: IMembership | None = None
        self._left = False

    def joined(self, membership: IMembership) -> None:
        if self._left:
            membership.leave()
            return
        self._membership = membership
        membership.ask(_SHARED_AT_ONCE)

    def take(self, run: Run, handles: Sequence[str]) -> None:
        if self._left:
            return  # whoever leaves gives back what is not done
        client = self._subscriptions.client
        name = run.topic.shown(self.interest.full)
        if self.qos and run.qos:
            client.session.put(name, run.payloads, 1, repeat(None), tokens=[(self, handle) for handle in handles])
            client.pump()
            client.cut_if_overfull()
        else:
            client.write(packets.publishes(name, run.payloads), run.count)
            client.room(False).addCallback(lambda _: self.finished(handles))

    def finished(self, handles: Sequence[str]) -> None:
        """The client has these; it may be given as many more."""
        if self._membership is not None:
            self._membership.done(handles)
            self._membership.ask(len(handles))

    def lost(self, reason: Refused) -> None:
        self._membership = None
        self._subscriptions.client.lost(reason)

    def leave(self) -> None:
        self._left = True
        membership, self._membership = self._membership, None
        if membership is not None:
            membership.leave()


class _Retained:
    """The retained messages of one new subscription: from the replay to the client.

    :ivar reading: whether they are being read.
    :ivar stopped: whether nobody wants them any more.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        name: str,
        interest: Interest,
        qos: int,
        gateway: Gateway,
        clock: IReactorTime,
    ) -> None:
        self._subscriptions = subscriptions
        self._name = name
        self._interest = interest
        self._qos = qos
        self._gateway = gateway
        self._clock = clock
        self._place = BEGINNING
        self._again: IDelayedCall | None = None
        self.reading = self.stopped = False
        self._replay = self._make()

    def _make(self) -> Replay:
        behind = self._subscriptions.client.behind
        return Replay(
            self._gateway,
            [self._interest],
            self._clock,
            behind,
            self._give,
            self._over,
            begin=self._place,
            ended=self._ended,
        )

    def start(self) -> None:
        self.reading = True
        self._again = None
        self._replay.start()

    def _give(self, run: Run, full: bool, place: Place | None) -> None:
        self._subscriptions.deliver_retained(run, self._interest, min(self._qos, run.qos))
        if place is not None:
            self._place = place

    def _over(self, reason: Refused | None) -> None:
        if isinstance(reason, BusUnavailable):
            self._replay = self._make()  # it knows from now on what is delivered live
            self._again = self._clock.callLater(_RETRY_SECONDS, self.start)
        elif reason is not None:
            self._subscriptions.client.lost(reason)
        else:
            self.reading = False
            self._subscriptions.next_retained()

    def _ended(self) -> None:
        self._subscriptions.forget(self._name, self)

    def live(self, run: Run) -> bool:
        return self._replay.live(run)

    def resume(self) -> None:
        self._replay.resume()

    def stop(self) -> None:
        self.stopped = True
        self.reading = False
        self._replay.stop()
        if self._again is not None:
            self._again.cancel()
            self._again = None


def _kept(name: str, interest: Interest, qos: int, group: str = "") -> Subscription:
    return Subscription(name, interest.namespace, interest.filter, interest.full, qos, 0, group)


class Subscriptions:
    """The subscriptions of one connection.

    :ivar client: the connection.
    """

    def __init__(self, client: ISubscribingClient, gateway: Gateway, clock: IReactorTime, client_id: str) -> None:
        self.client = client
        self._gateway = gateway
        self._clock = clock
        self._client_id = client_id
        self._interests: dict[str, Interest] = {}
        self._members: dict[str, _Member] = {}
        self._retained: dict[str, _Retained] = {}
        self._pending: deque[_Retained] = deque()
        self._current: _Retained | None = None
        self._advancing = False
        self._pumping = False
        self._size = 0  # bytes of all names in a record of the session

    # -- SUBSCRIBE

    def subscribe(self, packet: Subscribe, durable: Durable | None, answered: Callable[[], None]) -> None:
        """Subscribe, and send SUBACK once the subscriptions hold for all nodes; then the retained messages.

        :param answered: called once SUBACK is sent.
        """
        for name, _ in packet.filters:
            self._check(name)
        codes: list[int] = []
        kept: list[Subscription] = []
        waiting: list[Deferred[None]] = []
        granted: list[tuple[str, Interest, int]] = []
        refused: list[Refused] = []
        for name, qos in packet.filters:
            try:
                if name.startswith(SHARED):
                    waiting += self._share(name, qos, kept)
                    codes.append(min(qos, 1))
                else:
                    interest = self._interest(name, name)
                    subscriber: ISubscriber = self.client  # type: ignore[assignment]
                    waiting.append(self._gateway.subscribe(subscriber, interest, qos, durable is not None))
                    kept.append(_kept(name, interest, qos))
                    granted.append((name, interest, qos))
                    codes.append(qos)
            except Refused as refusal:
                refused.append(refusal)
                self._gateway.meter.add("refusals", ("mqtt", refusal.code))
                codes.append(packets.FAILURE)
        if refused:
            _log.info(
                "MQTT client {client!r}: {count} filters refused: {code}",
                client=self._client_id,
                count=len(refused),
                code=refused[-1].code,
            )
        reply = packets.suback(packet.packet_id, codes)

        if durable is not None and kept:
            waiting.append(durable.subscribe(kept))

        def holds() -> None:
            answered()
            if self.client.taking_part:
                self.client.send(reply)
                if granted and durable is not None:
                    durable.behind_the_old(lambda: self._send_retained(granted))
                elif granted:
                    self._send_retained(granted)
                self._gateway.turn.flush()

        self._when_all(waiting, holds)

    def _when_all(self, waiting: Iterable[Deferred[None]], then: Callable[[], None]) -> None:
        unfinished = [one for one in waiting if not one.called or isinstance(one.result, Failure)]
        if not unfinished:
            then()
            return
        gathered = gatherResults(unfinished, consumeErrors=True).addCallback(lambda _: then())
        gathered.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        reason = failure.value
        if isinstance(reason, FirstError):
            reason = reason.subFailure.value
        if not isinstance(reason, Refused):
            _log.failure("a subscription could not be made", failure)
            reason = Internal()
        self.client.lost(reason)

    def _check(self, name: str) -> None:
        """Check the form of a filter, before anything is done and whatever the client may read.

        :raises ProtocolViolation: if it is malformed ([MQTT-4.7.1-2], [MQTT-4.7.1-3], [MQTT-4.7.3-1]).
        """
        filter_ = name
        if name.startswith(SHARED):
            _, separator, filter_ = name.removeprefix(SHARED).partition("/")
            if not separator:
                return  # no shared subscription either: that is refused for itself
        principal = self.client.principal
        try:
            check_filter(resolve(filter_, principal.home, principal.grants.namespaces).rest)
        except TopicTooLong:
            return  # well-formed, and more than we take
        except InvalidTopic as refusal:
            raise ProtocolViolation(refusal.detail) from None

    def _interest(self, name: str, filter_: str) -> Interest:
        """What a filter stands for.

        :raises Refused: if the client may not subscribe to it.
        """
        principal = self.client.principal
        interest = self._gateway.interest(principal, filter_)
        if name not in self._interests:
            size = self._size + len(json.dumps(name)) + len(json.dumps(interest.filter))
            if len(self._interests) >= self._gateway.limits.subscriptions or size > _NAMES_BYTES:
                raise InvalidParameter("too many subscriptions")
            self._gateway.connections.subscribe(self.client, len(self._interests) + 1)  # type: ignore[arg-type]
            self._size = size
        self._interests[name] = interest
        return interest

    def _share(self, name: str, qos: int, kept: list[Subscription]) -> list[Deferred[None]]:
        group, separator, filter_ = name.removeprefix(SHARED).partition("/")
        if not group or not separator or "+" in group or "#" in group:
            raise InvalidParameter("a shared subscription has the form $share/GROUP/FILTER")
        if name not in self._members and len(self._members) >= _SHARED_SUBSCRIPTIONS:
            raise InvalidParameter("too many shared subscriptions")
        interest = self._interest(name, filter_)
        kept.append(_kept(name, interest, min(qos, 1), group))
        old = self._members.get(name)
        if old is None:
            return [self._join(name, group, interest, qos)]
        old.qos = min(qos, 1)
        return []

    def _join(self, name: str, group: str, interest: Interest, qos: int) -> Deferred[None]:
        member = self._members[name] = _Member(self, interest, qos)
        home = self.client.principal.home
        if interest.namespace != home:
            # Of topics that an account shares, others have groups of their own: they must not take away what is its
            # own clients'.  No client can write a name with a slash.
            group = f"{home.user}/{home.app}/{group}"
        return self._gateway.join(interest, group, member).addCallback(member.joined)

    def restore(self, durable: Durable) -> None:
        """Take up the subscriptions of a session that was there before."""
        for one in durable.subscriptions:
            interest = Interest(one.namespace, one.filter, one.full)
            self._interests[one.name] = interest
            self._size += len(json.dumps(one.name)) + len(json.dumps(one.filter))
            if one.group:
                ready = self._join(one.name, one.group, interest, one.qos)
            else:
                subscriber: ISubscriber = self.client  # type: ignore[assignment]
                ready = self._gateway.subscribe(subscriber, interest, one.qos, True)
            ready.addErrback(self._failed)
        self._gateway.connections.subscribe(self.client, len(self._interests), known=True)  # type: ignore[arg-type]

    # -- UNSUBSCRIBE

    def unsubscribe(self, packet: Unsubscribe, durable: Durable | None, answered: Callable[[], None]) -> None:
        """End subscriptions, and send UNSUBACK.

        :param answered: called once it is sent.
        """
        for name in packet.filters:
            if not name:
                raise ProtocolViolation("UNSUBSCRIBE with an empty filter")  # [MQTT-4.7.3-1]
            interest = self._interests.pop(name, None)
            if interest is not None:
                self._size -= len(json.dumps(name)) + len(json.dumps(interest.filter))
            member = self._members.pop(name, None)
            retained = self._retained.pop(name, None)
            if retained is not None:
                retained.stop()
                self.next_retained()
            if member is not None:
                member.leave()
            elif interest is not None:
                self._gateway.unsubscribe(self.client, interest)  # type: ignore[arg-type]
        self._gateway.connections.subscribe(self.client, len(self._interests))  # type: ignore[arg-type]
        reply = packets.acks(Type.UNSUBACK, (packet.packet_id,))  # [MQTT-3.10.4-5]: in any case

        def over() -> None:
            answered()
            if self.client.taking_part:
                self.client.send(reply)
                self._gateway.turn.flush()

        self._when_all([] if durable is None else [durable.unsubscribe(packet.filters)], over)

    def leave(self) -> None:
        """The connection ends: take part in nothing any more."""
        for member in self._members.values():
            member.leave()
        for retained in self._retained.values():
            retained.stop()
        self._retained.clear()

    # -- deliveries of shared subscriptions

    def finished(self, session: Session) -> None:
        """Pass on what the client has acknowledged."""
        finished, session.finished = session.finished, []
        handles: dict[_Member, list[str]] = {}
        for token in finished:
            assert isinstance(token, tuple)
            member, handle = token
            handles.setdefault(member, []).append(handle)
        for member, some in handles.items():
            member.finished(some)

    # -- retained messages

    def _send_retained(self, granted: list[tuple[str, Interest, int]]) -> None:
        """Send what is retained on new subscriptions ([MQTT-3.3.1-6])."""
        for name, interest, qos in granted:
            if not self.client.taking_part or self._interests.get(name) is not interest:
                continue  # it was given up meanwhile
            old = self._retained.get(name)
            if old is not None:
                old.stop()
            retained = self._retained[name] = _Retained(self, name, interest, qos, self._gateway, self._clock)
            self._pending.append(retained)
        self.next_retained()

    def next_retained(self) -> None:
        """Read what is retained for one filter after the other: each may hold a page for a slow client."""
        if self._advancing:
            return  # further up: whoever does it there goes on
        self._advancing = True
        while self._pending and (self._current is None or not self._current.reading):
            self._current = self._pending.popleft()
            if not self._current.stopped:
                self._current.start()
        self._advancing = False

    def forget(self, name: str, retained: _Retained) -> None:
        """Nothing more will come for a filter."""
        if self._retained.get(name) is retained:
            del self._retained[name]

    def deliver_retained(self, run: Run, interest: Interest, qos: int) -> None:
        """Deliver one retained message with its flag ([MQTT-3.3.1-8])."""
        name = run.topic.shown(interest.full)
        if qos:
            places = [("~" + run.topic.namespace.prefix, sequence, interest.full) for sequence in run.sequences]
            self.client.session.put(name, run.payloads, qos, places, retain=True)
            if not self._pumping:
                self._pumping = True
                self._gateway.turn.add(self)
        else:
            self.client.write(packets.publishes(name, run.payloads, retain=True), run.count)

    def flush(self) -> None:
        """Send what was put into the session; called by the turn."""
        self._pumping = False
        self.client.pump()

    def live(self, run: Run) -> bool:
        """Learn that a retained message is being delivered as a live one; tell whether that could be remembered."""
        return sum(not one.live(run) for one in self._retained.values()) == 0

    def resume(self) -> None:
        """The client takes more."""
        for one in list(self._retained.values()):
            one.resume()

    # -- notices

    def notice(self, home: Namespace, members: dict[str, object]) -> None:
        """Tell the client something, if it has subscribed to :data:`NOTICES`."""
        forms = {one.full for one in self._interests.values() if one.namespace == home and matches(one.filter, NOTICES)}
        for full in forms:
            payload = json.dumps({name: value for name, value in members.items() if value is not None}).encode()
            self.client.write(packets.publishes(Topic(home, NOTICES).shown(full), [payload]), 1)
