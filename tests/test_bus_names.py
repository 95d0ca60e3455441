"""Topic names and filters as NATS subjects."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.names import filter_subject, namespace_subject, subject_topic, topic_subject
from flowgate.errors import InvalidTopic, ProtocolViolation
from flowgate.topics import Namespace, Topic, check_filter, check_topic, matches

SHOP = Namespace("alice", "shop")
ODD = [
    "",
    ".",
    "*",
    ">",
    "%",
    "%%",
    "%0",
    "%25",
    "$",
    "$SYS",
    "a",
    "b",
    "ab",
    "a b",
    "\t",
    "\x7f",
    "ä",
    "€",
    "🚀",
    "\u2028",
]
LEVELS = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/+#\0")))
NAMES = st.lists(LEVELS, min_size=1, max_size=5).map("/".join).filter(lambda name: 0 < len(name.encode()) <= 512)
FEW = st.sampled_from(["", "a", "b", "$", "$x", ".", "%"])
FEW_NAMES = st.lists(FEW, min_size=1, max_size=4).map("/".join).filter(bool)
FEW_FILTERS = (
    st.tuples(st.lists(st.one_of(FEW, st.just("+")), max_size=4), st.sampled_from([[], ["#"]]))
    .map(lambda parts: "/".join([*parts[0], *parts[1]]))
    .filter(bool)
)


def nats_match(pattern: list[str], subject: list[str]) -> bool:
    """NATS's own rule: ``*`` is one token, ``>`` one or more at the end."""
    if pattern[0] == ">":
        return bool(subject)
    if not subject or pattern[0] not in ("*", subject[0]):
        return False
    if len(pattern) == 1:
        return len(subject) == 1
    return nats_match(pattern[1:], subject[1:])


class NameTests(SynchronousTestCase):
    """A topic becomes a subject and comes back."""

    def test_plain(self) -> None:
        """An ordinary name is readable as a subject."""
        self.assertEqual(topic_subject("log", Topic(SHOP, "a/b")), b"fg.log.alice.shop.-.a.b.%")

    def test_special(self) -> None:
        """What NATS gives a meaning to is escaped, an empty level has a token, ``$`` names are apart."""
        self.assertEqual(topic_subject("log", Topic(SHOP, "$a.b//*")), b"fg.log.alice.shop.$.$a%2Eb.%0.%2A.%")

    @given(NAMES)
    @example("%0")
    @example("/" * 512)
    def test_round_trip(self, name: str) -> None:
        """Every name comes back as it was."""
        check_topic(name)
        topic = Topic(SHOP, name)
        self.assertEqual(subject_topic(topic_subject("live", topic)), ("live", topic))

    @given(NAMES)
    @example("." * 512)
    @example("a/" * 255)
    def test_valid_subject(self, name: str) -> None:
        """Every subject is one that NATS accepts, with room to spare in its control line of 4096 bytes."""
        subject = topic_subject("log", Topic(SHOP, name))
        self.assertLess(len(subject), 2048)
        self.assertNotRegex(subject, rb"[\0-\x20\x7f*>]")
        self.assertTrue(all(subject.split(b".")))

    @given(NAMES, NAMES)
    def test_different_names_are_different_subjects(self, one: str, other: str) -> None:
        """No two names share a subject."""
        same = topic_subject("log", Topic(SHOP, one)) == topic_subject("log", Topic(SHOP, other))
        self.assertEqual(same, one == other)

    def test_foreign_subjects(self) -> None:
        """A subject that is not ours is refused as such."""
        for subject in (
            b"",
            b"fg.log",
            b"fg.log.a.b.-",
            b"fg.log.a.b.-.%",
            b"fg.log.a.b.-.x",
            b"fg.log.a.b.-.%FF.%",
            b"\xff",
        ):
            with self.assertRaises(ProtocolViolation):
                subject_topic(subject)


class FilterTests(SynchronousTestCase):
    """A filter becomes one subject that takes in just what it matches."""

    def test_examples(self) -> None:
        """The wildcards of MQTT are those of NATS; ``#`` takes in its parent."""
        for filter_, subject in (
            ("a/b", "fg.log.alice.shop.-.a.b.%"),
            ("a/+", "fg.log.alice.shop.-.a.*.%"),
            ("a/#", "fg.log.alice.shop.-.a.>"),
            ("#", "fg.log.alice.shop.-.>"),
            ("$a/#", "fg.log.alice.shop.$.$a.>"),
        ):
            self.assertEqual(filter_subject("log", SHOP, filter_), subject)

    @given(FEW_FILTERS, FEW_NAMES)
    def test_matches_like_a_filter(self, filter_: str, name: str) -> None:
        """The subject matches if and only if the filter does."""
        try:
            check_filter(filter_)
        except InvalidTopic:
            return
        pattern = filter_subject("log", SHOP, filter_).split(".")
        subject = topic_subject("log", Topic(SHOP, name)).decode().split(".")
        self.assertEqual(nats_match(pattern, subject), matches(filter_, name), (filter_, name))

    @given(FEW_FILTERS, FEW_NAMES)
    def test_namespaces_are_apart(self, filter_: str, name: str) -> None:
        """No filter of one namespace takes in a topic of another."""
        pattern = filter_subject("*", SHOP, filter_).split(".")
        subject = topic_subject("log", Topic(Namespace("alice", "other"), name)).decode().split(".")
        self.assertFalse(nats_match(pattern, subject))

    @given(NAMES)
    def test_whole_namespace(self, name: str) -> None:
        """The subject of a namespace takes in all its topics, those with ``$`` too."""
        pattern = namespace_subject("out", SHOP).split(".")
        self.assertTrue(nats_match(pattern, topic_subject("out", Topic(SHOP, name)).decode().split(".")))
