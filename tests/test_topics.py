"""Names, filters and the matcher."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import InvalidParameter, InvalidTopic
from flowgate.topics import (
    MAX_NAME_BYTES,
    FilterTree,
    Namespace,
    Resolved,
    Topic,
    check_filter,
    check_topic,
    covers,
    has_wildcard,
    intersection,
    is_reserved,
    matches,
    resolve,
)

_SETTINGS = settings(max_examples=300, deadline=None, database=None)

ALICE = Namespace("alice", "shop")
BOB = Namespace("bob", "shop")

# Few different levels, so that random filters and names meet often.
_WORDS = st.sampled_from(["", "a", "b", "$s"])
_NAMES = st.lists(_WORDS, min_size=1, max_size=4).map("/".join).filter(bool)
_FILTERS = (
    st.tuples(st.lists(st.one_of(_WORDS, st.just("+")), max_size=4), st.booleans())
    .map(lambda parts: "/".join([*parts[0], *(["#"] if parts[1] else [])]))
    .filter(bool)
)


class NamespaceTests(SynchronousTestCase):
    """The two parts of a full name that say whose it is."""

    def test_takes_labels(self) -> None:
        """Lower-case letters, digits and hyphens, up to 32 of them, are taken."""
        for label in ("a", "0", "-", "my-app-2", "x" * 32):
            self.assertEqual(Namespace.checked(label, label), Namespace(label, label))

    def test_refuses_other_labels(self) -> None:
        """Anything else is refused, above all ``_``, which separates the parts, and what has meaning elsewhere."""
        for label in ("", "x" * 33, "Alice", "a_b", "a.b", "a/b", "a b", "é", "a\n", "+", "#", "*", ">", "\0"):
            with self.assertRaises(InvalidParameter, msg=repr(label)):
                Namespace.checked(label, "shop")
            with self.assertRaises(InvalidParameter, msg=repr(label)):
                Namespace.checked("alice", label)

    def test_shown(self) -> None:
        """A topic is shown in its full or its short form."""
        topic = Topic(ALICE, "orders/new_one")
        self.assertEqual(topic.shown(True), "alice_shop_orders/new_one")
        self.assertEqual(topic.shown(False), "orders/new_one")


class ResolveTests(SynchronousTestCase):
    """Which namespace a name on the wire belongs to."""

    def check(self, name: str, namespace: Namespace, rest: str, full: bool) -> None:
        self.assertEqual(resolve(name, ALICE, {ALICE}), Resolved(namespace, rest, full), name)

    def test_short(self) -> None:
        """A name without the prefix of a granted namespace belongs to the token's own namespace."""
        for name in ("orders", "orders/new", "a_b", "a_b_c", "/", "+/x", "#", "$SYS/x"):
            self.check(name, ALICE, name, False)

    def test_full(self) -> None:
        """The prefix of a granted namespace makes a name full; only the first two ``_`` count."""
        self.check("alice_shop_orders", ALICE, "orders", True)
        self.check("alice_shop_a_b_c", ALICE, "a_b_c", True)
        self.check("alice_shop_#", ALICE, "#", True)
        self.check("alice_shop_$SYS/x", ALICE, "$SYS/x", True)
        self.check("alice_shop_alice_shop_x", ALICE, "alice_shop_x", True)

    def test_foreign_is_short(self) -> None:
        """The prefix of a namespace that was not granted is nothing but text: the name stays at home."""
        for name in ("bob_shop_x", "bob_shop_#", "alice_other_x", "alice2_shop_x", "bob_shop_"):
            self.check(name, ALICE, name, False)

    def test_foreign_granted(self) -> None:
        """With a grant in another namespace its full names lead there, also from a token at home elsewhere."""
        self.assertEqual(resolve("bob_shop_x", ALICE, {ALICE, BOB}), Resolved(BOB, "x", True))

    def test_home_without_grant(self) -> None:
        """Without a grant at home even the own prefix is only text, and permissions decide on the short name."""
        self.assertEqual(resolve("alice_shop_x", ALICE, {BOB}), Resolved(ALICE, "alice_shop_x", False))

    def test_incomplete_prefix(self) -> None:
        """``alice_shop`` is short; ``alice_shop_`` is full with nothing behind it, which no check takes."""
        self.check("alice_shop", ALICE, "alice_shop", False)
        self.check("alice_shop_", ALICE, "", True)
        with self.assertRaises(InvalidTopic):
            check_topic("")
        with self.assertRaises(InvalidTopic):
            check_filter("")

    def test_tricks(self) -> None:
        """Case, spaces, wildcards, slashes and doubled separators in the prefix do not make a name full."""
        for name in (
            "Alice_shop_x",
            "alice_Shop_x",
            " alice_shop_x",
            "alice__shop_x",
            "_alice_shop_x",
            "alice_+_x",
            "+_shop_x",
            "alice/_shop_x",
            "/alice_shop_x",
            "alice_shop/_x",
            "alice\u200b_shop_x",
        ):
            self.check(name, ALICE, name, False)

    @_SETTINGS
    @given(st.text(alphabet="abo_/+#-", max_size=20), st.sets(st.sampled_from([ALICE, BOB, Namespace("a", "b")])))
    def test_never_beyond_grants(self, name: str, granted: set[Namespace]) -> None:
        """No spelling reaches a namespace that is neither home nor granted, and none loses a character."""
        found = resolve(name, ALICE, granted)
        if found.full:
            self.assertIn(found.namespace, granted)
            self.assertEqual(found.namespace.prefix + found.rest, name)
        else:
            self.assertEqual((found.namespace, found.rest), (ALICE, name))


