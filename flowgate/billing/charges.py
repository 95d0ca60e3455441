"""What a purse hands out, and what becomes of it."""

from __future__ import annotations

from flowgate.allowances import Allowance, Bill
from flowgate.errors import Refused


class Tag:
    """Some messages of the account: those that were taken between two changes of its record.

    :ivar text: what they carry into the stream; empty if nothing.
    :ivar spent: units of those that are stored.
    :ivar pending: units of those of which that is not known yet, and
    :ivar doubtful: of those of which nobody will say it.
    :ivar doubted_at: when there was the last one of these, in the clock's seconds.
    :ivar price: of a unit published.
    :ivar keys: ``spent`` by API keys.
    """

    __slots__ = ("doubted_at", "doubtful", "keys", "mark", "number", "pending", "price", "spent", "text")

    def __init__(self, number: int, text: str, mark: int, price: int = 1) -> None:
        self.number = number
        self.price = price
        self.text = text
        self.mark = mark
        self.spent = 0
        self.pending = 0
        self.doubtful = 0
        self.doubted_at = 0.0
        self.keys: dict[str, int] = {}

    @property
    def held(self) -> int:
        """All its units."""
        return self.spent + self.pending + self.doubtful


class Charge(Bill):
    """A bill that is paid out of a purse."""

    __slots__ = ("held", "key")

    def __init__(
        self, allowance: Allowance, key: str, count: int, units: int, held: Tag, refusal: Refused | None = None
    ) -> None:
        # As the base class does; its own method would cost as much again, for each read of each publisher.
        self.allowance = allowance
        self.count = count
        self.units = units
        self.refusal = refusal
        self.tag = held.text
        self.key = key
        self.held = held

    @property
    def weight(self) -> int:
        return self.units // self.held.price if self.held.price else 0

    def each(self) -> list[Bill]:
        return [Charge(self.allowance, self.key, 1, self.units // self.count, self.held) for _ in range(self.count)]


class Standing:
    """What the account's record said when it was last read, for answers that cannot wait.

    :ivar used: units that all other nodes have used in this period, and this one up to its last entry in the ledger.
    """

    __slots__ = ("available", "balance", "elsewhere", "resets_at", "used")

    def __init__(self) -> None:
        self.used = 0
        self.balance = 0
        self.available = 0
        self.elsewhere = 0
        self.resets_at = ""
