"""Reading a subscription: an asynchronous iterator, the same for every framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar
from weakref import ref

from flowgate.client.driver import Driver
from flowgate.client.streams import State
from flowgate.client.values import Gap, Message

Pending = Callable[[], tuple[Awaitable[None], Callable[[], None]]]
"""Makes what a coroutine of the framework can await, and what ends the waiting, also of one that was cancelled."""

_Self = TypeVar("_Self", bound="Reading")


class Reading:
    """A subscription: an asynchronous iterator of messages, and a context manager that ends it.

    Entering ``async with`` waits until it holds; the iterator alone does not.  It ends too when it is forgotten.
    """

    def __init__(
        self,
        driver: Driver,
        pending: Pending,
        filter_: str,
        since: str | None,
        buffer: int,
        on_gap: Callable[[Gap], None] | None,
    ) -> None:
        self._driver = driver
        self._pending = pending
        self._on_gap = on_gap
        self._stream = driver.session.subscribe(filter_, since, buffer, ref(self))
        driver.turn()

    async def _changed(self) -> None:
        changed, wake = self._pending()
        self._driver.session.wait(self._stream, wake)
        self._driver.turn()
        try:
            await changed
        finally:
            if self._stream.wake is wake:
                self._stream.wake = None

    async def _until_held(self) -> None:
        while self._stream.state in (State.WANTED, State.ASKED):
            await self._changed()
        if self._stream.error is not None and not self._stream.items:
            raise self._stream.error

    def __aiter__(self: _Self) -> _Self:
        return self

    async def __anext__(self) -> Message:
        stream = self._stream
        while True:
            while not stream.items:
                if stream.state is State.ENDED:
                    if stream.error is None:
                        raise StopAsyncIteration
                    raise stream.error
                await self._changed()
            item = self._driver.session.next_of(stream)
            self._driver.turn()
            if isinstance(item, Message):
                return item
            if self._on_gap is None:
                raise item
            self._on_gap(item)

    async def aclose(self) -> None:
        """End the subscription; what was not read yet is dropped."""
        self._driver.session.unsubscribe(self._stream)
        self._driver.turn()

    async def __aenter__(self: _Self) -> _Self:
        try:
            await self._until_held()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
