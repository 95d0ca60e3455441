"""A small model of a queue, slow and plain, that the real one is compared with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import attrs


@attrs.define(eq=False)
class Held:
    """A message that the model holds.

    :ivar visible_at: from when on it may be handed out; seconds, as all times.
    :ivar flying: whether it is hidden because somebody has received it.
    """

    body: str
    group: str
    sent: float
    visible_at: float
    number: int
    flying: bool = False
    receives: int = 0
    taken: float = 0.0


class Model:
    """A queue and its dead-letter queue, as Amazon describes them.

    :ivar dead: bodies that went to the dead-letter queue.
    """

    def __init__(self, fifo: bool, retention: float, max_receives: int) -> None:
        self.fifo = fifo
        self.retention = retention
        self.max_receives = max_receives
        self.held: list[Held] = []
        self.dead: list[str] = []
        self.dedup: dict[str, float] = {}
        self._numbers = 0

    def advance(self, now: float) -> None:
        """Let go of what is too old, as far as it has no influence on what is observed otherwise."""
        self.held = [one for one in self.held if one.sent + self.retention > now]
        for one in self.held:
            if one.visible_at <= now:
                one.flying = False

    def send(self, now: float, body: str, group: str, delay: float, dedup: str | None) -> bool:
        """Take a message, unless it repeats one.

        :returns: whether it was taken.
        """
        if dedup is not None:
            known = self.dedup.get(dedup)
            if known is not None and known + 300 > now:
                return False
            self.dedup[dedup] = now
        self._numbers += 1
        self.held.append(Held(body, group, now, now + delay, self._numbers))
        return True

    def visible(self, now: float) -> list[Held]:
        """What may be handed out, in the order in which it is."""
        self.advance(now)
        visible = [one for one in self.held if one.visible_at <= now]
        if not self.fifo:
            return sorted(visible, key=lambda one: (one.visible_at, one.number))
        blocked = {one.group for one in self.held if one.flying}
        return [one for one in visible if one.group not in blocked]

    def received(self, now: float, limit: int, visibility: float, bodies: Sequence[str], moved: Collection[str]) -> str:
        """Compare what a receive brought with what it has to bring.

        :param moved: what went to the dead-letter queue by it.
        :returns: what is wrong with it, or nothing.
        """
        visible = self.visible(now)
        wrong = (
            self._fifo(visible, limit, bodies, moved) if self.fifo else self._standard(visible, limit, bodies, moved)
        )
        if wrong:
            held = [(one.group, one.body, one.receives) for one in visible]
            return f"{wrong}: received {list(bodies)}, moved {list(moved)}, visible {held}"
        for one in visible:
            if one.body in moved:
                self.held.remove(one)
                self.dead.append(one.body)
            elif one.body in bodies:
                one.receives += 1
                one.taken = now
                one.visible_at = now + visibility
                one.flying = visibility > 0
        return ""

    def _standard(self, visible: list[Held], limit: int, bodies: Sequence[str], moved: Collection[str]) -> str:
        expected: list[str] = []
        dead: list[str] = []
        for one in visible:
            if len(expected) == limit:
                break
            (dead if one.receives >= self.max_receives else expected).append(one.body)
        return "" if (expected, sorted(dead)) == (list(bodies), sorted(moved)) else "not what is due"

    def _fifo(self, visible: list[Held], limit: int, bodies: Sequence[str], moved: Collection[str]) -> str:
        """Each group is handed out from its beginning, and left only if no more is asked for."""
        groups = {one.body: one.group for one in visible}
        if len(bodies) > limit or not {*bodies, *moved} <= set(groups):
            return "not visible"
        for group in dict.fromkeys(groups.values()):
            line = [one for one in visible if one.group == group]
            wanted = [body for body in bodies if groups[body] == group]
            gone = {body for body in moved if groups[body] == group}
            for one in line:
                if not wanted and not gone:
                    if len(bodies) < limit:
                        return "too few"
                    break
                if one.receives >= self.max_receives:
                    if one.body not in gone:
                        return "not moved"
                    gone.remove(one.body)
                elif not wanted or wanted.pop(0) != one.body:
                    return "order"
        return ""

    def find(self, body: str) -> Held | None:
        return next((one for one in self.held if one.body == body), None)

    def counts(self, now: float) -> tuple[int, int, int]:
        """Visible, in flight, delayed."""
        self.advance(now)
        flying = sum(one.flying for one in self.held)
        delayed = sum(not one.flying and one.visible_at > now for one in self.held)
        return len(self.held) - flying - delayed, flying, delayed

    def bodies(self) -> Iterable[str]:
        return (one.body for one in self.held)
