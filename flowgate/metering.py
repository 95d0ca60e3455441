"""Counts of what the gateway did, since it started."""

from __future__ import annotations


class Count:
    """One counter; whoever counts often keeps it and adds to ``value``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Meter:
    """Named counters; a label is part of the name."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Count] = {}

    def counter(self, name: str, label: str = "") -> Count:
        """The counter of ``name`` for ``label`` (a protocol, a reason …)."""
        return self._counts.setdefault((name, label), Count())

    def add(self, name: str, label: str = "", amount: int = 1) -> None:
        """Count ``amount`` more of ``name`` for ``label``."""
        self.counter(name, label).value += amount

    def count(self, name: str, label: str = "") -> int:
        """How many of ``name`` for ``label`` there were."""
        found = self._counts.get((name, label))
        return 0 if found is None else found.value

    def counts(self) -> dict[tuple[str, str], int]:
        """All counters, by name and label."""
        return {key: count.value for key, count in self._counts.items()}