class CheckTests(SynchronousTestCase):
    """What is a topic name, and what a filter."""

    def test_topics(self) -> None:
        """Any Unicode but NUL and wildcards makes a topic name, empty levels and spaces too."""
        for name in ("a", "/", "//", "a/", "/a", "a b", "$SYS/x", "é/日本", "a*>.", "x" * MAX_NAME_BYTES, "\ufeff"):
            check_topic(name)

    def test_no_topics(self) -> None:
        """[MQTT-4.7.3-1], [MQTT-4.7.3-2], [MQTT-3.3.2-2], [MQTT-1.5.3-1]: no topic name is empty, has NUL, a wildcard
        or a surrogate; ours are at most 512 bytes long."""
        for name in ("", "a\0b", "a/+", "#", "a+", "a#b", "\ud800", "x" * (MAX_NAME_BYTES + 1), "é" * 257):
            with self.assertRaises(InvalidTopic, msg=repr(name)):
                check_topic(name)

    def test_filters(self) -> None:
        """[MQTT-4.7.1-2], [MQTT-4.7.1-3]: ``#`` alone at the end and ``+`` alone in any level are taken."""
        for text in ("#", "+", "a/#", "/#", "+/+", "+/a/#", "/+", "+/", "a/+/b", "$SYS/#", "a", "//"):
            check_filter(text)

    def test_no_filters(self) -> None:
        """[MQTT-4.7.1-2], [MQTT-4.7.1-3], [MQTT-4.7.3-1]: misplaced wildcards, NUL and the empty filter are refused."""
        for text in (
            "",
            "a#",
            "#a",
            "#/",
            "#/a",
            "a/#/b",
            "##",
            "+a",
            "a+",
            "a/b+",
            "++",
            "a/+b/c",
            "+#",
            "a\0",
            "\udfff",
        ):
            with self.assertRaises(InvalidTopic, msg=repr(text)):
                check_filter(text)

    def test_has_wildcard(self) -> None:
        """Wildcards are seen wherever they are."""
        self.assertTrue(has_wildcard("a/+"))
        self.assertTrue(has_wildcard("#"))
        self.assertFalse(has_wildcard("a/b"))

    def test_is_reserved(self) -> None:
        """[MQTT-4.7.2-1]: the gateway's own topics, and the filters that reach them, are those that spell it out."""
        for text in ("$SYS", "$SYS/", "$SYS/a", "$SYS/#", "$SYS/+"):
            self.assertTrue(is_reserved(text), text)
        for text in ("$SYSTEM", "$SYS a", "$sys/a", "$S", "$", "a/$SYS", "/$SYS", "#", "+", "+/#", ""):
            self.assertFalse(is_reserved(text), text)


