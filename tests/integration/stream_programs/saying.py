"""What all of these programs print."""

from __future__ import annotations

import json
import sys
from typing import Any

PAUSE = 0.05
"""Seconds until a program comes back."""


def asked() -> dict[str, Any]:
    """What the program is told."""
    request: dict[str, Any] = json.loads(sys.argv[1])
    return request


def say(*words: str) -> None:
    print(*words, flush=True)


class Telling:
    """Prints what is received, and knows from where to go on.

    :ivar last: the last cursor that was seen.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self.last: str | None = request.get("since")
        self._left: int = request["count"]

    @property
    def more(self) -> bool:
        """Whether it has not received all that it is to receive."""
        return self._left > 0

    def event(self, kind: str, id_: str | None, data: str) -> None:
        """An event of a stream."""
        if kind == "gap":
            say("gap")
        else:
            self.message(str(id_), json.loads(data)["data"])

    def message(self, id_: str, data: object) -> None:
        self.last = id_
        self._left -= 1
        say("message", id_, json.dumps(data))
