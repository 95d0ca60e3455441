"""Shares: nothing crosses from one account to another without one (promise 6)."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth import tokens as tokens_module
from flowgate.auth.keys import ApiKey, Keyring
from flowgate.auth.permissions import Grant, Grants, Principal
from flowgate.auth.shares import MAX_FILTERS, MAX_SHARES, SHARES, Share, Shares
from flowgate.auth.signing import SigningKeys
from flowgate.auth.tokens import TokenService
from flowgate.bus.memory_store import MemoryStore
from flowgate.errors import (
    BusUnavailable,
    InsufficientScope,
    InvalidParameter,
    InvalidTopic,
    NotFound,
    Refused,
)
from flowgate.topics import Namespace, Topic, check_filter, covers

NOW = 1_800_000_000
MASTER = b"m" * 43
ALICE = Namespace("alice", "shop")
BOB = Namespace("bob", "cafe")
BAR = Namespace("bob", "bar")
CAROL = Namespace("carol", "cafe")
LEVELS = ("a", "b", "$SYS", "")
TOPICS = tuple(filter(None, ("/".join(some) for depth in (1, 2, 3) for some in product(LEVELS, repeat=depth))))


class _Tests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = float(NOW)
        self.store = MemoryStore()
        self.keyring, self.tokens = self.node()
        for user in ("alice", "bob", "carol"):
            self.successResultOf(self.keyring.create_user(user))

    def node(self) -> tuple[Keyring, TokenService]:
        keyring = Keyring(self.store, MASTER, lambda: self.now)
        signing = SigningKeys(MASTER, self.store, lambda: self.now)
        tokens = TokenService(keyring, signing, self.store, "https://gateway", lambda: self.now)
        for one in (signing, keyring, tokens):
            self.successResultOf(one.start())
            self.addCleanup(one.stop)
        return keyring, tokens

    def share(
        self, *subscribe: str, owner: Namespace = ALICE, grantee: str = "bob", app: str = "", **more: Any
    ) -> Share:
        return self.successResultOf(self.keyring.shares.create(owner, grantee, app, subscribe=subscribe, **more))

    def key(self, home: Namespace = BOB, **grants: Any) -> ApiKey:
        return self.successResultOf(self.keyring.create(home.user, home.app, **grants))[0]

    def revoke(self, share: Share) -> None:
        self.successResultOf(self.keyring.shares.revoke(share.id))


class CreationTests(_Tests):
    """Making and ending shares."""

    def test_share(self) -> None:
        """A share is known on every node, and on one that starts later."""
        share = self.share("a/#", publish=["b"], name="for bob")
        self.assertEqual((share.namespace, share.grantee, share.grantee_app), (ALICE, "bob", ""))
        self.assertEqual((share.publish, share.subscribe, share.created_at), (("b",), ("a/#",), NOW))
        later = self.node()[0].shares
        self.assertEqual(later.find(share.id), share)
        self.assertEqual(later.all(), [share])
        self.revoke(share)
        self.assertEqual((later.all(), later.find(share.id), self.keyring.shares.all()), ([], None, []))

    def test_full_filters(self) -> None:
        """A filter may be written with the prefix of the owner's namespace."""
        self.assertEqual(self.share("alice_shop_a/#", "a/#", "b").subscribe, ("a/#", "b"))

    def test_not_allowed(self) -> None:
        """What is no share is refused, and nothing is stored."""
        for error, changed in (
            (InvalidParameter, {"owner": Namespace("A", "shop")}),
            (InvalidParameter, {"owner": Namespace("alice", "")}),
            (InvalidParameter, {"grantee": "b_b"}),
            (InvalidParameter, {"grantee": ""}),
            (InvalidParameter, {"grantee_app": "Bar"}),
            (InvalidParameter, {"subscribe": []}),
            (InvalidParameter, {"name": "x" * 101}),
            (InvalidParameter, {"name": "a\nb"}),
            (InvalidParameter, {"subscribe": [str(number) for number in range(MAX_FILTERS + 1)]}),
            (InvalidParameter, {"grantee": "alice"}),
            (InvalidParameter, {"grantee": "alice", "grantee_app": "shop"}),
            (InvalidTopic, {"subscribe": ["a/#/b"]}),
            (InvalidTopic, {"publish": ["a+"]}),
            (InvalidTopic, {"publish": [""]}),
            (InvalidTopic, {"publish": ["x" * 600]}),
        ):
            wanted: dict[str, Any] = {"owner": ALICE, "grantee": "bob", "subscribe": ["a"], **changed}
            made = self.keyring.shares.create(wanted.pop("owner"), wanted.pop("grantee"), **wanted)
            assert isinstance(made, Deferred)
            self.failureResultOf(made, error)
        self.assertEqual(self.keyring.shares.all(), [])

    def test_between_applications(self) -> None:
        """Applications of one user can share with each other."""
        self.share("a", owner=BAR, grantee="bob", app="cafe")
        self.assertTrue(self.key(subscribe=["bob_bar_a"]).grants.may_subscribe(BAR, "a"))

    def test_too_many(self) -> None:
        """Nobody is given more than so many."""
        for _ in range(MAX_SHARES):
            self.share("a")
        self.failureResultOf(self.keyring.shares.create(ALICE, "bob", subscribe=["a"]), InvalidParameter)
        self.share("a", grantee="carol")

    def test_unknown(self) -> None:
        """A share that there is not cannot be ended."""
        self.failureResultOf(self.keyring.shares.revoke("FGSH"), NotFound)

    def test_bus_away(self) -> None:
        """A share that could not be stored grants nothing, and one that could not be removed goes on."""
        share = self.share("a")
        self.patch(self.store, "put", lambda *_: fail(BusUnavailable()))
        self.patch(self.store, "delete", lambda *_: fail(BusUnavailable()))
        self.failureResultOf(self.keyring.shares.create(ALICE, "bob", subscribe=["b"]), BusUnavailable)
        self.failureResultOf(self.keyring.shares.revoke(share.id), BusUnavailable)
        self.assertEqual(self.keyring.shares.all(), [share])

    def test_pages(self) -> None:
        """Shares are listed by owner or grantee, page by page."""
        for_bob = [self.share("a") for _ in range(3)]
        self.share("a", grantee="carol")
        shares = self.keyring.shares
        ids = sorted(share.id for share in for_bob)
        first = shares.page("alice", "bob", "", 2)
        self.assertEqual([share.id for share in first], ids[:2])
        self.assertEqual([share.id for share in shares.page("alice", "bob", ids[1], 2)], ids[2:])
        self.assertEqual(len(shares.page("alice", "", "", 10)), 4)
        self.assertEqual(shares.page("bob", "", "", 10), [])

    def test_listeners(self) -> None:
        """Every change is told on every node."""
        told: list[int] = []
        self.node()[0].shares.on_changed(lambda: told.append(1))
        share = self.share("a")
        self.revoke(share)
        self.assertEqual(len(told), 2)


