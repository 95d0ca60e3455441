"""What one account may still spend on this node, decided without waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred

from flowgate.allowances import Identity, units_of
from flowgate.billing.account import Account, Lease
from flowgate.billing.charges import Charge, Standing, Tag
from flowgate.billing.plans import Plan
from flowgate.errors import BusUnavailable, InsufficientBalance, LimitReached, Refused

MAX_WAITING: Final = 10_000
"""Messages or runs of one account that may wait for units; more are told to come again."""
MAX_DOUBTS: Final = 1000
"""Messages of one account of which nobody knows whether they are stored, and that are remembered."""
DOUBT_SECONDS: Final = 310.0
"""How long: a little longer than the stream knows a message when it comes again."""

UNCERTAIN_SECONDS: Final = 10.0
"""How long after a message's fate became unknown the stream is looked at: by then it has it, or never will."""

LEAST_LEASE: Final = 10
LEASE_SECONDS: Final = 2.0
"""A lease is what was spent of late in so many seconds, but not less than :data:`LEAST_LEASE` units."""
BELIEVED_SECONDS: Final = 1.0
"""How long a node believes that nothing is left before it looks again."""
_AGAIN_SECONDS: Final = 0.5  # the same of a bus that is away


class Purse:
    """The purse.

    Units are in it (``left``), or in bills that are not settled, or spent; together that is what the account's record
    says that this node was granted.

    :ivar now: tells the clock's seconds.
    :ivar plan: the account's, and of it
    :ivar limited: whether there can be too little left, and
    :ivar price: what a unit published costs, in units.
    :ivar active: whether somebody sees to it that what is spent gets into the record; else it is to be kicked.
    :ivar left: what can be spent.
    :ivar kept: what can be spent once it is known that this node was not taken for dead.
    :ivar closed: what was spent since the last entry in the ledger, without the open tags.
    :ivar untraced: for messages that do not go into the stream of the topics.
    :ivar fresh: whether anything was spent that the record does not know of.
    :ivar used_at: when somebody last asked, in the clock's seconds.
    :ivar deliveries: messages delivered, and
    :ivar seconds: of open connections, since the last entry in the ledger.
    """

    __slots__ = (
        "__weakref__",
        "_asked_at",
        "_credit",
        "_credit_upto",
        "_kick",
        "_number",
        "_refused_until",
        "_serving",
        "_spent_then",
        "active",
        "closed",
        "current",
        "deliveries",
        "doubts",
        "exhausted",
        "fresh",
        "kept",
        "keys",
        "left",
        "limited",
        "mark",
        "node",
        "now",
        "plan",
        "price",
        "seconds",
        "spent",
        "standing",
        "tags",
        "target",
        "untraced",
        "used_at",
        "user",
        "waiting",
    )

    def __init__(
        self,
        user: str,
        node: str,
        plan: Plan,
        now: Callable[[], float],
        kick: Callable[[Purse], None],
        number: Callable[[], int],
    ) -> None:
        """Begin with nothing.

        :param node: the name of this node.
        :param now: the clock's seconds.
        :param number: gives a higher number than ever before on this node.
        :param kick: has the account's record changed soon.
        """
        self.user = user
        self.node = node
        self._follow(plan)
        self.now = now
        self._kick = kick
        self.active = False
        self.left = 0
        self.kept = 0
        self.closed = 0
        self.keys: dict[str, int] = {}
        self.spent = 0
        self.mark = 0
        self.deliveries = 0
        self.seconds = 0.0
        self._number = number
        self.current = self._new_tag()
        self.untraced = Tag(0, "", 0)
        self.tags: dict[int, Tag] = {0: self.untraced, self.current.number: self.current}
        self.waiting: deque[tuple[int, Deferred[None]]] = deque()
        self.doubts: dict[Identity, tuple[Charge, float]] = {}
        self.standing = Standing()
        self.exhausted: type[Refused] | None = None
        self._refused_until = 0.0
        self._serving = False
        self._credit = self._credit_upto = 0  # of bills that were charged when this node was taken for dead
        self.fresh = False
        self.target = LEAST_LEASE
        self._asked_at = now()
        self._spent_then = 0
        self.used_at = now()

    def _follow(self, plan: Plan) -> None:
        self.plan = plan
        self.limited, self.price = plan.limited, plan.publish_price

    def _new_tag(self) -> Tag:
        number = self._number()
        return Tag(number, f"{self.node}.{number}" if self.plan.traced else "", self.mark, self.price)

    # -- what is asked

    @property
    def decided(self) -> bool:
        """Whether it is known that there is nothing to be had but what is left."""
        return self.exhausted is not None and self.now() < self._refused_until

    def ready(self, units: int) -> Deferred[None] | None:
        """See :meth:`Allowance.ready`."""
        if not self.limited:
            return None
        if (not self.waiting or self._serving) and (self.left >= units or self.decided):
            return None
        if len(self.waiting) >= MAX_WAITING:
            return None
        waiting = units, Deferred[None](self._forget)
        self.waiting.append(waiting)
        self._kick(self)
        return waiting[1]

    def _forget(self, cancelled: Deferred[None]) -> None:
        self.waiting = deque(one for one in self.waiting if one[1] is not cancelled)

    def fitting(self, costs: Sequence[int]) -> tuple[int, int]:
        """How many of some messages there is enough for, and what they cost."""
        if not self.limited:
            return len(costs), sum(costs)
        left = self.left
        count = units = 0
        for cost in costs:
            if units + cost > left:
                break
            units += cost
            count += 1
        return count, units

    def give(self, units: int, now: float, traced: bool = True) -> Tag | None:
        """Take units out of the purse as :meth:`hand_out` does, if there is plenty; else nothing happens.

        :param now: the clock's seconds.
        :returns: ``None`` if there is not, or somebody waits, or the account's record has to be changed first.
        """
        if not self.active:
            return None
        if self.limited:
            left = self.left - units
            if left * 2 < self.target or self.waiting:
                return None
            self.left = left
        self.used_at = now
        tag = self.current if traced else self.untraced
        tag.pending += units
        return tag

    def hand_out(self, units: int, traced: bool = True) -> Tag:
        """Take units out of the purse, for a bill.

        :param traced: whether the messages go into the stream of the topics, with what they are tagged with.
        """
        self.used_at = self.now()
        tag = self.current if traced else self.untraced
        tag.pending += units
        if not self.active:
            self._kick(self)
        if self.limited:
            self.left -= units
            if self.left * 2 < self.target and not self.decided:
                self._kick(self)
        return tag

    def refusal(self) -> Refused:
        """Why there is not enough."""
        if self.exhausted is BusUnavailable:
            return BusUnavailable("the account cannot be looked up: the message bus is away")
        standing, plan = self.standing, self.plan
        members: dict[str, Any] = {
            "limit": plan.units,
            "used": self.standing.used + self.closed + sum(tag.held for tag in self.tags.values()),
            "resets_at": standing.resets_at,
        }
        if self.exhausted is None or standing.elsewhere > 0:
            # Other nodes have the rest, and give back what they do not need.
            return LimitReached(
                "the last units of the period are in use elsewhere: try again",
                retry_after=1,
                limit_source="plan",
                transient=True,
                **members,
            )
        if plan.prepaid:
            return InsufficientBalance(
                "the units of the plan are used, and the balance is spent",
                limit_source="balance",
                balance=max(0, self.left),
                **members,
            )
        return LimitReached(
            f"the plan's {plan.units} units of this {plan.period} are used", limit_source="plan", **members
        )

    @property
    def used(self) -> int:
        """Units used in this period, on all nodes, as far as is known here."""
        return self.standing.used + self.closed + sum(tag.spent for tag in self.tags.values())

    @property
    def spent_since_entry(self) -> int:
        """Units spent since the last entry in the ledger."""
        return self.closed + sum(tag.spent for tag in self.tags.values())

    def meter(self, deliveries: int, seconds: float) -> None:
        """Count what clients were sent, and how long their connections were open; it is charged, and never refused."""
        plan = self.plan
        self.deliveries += deliveries
        before = int(self.seconds / 60)
        self.seconds += seconds
        minutes = int(self.seconds / 60) - before
        units = deliveries * plan.delivery_price + minutes * plan.connection_price
        if units:
            self.closed += units
            self.fresh = True

    # -- what becomes of bills

    def pay(self, bill: Charge) -> None:
        """See :meth:`Bill.pay`."""
        units, tag = bill.units, bill.held
        tag.pending -= units
        tag.spent += units
        tag.keys[bill.key] = tag.keys.get(bill.key, 0) + units
        self.spent += units
        self.fresh = True

    def drop(self, bill: Charge) -> None:
        """See :meth:`Bill.drop`."""
        bill.held.pending -= bill.units
        if self.limited:
            self.left += bill.units
            if self.waiting:
                self.serve()

    def doubt(self, bill: Charge, payloads: Sequence[bytes], identities: Sequence[Identity]) -> None:
        """See :meth:`Bill.doubt`.

        Where messages are tagged, it is seen in the stream after a while whether they are there (:meth:`counted`);
        if one comes again before, its answer tells it.
        """
        tag = bill.held
        if not (identities or tag.text):
            self.drop(bill)
            return
        now = self.now()
        tag.pending -= bill.units
        tag.doubtful += bill.units
        tag.doubted_at = now
        self.fresh = True
        for payload, identity in zip(payloads, identities, strict=False):
            units = units_of((payload,)) * tag.price
            self.settle(identity, False)  # that one goes on under the new bill
            self.doubts[identity] = Charge(bill.allowance, bill.key, 1, units, tag), now + DOUBT_SECONDS
        while len(self.doubts) > MAX_DOUBTS:
            self._forget_doubt(next(iter(self.doubts)))

    def _forget_doubt(self, identity: Identity) -> None:
        if self.doubts[identity][0].held.text:
            del self.doubts[identity]  # the stream will tell
        else:
            self.settle(identity, False)

    def settle(self, identity: Identity, duplicate: bool) -> None:
        """See :meth:`Allowance.settle`."""
        doubt = self.doubts.pop(identity, None)
        if doubt is None:
            return
        bill, tag = doubt[0], doubt[0].held
        tag.doubtful -= bill.units
        tag.pending += bill.units
        (self.pay if duplicate else self.drop)(bill)

    def forget_doubts(self) -> None:
        """Let go of messages that will not come again."""
        now = self.now()
        while self.doubts:
            identity, (_, until) = next(iter(self.doubts.items()))
            if until > now:
                break
            self._forget_doubt(identity)

    @property
    def uncertain(self) -> list[Tag]:
        """The tags of which it is to be found out in the stream how much was spent."""
        now = self.now()
        return [
            tag
            for tag in self.tags.values()
            if tag.doubtful and tag.text and now - tag.doubted_at >= UNCERTAIN_SECONDS and not tag.pending
            if tag is not self.current
        ]

    def counted(self, tag: Tag, units: int) -> None:
        """So many units of messages with a tag are in the stream."""
        more = min(max(units - tag.spent, 0), tag.doubtful)
        back, tag.doubtful = tag.doubtful - more, 0
        self.doubts = {identity: doubt for identity, doubt in self.doubts.items() if doubt[0].held is not tag}
        tag.spent += more
        self.spent += more
        self.fresh = True
        if self.limited:
            self.left += back
            self.serve()

    # -- the account's record

    def change(self, plan: Plan) -> None:
        """Go on under another plan."""
        if plan != self.plan:
            self._follow(plan)
            self.current = self._new_tag()
            self.tags[self.current.number] = self.current
            self.target = LEAST_LEASE
            self.exhausted = None
            self._refused_until = 0.0
            self.serve()

    def suspend(self) -> None:
        """Spend nothing before the record was looked at: this node may have been taken for dead."""
        self.kept += self.left
        self.left = 0

    @property
    def short(self) -> bool:
        """Whether more units should be had now."""
        if not self.limited or self.decided:
            return False
        return bool(self.waiting) or self.left * 2 < self.target

    @property
    def pending(self) -> bool:
        """Whether there are bills that are not settled."""
        return any(tag.pending or tag.doubtful for tag in self.tags.values())

    @property
    def granted(self) -> int:
        """What this node holds of the account."""
        return self.left + self.kept + self.closed + sum(tag.held for tag in self.tags.values())

    def wants(self) -> int:
        """How many units should be had beyond those at hand."""
        if not self.limited:
            return 0
        waiting = sum(units for units, _ in self.waiting)
        if not waiting and self.left * 2 >= self.target:
            return 0
        now = self.now()
        seconds = max(now - self._asked_at, 0.1)
        self.target = max(LEAST_LEASE, int((self.spent - self._spent_then) / seconds * LEASE_SECONDS))
        self._asked_at, self._spent_then = now, self.spent
        return max(waiting, self.target) - self.left - self.kept

    def tell(self, lease: Lease) -> None:
        """Write what was spent into the record's lease, and begin another tag."""
        current = self.current
        if current.held or current.mark != self.mark:
            current = self.current = self._new_tag()
            self.tags[current.number] = current
        for number, tag in list(self.tags.items()):
            if tag is self.untraced or (tag is not current and not tag.pending and not tag.doubtful):
                del self.tags[number]
                self.closed += tag.spent - (self._credited(tag.spent) if 0 < number <= self._credit_upto else 0)
                for key, units in tag.keys.items():
                    self.keys[key] = self.keys.get(key, 0) + units
        untraced = self.tags[0] = self.untraced  # it is told of at once: nothing of it is found in the stream
        untraced.spent = 0
        untraced.keys = {}
        if self._credit and all(number > self._credit_upto for number in self.tags if number):
            self._credit = 0
        lease.paid = self._credit
        lease.granted = self.granted
        lease.closed = self.closed
        lease.keys = dict(self.keys)
        lease.tag = current.number
        lease.open = [number for number in self.tags if number not in (0, current.number)]
        lease.mark = min(tag.mark for tag in self.tags.values() if tag is not untraced)

    def charged(self, units: int, keys: dict[str, int]) -> None:
        """Some of what was spent is in the ledger, or on its way there."""
        self.closed -= units
        for key, part in keys.items():
            rest = self.keys.get(key, 0) - part
            if rest > 0:
                self.keys[key] = rest
            else:
                self.keys.pop(key, None)

    def buried(self, units: int) -> None:
        """This node was taken for dead: so much was charged for it, and what it had not spent was given to others.

        It belongs to what was spent under the tags of until now, some of which may not be known here yet.
        """
        self.left = self.kept = 0
        self._credit, self._credit_upto = self._credit + units, self.current.number
        self.closed -= self._credited(self.closed)
        self.current = self._new_tag()
        self.tags[self.current.number] = self.current
        self.keys.clear()

    def _credited(self, units: int) -> int:
        """How much of some units was charged already."""
        paid = min(units, self._credit)
        self._credit -= paid
        return paid

    def learn(self, account: Account, resets_at: str) -> None:
        """Note what the record says, after a change of it by this node."""
        standing = self.standing
        own = account.leases.get(self.node)
        standing.used = account.total() - (0 if own is None else own.closed)
        standing.balance = account.money(self.plan)
        standing.available = account.available(self.plan)
        standing.elsewhere = account.elsewhere(self.node)
        standing.resets_at = resets_at

    def supplied(self, units: int, wanted: int, until: float) -> None:
        """Have what was granted.

        :param wanted: how much was asked for.
        :param until: for how many seconds from now on nothing changes by itself: then another period begins.
        """
        self.left += units + self.kept
        self.kept = 0
        if wanted and units < wanted and not self.standing.available:
            self.exhausted = LimitReached
            self._refused_until = self.now() + min(BELIEVED_SECONDS, max(until, 0.0))
        elif wanted:
            self.exhausted = None
        self.serve()

    def unreachable(self) -> None:
        """The record cannot be read or written now."""
        self.exhausted = BusUnavailable
        self._refused_until = self.now() + _AGAIN_SECONDS
        self.serve()

    def refilled(self) -> None:
        """There may be more than was thought."""
        self._refused_until = 0.0
        if self.waiting:
            self._kick(self)

    def serve(self) -> None:
        """Tell those who wait, as far as there is enough, or it is known that there is not."""
        if self._serving:
            return
        self._serving = True
        try:
            while self.waiting:
                units, waiting = self.waiting[0]
                if self.limited and self.left < units and not self.decided:
                    self._kick(self)
                    if not self.decided:
                        break
                self.waiting.popleft()
                waiting.callback(None)
        finally:
            self._serving = False
