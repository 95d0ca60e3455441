"""What all batches have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from flowgate.queues.model import MAX_BATCH, MAX_BATCH_BYTES
from flowgate.sqs.wire import SqsError

Entry: TypeAlias = Mapping[str, Any]

_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}\Z")


def check_batch(entries: Sequence[Entry], entry: str, size_of: Callable[[], int] | None = None) -> None:
    """Check a batch as a whole, in Amazon's order.

    :param entry: what one is called.
    :param size_of: counts the bytes of its messages.
    :raises SqsError: if there are none or too many, an id is malformed or repeated, or it is too long.
    """
    if not entries:
        raise SqsError("EmptyBatchRequest", f"There should be at least one {entry} in the request.")
    ids = [one["Id"] for one in entries]
    if not all(map(_ENTRY_ID.match, ids)):
        raise SqsError(
            "InvalidBatchEntryId",
            "A batch entry id can only contain alphanumeric characters, hyphens and underscores. "
            "It can be at most 80 letters long.",
        )
    size = 0 if size_of is None else size_of()
    if size > MAX_BATCH_BYTES:
        raise SqsError(
            "BatchRequestTooLong",
            f"Batch requests cannot be longer than {MAX_BATCH_BYTES} bytes. You have sent {size} bytes.",
        )
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        for one in ids:
            if one in seen:
                raise SqsError("BatchEntryIdsNotDistinct", f"Id {one} repeated.")
            seen.add(one)
    if len(entries) > MAX_BATCH:
        raise SqsError(
            "TooManyEntriesInBatchRequest",
            f"Maximum number of entries per request are {MAX_BATCH}. You have sent {len(entries)}.",
        )


def failure(entry: Entry, error: SqsError) -> dict[str, object]:
    """How one entry of a batch is told its error."""
    return {
        "Id": entry["Id"],
        "SenderFault": error.senders_fault,
        "Code": error.code,
        "Message": error.message,
    }
