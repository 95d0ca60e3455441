"""The attributes of queues: between SQS's texts and the members of a configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import attrs

from flowgate.errors import InvalidParameter
from flowgate.queues.model import QueueConfig, QueueDescription, QueueStats, is_fifo
from flowgate.sqs.names import Naming
from flowgate.sqs.wire import SqsError, invalid_value

_NUMBERS: Final = {
    "VisibilityTimeout": "visibility",
    "DelaySeconds": "delay",
    "ReceiveMessageWaitTimeSeconds": "receive_wait",
    "MaximumMessageSize": "max_message_bytes",
    "MessageRetentionPeriod": "retention",
}
_CHOICES: Final = {
    "DeduplicationScope": ("dedup_scope", {"queue": "queue", "messageGroup": "group"}),
    "FifoThroughputLimit": ("throughput_limit", {"perQueue": "queue", "perMessageGroupId": "group"}),
}
_PERMISSIONS: Final = {"allowAll": "all", "denyAll": "none"}
_FIFO_ONLY: Final = ("ContentBasedDeduplication", *_CHOICES)
_KEPT: Final = ("Policy", "KmsMasterKeyId", "KmsDataKeyReusePeriodSeconds", "SqsManagedSseEnabled")
"""What is kept and shown, and does nothing here."""
_COUNTS: Final = {
    "ApproximateNumberOfMessages": "visible",
    "ApproximateNumberOfMessagesNotVisible": "in_flight",
    "ApproximateNumberOfMessagesDelayed": "delayed",
}
_REUSE: Final = (60, 86_400)
_FLAGS: Final = {"true": True, "false": False}

WRITABLE: Final = frozenset(
    (*_NUMBERS, *_CHOICES, *_KEPT, "ContentBasedDeduplication", "FifoQueue", "RedrivePolicy", "RedriveAllowPolicy")
)
KNOWN: Final = WRITABLE | frozenset(_COUNTS) | {"QueueArn", "CreatedTimestamp", "LastModifiedTimestamp"}

_MEMBERS: Final = {
    **{member: name for name, member in _NUMBERS.items()},
    **{member: name for name, (member, _) in _CHOICES.items()},
    "content_dedup": "ContentBasedDeduplication",
    "dead_letter": "RedrivePolicy",
    "dead_letter_allow": "RedriveAllowPolicy",
    "tags": "tags",
}


def unknown_attribute(name: str) -> SqsError:
    return SqsError("InvalidAttributeName", f"Unknown Attribute {name}.")


def invalid_attribute(name: str) -> SqsError:
    return SqsError("InvalidAttributeValue", f"Invalid value for the parameter {name}.")


def attribute_of_member(member: str) -> str:
    """What SQS calls a member of a configuration."""
    return _MEMBERS.get(member, member)


@attrs.frozen(slots=True)
class Changes:
    """Attributes as they were sent.

    :ivar members: as :meth:`QueueConfig.parse` reads them.
    :ivar kept: what is kept for Amazon's clients only; ``None`` removes.
    """

    members: dict[str, object]
    kept: dict[str, str | None]

    def on(self, config: QueueConfig | None) -> dict[str, object]:
        """The members, together with what an existing queue has of the same map."""
        if not self.kept:
            return self.members
        kept = {**({} if config is None else config.aws), **self.kept}
        return {**self.members, "aws": {name: text for name, text in kept.items() if text is not None}}


def _json_object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise invalid_value(text[:200], name, "It is not a valid JSON map.")
    return value


def _flag(name: str, text: str) -> bool:
    found = _FLAGS.get(text.lower())
    if found is None:
        raise invalid_attribute(name)
    return found


def _whole(name: str, value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 10):
        raise invalid_attribute(name)
    return int(text)


class Reader:
    """Reads the attributes that a client gives a queue.

    :param name: our name of the queue.
    :param region: of the client.
    """

    def __init__(self, naming: Naming, name: str, region: str) -> None:
        self._naming = naming
        self._name = name
        self._region = region
        self._fifo = is_fifo(name)

    def read(self, given: Mapping[str, str]) -> Changes:
        """Read attributes.

        :raises SqsError: if one is not known, or has no value that it may have.
        """
        changes = Changes({}, {})
        for name, text in given.items():
            if name not in WRITABLE or (
                name in _FIFO_ONLY and not self._fifo and text not in ("false", "queue", "perQueue")
            ):
                raise unknown_attribute(name)
            if name in _KEPT:
                changes.kept[name] = self._kept(name, text)
            elif name == "FifoQueue":
                if _flag(name, text) != self._fifo:
                    raise invalid_attribute(name)
            else:
                member, value = self._member(name, text)
                if self._fifo or name not in _FIFO_ONLY:
                    changes.members[member] = value
        return changes

    def _member(self, name: str, text: str) -> tuple[str, object]:
        if name == "RedrivePolicy":
            return "dead_letter", self._dead_letter(text)
        if name == "RedriveAllowPolicy":
            return "dead_letter_allow", self._dead_letter_allow(text)
        if name == "ContentBasedDeduplication":
            return "content_dedup", _flag(name, text)
        if name in _CHOICES:
            member, choices = _CHOICES[name]
            if text not in choices:
                raise invalid_attribute(name)
            return member, choices[text]
        member, value = _NUMBERS[name], _whole(name, text)
        try:
            QueueConfig.parse(self._name, {member: value})
        except InvalidParameter:
            raise invalid_attribute(name) from None
        return member, value

    def _kept(self, name: str, text: str) -> str | None:
        if name == "SqsManagedSseEnabled":
            return "true" if _flag(name, text) else "false"
        if not text:
            return None
        if name == "Policy":
            try:
                _json_object(name, text)
            except SqsError:
                raise invalid_attribute(name) from None
        elif name == "KmsDataKeyReusePeriodSeconds" and not _REUSE[0] <= _whole(name, text) <= _REUSE[1]:
            raise invalid_attribute(name)
        return text

    def _dead_letter(self, text: str) -> dict[str, object] | None:
        def wrong(reason: str) -> SqsError:
            return invalid_value(text[:500], "RedrivePolicy", reason)

        policy = _json_object("RedrivePolicy", text) if text else {}
        if not policy:
            return None
        for needed in ("deadLetterTargetArn", "maxReceiveCount"):
            if needed not in policy:
                raise wrong(f"Redrive policy does not contain mandatory attribute: {needed}.")
        for name in policy:
            if name not in ("deadLetterTargetArn", "maxReceiveCount"):
                raise wrong(f"Redrive policy contains an unknown attribute: {name[:80]}.")
        queue = self._naming.of_arn(str(policy["deadLetterTargetArn"]), self._region)
        if queue is None:
            raise wrong("Invalid value for deadLetterTargetArn.")
        count = policy["maxReceiveCount"]
        try:
            number = _whole("maxReceiveCount", count)
        except SqsError:
            number = 0
        if not 1 <= number <= 1000:
            raise wrong(
                f"Invalid value for maxReceiveCount: {str(count)[:40]}, valid values are from 1 to 1000 both inclusive."
            )
        if is_fifo(queue) != self._fifo:
            raise wrong("Dead-letter queue must be same type of queue as the source.")
        return {"queue": queue, "max_receives": number}

    def _dead_letter_allow(self, text: str) -> str | list[str] | None:
        policy = _json_object("RedriveAllowPolicy", text) if text else {}
        if not policy:
            return None
        permission, arns = policy.get("redrivePermission"), policy.get("sourceQueueArns")
        if permission == "byQueue" and isinstance(arns, list) and 1 <= len(arns) <= 10:
            queues = [self._naming.of_arn(str(arn), self._region) for arn in arns]
            if None not in queues:
                return [queue for queue in queues if queue is not None]
        elif isinstance(permission, str) and permission in _PERMISSIONS and not arns:
            return _PERMISSIONS[permission]
        raise invalid_value(
            text[:500],
            "RedriveAllowPolicy",
            "It has to be allowAll, denyAll, or byQueue with 1 to 10 ARNs of queues in sourceQueueArns.",
        )


def asks_for_counts(names: frozenset[str]) -> bool:
    """Whether the queue's messages have to be counted for these attributes."""
    return "All" in names or not names.isdisjoint(_COUNTS)


