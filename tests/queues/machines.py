"""A machine that tests drive entry by entry."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flowgate.queues.held import Accepted, Grant, Handout
from flowgate.queues.machine import QueueMachine

SECOND = 1_000_000_000
BEGIN = 1_000_000 * SECOND
HOUR = 3_600_000


class MachineTestCase(SynchronousTestCase):
    """A machine with the entries that it was given."""

    fifo = False

    def setUp(self) -> None:
        self.machine = QueueMachine(self.fifo)
        self.now = BEGIN
        self.entries: list[tuple[int, int, list[Any]]] = []

    def do(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Apply an entry."""
        entry = (len(self.entries) + 1, self.now, [list(one) for one in commands])
        self.entries.append(entry)
        return self.machine.apply(*entry)

    def one(self, *command: Any) -> Any:
        """Apply an entry with one command."""
        (result,) = self.do(command)
        return result

    def send(self, group: str | None = None, delay: int = 0, **more: Any) -> int:
        """Send a message.

        :returns: its place.
        """
        names = ("dedup", "id", "origin", "sent", "receives", "first")
        accepted = self.one("s", 10, delay, group, *[more.get(name) for name in names])
        assert isinstance(accepted, Accepted)
        return accepted.place

    def take(self, limit: int = 10, visibility: int = 30_000, *more: Any) -> list[Grant]:
        """Receive."""
        handout = self.one("r", limit, visibility, *more)
        assert isinstance(handout, Handout)
        return list(handout.grants)

    def places(self, limit: int = 10, visibility: int = 30_000, *more: Any) -> list[int]:
        return [grant.place for grant in self.take(limit, visibility, *more)]

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.now += int(seconds * SECOND)

    def counts(self, retention: int = 345_600) -> tuple[int, int, int]:
        return self.machine.counts(self.now, retention)

    def restarted(self) -> QueueMachine:
        """A machine that begins with a checkpoint of ours and what the log still has to have then."""
        fresh = QueueMachine(self.fifo, self.machine.max_in_flight)
        fresh.restart(self.machine.checkpoint())
        dead = set(self.machine.dead())
        for sequence, time, commands in self.entries:
            if sequence >= self.machine.first and sequence not in dead:
                fresh.apply(sequence, time, [one for one in commands if one[0] == "s"])
        return fresh
