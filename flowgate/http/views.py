"""What one stream of several filters reads, and which of it its client gets to see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flowgate.gateway import Interest
from flowgate.topics import Namespace, Topic, matches

_CACHED_TOPICS = 1000

ViewKey = tuple[Namespace, str]
"""A namespace, and the first level of its topics where that begins with ``$``, else nothing."""


def common_filter(filters: Iterable[str]) -> str:
    """The narrowest filter that takes in all of ``filters``."""
    first, *others = filters
    for other in others:
        first = _join(first, other)
    return first


def _join(one: str, other: str) -> str:
    if one == other:
        return one
    left, right = one.split("/"), other.split("/")
    levels: list[str] = []
    for a, b in zip(left, right, strict=False):
        if a == "#" or b == "#":
            levels.append("#")
            break
        levels.append(a if a == b else "+")
    else:
        if len(left) != len(right):
            levels.append("#")  # takes in its parent level as well
    return "/".join(levels)


class View:
    """Filters of one namespace that one feed serves, and the form of the name that each topic is shown in.

    :ivar cover: the interest that takes in all of them.
    """

    def __init__(self, interests: Sequence[Interest]) -> None:
        self._interests = interests
        first = interests[0]
        self._forms: dict[str, bool | None] = {}
        self.namespace = first.namespace
        self.cover = Interest(first.namespace, common_filter(one.filter for one in interests), first.full)
        self._single = len(interests) == 1

    def form(self, name: str) -> bool | None:
        """Whether the topic ``name`` is shown in full; ``None`` if it is not shown.

        A topic that matches several filters is shown once, in the form of the first one.
        """
        if self._single:
            return self.cover.full
        if name in self._forms:
            return self._forms[name]
        if len(self._forms) >= _CACHED_TOPICS:
            self._forms.clear()
        form = next((one.full for one in self._interests if matches(one.filter, name)), None)
        self._forms[name] = form
        return form


def _root(name: str) -> str:
    """The first level of a name that wildcards do not reach ([MQTT-4.7.2-1]), else nothing."""
    return name.split("/", 1)[0] if name.startswith("$") else ""


def views(interests: Sequence[Interest]) -> dict[ViewKey, View]:
    """Sort filters into as few views as can each be served by one feed; no topic is in two of them."""
    groups: dict[ViewKey, list[Interest]] = {}
    for interest in interests:
        groups.setdefault((interest.namespace, _root(interest.filter)), []).append(interest)
    return {key: View(group) for key, group in groups.items()}


def view_key(topic: Topic) -> ViewKey:
    """Where :func:`views` has the view of a topic."""
    return topic.namespace, _root(topic.name)
