"""Names, filters and the only matcher.

A topic belongs to a :class:`Namespace` (a user's application) and has a name inside it that follows the rules of
MQTT topic names (MQTT 3.1.1 section 4.7).  On the wire a name is *short* (``notifications``) or *full*
(``alice_shop_notifications``); which of the two it is depends on the namespaces in which its sender holds grants.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Generic, TypeVar

import attrs

from flowgate.errors import InvalidParameter, InvalidTopic, TopicTooLong

MAX_NAME_BYTES = 512
"""Longest topic name or filter, in bytes of UTF-8."""

RESERVED = "$SYS"
"""The first level of the topics on which the gateway itself speaks, in every namespace."""

_LABEL = re.compile(r"[a-z0-9-]{1,32}\Z")
_V = TypeVar("_V")


@attrs.frozen(slots=True, cache_hash=True)
class Namespace:
    """The application of a user: the first two parts of a full name."""

    user: str
    app: str

    @classmethod
    def checked(cls, user: str, app: str) -> Namespace:
        """Build a namespace from untrusted text.

        :raises InvalidParameter: if a part is not 1–32 of ``[a-z0-9-]``.
        """
        for kind, label in (("user", user), ("app", app)):
            if not _LABEL.match(label):
                raise InvalidParameter(f"{kind} must be 1 to 32 of a-z, 0-9 and '-'")
        return cls(user, app)

    @property
    def prefix(self) -> str:
        return f"{self.user}_{self.app}_"


@attrs.frozen(slots=True)
class Topic:
    """A topic of one namespace; ``name`` is its short name."""

    namespace: Namespace
    name: str

    def shown(self, full: bool) -> str:
        """The name as a peer that uses full (or short) names sees it."""
        return self.namespace.prefix + self.name if full else self.name


@attrs.frozen(slots=True)
class Resolved:
    """What a name on the wire stands for: a namespace, the rest inside it, and the form it was written in."""

    namespace: Namespace
    rest: str
    full: bool


def resolve(name: str, home: Namespace, granted: Collection[Namespace]) -> Resolved:
    """Find the namespace that ``name`` belongs to.

    A name that begins with the prefix of a namespace in ``granted`` is full, any other is short and belongs to
    ``home``: so no spelling of a name reaches a namespace that was not granted.
    """
    parts = name.split("_", 2)
    if len(parts) == 3:
        namespace = Namespace(parts[0], parts[1])
        if namespace in granted:
            return Resolved(namespace, parts[2], True)
    return Resolved(home, name, False)


def _check_text(text: str, kind: str) -> int:
    """Check what holds for topics and filters; return the size in bytes."""
    if not text:
        raise InvalidTopic(f"the {kind} is empty")  # [MQTT-4.7.3-1]
    if "\0" in text:
        raise InvalidTopic(f"the {kind} contains a null character")  # [MQTT-4.7.3-2]
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise InvalidTopic(f"the {kind} is not valid Unicode") from None  # [MQTT-1.5.3-1]: lone surrogates


def _check_size(size: int, kind: str) -> None:
    if size > MAX_NAME_BYTES:
        raise TopicTooLong(f"the {kind} is longer than {MAX_NAME_BYTES} bytes")


def check_topic(name: str) -> None:
    """Check a topic name.

    :raises InvalidTopic: if it is empty, or contains NUL or a wildcard ([MQTT-3.3.2-2]).
    :raises TopicTooLong: if it is well-formed and longer than :data:`MAX_NAME_BYTES`.
    """
    size = _check_text(name, "topic")
    if "+" in name or "#" in name:
        raise InvalidTopic("a topic to publish to cannot contain the wildcards '+' and '#'")
    _check_size(size, "topic")


def check_filter(text: str) -> None:
    """Check a topic filter.

    :raises InvalidTopic: if it is empty, contains NUL, or misplaces a wildcard ([MQTT-4.7.1-2], [-3]).
    :raises TopicTooLong: if it is well-formed and longer than :data:`MAX_NAME_BYTES`.
    """
    size = _check_text(text, "filter")
    if "+" in text or "#" in text:
        levels = text.split("/")
        for index, level in enumerate(levels):
            if "#" in level and (level != "#" or index != len(levels) - 1):
                raise InvalidTopic("'#' must stand alone in the last level of a filter")
            if "+" in level and level != "+":
                raise InvalidTopic("'+' must stand alone in its level of a filter")
    _check_size(size, "filter")


def is_reserved(text: str) -> bool:
    """Whether a topic is the gateway's own, or a filter reaches such topics ([MQTT-4.7.2-1]: not by a wildcard)."""
    return text == RESERVED or text.startswith(RESERVED + "/")


