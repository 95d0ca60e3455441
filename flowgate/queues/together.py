"""Commands that were given together, so that they share an entry of the log, and what became of each."""

# mypy: disallow-untyped-calls=False
# (Failure has no annotations)
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from flowgate.errors import Refused


def _refusal(failure: Failure) -> Refused:
    failure.trap(Refused)
    assert isinstance(failure.value, Refused)
    return failure.value


async def outcomes(under_way: Iterable[Any]) -> list[Any]:
    """Wait for each.

    :param under_way: Deferreds of commands; what is something else is its own outcome.
    :returns: their results, in order; in the place of one that was refused the refusal.
    """
    waiting = [one.addErrback(_refusal) if isinstance(one, Deferred) else one for one in under_way]
    return [await one if isinstance(one, Deferred) else one for one in waiting]


def raise_if_all(results: Sequence[Any], *kinds: type[Refused]) -> None:
    """:raises Refused: the first, if there is one and all were refused with one of these kinds."""
    for kind in kinds:
        if results and all(isinstance(one, kind) for one in results):
            raise results[0]
