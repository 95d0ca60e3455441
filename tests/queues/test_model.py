"""Names, configurations, attributes, bodies, digests."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import InvalidParameter, MessageTooLarge
from flowgate.queues.model import (
    Attribute,
    DeadLetter,
    InvalidAttribute,
    InvalidCharacters,
    QueueConfig,
    attributes_bytes,
    check_attributes,
    check_batch,
    check_body,
    check_name,
    check_range,
    check_size,
    check_token,
    is_fifo,
    md5_of,
    md5_of_attributes,
)


class NameTests(SynchronousTestCase):
    """What a queue may be called."""

    def test_allowed(self) -> None:
        """1–80 of the alphabet are a name; .fifo at the end counts."""
        for name in ("q", "Orders_2-x", "x" * 80, "q.fifo", "x" * 75 + ".fifo", "fifo"):
            check_name(name)

    def test_refused(self) -> None:
        """Everything else is not."""
        for name in (
            *("", "x" * 81, "a b", "a.b", "a/b", "ä", "q\n", "*", ">"),
            *(".fifo", "a.b.fifo", "q.fifo\n", "q.FIFO", "q.fifo.fifo", "x" * 76 + ".fifo"),
        ):
            self.assertRaises(InvalidParameter, check_name, name)

    def test_fifo(self) -> None:
        """The name says which kind of queue it is."""
        self.assertEqual([is_fifo(name) for name in ("q.fifo", "q", "fifo")], [True, False, False])


class CheckTests(SynchronousTestCase):
    """Small checks."""

    def test_range(self) -> None:
        """A whole number in its range is given back; everything else is refused with its name."""
        self.assertEqual([check_range("n", value, 0, 5) for value in (0, 5)], [0, 5])
        for value in (-1, 6, True, 1.0, "1", None):
            error = self.assertRaises(InvalidParameter, check_range, "thing", value, 0, 5)
            self.assertIn("thing", error.detail)

    def test_token(self) -> None:
        """A token is 1 to 128 printable ASCII characters."""
        for token in ("!", "~" * 128, "a-Z_0.9:/"):
            self.assertEqual(check_token("group", token), token)
        for token in ("", "x" * 129, "a b", "ä", "a\n", "\x7f"):
            self.assertIn("group", self.assertRaises(InvalidParameter, check_token, "group", token).detail)

    def test_sizes(self) -> None:
        """A message and a batch have their limits."""
        config = QueueConfig(max_message_bytes=1024)
        check_size(1024, config)
        self.assertRaises(MessageTooLarge, check_size, 1025, config)
        check_batch([1024 * 1024 - 5, 5])
        self.assertRaises(MessageTooLarge, check_batch, [1024 * 1024 - 5, 6])


class ConfigTests(SynchronousTestCase):
    """What a queue's configuration may say."""

    def refused(self, name: str, members: dict[str, Any], base: QueueConfig | None = None) -> str:
        error: InvalidParameter = self.assertRaises(InvalidParameter, QueueConfig.parse, name, members, base)
        return error.detail

    def test_defaults(self) -> None:
        """Nothing said is the documented default."""
        config = QueueConfig.parse("q", {})
        self.assertEqual((config.visibility, config.delay, config.receive_wait), (30, 0, 0))
        self.assertEqual((config.max_message_bytes, config.retention), (1048576, 345600))
        self.assertEqual((config.dead_letter, config.dead_letter_allow, config.tags), (None, "all", {}))
        self.assertEqual((config.content_dedup, config.dedup_scope, config.fifo), (False, "queue", False))

    def test_round_trip(self) -> None:
        """The members are read back to the same value, with everything said."""
        members: dict[str, object] = {
            "visibility": 0,
            "delay": 900,
            "receive_wait": 20,
            "max_message_bytes": 1024,
            "retention": 1_209_600,
            "dead_letter": {"queue": "d.fifo", "max_receives": 1000},
            "dead_letter_allow": ["a", "b.fifo"],
            "content_dedup": True,
            "dedup_scope": "group",
            "throughput_limit": "group",
            "tags": {"k" * 128: "v" * 256, "e": ""},
            "aws": {"Policy": "{}"},
            "type": "fifo",
        }
        config = QueueConfig.parse("q.fifo", members)
        self.assertEqual(config.members(), members)
        self.assertEqual(QueueConfig.parse("q.fifo", config.members()), config)
        self.assertEqual(config.dead_letter, DeadLetter("d.fifo", 1000))

    def test_standard_members(self) -> None:
        """A standard queue has no members of a FIFO queue."""
        members = QueueConfig.parse("q", {}).members()
        self.assertEqual(members["type"], "standard")
        self.assertEqual({"content_dedup", "dedup_scope", "throughput_limit", "aws"} & set(members), set())

    def test_unknown_member(self) -> None:
        """A member that does not exist is refused by its name."""
        for member in ("visiblity", "fifo", "name"):
            self.assertIn(member, self.refused("q", {member: 3}))

    def test_out_of_range(self) -> None:
        """A value outside its range, or of another type, is refused with the member's name."""
        for name, value in (
            ("visibility", 43_201),
            ("visibility", -1),
            ("visibility", "30"),
            ("visibility", 1.5),
            ("visibility", True),
            ("receive_wait", 21),
            ("max_message_bytes", 1_048_577),
            ("max_message_bytes", 1023),
            ("retention", 59),
            ("retention", 1_209_601),
            ("delay", 901),
            ("tags", []),
            ("tags", {"a": 1}),
            ("tags", {"": "x"}),
            ("tags", {"k" * 129: "x"}),
            ("tags", {"a": "v" * 257}),
            ("tags", {str(number): "" for number in range(51)}),
            ("dead_letter", "d"),
            ("dead_letter", {}),
            ("dead_letter", {"queue": 5}),
            ("dead_letter", {"queue": "a b"}),
            ("dead_letter", {"queue": "d", "more": 1}),
            ("dead_letter_allow", "some"),
            ("dead_letter_allow", []),
            ("dead_letter_allow", ["q"] * 11),
            ("dead_letter_allow", [1]),
            ("dead_letter_allow", 1),
        ):
            detail = self.refused("q", {name: value})
            self.assertTrue(name in detail or "name of a queue" in detail, detail)
        for receives in (0, 1001, "10"):
            self.assertIn("max_receives", self.refused("q", {"dead_letter": {"queue": "d", "max_receives": receives}}))

    def test_fifo_members(self) -> None:
        """What is for FIFO queues only is refused for others."""
        for member, value in (("content_dedup", True), ("dedup_scope", "group"), ("throughput_limit", "group")):
            self.refused("q", {member: value})
        QueueConfig.parse("q", {"content_dedup": False, "dedup_scope": "queue"})
        for member, wrong in (("content_dedup", 1), ("dedup_scope", "all"), ("throughput_limit", 5)):
            self.assertIn(member, self.refused("q.fifo", {member: wrong}))
        self.assertIn("dedup_scope", self.refused("q.fifo", {"throughput_limit": "group"}))

    def test_type(self) -> None:
        """The type may be said, as the name has it."""
        for name, kind in (("q", "standard"), ("q.fifo", "fifo"), ("q", None)):
            self.assertEqual(QueueConfig.parse(name, {"type": kind}), QueueConfig.parse(name, {}))
        for name, kind in (("q", "fifo"), ("q.fifo", "standard"), ("q", "other"), ("q", "")):
            self.assertIn("type", self.refused(name, {"type": kind}))

    def test_dead_letter(self) -> None:
        """A dead-letter queue is of the same kind; ten receives are the default."""
        self.assertEqual(QueueConfig.parse("q", {"dead_letter": {"queue": "d"}}).dead_letter, DeadLetter("d", 10))
        self.refused("q", {"dead_letter": {"queue": "d.fifo"}})
        self.refused("q.fifo", {"dead_letter": {"queue": "d"}})

    def test_allow(self) -> None:
        """A queue takes dead letters of all, of none, or of those that it names."""
        for allow, takes in (("all", True), ("none", False), (["q"], True), (["r", "s"], False)):
            config = QueueConfig.parse("d", {"dead_letter_allow": allow})
            self.assertIs(config.takes_dead_letters_of("q"), takes)

    def test_changes(self) -> None:
        """Changes concern what they name; None is the default."""
        base = QueueConfig.parse("q", {"visibility": 5, "delay": 6, "tags": {"a": "1"}, "dead_letter": {"queue": "d"}})
        changed = QueueConfig.parse("q", {"delay": None, "dead_letter": None, "retention": 60}, base)
        self.assertEqual(changed, attrs.evolve(base, delay=0, dead_letter=None, retention=60))
        self.assertIn("delay", self.refused("q", {"delay": -1}, base))

    def test_name(self) -> None:
        """A configuration is of a queue whose name is checked."""
        self.refused("a b", {})