class GrantTests(_Tests):
    """What keys can be granted under a share."""

    def test_without_a_share(self) -> None:
        """No key is granted anything in another namespace: its names are names at home."""
        for wanted in ("alice_shop_#", "alice_shop_+", "alice_shop_+/b"):
            self.failureResultOf(self.keyring.create("bob", "cafe", subscribe=[wanted]), InvalidTopic)
        for wanted in ("alice_shop_a", "alice_shop_a/#", "alice_shop_/+"):
            grants = self.key(publish=[wanted], subscribe=[wanted]).grants
            self.assertEqual(grants.namespaces, {BOB}, wanted)
            self.assertEqual(grants.publish, (Grant(BOB, wanted),))

    def test_within(self) -> None:
        """A key can be granted what one share covers, and nothing that goes beyond by a single topic."""
        self.share("a/+/c", "b/#", publish=["b/x"])
        for wanted in ("a/+/c", "a/b/c", "b", "b/#", "b/+", "b/x/#", "b/+/y"):
            self.assertEqual(self.key(subscribe=[f"alice_shop_{wanted}"]).grants.subscribe, (Grant(ALICE, wanted),))
        for wanted in ("#", "+", "+/+/c", "a/#", "a/+", "a/+/+", "a/+/c/#", "a/b", "+/#", "c", "$SYS/#", "a/+/c/d"):
            made = self.keyring.create("bob", "cafe", subscribe=[f"alice_shop_{wanted}"])
            self.failureResultOf(made, InsufficientScope)
        self.key(publish=["alice_shop_b/x"])
        for wanted in ("b/#", "b", "a/b/c", "b/x/#", "b/+"):
            made = self.keyring.create("bob", "cafe", publish=[f"alice_shop_{wanted}"])
            self.failureResultOf(made, InsufficientScope)

    def test_two_shares_do_not_add_up(self) -> None:
        """Each grant has to be covered by one share: what only several cover together is refused."""
        self.share("a/b")
        self.share("a/+/#")
        made = self.keyring.create("bob", "cafe", subscribe=["alice_shop_a/#"])
        self.failureResultOf(made, InsufficientScope)

    def test_everything_is_at_home(self) -> None:
        """A key without grants may do everything at home, and nothing elsewhere, whatever is shared."""
        self.share("#", publish=["#"])
        self.assertEqual(self.key().grants, Grants.everything(BOB))

    def test_whose(self) -> None:
        """A share is for one user, or one application, and for nobody else."""
        self.share("a", app="bar")
        self.key(BAR, subscribe=["alice_shop_a"])
        for home in (BOB, CAROL, ALICE):
            key = self.key(home, subscribe=["alice_shop_a"])
            self.assertFalse(home != ALICE and key.grants.may_subscribe(ALICE, "a"), home)

    def test_no_queues(self) -> None:
        """Queues are not shared: a queue's name is always one at home."""
        self.share("#", publish=["#"])
        self.assertEqual(self.key(queues=["*"]).grants.queues, ("*",))


