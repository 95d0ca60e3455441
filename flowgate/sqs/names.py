"""Queues as SQS clients name them: by URL, by ARN, or just by name."""

from __future__ import annotations

import re
from typing import Final

import attrs

from flowgate.errors import InvalidParameter
from flowgate.queues.model import check_name
from flowgate.sqs.wire import SqsError

NO_QUEUE: Final = "The specified queue does not exist."
"""Word for word what Amazon says, and clients compare."""

BAD_NAME: Final = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"

_ARN = re.compile(r"arn:[a-z-]+:sqs:([a-z0-9-]*):([0-9]*):([^:]+)\Z")
_OF_REGION = re.compile(r"([a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2})__")


def no_queue() -> SqsError:
    return SqsError("QueueDoesNotExist", NO_QUEUE)


@attrs.frozen(slots=True)
class Naming:
    """The ways between the names that clients use and the names of queues.

    Regions are shared, unless told otherwise: a queue is the same in every region that a client believes to be in.
    With separate regions the queue ``q`` of another region than the home region is our queue ``<region>__q``.

    :ivar account: twelve digits, in URLs and ARNs.
    :ivar separate: whether each region has queues of its own.
    :ivar home_region: whose queues have their plain names.
    """

    account: str
    separate: bool = False
    home_region: str = "us-east-1"

    def inside(self, name: str, region: str) -> str:
        """Our name of the queue that a client in ``region`` calls ``name``.

        :raises SqsError: if that cannot be the name of a queue.
        """
        inside = name
        if self.separate:
            if _OF_REGION.match(name):
                raise SqsError("InvalidParameterValue", BAD_NAME)
            if region != self.home_region:
                inside = f"{region}__{name}"
        try:
            check_name(inside)
        except InvalidParameter:
            raise SqsError("InvalidParameterValue", BAD_NAME) from None
        return inside

    def outside(self, inside: str, region: str) -> str | None:
        """What clients in ``region`` call our queue ``inside``; ``None`` if it is not of that region."""
        if not self.separate:
            return inside
        found = _OF_REGION.match(inside)
        if found is None:
            return inside if region == self.home_region else None
        return inside[found.end() :] if found[1] == region else None

    def prefix(self, prefix: str, region: str) -> str:
        """The beginning of our names of those queues whose names begin with ``prefix``."""
        return f"{region}__{prefix}" if self.separate and region != self.home_region else prefix

    def arn(self, inside: str, region: str) -> str:
        return f"arn:aws:sqs:{region}:{self.account}:{self.outside(inside, region) or inside}"

    def url(self, base: str, inside: str, region: str) -> str:
        return f"{base}/{self.account}/{self.outside(inside, region) or inside}"

    def of_url(self, url: str, region: str) -> str:
        """Our name of the queue at ``url``: of any scheme, host and account, or a name alone.

        :raises SqsError: if there cannot be a queue.
        """
        name = url.rstrip("/").rpartition("/")[2]
        try:
            return self.inside(name, region)
        except SqsError:
            raise no_queue() from None

    def of_arn(self, arn: str, region: str) -> str | None:
        """Our name of the queue with this ARN, of any partition, region and account; ``None`` if it is none."""
        if arn.startswith("arn:"):
            found = _ARN.match(arn)
            if found is None or (self.separate and found[1] not in ("", region)):
                return None
            arn = found[3]
        try:
            return self.of_url(arn, region)
        except SqsError:
            return None