class MatchTests(SynchronousTestCase):
    """MQTT 3.1.1 section 4.7."""

    yes = (
        ("a", "a"),
        ("a/b", "a/b"),
        ("/", "/"),
        ("sport/tennis/player1/#", "sport/tennis/player1"),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
        ("sport/#", "sport"),
        ("#", "a"),
        ("#", "/"),
        ("#", "a/b/c"),
        ("sport/tennis/+", "sport/tennis/player1"),
        ("sport/+", "sport/"),
        ("+/+", "/finance"),
        ("/+", "/finance"),
        ("+", "a"),
        ("a/+/b", "a//b"),
        ("+/#", "a"),
        ("+/#", "a/b/c"),
        ("/#", "/"),
        ("/#", "/a"),
        ("a//#", "a/"),
        ("$SYS/#", "$SYS"),
        ("$SYS/#", "$SYS/a/b"),
        ("$SYS/monitor/+", "$SYS/monitor/clients"),
        ("a/+", "a/$b"),
        ("a/#", "a/$b/c"),
    )
    no = (
        ("a", "A"),
        ("a", "a/"),
        ("a", "/a"),
        ("a/b", "a"),
        ("sport/tennis/+", "sport/tennis/player1/ranking"),
        ("sport/+", "sport"),
        ("+", "/finance"),
        ("+", "a/b"),
        ("+/+", "a"),
        ("+/+", "a/b/c"),
        ("sport/#", "sports"),
        ("sport/#", "spor"),
        ("/#", "a"),
        ("/#", "a/b"),
        ("#", "$SYS"),
        ("#", "$SYS/a"),
        ("+/monitor/Clients", "$SYS/monitor/Clients"),
        ("+", "$SYS"),
        ("+/#", "$SYS/a"),
        ("+/+", "$SYS/a"),
    )

    def test_match(self) -> None:
        """[MQTT-4.7.1-2], [MQTT-4.7.1-3]: the examples of the specification that match, and those around them."""
        for filter_, name in self.yes:
            self.assertTrue(matches(filter_, name), (filter_, name))

    def test_no_match(self) -> None:
        """[MQTT-4.7.2-1], [MQTT-4.7.1-2], [MQTT-4.7.1-3]: those that do not match."""
        for filter_, name in self.no:
            self.assertFalse(matches(filter_, name), (filter_, name))

    def test_tree_agrees(self) -> None:
        """The tree gives the same answers on the same tables."""
        for filter_, name in self.yes + self.no:
            tree: FilterTree[int] = FilterTree()
            tree.add(filter_, 1)
            self.assertEqual(bool(list(tree.match(name))), (filter_, name) in self.yes, (filter_, name))


class IntersectionTests(SynchronousTestCase):
    """What two filters both take in."""

    def test_intersection(self) -> None:
        """It is one filter, whichever of the two comes first."""
        for one, other, both in (
            ("a/#", "a/b/#", "a/b/#"),
            ("a/#", "+/b", "a/b"),
            ("a/+", "+/b", "a/b"),
            ("a/#", "a", "a"),
            ("a/+/#", "a/#", "a/+/#"),
            ("+/b/#", "a/+/c", "a/b/c"),
            ("#", "$SYS/x", "$SYS/x"),
            ("a", "b", None),
            ("a/b", "a", None),
            ("a/+", "a", None),
            ("a/b/#", "a", None),
            ("a//#", "a/+/#", "a//#"),
        ):
            self.assertEqual((intersection(one, other), intersection(other, one)), (both, both), (one, other))

    def test_exact(self) -> None:
        """It takes in each topic that both take in, and no other: tried for all small filters and topics."""
        levels = ("a", "b", "+")
        plain = ["/".join(some) for depth in (1, 2, 3) for some in product(levels, repeat=depth)]
        filters = [*plain, "#", *(f"{one}/#" for one in plain)]
        topics = ["/".join(some) for depth in (1, 2, 3, 4) for some in product(("a", "b"), repeat=depth)]
        taken = {one: frozenset(topic for topic in topics if covers(one, topic)) for one in filters}
        for one, other in product(filters, repeat=2):
            both = intersection(one, other)
            found = frozenset() if both is None else frozenset(topic for topic in topics if covers(both, topic))
            self.assertEqual(found, taken[one] & taken[other], (one, other))
            if both is not None:
                check_filter(both)
                self.assertTrue(covers(one, both) and covers(other, both), (one, other, both))


