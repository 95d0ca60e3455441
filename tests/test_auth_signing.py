"""Signing keys: how one follows another, on several nodes, and what becomes of tokens."""

from __future__ import annotations

import json
from typing import Any

import jwt
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.keys import Keyring
from flowgate.auth.secrets import GATEWAY
from flowgate.auth.signing import (
    ANNOUNCE,
    ENTRY,
    FIRST,
    LONGEST_LIFE,
    MAX_AGE,
    MOST_KEYS,
    KeyPair,
    SigningKey,
    SigningKeys,
    current,
    derived_key,
    rotated,
)
from flowgate.auth.tokens import TokenService
from flowgate.bus.memory_store import MemoryStore
from flowgate.errors import Conflict, InvalidToken, StartError

NOW = 1_800_000_000
MASTER = b"m" * 43
KEPT = LONGEST_LIFE + MAX_AGE


RECORD = {"generation": 2, "published_at": 1, "signs_from": 1, "retired_at": None}


class Node:
    """What one node knows of keys and tokens; its clock may differ from that of others."""

    def __init__(self, case: _Tests, behind: float = 0.0) -> None:
        def now() -> float:
            return case.now - behind

        self.signing = SigningKeys(MASTER, case.store, now, ANNOUNCE)
        self.keyring = Keyring(case.store, MASTER, now)
        self.tokens = TokenService(self.keyring, self.signing, case.store, "flowgate", now)
        self.told: list[str] = []
        self.tokens.on_revoked(self.told.append)
        for part in (self.signing, self.keyring, self.tokens):
            case.successResultOf(part.start())
            case.addCleanup(part.stop)

    def issue(self, ttl: int = 900) -> str:
        (key,) = self.keyring.keys()
        return self.tokens.issue(key, ttl=ttl).token

    def published(self) -> list[str]:
        return [key["kid"] for key in self.tokens.jwks()["keys"]]

    def takes(self, token: str) -> bool:
        try:
            self.tokens.verify(token)
        except InvalidToken:
            return False
        return True


def kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


class _Tests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = float(NOW)
        self.store = MemoryStore()
        self.one, self.other = Node(self), Node(self)
        self.successResultOf(self.one.keyring.create("alice", "shop"))
        self.kids = [KeyPair.of(derived_key(MASTER, generation)).id for generation in range(1, 5)]

    def rotate(self, node: Node | None = None, **options: Any) -> bool:
        return self.successResultOf((node or self.one).signing.rotate(**options))

    def stored(self) -> Any:
        entry = self.successResultOf(self.store.get(GATEWAY, ENTRY))
        assert entry is not None
        return json.loads(entry.value)

    def put(self, value: bytes) -> None:
        self.successResultOf(self.store.put(GATEWAY, ENTRY, value))