class LimitTests(_Tests):
    """What grants are worth now."""

    def verify(self, key: ApiKey, **narrowed: Any) -> Principal:
        return self.tokens.verify(self.tokens.issue(key, **narrowed).token)

    def test_whole(self) -> None:
        """Grants that shares cover are worth what they say, and cost nothing to check again."""
        self.share("a/#", publish=["b"])
        key = self.key(publish=["#", "alice_shop_b"], subscribe=["alice_shop_a/+"], queues=["q"])
        token = self.tokens.issue(key).token
        first = self.tokens.verify(token)
        self.assertEqual(first.grants, key.grants)
        self.assertIs(self.tokens.verify(token), first)

    def test_revoked(self) -> None:
        """After the end of the share tokens, old and new, on every node, are worth only what they say of home."""
        other_keyring, other = self.node()
        share = self.share("a/#", publish=["a/#"])
        key = self.key(publish=["mine", "alice_shop_a/b"], subscribe=["mine/#", "alice_shop_a/#"], queues=["q"])
        old = self.tokens.issue(key).token
        for tokens in (self.tokens, other):
            self.assertTrue(tokens.verify(old).grants.may_publish(Topic(ALICE, "a/b")))
        self.revoke(share)
        new = self.tokens.issue(key).token
        for tokens, token in product((self.tokens, other), (old, new)):
            grants = tokens.verify(token).grants
            self.assertEqual(grants.publish, (Grant(BOB, "mine"),))
            self.assertEqual(grants.subscribe, (Grant(BOB, "mine/#"),))
            self.assertEqual(grants.queues, ("q",))
        self.assertEqual(other_keyring.shares.all(), [])

    def test_names_stay_full(self) -> None:
        """What was shared once is refused afterwards, and not taken for a topic at home of that name."""
        share = self.share("a/#", publish=["a/#"])
        key = self.key(publish=["#", "alice_shop_a/#"], subscribe=["#", "alice_shop_a/#"])
        self.revoke(share)
        self.assertIn(ALICE, self.verify(key).grants.namespaces)

    def test_certificate(self) -> None:
        """A certificate of a key is worth no more than a token of it."""
        share = self.share("a")
        key = self.key(subscribe=["alice_shop_a", "mine"])
        whole = self.verify(key)
        self.patch(tokens_module, "principal_of", lambda *_: whole)
        certificate: Any = None
        self.assertEqual(self.tokens.verify_certificate(certificate).grants, key.grants)
        self.revoke(share)
        self.assertEqual(self.tokens.verify_certificate(certificate).grants.subscribe, (Grant(BOB, "mine"),))

    def test_given_again(self) -> None:
        """A share that is made again is worth something to keys and tokens that there are."""
        share = self.share("a/#")
        key = self.key(subscribe=["alice_shop_a/#"])
        token = self.tokens.issue(key).token
        self.revoke(share)
        self.assertFalse(self.tokens.verify(token).grants.may_subscribe(ALICE, "a/b"))
        self.share("a/#")
        self.assertTrue(self.tokens.verify(token).grants.may_subscribe(ALICE, "a/b"))

    def test_less(self) -> None:
        """Where a narrower share stands in the place of a wider one, what both the grant and the share say is left."""
        share = self.share("a/#", publish=["#"])
        key = self.key(publish=["alice_shop_+/x"], subscribe=["alice_shop_a/+/c", "alice_shop_a/b/#"])
        self.revoke(share)
        self.share("a/b/+", publish=["a/#"])
        grants = self.verify(key).grants
        self.assertEqual(set(map(str, grants.subscribe)), {"alice_shop_a/b/c", "alice_shop_a/b/+"})
        self.assertEqual(list(map(str, grants.publish)), ["alice_shop_a/x"])

    def test_of_another_account(self) -> None:
        """A share that is for somebody else, or of somebody else's topics, is worth nothing to a key."""
        share = self.share("a")
        key = self.key(subscribe=["alice_shop_a"])
        self.revoke(share)
        self.share("a", grantee="carol")
        self.share("a", owner=Namespace("alice", "other"))
        self.share("a", owner=CAROL)
        self.share("a", app="bar")
        self.assertEqual(self.verify(key).grants.subscribe, ())

    def test_forged_grants(self) -> None:
        """A key whose record names more than was ever shared gets nothing by that."""
        key = self.key()
        record = json.loads(key.to_json())
        record["grants"] = {"pub": ["alice_shop_#"], "sub": ["alice_shop_#", "bob_cafe_#"], "queues": []}
        self.successResultOf(self.store.put("FG_KEYS", key.id, json.dumps(record).encode()))
        forged = self.keyring.find(key.id)
        assert forged is not None
        grants = self.verify(forged).grants
        self.assertEqual((grants.publish, grants.subscribe), ((), (Grant(BOB, "#"),)))

    def test_removed_users(self) -> None:
        """With a user go the shares of and for that user."""
        self.share("a")
        self.share("b", owner=BOB, grantee="carol")
        key = self.key(CAROL, subscribe=["bob_cafe_b"])
        self.successResultOf(self.keyring.delete_user("bob"))
        self.assertEqual(self.keyring.shares.all(), [])
        self.assertEqual(self.verify(key).grants.subscribe, ())

    def test_unreadable(self) -> None:
        """A share whose record cannot be read, or is for a newer version, is logged and grants nothing."""
        share = self.share("a", publish=["a"])
        key = self.key(subscribe=["alice_shop_a"])
        good = json.loads(share.to_json())
        for wrong in (
            b"",
            b"[]",
            b"{}",
            b"[" * 100_000,
            json.dumps({**good, "id": "FGSHX"}).encode(),
            json.dumps({**good, "owner": "A_B"}).encode(),
            json.dumps({**good, "grantee": 5}).encode(),
            json.dumps({**good, "grantee_app": None}).encode(),
            json.dumps({**good, "subscribe": "a"}).encode(),
            json.dumps({**good, "subscribe": [1]}).encode(),
            json.dumps({**good, "subscribe": ["a/#/b"]}).encode(),
            json.dumps({**good, "created_at": True}).encode(),
            json.dumps({**good, "format": 2}).encode(),
        ):
            self.successResultOf(self.store.put(SHARES, share.id, share.to_json()))
            self.assertEqual(self.verify(key).grants.subscribe, (Grant(ALICE, "a"),))
            with capturedLogs() as logged:
                self.successResultOf(self.store.put(SHARES, share.id, wrong))
            self.assertEqual(len(logged), 1, wrong)
            self.assertEqual(self.verify(key).grants.subscribe, (), wrong)
        newer = json.dumps({**good, "colour": "red"}).encode()
        self.successResultOf(self.store.put(SHARES, share.id, newer))
        found = self.keyring.shares.find(share.id)
        assert found is not None
        self.assertEqual(json.loads(found.to_json()), json.loads(newer))

    def test_too_long_together(self) -> None:
        """Where grant and share together make a filter longer than any may be, nothing is granted."""
        share = self.share("#")
        key = self.key(subscribe=["alice_shop_" + "x" * 300 + "/+"])
        self.revoke(share)
        self.share("+/" + "y" * 300)
        self.assertEqual(self.verify(key).grants.subscribe, ())

    def test_for_what_no_key_stands(self) -> None:
        """Subscriptions of queues and wills are asked about by themselves."""
        shares = self.keyring.shares
        share = self.share("a/+", publish=["w"])
        self.assertTrue(shares.admits(BOB, "bob_cafe_#"))
        self.assertTrue(shares.admits(BOB, "alice_shop_a/b"))
        for filter_ in ("alice_shop_a/#", "alice_shop_#", "alice_other_a/b", "carol_cafe_a/b", "bob_bar_a/b"):
            self.assertFalse(shares.admits(BOB, filter_), filter_)
        self.assertTrue(shares.admits_topic(BOB, Topic(ALICE, "w")))
        self.assertFalse(shares.admits_topic(BOB, Topic(ALICE, "a/b")))
        self.assertTrue(shares.admits_topic(BOB, Topic(BOB, "anything")))
        self.revoke(share)
        self.assertFalse(shares.admits(BOB, "alice_shop_a/b"))
        self.assertFalse(shares.admits_topic(BOB, Topic(ALICE, "w")))


