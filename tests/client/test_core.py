"""The session of the client: given what happened and when, what it does."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any
from weakref import ref

from twisted.trial.unittest import SynchronousTestCase

from flowgate import errors
from flowgate.client import core
from flowgate.client.actions import Call, Drop, Exchange, Open, Ping, Send
from flowgate.client.core import ANSWER_SECONDS, PING_SECONDS, PONG_SECONDS, Session
from flowgate.client.outgoing import KEY_SECONDS
from flowgate.client.streams import State, Stream, overlap
from flowgate.client.values import Closed, Full, Gap, Message, Published, Unconfirmed, Unreachable

KEY = "FGAKAAAAAAAAAAAAAAAA.s"
LIFE = 900


def problem(code: str, **members: object) -> bytes:
    return json.dumps({"code": code, "detail": "so", **members}).encode()


class Play:
    """A session, and the gateway's part played by the test."""

    def __init__(self, draw: float = 1.0, **options: Any) -> None:
        self.now = 1000.0
        self.did: list[object] = []
        self.frames: list[dict[str, Any]] = []
        self.others: list[Stream] = []
        if "token" not in options:
            options["key"] = KEY
        self.session = Session(draw=lambda: draw, name="n", **options)

    def look(self) -> list[object]:
        """What it has done since the last look; calls are made, and frames kept apart."""
        did: list[object] = []
        while actions := self.session.take():
            for action in actions:
                if isinstance(action, Call):
                    action.done(action.result)
                elif isinstance(action, Send):
                    self.frames.append(json.loads(action.data))
                else:
                    did.append(action)
        return did

    def sent(self, action: str) -> list[dict[str, Any]]:
        """Frames of one kind that it has sent since the last time that they were asked for."""
        self.did += self.look()
        found = [frame for frame in self.frames if frame["action"] == action]
        self.frames = [frame for frame in self.frames if frame["action"] != action]
        return found

    def tell(self, **frame: object) -> None:
        self.session.heard(self.now)
        self.session.received(json.dumps(frame).encode(), self.now)

    def ack(self, asked: dict[str, Any], **facts: object) -> None:
        self.tell(action="ack", id=asked["id"], **facts)

    def error(self, asked: dict[str, Any], refusal: errors.Refused) -> None:
        more = {} if refusal.retry_after is None else {"retry_after": refusal.retry_after}
        self.tell(action="error", id=asked["id"], code=refusal.code, status=refusal.status, detail="so", **more)

    def token(self, token: str = "t1") -> None:
        self.session.exchanged(200, {}, json.dumps({"token": token, "expires_in": LIFE}).encode(), self.now)

    def open(self, token: str = "t1") -> Play:
        """Get through to an open connection."""
        self.session.start(self.now)
        self.token(token)
        return self.accept()

    def accept(self) -> Play:
        self.session.opened(self.now)
        (ping,) = self.sent("ping")
        self.ack(ping)
        self.did.clear()
        return self

    def advance(self, seconds: float) -> None:
        """Let time go by, but not beyond what is due before."""
        end = self.now + seconds
        while (at := self.session.due_at) is not None and at <= end:
            self.now = max(self.now, at)
            self.session.due(self.now)
            if self.session.due_at == at:
                raise AssertionError("it does nothing when it is due")
        self.now = end

    def pause(self) -> float:
        """How long it rests."""
        assert self.session.due_at is not None
        return self.session.due_at - self.now

    def again(self) -> Play:
        """Be connected again after the connection was lost."""
        self.sent("ping")
        self.advance(self.pause())
        (action,) = [one for one in self.look() if isinstance(one, Open | Exchange)]
        if isinstance(action, Exchange):
            self.token("t2")
        return self.accept()

    def publish(
        self, value: object = "x", topic: str = "t", key: str | None = None, *, wait: bool = False
    ) -> list[object]:
        got: list[object] = []
        self.session.publish(topic, value, key, got.append, self.now, wait=wait)
        return got

    def subscribe(self, filter_: str = "a/#", since: str | None = None, bound: int = 100, held: bool = True) -> Stream:
        stream = self.session.subscribe(filter_, since, bound)
        if held:
            (asked,) = self.sent("subscribe")
            self.ack(asked, topic=filter_, cursor="e-10")
        return stream

    def message(self, number: int, topic: str = "a/b") -> None:
        self.tell(action="message", topic=topic, data=number, id=f"e-{number}", ts="2026-11-24T02:56:38.371Z")

    def read(self, stream: Stream) -> list[object]:
        got: list[object] = []
        while stream.items:
            item = self.session.next_of(stream)
            got.append(item.data if isinstance(item, Message) else item)
        return got


