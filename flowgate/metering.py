"""Counts of what the gateway did, since it started."""

from __future__ import annotations

from collections import Counter


class Meter:
    """Named counters; a label set is part of the name.  Adding is one dictionary operation, made once per run."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, label: str = "", amount: int = 1) -> None:
        """Count ``amount`` more of ``name``, for ``label`` (a protocol, a reason …)."""
        self._counts[name, label] += amount

    def count(self, name: str, label: str = "") -> int:
        """How many of ``name`` for ``label`` there were."""
        return self._counts[name, label]

    def counts(self) -> dict[tuple[str, str], int]:
        """All counters, by name and label."""
        return dict(self._counts)
