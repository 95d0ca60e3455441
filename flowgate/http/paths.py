"""Routes by their paths, for the calls that are made often."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

import attrs

from flowgate.http.answers import Route

_PART = re.compile(r"<([a-z_]+)>\Z")


@attrs.define(slots=True)
class _Step:
    """A place in the tree of paths.

    :ivar below: what comes next, by the segment.
    :ivar any: what comes next for every other segment.
    :ivar route: of the path that ends here, or ``None``.
    :ivar names: the names of that path's parts.
    """

    below: dict[bytes, _Step] = attrs.field(factory=dict)
    any: _Step | None = None
    route: Route | None = None
    names: tuple[str, ...] = ()


class Paths:
    """Finds who answers a request, with the parts of its path.

    Klein knows every route, and is asked for all that is not found here: other methods, ``HEAD``, paths with a slash
    at the end, topics.  So a route that is found here is the one that Klein would find, only sooner.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._whole: dict[tuple[bytes, bytes], tuple[Route, dict[str, str]]] = {}
        self._first: dict[bytes, _Step] = {}
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        segments = route.path.split("/")
        parts = [_PART.match(segment) for segment in segments]
        if any("<" in segment and part is None for segment, part in zip(segments, parts, strict=True)):
            return  # what it takes in is not one segment
        step = self._first.setdefault(route.method.encode(), _Step())
        for segment, part in zip(segments, parts, strict=True):
            if part is None:
                step = step.below.setdefault(segment.encode(), _Step())
            else:
                step.any = step.any or _Step()
                step = step.any
        if not any(parts):
            self._whole[route.method.encode(), route.path.encode()] = (route, {})
        step.route = route
        step.names = tuple(part[1] for part in parts if part)

    def find(self, method: bytes, path: bytes) -> tuple[Route, dict[str, str]] | None:
        """The route, and the parts of the path; ``None`` if Klein has to be asked.

        A segment is decoded after the path was divided: an encoded slash is a part of it.
        """
        whole = self._whole.get((method, path))
        if whole is not None:
            return whole
        step = self._first.get(method)
        if step is None:
            return None
        values: list[str] = []
        for segment in path.split(b"/"):
            following = step.below.get(segment)
            if following is None:
                following = step.any
                if following is None or not segment:
                    return None
                try:
                    values.append((unquote_to_bytes(segment) if b"%" in segment else segment).decode())
                except UnicodeDecodeError:
                    return None
            step = following
        if step.route is None:
            return None
        return step.route, dict(zip(step.names, values, strict=True))