class ConnectingTests(SynchronousTestCase):
    """From an API key to a connection, and back to one."""

    def test_begins(self) -> None:
        """The key is exchanged for a token, and the token opens the connection."""
        play = Play()
        opened: list[object] = []
        play.session.when_open(opened.append)
        play.session.start(play.now)
        self.assertEqual(play.look(), [Exchange(KEY)])
        play.token("t1")
        self.assertEqual(play.look(), [Open("t1")])
        self.assertEqual(opened, [])
        play.accept()
        self.assertEqual(opened, [None])

    def test_fixed_token(self) -> None:
        """A token is used as it is; when it is not good any more, that is the end."""
        play = Play(token="t")
        play.session.start(play.now)
        self.assertEqual(play.look(), [Open("t")])
        play.accept()
        play.tell(action="notice", code="token_expiring", expires_in=30)
        play.advance(15)
        self.assertEqual(play.look(), [])
        play.tell(action="notice", code="invalid_token", detail="the token expired")
        play.session.closed(4401, "invalid_token", play.now)
        error = self.assertRaises(errors.InvalidToken, play.publish)
        self.assertEqual(error.detail, "the token expired")

    def test_one_of_both(self) -> None:
        """A key or a token is needed, and not both."""
        self.assertRaises(ValueError, Session, draw=float, name="n")
        self.assertRaises(ValueError, Session, draw=float, name="n", key="k", token="t")

    def ended(self, play: Play) -> object:
        opened: list[object] = []
        play.session.when_open(opened.append)
        play.look()
        return opened[0] if opened else None

    def test_bounds(self) -> None:
        """With no room at all nothing would ever be sent, or asked for again."""
        self.assertRaises(ValueError, Play, unacknowledged=0)
        self.assertRaises(ValueError, Play().session.subscribe, "t", None, 0)

    def test_nobody_there(self) -> None:
        """If there is nobody at the start, that is the end; a patient client tries again."""
        play = Play()
        play.session.start(play.now)
        play.session.failed(Unreachable("nobody"), play.now)
        self.assertIsInstance(self.ended(play), Unreachable)
        self.assertIsNone(play.session.due_at)
        patient = Play(patient=True)
        patient.session.start(patient.now)
        patient.session.failed(Unreachable("nobody"), patient.now)
        patient.look()
        self.assertIsNone(self.ended(patient))
        patient.advance(patient.pause())
        self.assertEqual(patient.look(), [Exchange(KEY)])

    def test_no_answer_in_time(self) -> None:
        """Neither a token nor a connection is waited for forever, and whatever is under way is dropped."""
        for step in ("token", "connection"):
            play = Play(patient=True)
            play.session.start(play.now)
            if step == "connection":
                play.token()
            play.look()
            play.advance(ANSWER_SECONDS)
            self.assertEqual(play.look(), [Drop(hard=True)])

    def test_key_refused(self) -> None:
        """A refusal of the key is the end, with the gateway's own class; a fault or a bound of the gateway's is not."""
        for status, code, kind in (
            (401, "invalid_token", errors.InvalidToken),
            (403, "key_disabled", errors.KeyDisabled),
            (403, "account_suspended", errors.AccountSuspended),
            (404, "not_found", errors.NotFound),
        ):
            play = Play(patient=True)
            play.session.start(play.now)
            play.session.exchanged(status, {}, problem(code, error="invalid_client", error_description="so"), play.now)
            error = self.ended(play)
            self.assertIsInstance(error, kind)
        for status in (429, 500, 502, 503):
            play = Play(patient=True)
            play.session.start(play.now)
            play.session.exchanged(status, {}, b"<html>", play.now)
            self.assertIsNone(self.ended(play))

    def test_no_gateway_answers(self) -> None:
        """What gives no token for the key, but a page, is no gateway."""
        for body in (b"<html>", b"[]", b'{"token":""}', b'{"token":"x"}', b'{"token":"x","expires_in":"soon"}'):
            play = Play(patient=True)
            play.session.start(play.now)
            play.session.exchanged(200, {}, body, play.now)
            self.assertIsInstance(self.ended(play), errors.ProtocolViolation)

    def test_handshake_refused(self) -> None:
        """400, 402 and 403 are the end; after 401 there is another token first; anything else is tried again."""
        for status, code, kind in (
            (400, "invalid_parameter", errors.InvalidParameter),
            (402, "limit_reached", errors.LimitReached),
            (403, "account_suspended", errors.AccountSuspended),
        ):
            play = Play(patient=True)
            play.session.start(play.now)
            play.token()
            play.session.refused(status, {}, problem(code), play.now)
            self.assertIsInstance(self.ended(play), kind)
        for status, wish in ((401, Exchange(KEY)), (429, Open("t1")), (500, Open("t1")), (503, Open("t1"))):
            play = Play(patient=True)
            play.session.start(play.now)
            play.token()
            play.session.refused(status, {}, b"", play.now)
            play.look()
            play.advance(play.pause())
            self.assertEqual(play.look(), [wish], status)

    def test_close_codes(self) -> None:
        """4400, 4402 and 4403 are the end; after 4401 there is another token first; anything else is tried again."""
        for code, reason, kind in (
            (4400, "too many malformed frames", errors.Refused),
            (4402, "limit_reached", errors.LimitReached),
            (4403, "account_suspended", errors.AccountSuspended),
        ):
            play = Play().open()
            play.session.closed(code, reason, play.now)
            error = self.assertRaises(kind, play.publish)
            assert isinstance(error, errors.Refused)
            self.assertEqual(error.status, code - 4000)
            self.assertEqual(play.look(), [Drop()])
        for code, wish in (
            (4401, Exchange(KEY)),
            *((code, Open("t1")) for code in (1001, 1006, 1011, 4408, 4429, 4500, 4508)),
        ):
            play = Play().open()
            play.session.closed(code, "", play.now)
            self.assertEqual(play.look(), [Drop()])
            play.advance(play.pause())
            self.assertEqual(play.look(), [wish], code)

    def test_backoff(self) -> None:
        """The pause doubles from 0.5 s to 30 s, and a random part of it is waited."""
        for draw in (1.0, 0.5, 0.0):
            play = Play(draw).open()
            play.session.lost(Unreachable("gone"), play.now)
            pauses = []
            for _ in range(9):
                pauses.append(play.pause())
                play.advance(play.pause())
                play.session.failed(Unreachable("nobody"), play.now)
            expected = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
            self.assertEqual([round(pause, 6) for pause in pauses], [one * draw for one in expected])

    def test_backoff_ends(self) -> None:
        """The pause is short again once the gateway has answered a frame, not as soon as there is a connection."""
        play = Play().open()
        for _ in range(3):
            play.session.closed(4500, "", play.now)
            play.advance(play.pause())
            play.session.opened(play.now)
        self.assertEqual(play.session._failures, 3)
        play.session.closed(4500, "", play.now)
        self.assertAlmostEqual(play.pause(), 4)
        play.again()
        play.session.closed(4500, "", play.now)
        self.assertAlmostEqual(play.pause(), 0.5)

    def test_retry_after(self) -> None:
        """What the gateway asks for is waited, and the random part on top, so that not all come at once."""
        play = Play(0.5, patient=True)
        play.session.start(play.now)
        play.token()
        play.session.refused(429, {"retry-after": "7"}, problem("too_many_connections"), play.now)
        self.assertAlmostEqual(play.pause(), 7.25)

    def test_going_away(self) -> None:
        """A node that goes away gives each client its own moment."""
        play = Play().open()
        play.tell(action="notice", code="going_away", retry_after_ms=1250)
        play.session.closed(1001, "going away", play.now)
        self.assertAlmostEqual(play.pause(), 1.25)
        play.again()
        play.session.closed(1001, "", play.now)
        self.assertAlmostEqual(play.pause(), 0.5)

    def test_silence(self) -> None:
        """A gateway that is silent is asked whether it is there, and left if it does not say so."""
        play = Play().open()
        play.advance(PING_SECONDS)
        self.assertEqual(play.look(), [Ping()])
        play.session.heard(play.now)
        play.advance(PING_SECONDS)
        self.assertEqual(play.look(), [Ping()])
        play.advance(PONG_SECONDS)
        self.assertEqual(play.look(), [Drop(hard=True)])
        self.assertAlmostEqual(play.pause(), 0.5)

    def test_not_a_frame(self) -> None:
        """What is no frame of ours is a violation; what is not known yet is passed over."""
        play = Play().open()
        for text in (b"", b"[]", b"5", b"\xff", b'{"action":"message"}', b'{"action":"message","topic":"t"}', b"{}"):
            self.assertRaises(errors.ProtocolViolation, play.session.received, text, play.now)
        play.tell(action="presence", topic="t")
        play.tell(action="notice", code="news")
        self.assertEqual(play.look(), [])

    def test_closed(self) -> None:
        """A client that is closed does nothing any more."""
        play = Play().open()
        stored = play.publish()
        stream = play.subscribe()
        play.session.end(None)
        self.assertEqual(play.look(), [Drop()])
        self.assertIsInstance(stored[0], Closed)
        self.assertEqual((stream.state, stream.error), (State.ENDED, None))
        self.assertRaises(Closed, play.publish)
        self.assertRaises(Closed, play.subscribe)
        self.assertIsNone(play.session.due_at)