def shown(described: QueueDescription, stats: QueueStats | None, naming: Naming, region: str) -> dict[str, str]:
    """All attributes of a queue.

    :param stats: ``None`` if nobody asks for counts.
    """
    config = described.config
    found = {name: str(getattr(config, member)) for name, member in _NUMBERS.items()}
    if stats is not None:
        found.update((name, str(getattr(stats, count))) for name, count in _COUNTS.items())
    found["QueueArn"] = naming.arn(described.name, region)
    found["CreatedTimestamp"] = str(described.created_at)
    found["LastModifiedTimestamp"] = str(described.modified_at)
    found["SqsManagedSseEnabled"] = "false" if "KmsMasterKeyId" in config.aws else "true"
    found.update(config.aws)
    if "KmsMasterKeyId" in config.aws:
        found.setdefault("KmsDataKeyReusePeriodSeconds", "300")
    else:
        found.pop("KmsDataKeyReusePeriodSeconds", None)
    if config.dead_letter is not None:
        arn = naming.arn(config.dead_letter.queue, region)
        found["RedrivePolicy"] = json.dumps(
            {"deadLetterTargetArn": arn, "maxReceiveCount": config.dead_letter.max_receives}
        )
    allow = config.dead_letter_allow
    if isinstance(allow, tuple):
        arns = [naming.arn(queue, region) for queue in allow]
        found["RedriveAllowPolicy"] = json.dumps({"redrivePermission": "byQueue", "sourceQueueArns": arns})
    elif allow == "none":
        found["RedriveAllowPolicy"] = json.dumps({"redrivePermission": "denyAll"})
    if config.fifo:
        found["FifoQueue"] = "true"
        found["ContentBasedDeduplication"] = "true" if config.content_dedup else "false"
        for name, (member, choices) in _CHOICES.items():
            value = getattr(config, member)
            found[name] = next(text for text, ours in choices.items() if ours == value)
    return found