class RotationTests(_Tests):
    """A new key in good order."""

    def test_first(self) -> None:
        """Without any rotation there is one key, which needs no entry in the store."""
        self.assertEqual(self.one.published(), self.kids[:1])
        self.assertIsNone(self.successResultOf(self.store.get(GATEWAY, ENTRY)))

    def test_today_s_key_is_the_first(self) -> None:
        """The key of the first generation is the one that there was before there were others: its tokens stay good."""
        self.assertEqual(KeyPair.of(derived_key(b"master secret")).id, "G1QtCBRaKRgP-3gV")

    def test_announced(self) -> None:
        """A new key is published at once on every node, but does not sign."""
        self.assertTrue(self.rotate())
        for node in (self.one, self.other):
            self.assertEqual(node.published(), self.kids[:2])
            self.assertEqual(kid(node.issue()), self.kids[0])

    def test_signs(self) -> None:
        """When it has been announced for long enough, and not a moment before, every node signs with it."""
        self.assertGreaterEqual(ANNOUNCE, 2 * MAX_AGE)
        self.rotate()
        for seconds, signs in ((ANNOUNCE - 1, 0), (1, 1)):
            self.now += seconds
            for node in (self.one, self.other):
                self.assertEqual(kid(node.issue()), self.kids[signs])
        self.assertEqual(self.one.published(), [self.kids[1], self.kids[0]])

    def test_no_token_is_refused(self) -> None:
        """Every token is good on every node for all of its life, through rotations on both."""
        good: list[tuple[str, float]] = []
        for hour in range(0, 90):
            if hour % 30 == 7:
                self.rotate(self.other if hour % 60 == 7 else self.one)
            for node in (self.one, self.other):
                good.append((node.issue(LONGEST_LIFE), self.now + LONGEST_LIFE))
            good = [(token, until) for token, until in good if until > self.now]
            for node in (self.one, self.other):
                self.assertTrue(all(node.takes(token) for token, _ in good), hour)
            self.now += 3600
        self.assertEqual(self.one.published()[0], self.kids[3])

    def test_dropped(self) -> None:
        """The old key verifies until the last token that it may have signed is over, then nobody keeps it."""
        self.rotate()
        self.now += ANNOUNCE
        self.now -= 1
        token = self.one.issue(LONGEST_LIFE)
        self.assertEqual(kid(token), self.kids[0])
        self.now += KEPT
        self.assertIn(self.kids[0], self.one.published())
        self.assertIsNotNone(self.one.signing.verifying(self.kids[0]))
        self.now += 1
        self.assertEqual(self.one.published(), self.kids[1:2])
        self.assertIsNone(self.one.signing.verifying(self.kids[0]))
        self.assertEqual([key.generation for _, _, key in self.one.signing.listing()], [2])
        self.rotate()
        self.assertEqual([one["generation"] for one in self.stored()["keys"]], [2, 3])

    def test_again(self) -> None:
        """While a key is announced, another rotation changes nothing, on whichever node."""
        self.rotate()
        before = self.stored()
        self.now += ANNOUNCE - 1
        self.assertFalse(self.rotate())
        self.assertFalse(self.rotate(self.other))
        self.assertEqual(self.stored(), before)
        self.now += 1
        self.assertTrue(self.rotate())

    def test_of_a_generation(self) -> None:
        """Who names the newest key that he knows makes no second one after it, however often he asks."""
        self.assertTrue(self.rotate(generation=1))
        self.now += ANNOUNCE
        self.assertFalse(self.rotate(generation=1))
        self.assertFalse(self.rotate(self.other, generation=1, immediately=True))
        self.assertTrue(self.rotate(generation=2))

    def test_later_node(self) -> None:
        """A node that starts later goes by the same keys."""
        self.rotate()
        self.now += ANNOUNCE
        late = Node(self)
        self.assertEqual(kid(late.issue()), self.kids[1])
        self.assertTrue(late.takes(self.one.issue()))

    def test_unknown_key(self) -> None:
        """A token of a key that was never announced is refused, also if it has our own signature."""
        claims = jwt.decode(self.one.issue(), options={"verify_signature": False})
        header = {"typ": "at+jwt", "kid": self.kids[1]}
        token = jwt.encode(claims, derived_key(MASTER, 2), "ES256", header)
        self.assertFalse(self.one.takes(token))
        self.rotate()
        self.assertTrue(self.one.takes(token))

    def test_key_of_another(self) -> None:
        """The id of one key does not let a signature of another pass."""
        self.rotate()
        claims = jwt.decode(self.one.issue(), options={"verify_signature": False})
        token = jwt.encode(claims, derived_key(MASTER, 2), "ES256", {"typ": "at+jwt", "kid": self.kids[0]})
        self.assertFalse(self.one.takes(token))

    def test_listing(self) -> None:
        """The keys are listed with what each of them is for."""
        self.rotate()
        self.now += ANNOUNCE
        self.rotate()
        self.assertEqual(
            [(key_id, use, key.generation, key.retired_at) for key_id, use, key in self.one.signing.listing()],
            [
                (self.kids[2], "announced", 3, None),
                (self.kids[1], "signing", 2, NOW + 2 * ANNOUNCE + KEPT),
                (self.kids[0], "verifying", 1, NOW + ANNOUNCE + KEPT),
            ],
        )

    def test_bounded(self) -> None:
        """So many keys verify at a time, and no more can be announced until one is retired."""
        for _ in range(MOST_KEYS - 1):
            self.assertTrue(self.rotate())
            self.now += ANNOUNCE
        self.failureResultOf(self.one.signing.rotate(), Conflict)
        self.assertEqual(len(self.one.published()), MOST_KEYS)
        self.now += KEPT
        self.assertTrue(self.rotate())

    def test_cached(self) -> None:
        """A token that was verified before is not verified longer than its key does."""
        token = self.one.issue(LONGEST_LIFE)
        self.assertTrue(self.one.takes(token))
        self.rotate(immediately=True)
        self.assertFalse(self.one.takes(token))