class AttributeTests(SynchronousTestCase):
    """Message attributes."""

    def refused(self, name: str, attribute: Attribute) -> None:
        self.assertRaises(InvalidAttribute, check_attributes, {name: attribute})

    def test_allowed(self) -> None:
        """Names, types with a label, and values of every kind."""
        check_attributes(
            {
                "a": Attribute("String", "ä"),
                "A.b-c_9": Attribute("String.json", "{}"),
                "n" * 256: Attribute("Binary.gif", "AAE="),
                "awsome": Attribute("Number.int", "5"),
            }
        )
        check_attributes({str(number): Attribute("String", "x") for number in range(10)})
        check_attributes({})

    def test_numbers(self) -> None:
        """A number is a decimal one, kept as it is written."""
        for text in ("0", "-1", "+1.5", ".5", "5.", "1e10", "1E-5", "007"):
            check_attributes({"a": Attribute("Number", text)})
        for text in ("x", "1,5", "0x1", "nan", "1e", "", " 1", "1\n", "١"):
            self.refused("a", Attribute("Number", text))

    def test_names(self) -> None:
        """Names have no dots at their ends or beside each other, and are not Amazon's."""
        for name in ("", ".a", "a.", "a..b", "a b", "ä", "a" * 257, "AWS.x", "aws.x", "Amazon.x", "a\n"):
            self.refused(name, Attribute("String", "x"))

    def test_types(self) -> None:
        """Types are three, with a label perhaps."""
        for type_ in ("", "string", "Text", "String.", "Stringx", "Number." + "x" * 256, "String.\n"):
            self.refused("a", Attribute(type_, "1"))

    def test_values(self) -> None:
        """A value is not empty, of characters that XML allows, and base64 if it is binary."""
        for attribute in (
            Attribute("String", ""),
            Attribute("String", "\0"),
            Attribute("Binary", "?"),
            Attribute("Binary", "A"),
        ):
            self.refused("a", attribute)

    def test_count(self) -> None:
        """There are ten at most."""
        attributes = {str(number): Attribute("String", "x") for number in range(11)}
        self.assertRaises(InvalidAttribute, check_attributes, attributes)

    def test_bytes(self) -> None:
        """Names, types and values count, in bytes; binary ones by what they stand for."""
        attributes = {"a": Attribute("String", "ä"), "bc": Attribute("Binary", "AAEC")}
        self.assertEqual(attributes_bytes(attributes), 1 + 6 + 2 + 2 + 6 + 3)


