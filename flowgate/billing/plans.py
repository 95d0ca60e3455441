"""Plans: how much an account may publish in a day or a month, and what happens then."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Final, Literal

import attrs
from twisted.logger import Logger

from flowgate.rates.plan import UNBOUNDED, RateLimits

_log = Logger()

THRESHOLDS: Final = (80, 100)
"""Per cent of a plan's units; who has used so many is told, once in each period."""

MOST_UNITS: Final = 10**15


@attrs.frozen(slots=True)
class Period:
    """A calendar day or month, in UTC.

    :ivar name: such as ``2026-11`` or ``2026-11-26``.
    :ivar start: seconds since 1970 UTC.
    :ivar end: when the next one begins.
    """

    name: str
    start: int
    end: int

    @classmethod
    def at(cls, kind: str, now: float) -> Period:
        """The ``day`` or ``month`` that ``now`` lies in, in seconds since 1970 UTC."""
        moment = datetime.fromtimestamp(now, timezone.utc)
        start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        if kind == "day":
            return cls(f"{start:%Y-%m-%d}", int(start.timestamp()), int((start + timedelta(days=1)).timestamp()))
        start = start.replace(day=1)
        end = (start + timedelta(days=32)).replace(day=1)
        return cls(f"{start:%Y-%m}", int(start.timestamp()), int(end.timestamp()))


@attrs.frozen(slots=True)
class Plan:
    """What belongs to an account.

    :ivar name: empty for the one that holds where no plans are configured: it has no limits, and nothing is sold.
    :ivar units: units of each period, or ``None`` for as many as one likes.
    :ivar period: ``day`` or ``month``.
    :ivar prepaid: whether the balance is spent once the units of the period are used.
    :ivar publish_price: what a unit published costs, in units.
    :ivar delivery_price: what a message delivered costs.
    :ivar connection_price: what a minute of one connection costs.
    :ivar rates: how fast it may go.
    """

    name: str = ""
    units: int | None = None
    period: Literal["day", "month"] = "month"
    prepaid: bool = False
    publish_price: int = 1
    delivery_price: int = 0
    connection_price: int = 0
    rates: RateLimits = UNBOUNDED

    @property
    def limited(self) -> bool:
        """Whether there can be too little left to publish."""
        return self.publish_price > 0 and (self.units is not None or self.prepaid)

    @property
    def traced(self) -> bool:
        """Whether messages carry who pays for them, so that a node that is killed leaves no message unpaid."""
        return bool(self.name)

    def now(self, now: float) -> Period:
        """The period of now."""
        return Period.at(self.period, now)


FREE_PLAN: Final = Plan()

_PRICES: Final = ("publish_price", "delivery_price", "connection_price")
_RATES: Final = {field.name: field.metadata.get("least", 1) for field in attrs.fields(RateLimits)}

MEMBERS: Final = ("units", "period", "prepaid", *_PRICES, *_RATES)
"""The members of a plan in the configuration."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def parse_plan(name: str, table: Mapping[str, object]) -> Plan:
    """Read a plan of the configuration, whose members are all known.

    :raises ValueError: if something is not as it should be; the text says what, without naming the place.
    """
    if not _NAME.match(name):
        raise ValueError("the name of a plan is 1 to 64 of A-Z, a-z, 0-9, '_' and '-'")
    prepaid = table.get("prepaid", False)
    if type(prepaid) is not bool:
        raise ValueError("prepaid must be true or false")
    period = table.get("period", "month")
    if period not in ("day", "month"):
        raise ValueError("period must be day or month")
    units = _whole(table, "units", 0, 0 if prepaid else None)
    prices = {price: _whole(table, price, 0, 1 if price == "publish_price" else 0) or 0 for price in _PRICES}
    rates = {rate: _whole(table, rate, least, None) for rate, least in _RATES.items()}
    return Plan(name, units, "day" if period == "day" else "month", prepaid, **prices, rates=RateLimits(**rates))


def _whole(table: Mapping[str, object], member: str, least: int, default: int | None) -> int | None:
    value = table.get(member, default)
    if value is not default and (type(value) is not int or not least <= value <= MOST_UNITS):
        raise ValueError(f"{member} must be a whole number, {least} or more")
    return default if value is default else int(str(value))


class Plans:
    """All plans, and who has which."""

    def __init__(
        self,
        plans: Mapping[str, Plan] | None = None,
        default: str = "",
        plan_of: Callable[[str], str] = lambda _user: "",
    ) -> None:
        """Know the plans.

        :param default: the name of the one for users without any; empty for one without limits.
        :param plan_of: tells the name of a user's plan; empty for the default.
        """
        self._plans = dict(plans or {})
        self.default = self._plans.get(default, FREE_PLAN)
        self._plan_of = plan_of
        self._unknown: set[str] = set()

    def __iter__(self) -> Iterator[Plan]:
        return iter(self._plans.values())

    def named(self, name: str) -> Plan:
        """The plan of this name; the default one if there is none, which is logged once."""
        if not name:
            return self.default
        plan = self._plans.get(name)
        if plan is None:
            if name not in self._unknown and len(self._unknown) < 1000:
                self._unknown.add(name)
                _log.warn(
                    "there is no plan {plan!r} in the configuration: users who have it get the default plan", plan=name
                )
            return self.default
        return plan

    def of(self, user: str) -> Plan:
        """The plan of a user."""
        return self.named(self._plan_of(user))

    def limits(self, user: str) -> RateLimits:
        """How fast a user may go."""
        return self.of(user).rates
