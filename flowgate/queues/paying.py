"""Sending to queues for those who pay for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

from twisted.internet.defer import Deferred

from flowgate.allowances import Allowance, Bill
from flowgate.errors import Refused
from flowgate.queues.model import Outgoing, Sent


async def send_paid(
    allowance: Allowance,
    messages: Sequence[Outgoing],
    send: Callable[[Sequence[Outgoing]], Deferred[list[Sent | Refused]]],
) -> list[Sent | Refused]:
    """Send as many of several messages as there is leave for; what is stored and was not before is paid for.

    :param send: sends messages; see :meth:`~flowgate.queues.service.Queues.send`.
    :returns: what became of each, in order.
    :raises Refused: what ``send`` raises.
    """
    bodies = [message.body.encode() for message in messages]
    sizes = [len(body) for body in bodies]
    whole = allowance.take_all(len(bodies), max(sizes, default=0), sum(sizes), traced=False)
    if whole is not None:
        return await _send_all(whole, messages, send)
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
    try:
        if open_bills:
            sent = await send(
                [message for message, bill in zip(messages, bills, strict=True) if not isinstance(bill, Refused)]
            )
    finally:
        _settle(open_bills, sent)
    outcomes = iter(sent)
    return [bill if isinstance(bill, Refused) else next(outcomes) for bill in bills]


async def _send_all(
    bill: Bill, messages: Sequence[Outgoing], send: Callable[[Sequence[Outgoing]], Deferred[list[Sent | Refused]]]
) -> list[Sent | Refused]:
    """Send messages that there is one bill for."""
    sent: list[Sent | Refused] = []
    try:
        sent = await send(messages)
    finally:
        if len(sent) == bill.count and all(map(_is_new, sent)):
            bill.pay()
        else:
            _settle(bill.each(), sent)
    return sent


def _settle(bills: Sequence[Bill], sent: Sequence[Sent | Refused]) -> None:
    """Have paid for what is stored and was not before.

    :param sent: what became of the messages, in order; nothing if that is not known.
    """
    for bill, result in zip_longest(bills, sent):
        (bill.pay if result is not None and _is_new(result) else bill.drop)()


def _is_new(result: Sent | Refused) -> bool:
    return isinstance(result, Sent) and not result.duplicate