class BodyTests(SynchronousTestCase):
    """Bodies."""

    def test_allowed(self) -> None:
        """Text of what XML allows is given back as UTF-8."""
        text = "\t\n\r \ud7ff\ue000\ufffd\U00010000\U0010ffff"
        self.assertEqual(check_body(text), text.encode())

    def test_refused(self) -> None:
        """Other characters are refused, and no characters."""
        for character in ("\0", "\x08", "\x0b", "\x1f", "\ud800", "\udfff", "\ufffe", "\uffff"):
            self.assertRaises(InvalidCharacters, check_body, f"a{character}b")
        self.assertRaises(InvalidParameter, check_body, "")


class DigestTests(SynchronousTestCase):
    """Digests that clients compare."""

    def test_body(self) -> None:
        """The MD5 of the body's bytes."""
        self.assertEqual(md5_of(b"hello"), "5d41402abc4b2a76b9719d911017c592")

    def test_attributes(self) -> None:
        """By name, each with its lengths; binary values as bytes, under another mark."""

        def part(name: bytes, type_: bytes, mark: int, value: bytes) -> bytes:
            long = struct.Struct(">I").pack
            return long(len(name)) + name + long(len(type_)) + type_ + bytes([mark]) + long(len(value)) + value

        attributes = {
            "b": Attribute("Binary.x", "AAE="),
            "a": Attribute("String", "ä"),
            "B": Attribute("Number", "1.50"),
        }
        whole = part(b"B", b"Number", 1, b"1.50") + part(b"a", b"String", 1, "ä".encode())
        whole += part(b"b", b"Binary.x", 2, b"\0\1")
        self.assertEqual(md5_of_attributes(attributes), hashlib.md5(whole).hexdigest())

    def test_known(self) -> None:
        """A digest as Amazon SQS gives it."""
        attributes = {"timestamp": Attribute("Number", "1493147359900")}
        self.assertEqual(md5_of_attributes(attributes), "235c5c510d26fb653d073faed50ae77c")

    def test_none(self) -> None:
        """Without attributes there is no digest."""
        self.assertEqual(md5_of_attributes({}), "")
