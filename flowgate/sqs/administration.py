"""The operations on queues as such, and on their tags and permissions."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import attrs

from flowgate.errors import Conflict, NotFound
from flowgate.queues.model import MAX_TAGS, QueueConfig, QueueDescription, is_fifo
from flowgate.queues.service import Queues
from flowgate.sqs.attributes import (
    KNOWN,
    Changes,
    Reader,
    asks_for_counts,
    attribute_of_member,
    shown,
    unknown_attribute,
)
from flowgate.sqs.call import Call
from flowgate.sqs.names import BAD_NAME
from flowgate.sqs.wire import SqsError, invalid_value, missing

MOST_LISTED: Final = 1000
_PAGE: Final = 1000
_MOST_ACTIONS: Final = 7
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,80}\Z")
_ACCOUNT = re.compile(r"[0-9]{12}\Z")
_ACTIONS: Final = frozenset(
    (
        "*",
        "ChangeMessageVisibility",
        "DeleteMessage",
        "GetQueueAttributes",
        "GetQueueUrl",
        "ListDeadLetterSourceQueues",
        "PurgeQueue",
        "ReceiveMessage",
        "SendMessage",
    )
)
_FIFO_NAME: Final = (
    "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with .fifo "
    "suffix and be 1 to 80 in length"
)


def _token_of(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _name_of(token: str) -> str:
    """:raises SqsError: if ``token`` is none of ours."""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise SqsError("InvalidParameterValue", "Invalid or expired next token.") from None


class Administration:
    """Translates between SQS and the queues."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    # -- queues

    async def create_queue(self, call: Call) -> dict[str, object]:
        name, given = call.arguments["QueueName"], call.arguments.get("Attributes", {})
        wants_fifo = given.get("FifoQueue", "").lower() == "true"
        if wants_fifo != is_fifo(name):
            raise SqsError("InvalidParameterValue", _FIFO_NAME if wants_fifo else BAD_NAME)
        name = call.named_queue("manage")
        changes = Reader(call.naming, name, call.region).read(given)
        await self._check_dead_letters(call, name, changes, given)
        existing = None
        if changes.kept:
            with contextlib.suppress(NotFound):
                existing = (await self._queues.describe(call.home, name)).config
        members = changes.on(existing)
        if "tags" in call.arguments:
            members["tags"] = call.arguments["tags"]
        try:
            await self._queues.create(call.home, name, members)
        except Conflict as refused:
            names = ", ".join(map(attribute_of_member, _strings(refused.members.get("differing"))))
            which = f" and a different value for attribute(s) {names}" if names else ""
            raise SqsError("QueueNameExists", f"A queue already exists with the same name{which}.") from None
        return {"QueueUrl": call.url(name)}

    async def _check_dead_letters(self, call: Call, name: str, changes: Changes, given: dict[str, str]) -> None:
        """:raises SqsError: if the dead-letter queue is not there, may not be used, or does not take these."""
        target = changes.members.get("dead_letter")
        if isinstance(target, dict):
            if not call.principal.grants.may_move(name, target["queue"]):
                raise call.denied(target["queue"])
            try:
                await self._queues.describe(call.home, target["queue"])
            except NotFound:
                raise invalid_value(
                    given["RedrivePolicy"][:500], "RedrivePolicy", "Dead letter target does not exist."
                ) from None

    async def delete_queue(self, call: Call) -> None:
        await self._queues.remove(call.home, call.queue("manage"))

    async def purge_queue(self, call: Call) -> None:
        await self._queues.purge(call.home, call.queue("manage"))

    async def get_queue_url(self, call: Call) -> dict[str, object]:
        name = call.named_queue()
        await self._queues.describe(call.home, name)
        return {"QueueUrl": call.url(name)}

    async def list_queues(self, call: Call) -> dict[str, object]:
        prefix = call.naming.prefix(call.arguments.get("QueueNamePrefix", ""), call.region)
        return self._page(call, "QueueUrls", self._names(call, prefix))

    def _names(self, call: Call, prefix: str) -> Iterable[str]:
        after = _name_of(call.arguments["NextToken"]) if call.arguments.get("NextToken") else ""
        while True:
            page = self._queues.listing(call.home, prefix, after, _PAGE)
            for described in page:
                yield described.name
            if len(page) < _PAGE:
                return
            after = page[-1].name

    def _page(self, call: Call, member: str, names: Iterable[str]) -> dict[str, object]:
        """A page of the URLs of those queues that may be used."""
        limit = call.ranged("MaxResults", 1, MOST_LISTED, None)
        most = MOST_LISTED if limit is None else limit
        usable = (
            name
            for name in names
            if call.principal.grants.may_use_queue(name) and call.naming.outside(name, call.region) is not None
        )
        found = list(islice(usable, most + 1))
        answer: dict[str, object] = {}
        if found:
            answer[member] = [call.url(name) for name in found[:most]]
        if limit is not None and len(found) > most:
            answer["NextToken"] = _token_of(found[most - 1])
        return answer

    async def list_dead_letter_source_queues(self, call: Call) -> dict[str, object]:
        name = call.queue("receive", "manage")
        await self._queues.describe(call.home, name)
        after = _name_of(call.arguments["NextToken"]) if call.arguments.get("NextToken") else ""
        sources = self._queues.sources(call.home, name)
        return {"queueUrls": [], **self._page(call, "queueUrls", (one for one in sources if one > after))}

    # -- attributes

    async def get_queue_attributes(self, call: Call) -> dict[str, object]:
        name = call.queue("receive", "manage")
        asked = call.arguments.get("AttributeNames", [])
        described = await self._queues.describe(call.home, name)
        for one in asked:
            if one not in KNOWN and one != "All":
                raise unknown_attribute(one)
        names = frozenset(asked)
        stats = await self._queues.stats(call.home, name) if asks_for_counts(names) else None
        found = shown(described, stats, call.naming, call.region)
        if "All" not in names:
            found = {one: found[one] for one in asked if one in found}
        return {"Attributes": found} if found else {}

    async def set_queue_attributes(self, call: Call) -> None:
        name = call.queue("manage")
        await self._queues.describe(call.home, name)
        given = call.arguments["Attributes"]
        changes = Reader(call.naming, name, call.region).read(given)
        await self._check_dead_letters(call, name, changes, given)
        if changes.members:
            await self._queues.change(call.home, name, changes.members)
        if changes.kept:
            await self._edit(call, name, Changes({}, changes.kept).on)

    async def _edit(self, call: Call, name: str, changes: Callable[[QueueConfig], Mapping[str, object]]) -> None:
        """Change members of a configuration by what they are now.

        :param changes: gives the new ones; called again if somebody else was faster.
        """

        def edit(before: QueueDescription) -> QueueDescription:
            config = QueueConfig.parse(name, changes(before.config), before.config)
            return attrs.evolve(before, config=config)

        await self._queues.edit(call.home, name, edit)

    # -- tags

    async def tag_queue(self, call: Call) -> None:
        name = call.queue("manage")
        await self._queues.describe(call.home, name)
        given = call.arguments["Tags"]
        if not given:
            raise missing("Tags")

        def changes(config: QueueConfig) -> dict[str, object]:
            tags = {**config.tags, **given}
            if len(tags) > MAX_TAGS:
                outside = call.naming.outside(name, call.region)
                raise SqsError("InvalidParameterValue", f"Too many tags added for queue {outside}.")
            return {"tags": tags}

        await self._edit(call, name, changes)

    async def untag_queue(self, call: Call) -> None:
        name = call.queue("manage")
        await self._queues.describe(call.home, name)
        keys = call.arguments["TagKeys"]
        if not keys:
            raise SqsError("InvalidParameterValue", "Tag keys must be between 1 and 128 characters in length.")

        def changes(config: QueueConfig) -> dict[str, object]:
            return {"tags": {key: value for key, value in config.tags.items() if key not in keys}}

        await self._edit(call, name, changes)

    async def list_queue_tags(self, call: Call) -> dict[str, object]:
        tags = (await self._queues.describe(call.home, call.queue("receive", "manage"))).config.tags
        return {"Tags": dict(tags)} if tags else {}

    # -- permissions: kept and shown, but who may do what is a matter of the API key's grants

    async def add_permission(self, call: Call) -> None:
        name = call.queue("manage")
        await self._queues.describe(call.home, name)
        label, actions, accounts = (call.arguments[key] for key in ("Label", "Actions", "AWSAccountIds"))
        if not actions:
            raise missing("Actions")
        if not accounts or not all(map(_ACCOUNT.match, accounts)):
            shown_accounts = json.dumps(accounts)[:200] if accounts else "[]"
            raise invalid_value(shown_accounts, "PrincipalId", "Unable to verify.")
        if len(actions) > _MOST_ACTIONS:
            raise SqsError("OverLimit", f"{len(actions)} Actions were found, maximum allowed is {_MOST_ACTIONS}.")
        for action in actions:
            if action not in _ACTIONS:
                reason = "Only the queue owner is allowed to invoke this action."
                raise invalid_value(f"SQS:{action[:80]}", "ActionName", reason)
        if not _LABEL.match(label):
            raise invalid_value(label[:100], "Label", f"{BAD_NAME}.")
        arn = call.naming.arn(name, call.region)
        statement = {
            "Sid": label,
            "Effect": "Allow",
            "Principal": {"AWS": _one_or_all([f"arn:aws:iam::{account}:root" for account in accounts])},
            "Action": _one_or_all([f"SQS:{action}" for action in actions]),
            "Resource": arn,
        }

        def changes(config: QueueConfig) -> dict[str, object]:
            policy = _policy(config, arn)
            if any(one.get("Sid") == label for one in policy["Statement"]):
                raise invalid_value(label, "Label", "Already exists.")
            policy["Statement"].append(statement)
            return Changes({}, {"Policy": json.dumps(policy)}).on(config)

        await self._edit(call, name, changes)

    async def remove_permission(self, call: Call) -> None:
        name, label = call.queue("manage"), call.arguments["Label"]
        await self._queues.describe(call.home, name)
        arn = call.naming.arn(name, call.region)

        def changes(config: QueueConfig) -> dict[str, object]:
            policy = _policy(config, arn)
            left = [one for one in policy["Statement"] if one.get("Sid") != label]
            if len(left) == len(policy["Statement"]):
                raise invalid_value(label[:100], "Label", "can't find label on existing policy.")
            text = json.dumps({**policy, "Statement": left}) if left else None
            return Changes({}, {"Policy": text}).on(config)

        await self._edit(call, name, changes)


def _policy(config: QueueConfig, arn: str) -> dict[str, Any]:
    """The policy of a queue, with a list of statements that are objects."""
    text = config.aws.get("Policy")
    policy: dict[str, Any] = {"Version": "2012-10-17", "Id": f"{arn}/SQSDefaultPolicy"}
    if text is not None:
        policy.update(json.loads(text))
    statements = policy.get("Statement", [])
    if not isinstance(statements, list):
        statements = [statements]
    policy["Statement"] = [one for one in statements if isinstance(one, dict)]
    return policy


def _one_or_all(texts: Sequence[str]) -> str | Sequence[str]:
    return texts[0] if len(texts) == 1 else texts


def _strings(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else []