class CoversTests(SynchronousTestCase):
    """The question of permissions."""

    def test_covers(self) -> None:
        """A grant takes in filters that are as wide or narrower."""
        for outer, inner in (
            ("#", "#"),
            ("#", "+/x"),
            ("#", "$SYS/x"),
            ("+", "+"),
            ("a/#", "a"),
            ("a/#", "a/#"),
            ("a/#", "a/+/#"),
            ("a/+", "a/b"),
            ("a/+/c", "a/+/c"),
            ("+/b", "a/b"),
            ("+/#", "a/+"),
        ):
            self.assertTrue(covers(outer, inner), (outer, inner))

    def test_does_not_cover(self) -> None:
        """A grant does not take in a filter that names one topic more."""
        for outer, inner in (
            ("+", "#"),
            ("a", "+"),
            ("a", "#"),
            ("a", "a/#"),
            ("a/+", "a/#"),
            ("a/+", "a"),
            ("a/+", "+/b"),
            ("a/b/#", "a/#"),
            ("a/b/#", "a/+"),
            ("a/#", "+/#"),
            ("a/#", "+"),
            ("+/+", "a/#"),
            ("a/+/c", "a/+/+"),
            ("", "a"),
        ):
            self.assertFalse(covers(outer, inner), (outer, inner))

    def test_sound(self) -> None:
        """Over all filters and topics of up to three levels: every topic that a covered filter matches is granted."""
        found = self.granted()
        for outer, inner in product(found, found):
            if covers(outer, inner):
                self.assertLessEqual(found[inner], found[outer], (outer, inner))

    def test_complete(self) -> None:
        """A filter that is not covered names a topic that is not granted.  Not so under ``+/#``, which names as much as
        ``#`` does and is taken for less: that can only refuse too much."""
        found = self.granted()
        for outer, inner in product(found, found):
            if not covers(outer, inner) and not outer.endswith("+/#"):
                self.assertFalse(found[inner] <= found[outer], (outer, inner))

    @staticmethod
    def granted() -> dict[str, frozenset[str]]:
        """For every filter of up to three levels the topics of up to four that it names, ``$`` topics too."""
        names = ["/".join(levels) for n in range(1, 5) for levels in product(("", "a", "b"), repeat=n)]
        plain = [levels for n in range(4) for levels in product(("", "a", "+"), repeat=n)]
        filters = ["/".join(levels) for levels in plain if levels] + ["/".join([*levels, "#"]) for levels in plain]
        return {one: frozenset(name for name in names if covers(one, name)) for one in filters}

    @_SETTINGS
    @given(_FILTERS)
    def test_reflexive(self, filter_: str) -> None:
        """A grant covers itself, and ``#`` covers everything."""
        self.assertTrue(covers(filter_, filter_))
        self.assertTrue(covers("#", filter_))


class FilterTreeTests(SynchronousTestCase):
    """Many filters at once."""

    @_SETTINGS
    @given(st.lists(_FILTERS, max_size=8), _NAMES)
    def test_equals_matches(self, filters: list[str], name: str) -> None:
        """The tree finds exactly the filters that match one by one, once for each value."""
        tree: FilterTree[int] = FilterTree()
        for index, filter_ in enumerate(filters):
            tree.add(filter_, index)
        expected = [index for index, filter_ in enumerate(filters) if matches(filter_, name)]
        self.assertEqual(sorted(tree.match(name)), expected)

    @_SETTINGS
    @given(st.lists(_FILTERS, max_size=8), st.lists(_FILTERS, max_size=4), st.data())
    def test_discard(self, filters: list[str], others: list[str], data: st.DataObject) -> None:
        """Removed filters match no more, those that were never there change nothing, and an emptied tree is as new."""
        tree: FilterTree[str] = FilterTree()
        for filter_ in filters:
            tree.add(filter_, filter_)
        left = set(filters)
        for filter_ in others + data.draw(st.permutations(filters)):
            tree.discard(filter_, filter_)
            left.discard(filter_)
            name = filter_.replace("+", "a").replace("#", "b")
            self.assertEqual(set(tree.match(name)), {one for one in left if matches(one, name)})
        self.assertFalse(tree)
        self.assertEqual(tree._root.children, {})

    def test_same_value_twice(self) -> None:
        """A value under two matching filters comes twice, one under the same filter again comes once."""
        tree: FilterTree[str] = FilterTree()
        for filter_ in ("a/#", "a/+", "a/+"):
            tree.add(filter_, "x")
        self.assertEqual(list(tree.match("a/b")), ["x", "x"])

    def test_other_value_stays(self) -> None:
        """Removing one value leaves the others under the same filter."""
        tree: FilterTree[str] = FilterTree()
        tree.add("a/b", "x")
        tree.add("a/b", "y")
        tree.discard("a/b", "x")
        self.assertEqual(list(tree.match("a/b")), ["y"])
        self.assertTrue(tree)

    def test_prefix_stays(self) -> None:
        """Removing a longer filter leaves the shorter one on its way, and the other way round."""
        for first, second in (("a", "a/b"), ("a/b", "a"), ("a/#", "a/b"), ("a/b", "a/#")):
            tree: FilterTree[str] = FilterTree()
            tree.add(first, first)
            tree.add(second, second)
            tree.discard(first, first)
            self.assertEqual(list(tree.match(second.replace("#", "x"))), [second])