class TokenTests(SynchronousTestCase):
    """A token is renewed while it is good."""

    def refreshing(self) -> Play:
        """At four fifths of the token's life."""
        play = Play().open()
        while play.now < 1000 + LIFE * 0.8 - 0.001:
            self.assertNotIn(Exchange(KEY), play.look())
            play.session.heard(play.now)
            play.advance(min(10, 1000 + LIFE * 0.8 - 0.001 - play.now))
        play.look()
        play.advance(0.001)
        self.assertEqual(play.look(), [Exchange(KEY)])
        return play

    def test_refresh(self) -> None:
        """At four fifths of its life there is another one, on the same connection; later connections have it too."""
        play = self.refreshing()
        play.token("t2")
        self.assertEqual(play.look(), [])
        (auth,) = play.sent("auth")
        self.assertEqual(auth["token"], "t2")
        play.ack(auth)
        self.assertEqual(play.look(), [])
        play.session.lost(Unreachable("gone"), play.now)
        play.look()
        play.advance(1)
        self.assertEqual(play.look(), [Open("t2")])

    def test_refresh_fails(self) -> None:
        """If there is none at the moment, it is tried again, and the connection stays."""
        play = self.refreshing()
        play.session.exchanged(503, {}, problem("bus_unavailable"), play.now)
        self.assertEqual(play.look(), [])
        play.session.heard(play.now)
        play.advance(1.5)
        self.assertEqual(play.look(), [Exchange(KEY)])
        play.session.heard(play.now)
        play.advance(ANSWER_SECONDS)
        play.advance(1)
        self.assertEqual([one for one in play.look() if one != Ping()], [Exchange(KEY)])

    def test_refresh_refused(self) -> None:
        """If the key was revoked meanwhile, that is the end."""
        play = self.refreshing()
        stream = play.subscribe()
        play.session.exchanged(403, {}, problem("key_disabled"), play.now)
        self.assertIsInstance(stream.error, errors.KeyDisabled)
        self.assertEqual(play.look(), [Drop()])

    def test_new_token_refused(self) -> None:
        """A token that the connection does not take leads to a new connection with another one."""
        play = self.refreshing()
        play.token("t2")
        (auth,) = play.sent("auth")
        play.error(auth, errors.InvalidToken())
        self.assertEqual(play.look(), [Drop()])
        play.advance(1)
        self.assertEqual(play.look(), [Exchange(KEY)])

    def test_expiring(self) -> None:
        """When the gateway warns, a token is fetched at once: its clock counts."""
        play = Play().open()
        play.tell(action="notice", code="token_expiring", expires_in=30)
        play.advance(0)
        self.assertEqual(play.look(), [Exchange(KEY)])

    def test_revoked(self) -> None:
        """A revoked key ends everything: 4401, and then no other token."""
        play = Play().open()
        stream, stored = play.subscribe(), play.publish()
        play.session.closed(4401, "invalid_token", play.now)
        play.look()
        play.advance(play.pause())
        self.assertEqual(play.look(), [Exchange(KEY)])
        play.session.exchanged(403, {}, problem("key_disabled"), play.now)
        play.look()
        self.assertIsInstance(stream.error, errors.KeyDisabled)
        self.assertIsInstance(stored[0], errors.KeyDisabled)


