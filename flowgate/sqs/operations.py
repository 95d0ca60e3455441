"""All operations by their names."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from flowgate.allowances import FREE, Allowance
from flowgate.auth.permissions import Principal
from flowgate.queues.service import Queues
from flowgate.sqs.administration import Administration
from flowgate.sqs.call import Call
from flowgate.sqs.moves import Moves
from flowgate.sqs.receiving import Receiving
from flowgate.sqs.sending import Sending
from flowgate.sqs.wire import OPERATIONS

Perform: TypeAlias = Callable[[Call], Awaitable["Mapping[str, Any] | None"]]


def snake_case(operation: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", operation).lower()


def operations(queues: Queues, allowance: Callable[[Principal], Allowance] = lambda _: FREE) -> dict[str, Perform]:
    """What performs each operation; it gives the result, or ``None`` for an operation without one."""
    rooms = (Sending(queues, allowance), Receiving(queues), Administration(queues), Moves(queues))
    found = {}
    for name in OPERATIONS:
        method = snake_case(name)
        [found[name]] = [getattr(room, method) for room in rooms if hasattr(room, method)]
    return found
