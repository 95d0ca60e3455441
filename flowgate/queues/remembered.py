"""What a queue remembers for a while, so that nothing is taken or given twice."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Generic, TypeVar

WINDOW_NS: Final = 300 * 1_000_000_000
"""How long something is remembered, in nanoseconds: 5 minutes."""
ORIGINS: Final = 10_240
"""Blocks of origins that are remembered for any time."""

_BLOCK_BITS: Final = 10
_DIGITS: Final = 18

_V = TypeVar("_V")


class Remembered(Generic[_V]):
    """Values under keys, each for 5 minutes from when it was put; times are nanoseconds, and never go back."""

    __slots__ = ("_known", "_order")

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, _V]] = {}
        self._order: deque[tuple[int, str]] = deque()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str, now: int) -> _V | None:
        """The value under ``key``, if it is remembered."""
        self._prune(now)
        known = self._known.get(key)
        return None if known is None else known[1]

    def put(self, key: str, value: _V, now: int) -> None:
        """Remember a value from now on."""
        self._known[key] = (now, value)
        self._order.append((now, key))

    def replace(self, key: str, value: _V) -> None:
        """Put another value in the place of one that is remembered, for no longer."""
        self._known[key] = (self._known[key][0], value)

    def drop(self, key: str) -> None:
        """Forget what is remembered."""
        del self._known[key]

    def _prune(self, now: int) -> None:
        order, known, oldest = self._order, self._known, now - WINDOW_NS
        while order and order[0][0] <= oldest:
            time, key = order.popleft()
            if key in known and known[key][0] == time:
                del known[key]

    def rows(self, now: int) -> list[tuple[str, tuple[int, _V]]]:
        """What is remembered, as JSON values."""
        self._prune(now)
        return list(self._known.items())

    def recall(self, rows: list[Any]) -> None:
        """Remember what :meth:`rows` said."""
        for key, (time, value) in rows:
            self._known[key] = (time, value)
            self._order.append((time, key))


class Origins:
    """Which messages from elsewhere a queue has taken: those of the last 5 minutes, and the last in any case.

    An origin is ``<place>-<number>``.  Numbers that lie near each other are bits of one block, so however fast the
    messages of a stream come, they need little room.
    """

    __slots__ = ("_blocks", "_order")

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, int], list[int]] = {}  # the bits, and when the last of them was set
        self._order: deque[tuple[int, tuple[str, int]]] = deque()  # each block once

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, origin: str, now: int) -> bool:
        """Remember an origin; say whether it is new."""
        self._prune(now)
        place, dash, number = origin.rpartition("-")
        if dash and number.isdecimal() and len(number) <= _DIGITS:
            at = int(number)
        else:
            place, at = origin, 0
        key, bit = (place, at >> _BLOCK_BITS), 1 << (at & (1 << _BLOCK_BITS) - 1)
        block = self._blocks.get(key)
        if block is None:
            self._blocks[key] = [bit, now]
            self._order.append((now, key))
            return True
        if block[0] & bit:
            return False
        block[0] |= bit
        block[1] = now
        return True

    def _prune(self, now: int) -> None:
        order, blocks, oldest = self._order, self._blocks, now - WINDOW_NS
        while len(blocks) > ORIGINS and order[0][0] <= oldest:
            _, key = order.popleft()
            if blocks[key][1] <= oldest:
                del blocks[key]
            else:
                order.append((blocks[key][1], key))

    def rows(self) -> list[tuple[int, str, int, str, int]]:
        """What is remembered, as JSON values."""
        return [(time, *key, f"{self._blocks[key][0]:x}", self._blocks[key][1]) for time, key in self._order]

    def recall(self, rows: list[Any]) -> None:
        """Remember what :meth:`rows` said."""
        for time, place, number, bits, last in rows:
            self._blocks[place, number] = [int(bits, 16), last]
            self._order.append((time, (place, number)))
