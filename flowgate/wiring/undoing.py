"""How a stage says what has to be undone when the node stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Undo(Protocol):
    """Takes what is to be done when the node stops; what was taken last is done first."""

    def __call__(self, name: str, step: Callable[[], object]) -> None:
        """Take a step; ``name`` is for the log."""