def has_wildcard(text: str) -> bool:
    return "+" in text or "#" in text


def matches(filter_: str, name: str) -> bool:
    """Whether the topic ``name`` matches ``filter_`` (MQTT 3.1.1 section 4.7)."""
    if name.startswith("$") and filter_[:1] in ("+", "#"):
        return False  # [MQTT-4.7.2-1]
    return covers(filter_, name)


def covers(outer: str, inner: str) -> bool:
    """Whether ``outer`` takes in all that the filter (or topic) ``inner`` can name.

    This is the question of permissions, so a leading wildcard in ``outer`` takes in ``$`` topics too: a grant of
    ``#`` is a grant of the whole namespace.
    """
    outer_levels, inner_levels = outer.split("/"), inner.split("/")
    for index, level in enumerate(outer_levels):
        if level == "#":
            return True  # takes in its parent as well: the loop got here, so all before it agreed
        if index >= len(inner_levels) or inner_levels[index] == "#":
            return False
        if level not in ("+", inner_levels[index]):
            return False
    return len(outer_levels) == len(inner_levels)


def intersection(one: str, other: str) -> str | None:
    """The filter that takes in just what both filters do, as :func:`covers` sees it; ``None`` if that is nothing.

    It may be longer than :data:`MAX_NAME_BYTES`.
    """
    levels: list[str] = []
    ones, others = one.split("/"), other.split("/")
    for index in range(max(len(ones), len(others))):
        # "#" takes in its parent too, so a filter that ends here goes with it.
        if ones[index : index + 1] == ["#"]:
            return "/".join(levels + others[index:])
        if others[index : index + 1] == ["#"]:
            return "/".join(levels + ones[index:])
        if index >= len(ones) or index >= len(others):
            return None
        if ones[index] == "+" or ones[index] == others[index]:
            levels.append(others[index])
        elif others[index] == "+":
            levels.append(ones[index])
        else:
            return None
    return "/".join(levels)


class _Node(Generic[_V]):
    __slots__ = ("below", "children", "here")

    def __init__(self) -> None:
        self.children: dict[str, _Node[_V]] = {}
        self.here: dict[_V, None] = {}  # filters that end at this level, in order of insertion
        self.below: dict[_V, None] = {}  # filters that end in '#' at the next level


class FilterTree(Generic[_V]):
    """Values stored under filters, found by topic name in time that depends on levels, not on the number of filters."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root: _Node[_V] = _Node()

    def add(self, filter_: str, value: _V) -> None:
        node = self._root
        levels = filter_.split("/")
        last = levels.pop()
        for level in levels:
            node = node.children.setdefault(level, _Node())
        if last == "#":
            node.below[value] = None
        else:
            node.children.setdefault(last, _Node()).here[value] = None

    def discard(self, filter_: str, value: _V) -> None:
        """Remove ``value`` from under ``filter_`` if it is there, and the branches that this leaves empty."""
        levels = filter_.split("/")
        below = levels[-1] == "#"
        if below:
            levels.pop()
        path = [self._root]
        for level in levels:
            child = path[-1].children.get(level)
            if child is None:
                return
            path.append(child)
        (path[-1].below if below else path[-1].here).pop(value, None)
        while len(path) > 1:
            node = path.pop()
            if node.children or node.here or node.below:
                return
            del path[-1].children[levels[len(path) - 1]]

    def match(self, name: str) -> Iterator[_V]:
        """Yield the values of every filter that matches the topic ``name``; a value under two filters comes twice."""
        levels = name.split("/")
        last = len(levels)
        # [MQTT-4.7.2-1]: a wildcard in the first level does not match a name that begins with '$'.
        hidden = name.startswith("$")
        stack: list[tuple[_Node[_V], int]] = [(self._root, 0)]
        while stack:
            node, depth = stack.pop()
            wild = depth > 0 or not hidden
            if wild:
                yield from node.below
            if depth == last:
                yield from node.here
                continue
            exact = node.children.get(levels[depth])
            if exact is not None:
                stack.append((exact, depth + 1))
            if wild:
                any_level = node.children.get("+")
                if any_level is not None:
                    stack.append((any_level, depth + 1))

    def __bool__(self) -> bool:
        return bool(self._root.children or self._root.below)
