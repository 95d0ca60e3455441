"""Grants: what they permit, how they travel, how they are narrowed."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.permissions import VERBS, Grant, Grants
from flowgate.errors import InsufficientScope, InvalidParameter, InvalidToken, InvalidTopic
from flowgate.topics import Namespace, Topic

HOME = Namespace("alice", "shop")
OTHER = Namespace("bob", "cafe")
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def make(publish: str = "orders/#", subscribe: str = "orders/+", queues: tuple[str, ...] = ("jobs", "mail*")) -> Grants:
    return Grants((Grant(HOME, publish),), (Grant(HOME, subscribe), Grant(OTHER, "menu")), queues)


class PermissionTests(SynchronousTestCase):
    """What grants permit."""

    def test_publish(self) -> None:
        """A topic may be published to if a filter takes it in, in the same namespace."""
        grants = make()
        self.assertTrue(grants.may_publish(Topic(HOME, "orders/1/paid")))
        self.assertFalse(grants.may_publish(Topic(HOME, "order")))
        self.assertFalse(grants.may_publish(Topic(OTHER, "orders/1/paid")))

    def test_subscribe_needs_the_whole_filter(self) -> None:
        """A filter that reaches beyond the grant is not permitted, also if it overlaps."""
        grants = make()
        self.assertTrue(grants.may_subscribe(HOME, "orders/1"))
        self.assertTrue(grants.may_subscribe(HOME, "orders/+"))
        for beyond in ("orders/#", "#", "+/1", "orders", "orders/1/2"):
            self.assertFalse(grants.may_subscribe(HOME, beyond), beyond)

    def test_everything_includes_hidden_topics(self) -> None:
        """A grant of ``#`` is one of the whole namespace, topics that begin with ``$`` too, and of no other."""
        grants = Grants.everything(HOME)
        self.assertTrue(grants.may_publish(Topic(HOME, "$hidden")))
        self.assertTrue(grants.may_subscribe(HOME, "$hidden/#"))
        self.assertTrue(grants.may_use_queue("any.fifo"))
        self.assertFalse(grants.may_subscribe(OTHER, "a"))

    def test_queues(self) -> None:
        """A queue is named exactly, or by the beginning of its name."""
        grants = make()
        self.assertEqual(
            [name for name in ("jobs", "jobs2", "job", "mail", "mail-out", "Mail") if grants.may_use_queue(name)],
            ["jobs", "mail", "mail-out"],
        )

    def test_verbs(self) -> None:
        """A grant of queues may be for one verb; a name without a verb is for all of them."""
        grants = make(queues=("jobs", "send:mail*", "receive:mail", "manage:*"))

        def verbs(name: str) -> list[str]:
            return [verb for verb in VERBS if grants.may_use_queue(name, verb)]

        self.assertEqual(verbs("jobs"), ["send", "receive", "manage"])
        self.assertEqual(verbs("mail"), ["send", "receive", "manage"])
        self.assertEqual(verbs("mail-out"), ["send", "manage"])
        self.assertEqual(verbs("other"), ["manage"])
        self.assertTrue(grants.may_use_queue("other"))
        self.assertTrue(grants.may_use_queue("mail-out", "receive", "send"))
        self.assertFalse(make(queues=("send:mail",)).may_use_queue("mail", "receive", "manage"))
        self.assertFalse(make(queues=("send:mail",)).may_use_queue("send:mail"))

    def test_moving(self) -> None:
        """Moving messages takes managing here, sending or managing there, and is no way to read them there."""
        for queues, expected in (
            (("a", "b"), True),
            (("manage:a", "send:b"), True),
            (("manage:a", "manage:b"), True),
            (("manage:a", "receive:a", "b"), True),
            (("send:a", "receive:a", "b"), False),
            (("a", "receive:b"), False),
            (("manage:a", "b"), False),
            (("manage:a", "send:b", "receive:b"), False),
        ):
            self.assertIs(make(queues=queues).may_move("a", "b"), expected, queues)

    def test_namespaces(self) -> None:
        """The namespaces are those in which any grant is held."""
        self.assertEqual(make().namespaces, {HOME, OTHER})


class ClaimTests(SynchronousTestCase):
    """Grants as a claim."""

    def test_round_trip(self) -> None:
        """A claim is read as it was written."""
        for grants in (make(), make(queues=("send:jobs", "receive:jobs.fifo", "manage:mail*", "receive:*"))):
            self.assertEqual(Grants.from_claim(grants.to_claim()), grants)

    def test_names_with_underscores(self) -> None:
        """Only the first two ``_`` separate: the rest belongs to the filter."""
        grant = Grant(HOME, "a_b_c/+")
        self.assertEqual(Grant.parse(str(grant)), grant)

    def test_malformed(self) -> None:
        """Anything else than what is written is refused."""
        good: dict[str, Any] = make().to_claim()
        for name, value in (
            ("pub", ["short"]),
            ("pub", ["alice_shop_"]),
            ("pub", ["Alice_shop_a"]),
            ("pub", ["alice_shop_#/a"]),
            ("pub", [["alice_shop_a"]]),
            ("sub", "alice_shop_a"),
            ("sub", None),
            ("queues", [1]),
            ("queues", ["a*b"]),
            ("queues", [""]),
            ("queues", ["a b"]),
            ("queues", ["peek:a"]),
            ("queues", ["send:"]),
            ("queues", ["send:send:a"]),
            ("queues", [":a"]),
            ("queues", ["SEND:a"]),
            ("more", []),
        ):
            self.assertRaises(InvalidToken, Grants.from_claim, {**good, name: value})
        others: tuple[object, ...] = (None, [], "x", {}, {"pub": [], "sub": []})
        for claim in others:
            self.assertRaises(InvalidToken, Grants.from_claim, claim)

    @settings(max_examples=100, deadline=None)
    @given(JSON_VALUES)
    def test_hostile(self, value: Any) -> None:
        """No JSON value raises anything but ``InvalidToken``."""
        for claim in (value, {"pub": value, "sub": [value], "queues": [value]}):
            try:
                Grants.from_claim(claim)
            except InvalidToken:
                continue


