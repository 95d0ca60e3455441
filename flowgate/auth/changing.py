"""Changing a stored record that other nodes may be changing too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from flowgate.errors import Conflict, NotFound
from flowgate.interfaces import IStore

_ATTEMPTS: Final = 10


class Record(Protocol):
    """A record as bytes."""

    def to_json(self) -> bytes: ...


_R = TypeVar("_R", bound=Record)


async def change(
    store: IStore, bucket: str, key: str, read: Callable[[bytes], _R], make: Callable[[_R], _R], missing: str
) -> tuple[_R, bytes]:
    """Write what ``make`` makes of a record, so that no change of another node gets lost.

    :param read: reads the record.
    :param make: is called again if another node was faster.
    :param missing: what to say if there is none.
    :returns: the new record, and its bytes.
    :raises NotFound: if there is none.
    :raises Conflict: if others were faster each time.
    :raises BusUnavailable: if the bus is away; the change may or may not be stored.
    """
    for attempt in range(_ATTEMPTS):
        entry = await store.get(bucket, key)
        if entry is None:
            raise NotFound(missing)
        record = make(read(entry.value))
        value = record.to_json()
        try:
            await store.put(bucket, key, value, entry.revision)
        except Conflict:
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        return record, value
    raise AssertionError("not reached")
