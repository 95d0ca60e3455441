"""Move tasks: the messages of a dead-letter queue go back to where they came from, or elsewhere.

A task is an entry of the store.  The node that began it works at it and says so now and then; if it no longer does,
another node goes on.
"""

# mypy: disallow-untyped-calls=False
# (Failure has no annotations)
from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.auth.permissions import may_move
from flowgate.errors import Conflict, InsufficientScope, NotFound, Refused
from flowgate.interfaces import IStore
from flowgate.queues.directory import Directory
from flowgate.queues.envelope import Envelope
from flowgate.queues.held import Grant, Handout
from flowgate.queues.model import Redrive
from flowgate.queues.moving import Open, origin_of
from flowgate.queues.replica import Replica
from flowgate.topics import Namespace

BUCKET: Final = "FG_REDRIVES"
REMEMBERED: Final = 10
"""Tasks of a queue that are remembered, the running one among them."""

_BEAT_SECONDS: Final = 3.0
_LOST_SECONDS: Final = 12.0
_BLOCKED_SECONDS: Final = 0.5
_ATTEMPTS: Final = 5
_AT_ONCE: Final = 10
_HIDDEN_MS: Final = 7_000  # over before a task is lost, of which was last told some seconds earlier
_RUNNING: Final = ("running", "cancelling")


class RedriveRunning(Conflict):
    code, title = "redrive_running", "The messages of the queue are being moved already"


class _Stopped(Exception):
    """The task is somebody else's now, or is to end."""


@attrs.frozen(slots=True)
class _Task:
    """A task with who works at it.

    :ivar runner: the node.
    :ivar beat: when it last said so, seconds since 1970 UTC.
    :ivar grants: the queues that who began it may use, as grants have them.
    """

    redrive: Redrive
    runner: str
    beat: float
    grants: tuple[str, ...] = ("*",)


def _key(namespace: Namespace, name: str) -> str:
    return f"{namespace.user}.{namespace.app}.{name}"


def _write(tasks: list[_Task]) -> bytes:
    return json.dumps([attrs.asdict(task) for task in tasks], separators=(",", ":")).encode()


def _parse(value: bytes) -> list[_Task]:
    return [
        _Task(Redrive(**one["redrive"]), one["runner"], one["beat"], tuple(one["grants"])) for one in json.loads(value)
    ]


