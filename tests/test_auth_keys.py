"""API keys and users: made, found, checked, revoked, and known on every node."""

from __future__ import annotations

import base64
import hmac
import json
import re
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.keys import KEYS, USERS, ApiKey, Keyring
from flowgate.auth.permissions import Grant, Grants
from flowgate.bus.memory_store import MemoryStore
from flowgate.errors import (
    AccountSuspended,
    BusUnavailable,
    Conflict,
    InvalidParameter,
    InvalidToken,
    InvalidTopic,
    KeyDisabled,
    NotFound,
    Refused,
)
from flowgate.topics import Namespace

NOW = 1_800_000_000
MASTER = b"m" * 43
HOME = Namespace("alice", "shop")


class _Tests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = float(NOW)
        self.store = MemoryStore()
        self.keyring = self.node()

    def node(self) -> Keyring:
        keyring = Keyring(self.store, MASTER, lambda: self.now)
        self.successResultOf(keyring.start())
        self.addCleanup(keyring.stop)
        return keyring

    def create(self, user: str = "alice", app: str = "shop", **options: Any) -> tuple[ApiKey, str]:
        return self.successResultOf(self.keyring.create(user, app, **options))


class CreationTests(_Tests):
    """Making keys."""

    def test_form(self) -> None:
        """A key is its id, a dot and its secret."""
        key, text = self.create()
        self.assertTrue(re.fullmatch(r"FGAK[A-Z2-7]{16}\.[A-Za-z0-9]{40}", text), text)
        self.assertTrue(text.startswith(key.id + "."))

    def test_usable_at_once(self) -> None:
        """The key is accepted as soon as its creator is told of it, without waiting for the store's watch."""
        self.keyring.stop()
        key, text = self.create()
        self.assertEqual(self.keyring.authenticate(text), key)

    def test_without_grants(self) -> None:
        """A key without grants may do everything inside its application."""
        self.assertEqual(self.create()[0].grants, Grants.everything(HOME))

    def test_with_grants(self) -> None:
        """A key with some grants may do nothing else."""
        grants = self.create(publish=["orders/#"])[0].grants
        self.assertEqual(grants, Grants((Grant(HOME, "orders/#"),), (), ()))

    def test_nothing_secret_is_stored(self) -> None:
        """Neither the secret nor the master secret is in the store."""
        key, text = self.create(name="for the till")
        entry = self.successResultOf(self.store.get(KEYS, key.id))
        assert entry is not None
        self.assertNotIn(text.partition(".")[2].encode(), entry.value)
        self.assertNotIn(MASTER, entry.value)
        self.assertEqual(json.loads(entry.value)["name"], "for the till")

    def test_not_allowed(self) -> None:
        """A wrong name, filter or life is refused, and neither key nor user is made."""
        for error, user, options in (
            (InvalidParameter, "Alice", {}),
            (InvalidParameter, "a_b", {}),
            (InvalidParameter, "", {}),
            (InvalidParameter, "alice", {"name": "x" * 101}),
            (InvalidParameter, "alice", {"name": "a\nb"}),
            (InvalidParameter, "alice", {"expires_days": 0}),
            (InvalidParameter, "alice", {"queues": ["a b"]}),
            (InvalidTopic, "alice", {"publish": ["a/#/b"]}),
        ):
            self.failureResultOf(self.keyring.create(user, "shop", **options), error)
        self.assertEqual((self.keyring.keys(), self.keyring.users()), ([], []))

    def test_bus_away(self) -> None:
        """A key that could not be stored is not made."""
        with mock.patch.object(self.store, "put", lambda *_: fail(BusUnavailable())):
            self.failureResultOf(self.keyring.create("alice", "shop"), BusUnavailable)
        self.assertEqual(self.keyring.keys(), [])

    def test_id_is_taken(self) -> None:
        """An id that another node has given already is not given again."""
        first, _ = self.create()
        deaf = Keyring(self.store, MASTER, lambda: self.now)
        taken = base64.b32decode(first.id.removeprefix("FGAK"))
        with mock.patch("secrets.token_bytes", side_effect=[taken, b"another id"]):
            second, _ = self.successResultOf(deaf.create("alice", "cafe"))
        self.assertEqual(second.id, "FGAK" + base64.b32encode(b"another id").decode())
        self.assertEqual(self.keyring.find(first.id), first)

    def test_makes_the_user(self) -> None:
        """The user is made if new, once."""
        self.create(app="shop")
        self.create(app="cafe")
        self.assertEqual([user.name for user in self.keyring.users()], ["alice"])


