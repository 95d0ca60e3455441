"""Topic names as NATS subjects, and back.

A topic becomes ``fg.<root>.<user>.<app>.<kind>.<level>…<level>.%``.  The kind is ``$`` for names that begin with
``$`` and ``-`` for all others, so that a leading wildcard passes by the former ([MQTT-4.7.2-1]); the ``%`` at the end
lets ``>`` stand for "this level and all below".  So every filter is exactly one subject.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from flowgate.errors import ProtocolViolation
from flowgate.topics import Namespace, Topic

LOG: Final = "log"
"""Root of acknowledged messages; the stream holds and republishes them."""
LIVE: Final = "live"
"""Root of unacknowledged messages that the stream holds too."""
CAST: Final = "cast"
"""Root of unacknowledged messages that only other nodes are to see."""
OUT: Final = "out"
"""Root under which the stream republishes what came under ``LOG``."""
RETAINED: Final = "ret"
"""Root of retained messages; they have a stream of their own."""

_END = "%"
_EMPTY = "%0"
# NATS gives a meaning to '.', '*' and '>' and separates by white space; the rest would harm logs and terminals.
# Fixed ranges, not str.isprintable(): nodes with different versions of Unicode must agree.
_UNSAFE = re.compile("[\0-\x20.*>%\x7f-\x9f\u2028\u2029]")
_ESCAPED = re.compile("((?:%[0-9A-F]{2})+)")


def _escape(level: str) -> str:
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), level) or _EMPTY


def _unescape(token: str) -> str:
    if token == _EMPTY:
        return ""
    if "%" not in token:
        return token
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace("%", "")).decode(), token)


def _kind(name: str) -> str:
    return "$" if name.startswith("$") else "-"


@lru_cache(maxsize=4096)
def topic_subject(root: str, topic: Topic) -> bytes:
    """The subject of a topic under ``root``."""
    namespace, name = topic.namespace, topic.name
    if not _UNSAFE.search(name):
        levels = ".".join(level or _EMPTY for level in name.split("/"))
    else:
        levels = ".".join(map(_escape, name.split("/")))
    return f"fg.{root}.{namespace.user}.{namespace.app}.{_kind(name)}.{levels}.{_END}".encode()


def subject_topic(subject: bytes) -> tuple[str, Topic]:
    """The root and the topic that ``subject`` stands for.

    :raises ProtocolViolation: if :func:`topic_subject` does not make such a subject.
    """
    try:
        _, root, user, app, _, *levels, end = subject.decode().split(".")
        topic = Topic(Namespace(user, app), "/".join(map(_unescape, levels)))
    except ValueError:
        raise ProtocolViolation("a subject is not one of ours") from None
    if end != _END or not levels:
        raise ProtocolViolation("a subject is not one of ours")
    return root, topic


def filter_subject(root: str, namespace: Namespace, filter_: str) -> str:
    """The one subject under ``root`` (``*`` for all of them) that takes in just what a valid ``filter_`` matches."""
    levels = filter_.split("/")
    end = _END
    if levels[-1] == "#":
        levels.pop()
        end = ">"
    tokens = ["*" if level == "+" else _escape(level) for level in levels]
    return ".".join(["fg", root, namespace.user, namespace.app, _kind(filter_), *tokens, end])


def kind_subject(root: str, namespace: Namespace, filter_: str) -> str:
    """The subject that takes in all topics of the kind that ``filter_`` can match: with a leading ``$``, or without."""
    return f"fg.{root}.{namespace.user}.{namespace.app}.{_kind(filter_)}.>"


def namespace_subject(root: str, namespace: Namespace) -> str:
    """The subject that takes in every topic of a namespace."""
    return f"fg.{root}.{namespace.user}.{namespace.app}.>"
