"""Events as bytes, and the views of streams with several filters."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.gateway import Interest
from flowgate.http import sse
from flowgate.http.views import common_filter, view_key, views
from flowgate.topics import Namespace, Topic, check_filter, covers, matches

HOME = Namespace("alice", "shop")
OTHER = Namespace("alice", "cafe")


def parse(stream: bytes) -> list[dict[str, str]]:
    """Read events as the HTML Living Standard says, section 9.2.6, comments left out."""
    found: list[dict[str, str]] = []
    event: dict[str, str] = {}
    for line in stream.decode().split("\n"):
        if not line:
            if "data" in event:
                found.append(event)
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            event[name] = value.removeprefix(" ")
    return found


class EventTests(SynchronousTestCase):
    """What is written is what clients read."""

    def test_one_event(self) -> None:
        """An event has an id, the type message, and topic and data as JSON on one line."""
        self.assertEqual(
            sse.events("orders", [b"hello"], ["e1-7"]),
            b'id: e1-7\nevent: message\ndata: {"topic":"orders","data":"hello"}\n\n',
        )

    def test_every_payload_has_its_event(self) -> None:
        """Several payloads make several events, in order, each with its own id."""
        events = parse(sse.events("t", [b"a", b"b"], ["e-1", "e-2"]))
        self.assertEqual(
            [(event["id"], json.loads(event["data"])["data"]) for event in events], [("e-1", "a"), ("e-2", "b")]
        )

    def test_separators_of_lines_are_escaped(self) -> None:
        """U+2028, U+2029 and U+0085 never stand raw in an event: some clients split there."""
        text = "a\u2028b\u2029c\u0085d"
        data = sse.events(text, [text.encode(), json.dumps([text], ensure_ascii=False).encode()], ["e-1", "e-2"])
        self.assertTrue(data.isascii())
        self.assertEqual([json.loads(event["data"])["data"] for event in parse(data)], [text, [text]])

    def test_heartbeat_is_a_comment_without_blank_line(self) -> None:
        """A blank line would be dispatched as an empty event by some clients."""
        self.assertEqual(sse.HEARTBEAT, b":\n")

    def test_retained(self) -> None:
        """What is retained is marked as such in the data."""
        wire = sse.events("a", [b"1", b"\xff"], ["e-1", "e-1"], retained=True)
        self.assertEqual(
            [json.loads(event["data"]) for event in parse(wire)],
            [
                {"topic": "a", "data": "1", "retained": True},
                {"topic": "a", "data": "/w==", "encoding": "base64", "retained": True},
            ],
        )

    def test_gap_has_no_id(self) -> None:
        """A gap names the oldest cursor, and does not move the client's own."""
        self.assertEqual(sse.gap("e1-4"), b'event: gap\ndata: {"oldest":"e1-4"}\n\n')

    @given(topic=st.text(min_size=1), payloads=st.lists(st.one_of(st.binary(), st.text().map(str.encode)), max_size=4))
    def test_any_payload_is_one_block(self, topic: str, payloads: list[bytes]) -> None:
        """Whatever is published, each payload is one event of three lines, without carriage returns."""
        data = sse.events(topic, payloads, [f"e-{n}" for n in range(len(payloads))])
        self.assertEqual(len(data.decode().splitlines()), 4 * len(payloads))
        self.assertNotIn(b"\r", data)
        self.assertEqual([json.loads(event["data"])["topic"] for event in parse(data)], [topic] * len(payloads))


_LEVEL = st.sampled_from(["a", "b", "", "+", "$x"])
_FILTER = (
    st.tuples(st.lists(_LEVEL, min_size=1, max_size=4), st.booleans())
    .map(lambda parts: "/".join([*parts[0], *(["#"] if parts[1] else [])]))
    .filter(bool)
)
_TOPIC = st.lists(st.sampled_from(["a", "b", "c", "", "$x"]), min_size=1, max_size=5).map("/".join).filter(bool)


class CommonFilterTests(SynchronousTestCase):
    """The narrowest filter over several."""

    def test_siblings(self) -> None:
        """Where filters differ in one level, that level is a wildcard."""
        self.assertEqual(common_filter(["a/x/t", "a/y/t"]), "a/+/t")

    def test_parent_and_child(self) -> None:
        """'#' takes in its parent as well."""
        self.assertEqual(common_filter(["a", "a/b"]), "a/#")

    def test_one(self) -> None:
        """One filter stays what it is."""
        self.assertEqual(common_filter(["a/+/#"]), "a/+/#")

    @given(st.lists(_FILTER, min_size=1, max_size=5))
    def test_takes_in_all(self, filters: list[str]) -> None:
        """It is a valid filter, and takes in each of those that it was made of."""
        common = common_filter(filters)
        check_filter(common)
        for one in filters:
            self.assertTrue(covers(common, one), (common, one))


class ViewTests(SynchronousTestCase):
    """Which topics a stream shows, and from which feed."""

    def test_first_form_wins(self) -> None:
        """A topic that matches a short and a full filter is shown once, as the first one says."""
        [view] = views([Interest(HOME, "a", False), Interest(HOME, "#", True)]).values()
        self.assertEqual((view.form("a"), view.form("b")), (False, True))

    def test_not_shown(self) -> None:
        """What only the common filter takes in is not shown."""
        [view] = views([Interest(HOME, "a/x", False), Interest(HOME, "a/y", False)]).values()
        self.assertEqual(view.cover.filter, "a/+")
        self.assertIsNone(view.form("a/z"))

    def test_namespaces_are_apart(self) -> None:
        """Filters of two namespaces have two views."""
        self.assertEqual(len(views([Interest(HOME, "a", False), Interest(OTHER, "a", True)])), 2)

    @given(st.lists(_FILTER, min_size=1, max_size=5), _TOPIC)
    def test_shows_what_matches(self, filters: list[str], name: str) -> None:
        """A topic is shown if and only if one of the filters matches it, and then the feed's filter does too."""
        found = views([Interest(HOME, one, False) for one in filters])
        view = found.get(view_key(Topic(HOME, name)))
        expected = any(matches(one, name) for one in filters)
        if view is None:
            self.assertFalse(expected)
        elif matches(view.cover.filter, name):
            self.assertEqual(view.form(name) is not None, expected)
        else:
            self.assertFalse(expected)
