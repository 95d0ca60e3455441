"""Numbered reports that nodes give each other: what was heard of another node, and whether that is all there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")


class Heard:
    """How much of another node's reports was heard.

    Reports are numbered one by one; each says with which of them the node began to tell everything (its base).

    :ivar since: the first report of those that were heard without a gap.
    :ivar last: the last one.
    :ivar heard: when that was, in the clock's seconds.
    """

    __slots__ = ("base", "heard", "last", "since")

    def __init__(self) -> None:
        self.base = 0
        self.since = 0
        self.last = -1
        self.heard = 0.0

    @property
    def complete(self) -> bool:
        """Whether everything is known that the node has to tell."""
        return self.since <= self.base

    def note(self, number: int, base: int, now: float) -> bool:
        """Hear a report; say whether the node begins with it to tell everything anew."""
        if number != self.last + 1:
            self.since = number
        self.base, self.last, self.heard = base, number, now
        return number == base


def in_parts(items: Iterable[_T], most: int) -> Iterator[list[_T]]:
    """Split what there is to tell, at most so much in one report; one part at least, because silence means death."""
    left = iter(items)
    part = list(islice(left, most))
    while True:
        yield part
        part = list(islice(left, most))
        if not part:
            return