_LEVELS = st.lists(st.sampled_from(("a", "b", "+", "$SYS", "")), min_size=1, max_size=3).map("/".join)
_FILTERS = (_LEVELS | _LEVELS.map(lambda text: f"{text}/#") | st.just("#")).filter(bool)
_LISTS = st.lists(_FILTERS, max_size=3)


class SafetyTests(SynchronousTestCase):
    """The rule, for whatever is granted and shared."""

    @settings(max_examples=300, deadline=None)
    @given(granted=_LISTS, shared=_LISTS, foreign=_LISTS, wanted=_FILTERS)
    def test_nothing_beyond(self, granted: list[str], shared: list[str], foreign: list[str], wanted: str) -> None:
        """In another namespace a topic is within reach if, and only if, both the key's grants and a share say so."""
        for filter_ in (*granted, *shared, *foreign, wanted):
            check_filter(filter_)
        store = MemoryStore()
        shares = Shares(store, lambda: NOW)
        self.successResultOf(Deferred.fromCoroutine(shares.start()))
        for owner, grantee, filters in ((ALICE, "bob", shared), (CAROL, "bob", foreign), (ALICE, "carol", foreign)):
            if filters:
                self.successResultOf(shares.create(owner, grantee, publish=filters, subscribe=filters))
        grants = tuple(Grant(ALICE, one) for one in granted)
        limited = shares.limit(BOB, Grants(grants, grants, ()))
        for topic in TOPICS:
            both = any(covers(one, topic) for one in granted) and any(covers(one, topic) for one in shared)
            self.assertEqual(limited.may_publish(Topic(ALICE, topic)), both, topic)
            for namespace in (CAROL, BAR, Namespace("alice", "other")):
                self.assertFalse(limited.may_publish(Topic(namespace, topic)))
        if limited.may_subscribe(ALICE, wanted):
            for topic in TOPICS:
                if covers(wanted, topic):
                    self.assertTrue(any(covers(one, topic) for one in shared), topic)
                    self.assertTrue(any(covers(one, topic) for one in granted), topic)
        for share in shares.all():
            self.successResultOf(shares.revoke(share.id))
        nothing = shares.limit(BOB, Grants(grants, grants, ()))
        self.assertEqual((nothing.publish, nothing.subscribe), ((), ()))

    @settings(max_examples=100, deadline=None)
    @given(st.binary() | st.recursive(st.none() | st.text(), lambda s: st.dictionaries(st.text(), s)).map(json.dumps))
    def test_hostile_records(self, value: bytes | str) -> None:
        """No record of the store raises anything into its watch, or grants anything."""
        store = MemoryStore()
        shares = Shares(store, lambda: NOW)
        self.successResultOf(Deferred.fromCoroutine(shares.start()))
        with capturedLogs():
            self.successResultOf(store.put(SHARES, "FGSH", value if isinstance(value, bytes) else value.encode()))
        self.assertEqual(shares.all(), [])


class ShapeTests(_Tests):
    """Deferreds and errors."""

    def test_errors_come_through_the_deferred(self) -> None:
        """Nothing is raised where a Deferred is promised."""
        shares = self.keyring.shares
        for made in (shares.create(ALICE, "B", subscribe=["a"]), shares.revoke("x")):
            assert isinstance(made, Deferred)
            self.failureResultOf(made, Refused)
