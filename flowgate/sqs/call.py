"""One call of an operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from flowgate.auth.permissions import Principal, QueueVerb
from flowgate.sqs.names import Naming
from flowgate.sqs.wire import SqsError, invalid_value
from flowgate.topics import Namespace


@attrs.frozen(slots=True)
class Call:
    """Who calls, and with what.

    :ivar region: that the client believes to be in.
    :ivar base: tells what the URLs of queues begin with: scheme, host, and where the protocol is mounted.
    :ivar arguments: as :func:`flowgate.sqs.wire.read_json` gives them.
    """

    principal: Principal
    region: str
    base: Callable[[], str]
    arguments: Mapping[str, Any]
    naming: Naming

    @property
    def home(self) -> Namespace:
        return self.principal.home

    def denied(self, queue: str) -> SqsError:
        arn = self.naming.arn(queue, self.region)
        return SqsError("AccessDenied", f"Access to the resource {arn} is denied: the API key does not grant it.")

    def permit(self, queue: str, *verbs: QueueVerb) -> str:
        """Return the name of a queue with which one of ``verbs`` is granted; without any: with which anything is.

        :raises SqsError: if not.
        """
        if not self.principal.grants.may_use_queue(queue, *verbs):
            raise self.denied(queue)
        return queue

    def queue(self, *verbs: QueueVerb) -> str:
        """Our name of the queue that is meant.

        :raises SqsError: if there cannot be such a queue, or none of ``verbs`` is granted.
        """
        return self.permit(self.naming.of_url(self.arguments["QueueUrl"], self.region), *verbs)

    def named_queue(self, *verbs: QueueVerb) -> str:
        """Our name of the queue that ``QueueName`` names.

        :raises SqsError: if it cannot be the name of a queue, or none of ``verbs`` is granted.
        """
        return self.permit(self.naming.inside(self.arguments["QueueName"], self.region), *verbs)

    def url(self, queue: str) -> str:
        return self.naming.url(self.base(), queue, self.region)

    def ranged(self, name: str, least: int, most: int, default: int | None, reason: str = "") -> int | None:
        """A number among the arguments.

        :raises SqsError: if it is out of range.
        """
        value: int | None = self.arguments.get(name)
        if value is None:
            return default
        if not least <= value <= most:
            raise invalid_value(value, name, reason or f"Must be between {least} and {most}, if provided.")
        return value