class CompromiseTests(_Tests):
    """A key that somebody else may have."""

    def test_at_once(self) -> None:
        """The new key signs, the old one verifies nothing, and whoever has connections is told; on every node."""
        tokens = [node.issue() for node in (self.one, self.other)]
        self.assertEqual(self.one.tokens.verify(tokens[0]).signing_key, self.kids[0])
        self.assertTrue(self.rotate(immediately=True))
        for node in (self.one, self.other):
            self.assertEqual(node.published(), self.kids[1:2])
            self.assertEqual(kid(node.issue()), self.kids[1])
            self.assertEqual([node.takes(token) for token in tokens], [False, False])
            self.assertEqual(node.told, [self.kids[0]])
            self.assertTrue(node.takes(self.one.issue()))

    def test_all_of_them(self) -> None:
        """A key that is announced, and one that is kept, are given up as well."""
        self.rotate()
        self.now += ANNOUNCE
        self.rotate()
        self.rotate(immediately=True)
        self.assertEqual(self.other.published(), self.kids[3:4])
        self.assertEqual(sorted(self.other.told), sorted(self.kids[:3]))

    def test_clocks(self) -> None:
        """A node whose clock is behind gives the old key up at once too, and signs with the new one."""
        slow = Node(self, behind=4)
        token = slow.issue()
        self.rotate(immediately=True)
        self.assertFalse(slow.takes(token))
        self.assertEqual(kid(slow.issue()), self.kids[1])
        self.assertTrue(slow.takes(self.one.issue()))
        self.rotate()
        self.assertEqual(kid(slow.issue()), self.kids[1])

    def test_expired_are_not_told(self) -> None:
        """A rotation in good order ends nothing."""
        self.rotate()
        self.now += ANNOUNCE
        self.rotate()
        self.assertEqual(self.other.told, [])


class AgreementTests(_Tests):
    """Several nodes, one set of keys."""

    def race(self, first: Node, second: Node, **options: Any) -> list[bool]:
        """Have one node rotate between the other's look and its write."""
        get, outcomes = self.store.get, []

        def late(bucket: str, key: str) -> Deferred[Any]:
            self.store.get = get  # type: ignore[method-assign]
            found = get(bucket, key)
            outcomes.append(self.rotate(second, **options))
            return found

        self.store.get = late  # type: ignore[method-assign]
        return [self.rotate(first, **options), *outcomes]

    def test_at_the_same_time(self) -> None:
        """Two nodes that rotate at the same time make one key."""
        self.assertEqual(self.race(self.one, self.other), [False, True])
        self.assertEqual(self.one.published(), self.kids[:2])
        self.assertEqual(self.other.published(), self.kids[:2])

    def test_given_up_at_the_same_time(self) -> None:
        """Two nodes that give up the same key at the same time make one new one."""
        self.assertEqual(self.race(self.one, self.other, immediately=True), [False, True])
        self.assertEqual(self.one.published(), self.kids[1:2])

    def test_given_up_while_one_is_announced(self) -> None:
        """A key that is given up stays given up, also if the other node only wanted a new one."""
        token = self.one.issue()
        get = self.store.get

        def late(bucket: str, key: str) -> Deferred[Any]:
            self.store.get = get  # type: ignore[method-assign]
            found = get(bucket, key)
            self.rotate(self.other, immediately=True)
            return found

        self.store.get = late  # type: ignore[method-assign]
        self.rotate()
        for node in (self.one, self.other):
            self.assertFalse(node.takes(token))
            self.assertEqual(node.published(), [self.kids[1], self.kids[2]])

    def test_always_changed(self) -> None:
        """Somebody who changes the keys all the time does not keep a node busy for ever."""
        conflict: list[Deferred[int]] = []

        def put(*_: object) -> Deferred[int]:
            failed: Deferred[int] = Deferred()
            failed.errback(Conflict())
            conflict.append(failed)
            return failed

        self.patch(self.store, "put", put)
        self.failureResultOf(self.one.signing.rotate(), Conflict)
        self.assertEqual(len(conflict), 5)

    def test_told_late(self) -> None:
        """What was stored earlier and is told later does not bring a key back."""
        self.rotate()
        old = json.dumps(self.stored()).encode()
        self.rotate(immediately=True)
        self.other.signing._changed(ENTRY, old)
        self.assertEqual(self.other.published(), self.kids[2:3])

    def test_stopped(self) -> None:
        """A node that has stopped follows no more."""
        self.other.signing.stop()
        self.rotate()
        self.assertEqual(self.other.published(), self.kids[:1])

    def test_other_entries(self) -> None:
        """What else the nodes agree on is none of this."""
        self.successResultOf(self.store.put(GATEWAY, "master", b"x"))
        self.assertEqual(self.one.published(), self.kids[:1])