class SecretTests(_Tests):
    """Secrets are derived."""

    def test_known_answer(self) -> None:
        """The derivation never changes: keys in use would be lost."""
        self.assertEqual(self.keyring.secret_of("FGAKAAAAAAAAAAAAAAAA"), "gi1AM9XVWPdFcJKTIDPfC7hRnQjKdTCWI8CmbrRF")

    def test_depends_on_master_and_id(self) -> None:
        """Another id or another master secret make another secret."""
        other = Keyring(self.store, b"n" * 43, lambda: self.now)
        ids = ["FGAKAAAAAAAAAAAAAAAA", "FGAKAAAAAAAAAAAAAAAB"]
        found = {keyring.secret_of(one) for keyring in (self.keyring, other) for one in ids}
        self.assertEqual(len(found), 4)

    def test_signature_v4_can_find_it(self) -> None:
        """The secret of a key is found again from its id."""
        key, text = self.create()
        self.assertEqual(f"{key.id}.{self.keyring.secret_of(key.id)}", text)


class AuthenticationTests(_Tests):
    """Who may come in."""

    def test_unknown_and_wrong_look_the_same(self) -> None:
        """An unknown id and a wrong secret get the same answer."""
        _, text = self.create()
        unknown = "FGAK" + "A" * 16
        answers = [
            self.assertRaises(InvalidToken, self.keyring.authenticate, wrong).detail
            for wrong in (text[:-1] + ("a" if text[-1] != "a" else "b"), f"{unknown}.{self.keyring.secret_of(unknown)}")
        ]
        self.assertEqual(answers[0], answers[1])

    def test_same_work(self) -> None:
        """An unknown id, a wrong secret and nonsense cost one derivation and one comparison, as a right key does."""
        _, text = self.create()
        for attempt in (text, text[:-40] + "a" * 40, "FGAK" + "A" * 16 + "." + "a" * 40, "nonsense", ""):
            with (
                mock.patch("hmac.compare_digest", wraps=hmac.compare_digest) as compared,
                mock.patch("hmac.digest", wraps=hmac.digest) as derived,
            ):
                try:
                    self.keyring.authenticate(attempt)
                except InvalidToken:
                    self.assertNotEqual(attempt, text)
            self.assertEqual((compared.call_count, derived.call_count), (1, 1), attempt)

    def test_malformed(self) -> None:
        """A text around or instead of a key is none."""
        _, text = self.create()
        for wrong in (
            "",
            ".",
            text + "\n",
            " " + text,
            text.lower(),
            text[:20],
            text.replace(".", ""),
            text + "." + text,
        ):
            self.assertRaises(InvalidToken, self.keyring.authenticate, wrong)

    @settings(max_examples=200, deadline=None)
    @given(st.text() | st.from_regex(r"FGAK[A-Z2-7]{16}\.[A-Za-z0-9]{40}", fullmatch=True))
    def test_hostile(self, text: str) -> None:
        """No text raises anything but ``InvalidToken``."""
        self.setUp()
        self.create()
        self.assertRaises(InvalidToken, self.keyring.authenticate, text)

    def test_expired(self) -> None:
        """A key ends at its time, not a moment later."""
        _, text = self.create(expires_days=1)
        self.now = NOW + 86400 - 0.001
        self.keyring.authenticate(text)
        self.now = NOW + 86400
        self.assertRaises(InvalidToken, self.keyring.authenticate, text)

    def test_revoked(self) -> None:
        """A revoked key is said to be, to who has its secret; to others it looks unknown."""
        key, text = self.create()
        self.successResultOf(self.keyring.revoke(key.id))
        self.assertRaises(KeyDisabled, self.keyring.authenticate, text)
        self.assertRaises(InvalidToken, self.keyring.authenticate, f"{key.id}.{'a' * 40}")

    def test_suspended(self) -> None:
        """The keys of a suspended user rest until the suspension ends."""
        key, text = self.create()
        self.successResultOf(self.keyring.suspend("alice", True))
        self.assertRaises(AccountSuspended, self.keyring.authenticate, text)
        self.assertRaises(InvalidToken, self.keyring.authenticate, f"{key.id}.{'a' * 40}")
        self.successResultOf(self.keyring.suspend("alice", False))
        self.assertEqual(self.keyring.authenticate(text), key)

    def test_unknown_to_revoke_and_suspend(self) -> None:
        """What there is not cannot be revoked or suspended."""
        self.failureResultOf(self.keyring.revoke("FGAK" + "A" * 16), NotFound)
        self.failureResultOf(self.keyring.suspend("nobody", True), NotFound)