class PublishingTests(SynchronousTestCase):
    """Each message is stored once, or its caller learns why not."""

    def test_stored(self) -> None:
        """A message has an id and a key; its acknowledgement says where it is stored."""
        play = Play().open()
        got = play.publish({"n": 1}, "sales")
        (frame,) = play.sent("publish")
        self.assertEqual((frame["topic"], frame["message"]), ("sales", {"n": 1}))
        self.assertEqual(got, [])
        play.ack(frame, topic="sales", cursor="e-7", duplicate=False)
        play.look()
        self.assertEqual(got, [Published("e-7", "sales")])

    def test_keys(self) -> None:
        """Keys are never used twice, unless the caller says so."""
        play = Play().open()
        play.publish(), play.publish(), play.publish(key="mine")
        first, second, third = play.sent("publish")
        self.assertNotEqual(first["key"], second["key"])
        self.assertEqual(third["key"], "mine")

    def test_duplicate(self) -> None:
        """That a message was there before is told for a key of the caller's, and not of our own repetition."""
        play = Play().open()
        own, given = play.publish(), play.publish(key="mine")
        for frame in play.sent("publish"):
            play.ack(frame, cursor="e-7", duplicate=True)
        play.look()
        self.assertEqual((own, given), ([Published("e-7", "t")], [Published("e-7", "t", True)]))

    def test_before_the_connection(self) -> None:
        """What is published before there is a connection is sent by it, in order."""
        play = Play()
        play.publish("a"), play.publish("b")
        play.open()
        self.assertEqual([frame["message"] for frame in play.sent("publish")], ["a", "b"])

    def test_sent_again(self) -> None:
        """What was not acknowledged is sent again on the next connection, in order, with the same keys."""
        play = Play().open()
        got = [play.publish(value) for value in "abc"]
        frames = play.sent("publish")
        play.ack(frames[1], cursor="e-2", duplicate=False)
        play.session.lost(Unreachable("gone"), play.now)
        late = play.publish("d")
        play.again()
        again = play.sent("publish")
        self.assertEqual(again[:2], [frames[0], frames[2]])
        self.assertEqual([frame["message"] for frame in again], ["a", "c", "d"])
        for number, frame in enumerate(again):
            play.ack(frame, cursor=f"e-{number}", duplicate=False)
        play.look()
        self.assertEqual([len(one) for one in (*got, late)], [1, 1, 1, 1])

    def test_refused(self) -> None:
        """A refusal is its caller's, as the gateway's own class."""
        for kind in (errors.InsufficientScope, errors.LimitReached, errors.IdempotencyKeyReused, errors.Internal):
            play = Play().open()
            got = play.publish()
            (frame,) = play.sent("publish")
            play.error(frame, kind())
            play.look()
            self.assertIs(type(got[0]), kind)
            self.assertEqual(str(got[0]), "so")

    def test_come_again(self) -> None:
        """What the gateway cannot take at the moment is sent again when it says so, in order, under the same key."""
        for kind in (errors.BusUnavailable, errors.RateLimited, errors.IdempotencyInProgress):
            play = Play().open()
            got = [play.publish("a"), play.publish("b")]
            frames = play.sent("publish")
            for frame in frames:
                play.error(frame, kind(retry_after=3))
            play.advance(2.9)
            self.assertEqual(play.sent("publish"), [])
            play.advance(0.7)
            self.assertEqual(play.sent("publish"), frames)
            self.assertEqual(got, [[], []])

    def test_bound(self) -> None:
        """So many messages may be under way; those that wait are sent in their turn, and nobody overtakes them."""
        play = Play(unacknowledged=2).open()
        got = [play.publish(number, wait=True) for number in range(4)]
        frames = play.sent("publish")
        self.assertEqual([frame["message"] for frame in frames], [0, 1])
        self.assertRaises(Full, play.publish)
        for place in range(4):
            self.assertEqual(frames[place]["message"], place)
            play.ack(frames[place], cursor=f"e-{place}")
            if place < 2:
                self.assertRaises(Full, play.publish)
                frames += play.sent("publish")
        play.look()
        self.assertEqual([one[0].id for one in got], [f"e-{place}" for place in range(4)])  # type: ignore[attr-defined]
        play.publish()

    def test_waiting_without_a_connection(self) -> None:
        """What waits for room is sent in its turn on the next connection too, and fails with the client."""
        play = Play(unacknowledged=1).open()
        first, second, third = (play.publish(number, wait=True) for number in range(3))
        play.look()
        play.session.lost(Unreachable("gone"), play.now)
        play.advance(KEY_SECONDS)
        play.look()
        self.assertIsInstance(first[0], Unconfirmed)
        self.assertEqual((second, third), ([], []))
        play.sent("publish")
        play.session.opened(play.now)
        self.assertEqual([frame["message"] for frame in play.sent("publish")], [1])
        play.session.end(errors.KeyDisabled())
        play.look()
        for waiting in (second, third):
            self.assertIsInstance(waiting[0], errors.KeyDisabled)

    def test_bound_in_bytes(self) -> None:
        """Large messages are fewer."""
        play = Play().open()
        for _ in range(4):
            play.publish("x" * (4 << 20))
        self.assertRaises(Full, play.publish)
        for frame in play.sent("publish"):
            play.ack(frame, cursor="e-1")
        for _ in range(4):
            play.publish("x" * (4 << 20))

    def test_unconfirmed(self) -> None:
        """A message is not sent again once its key may not protect it any more; one never sent waits on."""
        play = Play().open()
        sent = play.publish("a")
        play.look()
        play.session.lost(Unreachable("gone"), play.now)
        waiting = play.publish("b")
        play.advance(KEY_SECONDS)
        play.look()
        self.assertIsInstance(sent[0], Unconfirmed)
        play.sent("publish")
        play.session.opened(play.now)
        self.assertEqual([frame["message"] for frame in play.sent("publish")], ["b"])
        self.assertEqual(waiting, [])

    def test_cannot_be_written(self) -> None:
        """What JSON has no words for is refused at once, and takes no room."""
        play = Play(unacknowledged=1).open()
        for value in (b"bytes", object(), 2**70, "\ud800", {1: 2}):
            self.assertRaises(errors.InvalidJson, play.publish, value)
        for key in ("", "x" * 129, "a\nb"):
            self.assertRaises(errors.InvalidParameter, play.publish, "x", "t", key)
        self.assertEqual(play.sent("publish"), [])
        play.publish()

    def test_too_large_a_frame(self) -> None:
        """A gateway that closes for the size of a frame (1009) is not sent it again."""
        play = Play().open()
        small, large = play.publish("x"), play.publish("x" * 100)
        play.look()
        play.session.closed(1009, "", play.now)
        play.again()
        self.assertIsInstance(large[0], errors.MessageTooLarge)
        play.sent("publish")
        self.assertEqual(small, [])

    def test_unreadable_frame(self) -> None:
        """An error that names no frame of ours is the end: it would come again."""
        play = Play().open()
        play.tell(action="error", code="invalid_json", status=400, detail="so")
        self.assertRaises(errors.InvalidJson, play.publish)


