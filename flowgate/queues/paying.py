"""Sending to queues for those who pay for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from flowgate.allowances import Allowance, Bill
from flowgate.errors import Refused
from flowgate.gate import shielded
from flowgate.queues.model import Outgoing, Sent


async def send_paid(
    allowance: Allowance,
    messages: Sequence[Outgoing],
    send: Callable[[Sequence[Outgoing]], Deferred[list[Sent | Refused]]],
) -> list[Sent | Refused]:
    """Send as many of several messages as there is leave for; what is stored and was not before is paid for.

    That is seen to the end although the sender has gone by then: to go at once is no way to send for nothing.

    :param send: sends messages; see :meth:`~flowgate.queues.service.Queues.send`.
    :returns: what became of each, in order.
    :raises Refused: what ``send`` raises.
    """
    bodies = [message.body.encode() for message in messages]
    sizes = [len(body) for body in bodies]
    whole = allowance.take_all(len(bodies), max(sizes, default=0), sum(sizes), traced=False)
    if whole is not None:
        return await shielded(send(messages).addBoth(_settle_all, whole))
    ready = allowance.ready(bodies) if allowance.limited else None
    if ready is not None:
        await ready
    bills: list[Bill | Refused] = []
    for body in bodies:
        try:
            bills.append(allowance.take_untraced(body))
        except Refused as refusal:
            bills.append(refusal)
    open_bills = [bill for bill in bills if not isinstance(bill, Refused)]
    sent: list[Sent | Refused] = []
    if open_bills:
        some = [message for message, bill in zip(messages, bills, strict=True) if not isinstance(bill, Refused)]
        sent = await shielded(send(some).addBoth(_settle, open_bills))
    outcomes = iter(sent)
    return [bill if isinstance(bill, Refused) else next(outcomes) for bill in bills]


_T = TypeVar("_T", list[Sent | Refused], Failure)


def _settle_all(sent: _T, bill: Bill) -> _T:
    """The same for messages that there is one bill for."""
    if not isinstance(sent, Failure) and len(sent) == bill.count and all(map(_is_new, sent)):
        bill.pay()
        return sent
    return _settle(sent, bill.each())


def _settle(sent: _T, bills: Sequence[Bill]) -> _T:
    """Have paid for what is stored and was not before.

    :param sent: what became of the messages, in order.
    """
    for bill, result in zip_longest(bills, () if isinstance(sent, Failure) else sent):
        (bill.pay if result is not None and _is_new(result) else bill.drop)()
    return sent


def _is_new(result: Sent | Refused) -> bool:
    return isinstance(result, Sent) and not result.duplicate