class NodesTests(_Tests):
    """Every node knows the same."""

    def test_made_elsewhere(self) -> None:
        """A key made on one node is accepted on another, and on one that starts later."""
        other = self.node()
        key, text = self.create()
        self.assertEqual(other.authenticate(text), key)
        self.assertEqual(self.node().authenticate(text), key)

    def test_revoked_elsewhere(self) -> None:
        """A key revoked on one node is refused on another, whose listeners are told."""
        other, told = self.node(), list[str]()
        other.on_disabled(told.append)
        key, text = self.create()
        self.successResultOf(self.keyring.revoke(key.id))
        self.assertRaises(KeyDisabled, other.authenticate, text)
        self.assertEqual(told, [key.id])

    def test_suspended_elsewhere(self) -> None:
        """Listeners are told the name of a suspended user, and nothing when the suspension ends."""
        other, told = self.node(), list[str]()
        other.on_disabled(told.append)
        self.create()
        self.successResultOf(self.keyring.suspend("alice", True))
        self.successResultOf(self.keyring.suspend("alice", False))
        self.assertEqual(told, ["alice"])

    def test_removed(self) -> None:
        """A key whose entry was removed is unknown, and its connections end."""
        told: list[str] = []
        self.keyring.on_disabled(told.append)
        key, text = self.create()
        self.successResultOf(self.store.delete(KEYS, key.id))
        self.assertRaises(InvalidToken, self.keyring.authenticate, text)
        self.assertEqual(told, [key.id])

    def test_user_removed(self) -> None:
        """A key without its user is not accepted."""
        _, text = self.create()
        self.successResultOf(self.store.delete(USERS, "alice"))
        self.assertRaises(AccountSuspended, self.keyring.authenticate, text)

    def test_stopped(self) -> None:
        """A stopped node follows no longer."""
        other = self.node()
        other.stop()
        _, text = self.create()
        self.assertRaises(InvalidToken, other.authenticate, text)

    def test_user_made_twice(self) -> None:
        """Two nodes that make the same user at once have one user."""
        deaf = Keyring(self.store, MASTER, lambda: self.now + 5)
        first = self.successResultOf(self.keyring.create_user("alice"))
        self.assertEqual(self.successResultOf(deaf.create_user("alice")), first)

    def test_user_that_cannot_be_read(self) -> None:
        """A user whose record is damaged is not made anew over it, and gets no keys."""
        with capturedLogs() as logged:
            self.successResultOf(self.store.put(USERS, "alice", b"{"))
            for made in (self.keyring.create("alice", "shop"), self.keyring.create_user("alice")):
                self.failureResultOf(made, Conflict)
        self.assertEqual({event["log_level"] for event in logged}, {LogLevel.error})
        self.assertEqual((self.keyring.users(), self.keyring.keys()), ([], []))

    def test_late_news(self) -> None:
        """News that is older than a revocation does not bring the key back."""
        told: list[str] = []
        self.keyring.on_disabled(told.append)
        key, text = self.create()
        self.successResultOf(self.keyring.revoke(key.id))
        self.successResultOf(self.store.put(KEYS, key.id, key.to_json()))
        self.assertRaises(KeyDisabled, self.keyring.authenticate, text)
        self.assertEqual(told, [key.id])

    def test_unreadable_records(self) -> None:
        """A record that cannot be read is logged and not accepted, whatever was known before, and stops nothing."""
        key, text = self.create()
        good = json.loads(key.to_json())
        told: list[str] = []
        self.keyring.on_disabled(told.append)
        for wrong in (
            b"",
            b"[]",
            b"{}",
            b"\xff",
            json.dumps({**good, "id": "FGAK" + "B" * 16}).encode(),
            json.dumps({**good, "user": 5}).encode(),
            json.dumps({**good, "user": "A_B"}).encode(),
            json.dumps({**good, "disabled": "no"}).encode(),
            json.dumps({**good, "expires_at": "never"}).encode(),
            json.dumps({**good, "grants": {}}).encode(),
            json.dumps({**good, "created_at": True}).encode(),
            json.dumps({**good, "more": 1}).encode(),
            json.dumps({**good, "format": 2}).encode(),
            json.dumps({**good, "successor": None}).encode(),
            b"[" * 100_000,
        ):
            self.successResultOf(self.store.put(KEYS, key.id, key.to_json()))
            self.keyring.authenticate(text)
            told.clear()
            with capturedLogs() as logged:
                self.successResultOf(self.store.put(KEYS, key.id, wrong))
            self.assertEqual([event["log_level"] for event in logged], [LogLevel.error], wrong)
            self.assertEqual(told, [key.id])
            self.assertRaises(InvalidToken, self.keyring.authenticate, text)

    def test_unreadable_user(self) -> None:
        """The keys of a user whose record cannot be read are not accepted."""
        _, text = self.create()
        for wrong in (
            b"{",
            b"[]",
            b'{"name": "bob", "created_at": 1}',
            b'{"name": "alice", "created_at": 1, "suspended": 0}',
            b"[" * 100_000,
        ):
            with capturedLogs() as logged:
                self.successResultOf(self.store.put(USERS, "alice", wrong))
            self.assertEqual(len(logged), 1)
            self.assertRaises(AccountSuspended, self.keyring.authenticate, text)

    @settings(max_examples=100, deadline=None)
    @given(
        st.binary()
        | st.recursive(st.none() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)).map(
            lambda value: json.dumps(value).encode()
        )
    )
    def test_hostile_records(self, value: bytes) -> None:
        """No record of the store raises anything into its watch."""
        self.setUp()
        with capturedLogs():
            for bucket, key in ((KEYS, "FGAK" + "A" * 16), (USERS, "alice")):
                self.successResultOf(self.store.put(bucket, key, value))
        self.assertEqual((self.keyring.keys(), self.keyring.users()), ([], []))