class SubscribingTests(SynchronousTestCase):
    """Nothing is missed, nothing comes twice, and what is missing in history is told."""

    def test_messages(self) -> None:
        """Messages come with topic, data, id and time; bytes as bytes."""
        play = Play().open()
        stream = play.subscribe()
        woken: list[bool] = []
        play.session.wait(stream, lambda: woken.append(True))
        play.tell(action="message", topic="a/b", data={"n": 1}, id="e-11", ts="T")
        play.tell(action="message", topic="a", data="/w==", encoding="base64")
        play.tell(action="message", topic="b", data=1)
        play.look()
        self.assertEqual(woken, [True])
        self.assertEqual(list(stream.items), [Message("a/b", {"n": 1}, "e-11", "T"), Message("a", b"\xff")])

    def test_asked(self) -> None:
        """Ids are asked for, and history as the caller says."""
        play = Play().open()
        play.session.subscribe("a", None, 10)
        play.session.subscribe("b", "earliest", 10)
        play.session.subscribe("c", "e-5", 10)
        self.assertEqual(
            [(frame["topic"], frame["meta"], frame.get("since")) for frame in play.sent("subscribe")],
            [("a", True, None), ("b", True, "earliest"), ("c", True, "e-5")],
        )

    def test_resumed(self) -> None:
        """After a lost connection every filter goes on behind the last that it has seen."""
        play = Play().open()
        play.subscribe("a/#"), play.subscribe("b")
        for number, topic in ((12, "a/x"), (15, "a/y"), (13, "b")):
            play.message(number, topic)
        play.session.lost(Unreachable("gone"), play.now)
        play.again()
        self.assertEqual(
            {frame["topic"]: frame["since"] for frame in play.sent("subscribe")}, {"a/#": "e-15", "b": "e-13"}
        )

    def test_resumed_without_a_message(self) -> None:
        """A filter on which nothing came goes on where it began, which its acknowledgement has told."""
        play = Play().open()
        play.subscribe()
        play.session.lost(Unreachable("gone"), play.now)
        play.again()
        self.assertEqual([frame["since"] for frame in play.sent("subscribe")], ["e-10"])
        for _ in range(10):
            play.session.lost(Unreachable("gone"), play.now)
            play.again()
        self.assertEqual(len(play.session._asked), 1)  # what was asked before is not waited for

    def test_late_acknowledgement(self) -> None:
        """An acknowledgement behind messages does not go back."""
        play = Play().open()
        stream = play.subscribe(since="e-1", held=False)
        (asked,) = play.sent("subscribe")
        for number in (2, 3):
            play.message(number)
        play.ack(asked, cursor="e-2")
        self.assertEqual(stream.since, "e-3")

    def test_seen_before(self) -> None:
        """What was seen before does not come again; another epoch counts anew."""
        play = Play().open()
        stream = play.subscribe()
        for number in (11, 12, 11, 12, 13):
            play.message(number)
        play.tell(action="message", topic="a", data="new", id="f-1", ts="T")
        self.assertEqual(play.read(stream), [11, 12, 13, "new"])

    def test_gap(self) -> None:
        """A gap is told at its place, and the subscription goes on from what is whole."""
        play = Play().open()
        stream = play.subscribe()
        play.message(11)
        play.tell(action="notice", code="gap", topic="a/#", oldest="e-4")
        play.message(5)
        first, gap, second = play.read(stream)
        self.assertEqual((first, second), (11, 5))
        assert isinstance(gap, Gap)
        self.assertEqual((gap.filter, gap.oldest), ("a/#", "e-4"))
        play.tell(action="notice", code="gap", topic="other", oldest="e-4")
        self.assertEqual(play.read(stream), [])

    def test_refused(self) -> None:
        """A refusal ends the subscription; a bus that is away does not."""
        play = Play().open()
        refused = play.subscribe("a", held=False)
        later = play.subscribe("b", held=False)
        first, second = play.sent("subscribe")
        play.error(first, errors.InsufficientScope())
        play.error(second, errors.BusUnavailable(retry_after=2))
        self.assertIsInstance(refused.error, errors.InsufficientScope)
        self.assertIsNone(later.error)
        play.advance(2.6)
        self.assertEqual([frame["topic"] for frame in play.sent("subscribe")], ["b"])

    def test_ended_by_itself(self) -> None:
        """A subscription that the gateway ends is asked for again behind what it has, or ends with the error."""
        play = Play().open()
        stream, other = play.subscribe("a/#"), play.subscribe("b")
        play.message(11)
        play.tell(action="error", topic="a/#", code="bus_unavailable", status=503, detail="so", retry_after=1)
        play.tell(action="error", topic="b", code="insufficient_scope", status=403, detail="so")
        self.assertIsInstance(other.error, errors.InsufficientScope)
        play.advance(2)
        self.assertEqual([(frame["topic"], frame["since"]) for frame in play.sent("subscribe")], [("a/#", "e-11")])
        self.assertIsNone(stream.error)

    def test_error_behind_the_messages(self) -> None:
        """What came before the end can still be read."""
        play = Play().open()
        stream = play.subscribe()
        play.message(11)
        play.session.end(errors.KeyDisabled())
        self.assertEqual(play.read(stream), [11])
        self.assertIsInstance(stream.error, errors.KeyDisabled)

    def test_unsubscribed(self) -> None:
        """A subscription that is ended is not asked for again, and what is under way for it is dropped."""
        play = Play().open()
        stream = play.subscribe()
        play.session.unsubscribe(stream)
        play.session.unsubscribe(stream)
        self.assertEqual([frame["topic"] for frame in play.sent("unsubscribe")], ["a/#"])
        play.message(11)
        self.assertEqual((stream.state, list(stream.items)), (State.ENDED, []))
        play.session.lost(Unreachable("gone"), play.now)
        play.again()
        self.assertEqual(play.sent("subscribe"), [])

    def test_subscribed_anew(self) -> None:
        """A new subscription waits for the end of an old one: the old one's messages are not for it."""
        play = Play().open()
        play.session.unsubscribe(play.subscribe())
        (left,) = play.sent("unsubscribe")
        stream = play.subscribe("a/b", "earliest", held=False)
        self.assertEqual(play.sent("subscribe"), [])
        play.message(99)
        play.ack(left, topic="a/#")
        (asked,) = play.sent("subscribe")
        play.ack(asked, cursor="e-0")
        play.message(1)
        self.assertEqual(play.read(stream), [1])

    def test_forgotten(self) -> None:
        """A subscription whose reader is gone ends when a message comes for it, or its topics are wanted again."""

        class Reader:
            pass

        play = Play().open()
        reader, other = Reader(), Reader()
        stream = play.session.subscribe("a", None, 10, ref(reader))
        again = play.session.subscribe("b", None, 10, ref(other))
        del reader, other
        gc.collect()
        play.message(1, "a")
        self.assertEqual((stream.state, list(stream.items)), (State.ENDED, []))
        play.session.subscribe("b", None, 10)
        self.assertIs(again.state, State.ENDED)

    def test_common_topics(self) -> None:
        """Two subscriptions with common topics are refused: a message does not say for which it is."""
        play = Play().open()
        play.subscribe("a/#")
        self.assertRaises(errors.Conflict, play.subscribe, "a/b")
        self.assertRaises(errors.InvalidTopic, play.subscribe, "a/#/b")
        self.assertRaises(errors.InvalidParameter, play.subscribe, "c", "yesterday")
        play.subscribe("c")

    def test_overlap(self) -> None:
        """Whether a topic can match two filters."""
        for one, other, common in (
            ("a", "a", True),
            ("a", "b", False),
            ("a/+", "a/b", True),
            ("a/+", "+/b", True),
            ("a/+", "a", False),
            ("a/#", "a", True),
            ("a/#", "a/b/c", True),
            ("a/#", "b/#", False),
            ("#", "x/y", True),
            ("+/a", "+/b", False),
            ("a/b", "a/b/c", False),
            ("+/+", "a", False),
        ):
            self.assertEqual((overlap(one, other), overlap(other, one)), (common, common), (one, other))


