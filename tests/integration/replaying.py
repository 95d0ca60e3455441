"""Examples of a document held against what really comes.

What cannot be known before (ids, cursors, receipts …) stands in the examples as a made-up value.  Wherever the same
made-up value stands, the same real one has to come: it is learned where it comes first, and put in its place where it
is sent.
"""

from __future__ import annotations

import re
from typing import Any

MADE_UP = frozenset(
    (
        *("id", "message_id", "key", "token", "access_token", "receipt", "sequence", "task", "request_id", "cursor"),
        *("next", "oldest", "x", "y", "kid", "sender", "client", "secret", "link", "period"),
    )
)
"""Members whose values an example makes up."""

TIMES = frozenset(
    (
        *("created_at", "modified_at", "sent_at", "first_received_at", "started_at", "ts", "since", "at"),
        "retry_after_ms",
        "resets_at",
        "from",
        "published_at",
        "signs_from",
        "retired_at",
        "expires_at",
    )
)
"""Members that say when: the real one only has the same form."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")


class Replay:
    """What was learned of real values so far."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def learn(self, made_up: str, real: str) -> None:
        """:raises AssertionError: if the same made-up value stood for another real one."""
        known = self._real.setdefault(made_up, real)
        if known != real:
            raise AssertionError(f"{made_up!r} stood for {known!r}, and now for {real!r}")

    def real(self, value: Any) -> Any:
        """A value of an example as it has to be sent: also inside of a text every made-up value is the real one."""
        if isinstance(value, str):
            for made_up in sorted(self._real, key=len, reverse=True):
                whole = rf"(?<![0-9A-Za-z]){re.escape(made_up)}(?![0-9A-Za-z])"
                value = re.sub(whole, lambda found: self._real[found[0]], value)
            return value
        if isinstance(value, list):
            return [self.real(one) for one in value]
        if isinstance(value, dict):
            return {name: self.real(one) for name, one in value.items()}
        return value

    def check(self, example: Any, real: Any, member: str = "") -> None:
        """:raises AssertionError: if what came is not what the example says."""
        if type(example) is not type(real):
            raise AssertionError(f"{member}: {example!r} in the example, {real!r} came")
        if isinstance(example, dict):
            if example.keys() != real.keys():
                raise AssertionError(f"{member}: {sorted(example)} in the example, {sorted(real)} came")
            for name, value in example.items():
                self.check(value, real[name], name)
        elif isinstance(example, list):
            if len(example) != len(real):
                raise AssertionError(f"{member}: {len(example)} in the example, {len(real)} came: {real!r}")
            for one, other in zip(example, real, strict=True):
                self.check(one, other, member)
        elif member in TIMES:
            if isinstance(real, str) and not _TIME.match(real):
                raise AssertionError(f"{member}: {real!r} is no time")
        elif isinstance(example, str) and example in self._real:
            self.learn(example, real)
        elif self.real(example) != real:
            if member not in MADE_UP or not isinstance(example, str):
                raise AssertionError(f"{member}: {example!r} in the example, {real!r} came")
            self.learn(example, real)