class RotationTests(_Tests):
    """A key in the place of another."""

    def rotate(self, key: ApiKey, overlap: int = 3600) -> tuple[ApiKey, str]:
        return self.successResultOf(self.keyring.rotate(key.id, overlap))

    def test_overlap(self) -> None:
        """Both keys are accepted for the time of the overlap, then the new one alone; on every node."""
        other = self.node()
        old, old_text = self.create(name="till", publish=["a/#"], queues=["q"])
        self.now += 100
        new, new_text = self.rotate(old)
        self.assertEqual((new.name, new.grants, new.home, new.expires_at), ("till", old.grants, HOME, None))
        self.assertEqual(new.created_at, NOW + 100)
        self.assertEqual(new_text, f"{new.id}.{self.keyring.secret_of(new.id)}")
        for node in (self.keyring, other):
            self.assertEqual(node.authenticate(new_text), new)
            self.assertEqual(node.authenticate(old_text).successor, new.id)
        self.now += 3600
        for node in (self.keyring, other, self.node()):
            self.assertRaises(InvalidToken, node.authenticate, old_text)
            self.assertEqual(node.authenticate(new_text), new)

    def test_at_once(self) -> None:
        """Without an overlap the old key ends at once, and listeners on every node are told."""
        told: list[str] = []
        self.node().on_disabled(told.append)
        old, text = self.create()
        self.rotate(old, 0)
        self.assertRaises(InvalidToken, self.keyring.authenticate, text)
        self.assertEqual(told, [old.id])

    def test_end_of_the_overlap(self) -> None:
        """When the overlap is over, listeners on every node are told, since connections are open."""
        clock, told = Clock(), list[str]()
        keyring = Keyring(self.store, MASTER, lambda: NOW + clock.seconds(), clock)
        self.successResultOf(keyring.start())
        keyring.on_disabled(told.append)
        old, _ = self.create()
        short, _ = self.create(expires_days=1)
        self.rotate(old, 30)
        clock.pump([1] * 29)
        self.assertEqual(told, [])
        clock.pump([1] * 2)
        self.assertEqual(told, [old.id])
        clock.pump([30] * 3000)
        self.assertEqual(told, [old.id, short.id])
        keyring.stop()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_life(self) -> None:
        """A key that expires has a successor that lives as long; the overlap does not lengthen its own life."""
        old, _ = self.create(expires_days=2)
        self.now += 2 * 86400 - 60
        new, _ = self.rotate(old)
        self.assertEqual(new.expires_at, NOW + 4 * 86400 - 60)
        found = self.keyring.find(old.id)
        assert found is not None
        self.assertEqual(found.expires_at, NOW + 2 * 86400)

    def test_refused(self) -> None:
        """What cannot be rotated is refused, and no key is made."""
        key, _ = self.create()
        expiring, _ = self.create(expires_days=1)
        revoked, _ = self.create()
        self.successResultOf(self.keyring.revoke(revoked.id))
        self.now += 86400
        for error, key_id, overlap in (
            (InvalidParameter, key.id, -1),
            (InvalidParameter, key.id, 30 * 86400 + 1),
            (NotFound, "FGAK", 0),
            (KeyDisabled, revoked.id, 0),
            (Conflict, expiring.id, 0),
        ):
            self.failureResultOf(self.keyring.rotate(key_id, overlap), error)
        self.assertEqual(len(self.keyring.keys()), 3)
        self.rotate(key)
        self.failureResultOf(self.keyring.rotate(key.id, 0), Conflict)
        self.assertEqual(len(self.keyring.keys()), 4)

    def test_at_the_same_time(self) -> None:
        """Of two nodes that rotate the same key at once, one does; what the other one made is revoked."""
        key, _ = self.create()
        deaf = self.node()
        deaf.stop()
        new, _ = self.rotate(key)
        self.failureResultOf(deaf.rotate(key.id, 0), Conflict)
        good = [one.id for one in list(self.node().keys()) if not one.disabled]
        self.assertEqual(sorted(good), sorted([key.id, new.id]))

    def test_against_a_revocation(self) -> None:
        """A key that was revoked on another node just now stays revoked, and has no successor."""
        key, _ = self.create()
        deaf = self.node()
        deaf.stop()
        self.successResultOf(self.keyring.revoke(key.id))
        self.failureResultOf(deaf.rotate(key.id, 3600), KeyDisabled)
        self.assertEqual([one.id for one in list(self.node().keys()) if not one.disabled], [])

    def test_revocation_against_a_rotation(self) -> None:
        """A revocation holds though another node has changed the key just now, and nothing of that is lost."""
        key, _ = self.create()
        deaf = self.node()
        deaf.stop()
        new, _ = self.rotate(key)
        self.successResultOf(deaf.revoke(key.id))
        (found,) = [one for one in list(self.node().keys()) if one.id == key.id]
        self.assertEqual((found.disabled, found.successor), (True, new.id))