class FullTests(SynchronousTestCase):
    """A buffer that is full stops the reading, or its subscription if something else is awaited."""

    def filled(self) -> tuple[Play, Stream]:
        play = Play().open()
        play.others = [play.subscribe("c")]
        stream = play.subscribe(bound=4)
        for number in range(11, 15):
            self.assertTrue(play.session.reading)
            play.message(number)
        self.assertFalse(play.session.reading)
        return play, stream

    def test_stops_reading(self) -> None:
        """The connection is read on once half of the buffer is read."""
        play, stream = self.filled()
        play.session.next_of(stream)
        self.assertFalse(play.session.reading)
        play.session.next_of(stream)
        self.assertTrue(play.session.reading)
        self.assertEqual(play.sent("unsubscribe"), [])

    def test_gateway_hears_of_us(self) -> None:
        """While nothing is read the gateway gets a ping now and then, and its silence means nothing."""
        play, _ = self.filled()
        play.advance(PING_SECONDS * 10)
        self.assertEqual(play.look(), [Ping()] * 10)

    def shed(self, awaited: Callable[[Play], object]) -> None:
        play, stream = self.filled()
        awaited(play)
        self.assertTrue(play.session.reading)
        (left,) = play.sent("unsubscribe")
        play.message(15)  # was under way
        play.ack(left, topic="a/#")
        play.sent("subscribe")
        self.assertEqual(play.session.next_of(stream), Message("a/b", 11, "e-11", "2026-11-24T02:56:38.371Z"))
        self.assertEqual(play.sent("subscribe"), [])
        play.session.next_of(stream)
        (asked,) = play.sent("subscribe")
        self.assertEqual((asked["topic"], asked["since"]), ("a/#", "e-14"))
        play.ack(asked, cursor="e-14")
        play.message(15)
        self.assertEqual(play.read(stream), [13, 14, 15])

    def test_publish_awaited(self) -> None:
        """A message is published: its acknowledgement stands behind what is not read.  Nothing is lost or repeated."""
        self.shed(Play.publish)

    def test_other_subscription_awaited(self) -> None:
        """Another subscription is waited for, or begun."""
        self.shed(lambda play: play.subscribe("b", held=False))
        self.shed(lambda play: play.session.wait(next(iter(play.others)), lambda: None))

    def test_awaited_before(self) -> None:
        """It is the same if the buffer gets full while something is awaited."""
        play = Play().open()
        stream = play.subscribe(bound=4)
        play.publish()
        for number in range(11, 20):
            play.message(number)
        self.assertTrue(play.session.reading)
        self.assertEqual(len(play.sent("unsubscribe")), 1)
        self.assertEqual(play.read(stream), [11, 12, 13, 14])
        self.assertEqual(play.sent("subscribe"), [])  # before the old one has ended

    def test_connection_lost(self) -> None:
        """A subscription that is full at a new connection is asked for once there is room."""
        play, stream = self.filled()
        play.session.lost(Unreachable("gone"), play.now)
        self.assertTrue(play.session.reading)
        play.again()
        self.assertEqual([frame["topic"] for frame in play.sent("subscribe")], ["c"])
        play.session.next_of(stream), play.session.next_of(stream)
        self.assertEqual([frame["since"] for frame in play.sent("subscribe")], ["e-14"])

    def test_one_reader(self) -> None:
        """Two readers of one subscription would take each other's messages."""
        play = Play().open()
        stream = play.subscribe()
        play.session.wait(stream, lambda: None)
        self.assertRaises(RuntimeError, play.session.wait, stream, lambda: None)


class SecretTests(SynchronousTestCase):
    """Secrets in logs."""

    def test_not_shown(self) -> None:
        """Neither the key nor a token is shown by what a debugger or a log shows."""
        for action in (Exchange("secret"), Open("secret"), Send(b"secret")):
            self.assertNotIn("secret", repr(action))
        self.assertNotIn("secret", repr(core.Session(key="secret", draw=float, name="n")))