class DamageTests(_Tests):
    """A set of keys that cannot be read."""

    DAMAGED = (
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"keys":[]}',
        b'{"keys":5}',
        b'{"keys":[5]}',
        b"[" * 100_000,
        json.dumps({"keys": [RECORD, RECORD]}).encode(),
        json.dumps({"keys": [{**RECORD, "generation": 0}]}).encode(),
        json.dumps({"keys": [{**RECORD, "generation": "2"}]}).encode(),
        json.dumps({"keys": [{**RECORD, "generation": True}]}).encode(),
        json.dumps({"keys": [{**RECORD, "signs_from": 1.5}]}).encode(),
        json.dumps({"keys": [{**RECORD, "retired_at": "1"}]}).encode(),
        json.dumps({"keys": [{**RECORD, "more": 1}]}).encode(),
        json.dumps({"keys": [{**RECORD, "generation": number} for number in range(1, MOST_KEYS + 2)]}).encode(),
    )

    def test_while_running(self) -> None:
        """A node keeps to what it knew, says so, and rotates no more."""
        self.rotate()
        for value in self.DAMAGED:
            with capturedLogs() as logs:
                self.put(value)
            self.assertEqual(len(logs), 2, value)
            self.assertEqual(self.one.published(), self.kids[:2])
            self.failureResultOf(self.one.signing.rotate(), Conflict)

    def test_removed(self) -> None:
        """Nor does the removal of the set bring the first key back."""
        self.rotate(immediately=True)
        with capturedLogs():
            self.successResultOf(self.store.delete(GATEWAY, ENTRY))
        self.assertEqual(self.one.published(), self.kids[1:2])

    def test_at_the_start(self) -> None:
        """A node that knows nothing yet does not start: the first key may have been given up."""
        for value in self.DAMAGED:
            signing = SigningKeys(MASTER, self.store, lambda: self.now)
            with capturedLogs():
                self.put(value)
                self.failureResultOf(signing.start(), StartError)
            signing.stop()


class SequenceTests(SynchronousTestCase):
    """Any sequence of rotations and pauses."""

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 2 * LONGEST_LIFE), st.booleans()), max_size=30), st.integers(1, 3600))
    def test_any(self, steps: list[tuple[int, bool]], announce: int) -> None:
        """There is always one key that signs; it is published; its tokens are verified unless it was given up."""
        keys, now = FIRST, NOW
        for pause, immediately in steps:
            before = keys
            signed_by = current(keys, now)
            try:
                keys = rotated(keys, now, announce, immediately)
            except Conflict:
                self.assertEqual(len(keys), MOST_KEYS)
            if immediately:
                self.assertEqual(len(keys), 1)
                self.assertGreater(keys[0].generation, before[-1].generation)
            else:
                # Who signed goes on to sign until the newest is announced long enough, and verifies for all that time.
                self.assertEqual(current(keys, now).generation, signed_by.generation)
                [kept] = [key for key in keys if key.generation == signed_by.generation]
                later = [key for key in keys if key.generation > kept.generation]
                if later:
                    assert kept.retired_at is not None
                    self.assertGreaterEqual(kept.retired_at, later[0].signs_from + KEPT)
            self.assertEqual([key.retired_at is None for key in keys], [False] * (len(keys) - 1) + [True])
            now += pause
            self.assertIsNone(self.over(current(keys, now), now))

    @staticmethod
    def over(key: SigningKey, now: int) -> int | None:
        """When a key was retired, if it was."""
        return key.retired_at if key.retired_at is not None and key.retired_at <= now else None