class AccountTests(_Tests):
    """Plans, pages and removals."""

    def test_plan(self) -> None:
        """A user has a plan, which can be changed, on every node; other members stay."""
        other = self.node()
        self.successResultOf(self.keyring.create_user("alice", "free"))
        self.successResultOf(self.keyring.suspend("alice", True))
        changed = self.successResultOf(self.keyring.set_plan("alice", "gold"))
        self.assertEqual((changed.plan, changed.suspended), ("gold", True))
        self.assertEqual(other.user("alice"), changed)
        self.assertEqual(self.successResultOf(self.keyring.set_plan("alice", "")).plan, "")
        for wrong in ("a b", "x" * 65, "ä", "a\n"):
            self.failureResultOf(self.keyring.set_plan("alice", wrong), InvalidParameter)
            self.failureResultOf(self.keyring.create_user("bob", wrong), InvalidParameter)
        self.failureResultOf(self.keyring.set_plan("nobody", "gold"), NotFound)

    def test_changes_at_the_same_time(self) -> None:
        """Changes that two nodes make at once both hold."""
        self.successResultOf(self.keyring.create_user("alice"))
        deaf = self.node()
        deaf.stop()
        self.successResultOf(self.keyring.suspend("alice", True))
        self.successResultOf(deaf.set_plan("alice", "gold"))
        found = self.node().user("alice")
        assert found is not None
        self.assertEqual((found.suspended, found.plan), (True, "gold"))

    def test_removed(self) -> None:
        """A removed user has no keys, on any node; the name is not given again."""
        other, told = self.node(), list[str]()
        other.on_disabled(told.append)
        key, text = self.create()
        self.keyring.authenticate(text)
        self.successResultOf(self.keyring.delete_user("alice"))
        self.assertEqual(told, ["alice", key.id])
        for node in (self.keyring, other, self.node()):
            self.assertRaises(InvalidToken, node.authenticate, text)
            self.assertEqual((node.keys(), node.users(), node.user("alice")), ([], [], None))
            self.assertIsNone(node.last_use.of(key.id))
            self.failureResultOf(node.create_user("alice"), Conflict)
            self.failureResultOf(node.create("alice", "shop"), Conflict)
            self.failureResultOf(node.suspend("alice", False), NotFound)
            self.failureResultOf(node.set_plan("alice", "gold"), NotFound)
        self.failureResultOf(self.keyring.delete_user("nobody"), NotFound)

    def test_removal_that_broke_off(self) -> None:
        """From the first moment on no key is accepted; a second call removes what the first one has left."""
        key, text = self.create()
        with mock.patch.object(self.store, "delete", lambda *_: fail(BusUnavailable())):
            self.failureResultOf(self.keyring.delete_user("alice"), BusUnavailable)
        self.assertRaises(AccountSuspended, self.keyring.authenticate, text)
        self.successResultOf(self.keyring.delete_user("alice"))
        self.assertEqual(self.keyring.keys(), [])
        self.assertIsNone(self.keyring.find(key.id))

    def test_last_use(self) -> None:
        """A key is noted as used when it is accepted, not when it is refused."""
        key, text = self.create()
        revoked, revoked_text = self.create()
        self.successResultOf(self.keyring.revoke(revoked.id))
        self.assertRaises(KeyDisabled, self.keyring.authenticate, revoked_text)
        self.assertRaises(InvalidToken, self.keyring.authenticate, f"{key.id}.{'a' * 40}")
        self.assertEqual((self.keyring.last_use.of(key.id), self.keyring.last_use.of(revoked.id)), (None, None))
        self.keyring.authenticate(text)
        self.assertEqual(self.node().last_use.of(key.id), NOW)

    def test_pages(self) -> None:
        """Keys and users are found by pages, and keys by whose they are."""
        made = []
        for number in range(7):
            self.now = NOW + number // 3
            made.append(self.create(f"u{number % 2}", f"a{number % 3}")[0])
        found: list[ApiKey] = []
        after = (-1, "")
        while page := self.keyring.page(None, None, after, 2):
            found += page
            after = (page[-1].created_at, page[-1].id)
        self.assertEqual(found, self.keyring.keys())
        self.assertEqual(set(found), set(made))
        self.assertEqual(len(self.keyring.keys("u0")), 4)
        self.assertEqual(self.keyring.page("u0", "a0", (-1, ""), 9), self.keyring.keys("u0", "a0"))
        self.assertEqual(len(self.keyring.keys("u0", "a0")), 2)
        self.create("v0", "a")
        self.assertEqual([user.name for user in self.keyring.users_page("u", "", 5)], ["u0", "u1"])
        self.assertEqual([user.name for user in self.keyring.users_page("", "u0", 1)], ["u1"])


class ShapeTests(SynchronousTestCase):
    """Deferreds and errors."""

    def test_errors_come_through_the_deferred(self) -> None:
        """Nothing is raised where a Deferred is promised."""
        keyring = Keyring(MemoryStore(), MASTER, lambda: NOW)
        for made in (
            keyring.create("A", "b"),
            keyring.revoke("x"),
            keyring.create_user(""),
            keyring.suspend("x", True),
            keyring.rotate("x", 0),
            keyring.set_plan("x", ""),
            keyring.delete_user("x"),
        ):
            assert isinstance(made, Deferred)
            self.failureResultOf(made, Refused)
