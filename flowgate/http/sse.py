"""Server-Sent Events as bytes (HTML Living Standard, section 9.2).

Lines end in LF, there is no byte order mark, and every event is one block with an ``id``: what four client libraries
were found to need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from flowgate.payloads import members

HEARTBEAT = b":\n"
"""A comment without a blank line: a blank line would be an empty event to some clients."""

RETRY = b"retry: 2000\n"
"""How many milliseconds clients wait before they come again; goes into the block of the first event, never alone."""

# Some clients take these for ends of lines.  They can only stand inside JSON strings, where the escape means the same.
_LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def events(topic: str, payloads: Sequence[bytes], ids: Iterable[str], retained: bool = False) -> bytes:
    """One event for each payload.

    :param topic: the name that the subscriber is shown.
    :param ids: the id of each event.
    :param retained: whether they are not new, but what is retained.
    """
    end = b',"retained":true}\n\n' if retained else b"}\n\n"
    head = b'\nevent: message\ndata: {"topic":' + orjson.dumps(topic) + b","
    data = b"".join(
        [
            b"id: %b%b%b%b" % (id_.encode(), head, members(payload), end)
            for id_, payload in zip(ids, payloads, strict=False)
        ]
    )
    for raw, escaped in _LINE_ENDS:
        data = data.replace(raw, escaped)
    return data


def gap(oldest: str) -> bytes:
    """The event that says that history before the cursor ``oldest`` may be missing.

    It has no id: a client that is cut off right behind it asks again from its own cursor, and is told again.
    """
    return b'event: gap\ndata: {"oldest":%b}\n\n' % orjson.dumps(oldest)
