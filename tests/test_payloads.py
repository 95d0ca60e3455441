"""Payloads and JSON."""

from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import InvalidParameter
from flowgate.payloads import from_json, members

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def shown(payload: bytes) -> dict[str, object]:
    found: dict[str, object] = json.loads(b"{" + members(payload) + b"}")
    return found


class FromJsonTests(SynchronousTestCase):
    """What a JSON value becomes."""

    def test_string(self) -> None:
        """A string travels as its UTF-8 bytes."""
        self.assertEqual(from_json("Grüße"), "Grüße".encode())

    def test_other_values(self) -> None:
        """Anything else travels as compact JSON."""
        self.assertEqual(from_json({"a": [1, True, None]}), b'{"a":[1,true,null]}')

    def test_too_deep(self) -> None:
        """What is nested too deeply to be written is refused, not a fault."""
        value: object = []
        for _ in range(500):
            value = [value]
        self.assertRaises(InvalidParameter, from_json, value)


class MembersTests(SynchronousTestCase):
    """How a payload is shown."""

    def test_object(self) -> None:
        """A JSON object is shown as such, with the digits that it came with."""
        self.assertEqual(members(b' {"a": 1.10}\n'), b'"data":{"a": 1.10}')

    def test_text(self) -> None:
        """UTF-8 text is shown as a string, numbers too."""
        self.assertEqual((shown(b"hello"), shown(b"1")), ({"data": "hello"}, {"data": "1"}))

    def test_nearly_json(self) -> None:
        """What only begins like an object is text."""
        self.assertEqual(shown(b'{"a":'), {"data": '{"a":'})

    def test_bytes(self) -> None:
        """Other bytes are shown in base64, and say so."""
        self.assertEqual(shown(b"\xff\x00"), {"data": "/wA=", "encoding": "base64"})

    @given(_JSON)
    def test_round_trip(self, value: object) -> None:
        """Objects and arrays come out as they went in; other values as their JSON text, strings as they are."""
        data = shown(from_json(value))["data"]
        if isinstance(value, dict | list):
            self.assertEqual(data, value)
        elif isinstance(value, str):
            # A string that is the text of an object or array looks like one, and is shown as one.
            self.assertIn(data, (value, *([json.loads(value)] if isinstance(data, dict | list) else [])))
        else:
            self.assertEqual(json.loads(str(data)), value)

    @given(st.binary())
    def test_any_bytes(self, payload: bytes) -> None:
        """Any payload is one JSON member without line breaks, from which it can be had again."""
        text = members(payload)
        self.assertNotIn(b"\n", text)
        self.assertNotIn(b"\r", text)
        found = shown(payload)
        if found.get("encoding") == "base64":
            self.assertEqual(base64.b64decode(str(found["data"])), payload)
        elif isinstance(found["data"], str):
            self.assertEqual(found["data"].encode(), payload)
        else:
            self.assertEqual(found["data"], json.loads(payload))