class NarrowingTests(SynchronousTestCase):
    """Less than what was granted."""

    def test_nothing_asked_for(self) -> None:
        """Without wishes all grants stay."""
        self.assertEqual(make().narrowed(HOME), make())

    def test_short_and_full_names(self) -> None:
        """A short name belongs to the home, a full one where it says, if any grant is held there."""
        narrowed = make().narrowed(HOME, ["orders/1"], ["bob_cafe_menu", "alice_shop_orders/2"], ["mail-out"])
        self.assertEqual(narrowed.publish, (Grant(HOME, "orders/1"),))
        self.assertEqual(narrowed.subscribe, (Grant(OTHER, "menu"), Grant(HOME, "orders/2")))
        self.assertEqual(narrowed.queues, ("mail-out",))

    def test_empty_list_is_nothing(self) -> None:
        """An empty list takes everything of its kind away, and leaves the other kinds."""
        narrowed = make().narrowed(HOME, publish=[])
        self.assertEqual((narrowed.publish, narrowed.subscribe), ((), make().subscribe))

    def test_more_than_granted(self) -> None:
        """What the grants do not cover is refused, each kind by its own grants."""
        for publish, subscribe, queues in (
            (["#"], None, None),
            (["bob_cafe_menu"], None, None),
            (None, ["orders/#"], None),
            (None, ["bob_cafe_#"], None),
            (None, None, ["*"]),
            (None, None, ["jobs*"]),
            (None, None, ["mai*"]),
        ):
            self.assertRaises(InsufficientScope, make().narrowed, HOME, publish, subscribe, queues)

    def test_queue_verbs(self) -> None:
        """A verb is less than all of them, a name less than a beginning; all verbs may also be held one by one."""
        for granted, wanted in (
            ("orders", "send:orders"),
            ("*", "manage:orders*"),
            ("send:*", "send:orders"),
            ("send:o* receive:orders manage:*", "orders"),
        ):
            narrowed = make(queues=tuple(granted.split())).narrowed(HOME, queues=[wanted])
            self.assertEqual(narrowed.queues, (wanted,))
        for granted, wanted in (
            ("receive:*", "orders"),
            ("receive:* send:*", "orders"),
            ("send:orders", "receive:orders"),
            ("send:orders", "send:orders*"),
            ("send:orders", "send:*"),
            ("send:or*", "send:o*"),
        ):
            grants = make(queues=tuple(granted.split()))
            self.assertRaises(InsufficientScope, grants.narrowed, HOME, None, None, [wanted])

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_never_more_of_queues(self, data: st.DataObject) -> None:
        """Whatever a narrowed grant permits with a queue, the grants permitted before."""
        grant = st.tuples(
            st.sampled_from(["", "send:", "receive:", "manage:"]), st.sampled_from(["a", "ab", "a*", "*"])
        )
        texts = st.lists(grant.map("".join), max_size=4)
        grants = make(queues=tuple(data.draw(texts)))
        try:
            narrowed = grants.narrowed(HOME, queues=data.draw(texts))
        except InsufficientScope:
            return
        for name in ("a", "ab", "abc", "b"):
            for verb in VERBS:
                if narrowed.may_use_queue(name, verb):
                    self.assertTrue(grants.may_use_queue(name, verb))

    def test_name_of_a_namespace_without_grants(self) -> None:
        """A full name of a namespace without any grant is a short name at home: it reaches nobody else."""
        narrowed = Grants.everything(HOME).narrowed(HOME, publish=["bob_cafe_menu"])
        self.assertEqual(narrowed.publish, (Grant(HOME, "bob_cafe_menu"),))

    def test_malformed(self) -> None:
        """A filter or a queue's name that is none is refused as such."""
        self.assertRaises(InvalidTopic, Grants.everything(HOME).narrowed, HOME, ["a/#/b"])
        self.assertRaises(InvalidTopic, Grants.everything(HOME).narrowed, HOME, None, ["alice_shop_"])
        for name in ("a/b", "peek:a", "send:"):
            self.assertRaises(InvalidParameter, Grants.everything(HOME).narrowed, HOME, None, None, [name])

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.sampled_from(["a", "b", "+", "#", "", "$x"]), min_size=1, max_size=4), st.data())
    def test_never_more(self, levels: list[str], data: st.DataObject) -> None:
        """Whatever a narrowed grant permits, the grant permitted before."""
        grants = Grants((), (Grant(HOME, data.draw(st.sampled_from(["a/+", "a/#", "+/b", "#", "$x/+"]))),), ())
        try:
            narrowed = grants.narrowed(HOME, subscribe=["/".join(levels)])
        except (InsufficientScope, InvalidTopic):
            return
        asked = data.draw(st.sampled_from(["a", "a/b", "a/+", "a/#", "#", "+/b", "+", "$x/a", "b/b", "/"]))
        if narrowed.may_subscribe(HOME, asked):
            self.assertTrue(grants.may_subscribe(HOME, asked))