class Redrives:
    """The move tasks of all queues, and the work at those that are this node's."""

    _log = Logger()

    def __init__(
        self, store: IStore, directory: Directory, open_: Open, clock: IReactorTime, now: Callable[[], float]
    ) -> None:
        self._store = store
        self._directory = directory
        self._open = open_
        self._clock = clock
        self._now = now
        self._node = secrets.token_hex(6)
        self._known: dict[str, list[_Task]] = {}
        self._work: dict[str, Deferred[None]] = {}
        self._timer: IDelayedCall | None = None
        self._unwatch: Callable[[], None] | None = None

    def start(self) -> Deferred[None]:
        """Follow the tasks.

        :raises BusUnavailable: through the Deferred.
        """

        async def start() -> None:
            self._unwatch = await self._store.watch(BUCKET, self._changed)
            self._timer = self._clock.callLater(_BEAT_SECONDS, self._look)

        return Deferred.fromCoroutine(start())

    def stop(self) -> None:
        """Work no more; another node goes on."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for work in list(self._work.values()):
            work.cancel()

    def _changed(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._known.pop(key, None)
            return
        try:
            self._known[key] = _parse(value)
        except (ValueError, LookupError, TypeError):
            self._log.warn("the tasks of the queue {key} cannot be read and are passed over", key=key)

    def _look(self) -> None:
        """Take over the tasks of nodes that work no more."""
        self._timer = self._clock.callLater(_BEAT_SECONDS, self._look)
        before = self._now() - _LOST_SECONDS
        for key, tasks in list(self._known.items()):
            for task in tasks:
                if task.redrive.status in _RUNNING and task.beat < before and key not in self._work:
                    user, app, name = key.split(".", 2)
                    self._begin(Namespace(user, app), name, task.redrive.id)

    # -- what a queue's owner asks for

    async def begin(
        self,
        namespace: Namespace,
        name: str,
        destination: str | None,
        max_per_second: int | None,
        grants: Sequence[str],
    ) -> Redrive:
        """Begin to move what a dead-letter queue holds.

        :raises RedriveRunning: if its messages are being moved already.
        """
        replica = await self._open(namespace, name)
        retention = (await self._directory.find(namespace, name)).config.retention
        visible = replica.machine.counts(replica.bus_now(), retention)[0]
        redrive = Redrive(uuid.uuid4().hex, "running", destination, max_per_second, int(self._now() * 1000), 0, visible)

        def add(tasks: list[_Task]) -> list[_Task]:
            if any(task.redrive.status in _RUNNING for task in tasks):
                raise RedriveRunning()
            return [_Task(redrive, self._node, self._now(), tuple(grants)), *tasks][:REMEMBERED]

        await self._edit(_key(namespace, name), add)
        self._begin(namespace, name, redrive.id)
        return redrive

    async def listing(self, namespace: Namespace, name: str) -> list[Redrive]:
        """The tasks of a queue, newest first."""
        entry = await self._store.get(BUCKET, _key(namespace, name))
        return [] if entry is None else [task.redrive for task in _parse(entry.value)]

    async def cancel(self, namespace: Namespace, name: str, id_: str) -> Redrive:
        """End a task.

        :raises NotFound: if there is no such task, or it has come to its end.
        """

        def cancelling(tasks: list[_Task]) -> list[_Task]:
            if not any(task.redrive.id == id_ and task.redrive.status in _RUNNING for task in tasks):
                raise NotFound("there is no such task that is running")
            return [_with(task, id_, status="cancelling") for task in tasks]

        tasks = await self._edit(_key(namespace, name), cancelling)
        return next(task.redrive for task in tasks if task.redrive.id == id_)

    async def forget(self, namespace: Namespace, name: str) -> None:
        """Forget the tasks of a queue that is removed."""
        key = _key(namespace, name)
        if key in self._work:
            self._work[key].cancel()
        await self._store.delete(BUCKET, key)

    async def _edit(self, key: str, edit: Callable[[list[_Task]], list[_Task]]) -> list[_Task]:
        for attempt in range(_ATTEMPTS):
            entry = await self._store.get(BUCKET, key)
            tasks = edit([] if entry is None else _parse(entry.value))
            value = _write(tasks)
            try:
                await self._store.put(BUCKET, key, value, 0 if entry is None else entry.revision)
            except Conflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            self._changed(key, value)
            return tasks
        raise AssertionError("not reached")

    # -- the work

    def _begin(self, namespace: Namespace, name: str, id_: str) -> None:
        key = _key(namespace, name)
        work = self._work[key] = Deferred.fromCoroutine(self._run(namespace, name, id_))

        def ended(result: Any) -> None:
            if self._work.get(key) is work:
                del self._work[key]
            if isinstance(result, Failure) and result.check(Refused, CancelledError, _Stopped) is None:
                self._log.failure("moving the messages of {key} failed", result, key=key)

        work.addBoth(ended)

    async def _run(self, namespace: Namespace, name: str, id_: str) -> None:
        key = _key(namespace, name)
        task = await self._beat(key, id_, 0)
        replica = await self._open(namespace, name)
        retention = (await self._directory.find(namespace, name)).config.retention
        rate = task.redrive.max_per_second
        limit = _AT_ONCE if rate is None else min(_AT_ONCE, rate)
        moved, beaten = 0, self._clock.seconds()
        due = beaten
        failure = ""
        while True:
            now = self._clock.seconds()
            if now - beaten >= _BEAT_SECONDS or self._is_cancelled(key, id_):
                task = await self._beat(key, id_, moved)
                moved, beaten = 0, now
                if task.redrive.status == "cancelling":
                    break
            # Not in line with those who wait for messages of this queue: they would make it look empty.
            handout: Handout = await replica.command("r", limit, _HIDDEN_MS, 0, retention)
            if not handout.grants:
                if not replica.machine.counts(replica.bus_now(), retention)[0]:
                    break
                await deferLater(self._clock, _BLOCKED_SECONDS)  # a FIFO group of which somebody has a message
                continue
            done, failure = await self._move(replica, handout.grants, task)
            moved += done
            if failure:
                break
            if rate is not None:
                now = self._clock.seconds()
                due = max(due, now) + len(handout.grants) / rate
                if due > now:
                    await deferLater(self._clock, due - now)

        def end(tasks: list[_Task]) -> list[_Task]:
            self._own(tasks, id_)
            status = "failed" if failure else "completed"
            return [
                _with(
                    one,
                    id_,
                    status="cancelled" if one.redrive.status == "cancelling" else status,
                    moved=one.redrive.moved + moved,
                    failure=failure,
                )
                for one in tasks
            ]

        await self._edit(key, end)

    async def _move(self, replica: Replica, grants: Sequence[Grant], task: _Task) -> tuple[int, str]:
        """Move messages, as new ones; give back those that follow one that cannot be moved.

        :returns: how many were moved, and why no more, or nothing.
        """
        moved = 0
        try:
            bodies = await replica.fetch(grants)
            for grant, blob in zip(grants, bodies, strict=True):
                if blob is not None:
                    await self._move_one(replica, grant, blob, task)
                moved += 1
        except (Refused, CancelledError) as error:
            for grant in grants[moved:]:
                replica.give_back(grant)
            if isinstance(error, NotFound | InsufficientScope):
                return moved, error.detail
            raise
        return moved, ""

    async def _move_one(self, replica: Replica, grant: Grant, blob: bytes, task: _Task) -> None:
        envelope = Envelope.decode(blob)
        goal = task.redrive.destination or envelope.source
        if goal is None:
            raise NotFound("a message did not come from another queue: name a destination")
        if not may_move(task.grants, replica.name, goal):
            raise InsufficientScope(f"who began the task may not have messages moved to the queue {goal}")
        await self._directory.find(replica.namespace, goal)
        target = await self._open(replica.namespace, goal)
        message = replica.machine.find(grant.place)
        if message is None:
            return
        fresh = attrs.evolve(envelope, id=str(uuid.uuid4()), source=None)
        origin = origin_of(replica, grant.place)
        command = ("s", message.size, 0, envelope.group, None, fresh.id, origin)
        await target.command(*command, blob=fresh.encode())
        await replica.command("d", grant.place, grant.number)

    def _is_cancelled(self, key: str, id_: str) -> bool:
        return any(task.redrive.id == id_ and task.redrive.status == "cancelling" for task in self._known.get(key, ()))

    def _own(self, tasks: list[_Task], id_: str) -> _Task:
        for task in tasks:
            if task.redrive.id == id_ and task.redrive.status in _RUNNING and task.runner == self._node:
                return task
        raise _Stopped

    async def _beat(self, key: str, id_: str, moved: int) -> _Task:
        """Say that this node works at the task; take it over if its node no longer does."""
        now = self._now()

        def beat(tasks: list[_Task]) -> list[_Task]:
            for task in tasks:
                if task.redrive.id == id_ and task.redrive.status in _RUNNING:
                    if task.runner != self._node and task.beat >= now - _LOST_SECONDS:
                        raise _Stopped
                    count = task.redrive.moved + moved
                    return [
                        attrs.evolve(_with(one, id_, moved=count), runner=self._node, beat=now) if one is task else one
                        for one in tasks
                    ]
            raise _Stopped

        tasks = await self._edit(key, beat)
        return self._own(tasks, id_)


def _with(task: _Task, id_: str, **changes: Any) -> _Task:
    if task.redrive.id != id_:
        return task
    return attrs.evolve(task, redrive=attrs.evolve(task.redrive, **changes))
