"""Sending to queues for those who pay for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        for bill, result in zip(open_bills, [*sent, *[None] * (len(open_bills) - len(sent))], strict=True):
            new = isinstance(result, Sent) and not result.duplicate
            (bill.pay if new else bill.drop)()
    outcomes = iter(sent)
    return [bill if isinstance(bill, Refused) else next(outcomes) for bill in bills]
