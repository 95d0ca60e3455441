"""Queues, their attributes, tags and permissions."""

from __future__ import annotations

import json
from typing import Any

from tests.sqs.client import ACCOUNT, SqsCase

NAME_RULE = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"


class CreateTests(SqsCase):
    """CreateQueue, DeleteQueue, GetQueueUrl."""

    def invalid(self, code: str, message: str | None = None, name: str = "q", **attributes: str) -> None:
        self.refused(code, "create_queue", message, QueueName=name, Attributes=attributes)

    def test_url(self) -> None:
        """The URL has the host that the client used, and the account."""
        self.assertEqual(self.queue("a_B-1"), f"http://gateway/{ACCOUNT}/a_B-1")
        self.assertEqual(self.sqs.get_queue_url(QueueName="a_B-1")["QueueUrl"], f"http://gateway/{ACCOUNT}/a_B-1")
        other = self.client(self.key, endpoint="http://other:81/sqs")
        self.assertEqual(other.get_queue_url(QueueName="a_B-1")["QueueUrl"], f"http://other:81/sqs/{ACCOUNT}/a_B-1")

    def test_again(self) -> None:
        """What is not sent is not compared; what is sent has to be the same."""
        self.queue(VisibilityTimeout=10, DelaySeconds=3)
        self.queue()
        self.queue(VisibilityTimeout=10)
        text = "A queue already exists with the same name and a different value for attribute(s) VisibilityTimeout."
        self.invalid("QueueAlreadyExists", text, VisibilityTimeout="11", DelaySeconds="3")
        self.assertEqual(self.last.json()["__type"], "com.amazonaws.sqs#QueueNameExists")

    def test_again_with_what_is_only_kept(self) -> None:
        self.queue(KmsMasterKeyId="k")
        self.sqs.add_permission(QueueUrl="q", Label="l", AWSAccountIds=[ACCOUNT], Actions=["*"])
        self.queue(KmsMasterKeyId="k")
        self.invalid("QueueAlreadyExists", KmsMasterKeyId="other")

    def test_names(self) -> None:
        for name in ("", "x" * 81, "/my/test", "ä", "a.b", "a.fifo.fifo"):
            self.invalid("InvalidParameterValue", NAME_RULE, name)

    def test_fifo_names(self) -> None:
        """A FIFO queue has both, the attribute and the ending."""
        self.invalid("InvalidParameterValue", None, "q", FifoQueue="true")
        self.invalid("InvalidParameterValue", NAME_RULE, "q.fifo")
        self.invalid("InvalidParameterValue", NAME_RULE, "q.fifo", FifoQueue="false")
        self.invalid("InvalidAttributeValue", None, "q", FifoQueue="tru")
        self.queue("plain", FifoQueue="false")

    def test_delete(self) -> None:
        """A queue goes with its messages; the name can be used again at once."""
        url = self.queue()
        self.send(url, "x")
        self.sqs.delete_queue(QueueUrl=url)
        gone = ("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")
        self.refused(gone[0], "delete_queue", gone[1], QueueUrl=url)
        self.refused(gone[0], "get_queue_url", gone[1], QueueName="q")
        self.assertEqual(self.receive(self.queue()), [])

    def test_purge(self) -> None:
        """All messages go, those in flight too."""
        url = self.queue()
        self.send(url, "a", "b")
        self.receive(url, 1)
        self.sqs.purge_queue(QueueUrl=url)
        self.advance(31)
        self.assertEqual(self.receive(url), [])

    def test_grants(self) -> None:
        """A key uses and sees the queues that it grants."""
        self.queue("mine")
        self.queue("other")
        self.sqs = self.client(self.gateway.key(queues=["mine*"]))
        self.queue("mine-2")
        self.invalid("AccessDenied", name="another")
        self.refused("AccessDenied", "get_queue_url", None, QueueName="other")
        self.refused("AccessDenied", "purge_queue", None, QueueUrl="other")
        urls = self.sqs.list_queues()["QueueUrls"]
        self.assertEqual([url.rpartition("/")[2] for url in urls], ["mine", "mine-2"])

    def test_another_application(self) -> None:
        """Queues belong to an application of a user; others have their own of the same name."""
        self.send(self.queue(), "x")
        self.sqs = self.client(self.gateway.key(app="other"))
        self.assertNotIn("QueueUrls", self.sqs.list_queues())
        self.refused("AWS.SimpleQueueService.NonExistentQueue", "receive_message", None, QueueUrl="q")

    def test_tags(self) -> None:
        tags = {"a": "1", "b": ""}
        self.sqs.create_queue(QueueName="q", tags=tags)
        self.assertEqual(self.sqs.list_queue_tags(QueueUrl="q")["Tags"], tags)
        self.sqs.create_queue(QueueName="q", tags=tags)
        self.refused("QueueAlreadyExists", "create_queue", None, QueueName="q", tags={"a": "2"})


class ListTests(SqsCase):
    """ListQueues and ListDeadLetterSourceQueues."""

    def names(self, answer: dict[str, Any], member: str = "QueueUrls") -> list[str]:
        return [url.rpartition("/")[2] for url in answer.get(member, [])]

    def test_none(self) -> None:
        """Without queues there is no list."""
        self.assertNotIn("QueueUrls", self.sqs.list_queues())

    def test_prefix(self) -> None:
        """The prefix is text, and case matters."""
        for name in ("a-1", "a-2", "A-1", "b"):
            self.queue(name)
        self.assertEqual(self.names(self.sqs.list_queues(QueueNamePrefix="a-")), ["a-1", "a-2"])
        self.assertEqual(self.names(self.sqs.list_queues(QueueNamePrefix="a.*")), [])

    def test_pages(self) -> None:
        """There are pages if their size is given."""
        for number in range(5):
            self.queue(f"q{number}")
        paginator = self.sqs.get_paginator("list_queues")
        pages = list(paginator.paginate(PaginationConfig={"PageSize": 2}))
        self.assertEqual([self.names(page) for page in pages], [["q0", "q1"], ["q2", "q3"], ["q4"]])
        self.assertNotIn("NextToken", self.sqs.list_queues())
        self.assertNotIn("NextToken", self.sqs.list_queues(MaxResults=5))

    def test_bad_pages(self) -> None:
        self.refused("InvalidParameterValue", "list_queues", None, MaxResults=0)
        self.refused("InvalidParameterValue", "list_queues", None, MaxResults=1001)
        for token in ("ä", "x", "=", "/w=="):
            self.refused("InvalidParameterValue", "list_queues", None, MaxResults=1, NextToken=token)

    def test_sources(self) -> None:
        """The queues that have this one for their dead letters; an empty list if there are none."""
        dead = self.queue("dead")
        self.assertEqual(self.sqs.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"], [])
        policy = json.dumps({"deadLetterTargetArn": self.arn(dead), "maxReceiveCount": 1})
        for name in ("a", "b", "c"):
            self.queue(name, RedrivePolicy=policy)
        paginator = self.sqs.get_paginator("list_dead_letter_source_queues")
        pages = paginator.paginate(QueueUrl=dead, PaginationConfig={"PageSize": 2})
        self.assertEqual([self.names(page, "queueUrls") for page in pages], [["a", "b"], ["c"]])
        none = "AWS.SimpleQueueService.NonExistentQueue"
        self.refused(none, "list_dead_letter_source_queues", None, QueueUrl="none")


class AttributeTests(SqsCase):
    """GetQueueAttributes and SetQueueAttributes."""

    def set(self, url: str, **attributes: str) -> None:
        self.sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)

    def invalid(self, code: str, message: str | None = None, url: str = "q", **attributes: str) -> None:
        before = self.attributes(url)
        self.refused(code, "set_queue_attributes", message, QueueUrl=url, Attributes=attributes)
        self.assertEqual(self.attributes(url), before)

    def test_defaults(self) -> None:
        """All attributes of a new standard queue."""
        shown = self.attributes(self.queue())
        created = shown.pop("CreatedTimestamp")
        self.assertEqual(shown.pop("LastModifiedTimestamp"), created)
        self.assertTrue(created.isdigit())
        self.assertEqual(
            shown,
            {
                "ApproximateNumberOfMessages": "0",
                "ApproximateNumberOfMessagesDelayed": "0",
                "ApproximateNumberOfMessagesNotVisible": "0",
                "DelaySeconds": "0",
                "MaximumMessageSize": "1048576",
                "MessageRetentionPeriod": "345600",
                "QueueArn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:q",
                "ReceiveMessageWaitTimeSeconds": "0",
                "SqsManagedSseEnabled": "true",
                "VisibilityTimeout": "30",
            },
        )

    def test_fifo(self) -> None:
        """A FIFO queue has four more."""
        shown = self.attributes(self.queue("q.fifo"))
        self.assertEqual(
            {name: shown.get(name) for name in ("FifoQueue", "ContentBasedDeduplication")},
            {"FifoQueue": "true", "ContentBasedDeduplication": "false"},
        )
        self.assertEqual((shown["DeduplicationScope"], shown["FifoThroughputLimit"]), ("queue", "perQueue"))
        self.set("q.fifo", DeduplicationScope="messageGroup", FifoThroughputLimit="perMessageGroupId")
        shown = self.attributes("q.fifo")
        self.assertEqual(
            (shown["DeduplicationScope"], shown["FifoThroughputLimit"]), ("messageGroup", "perMessageGroupId")
        )

    def test_counts(self) -> None:
        """Messages are counted exactly and at once."""
        url = self.queue()
        self.send(url, "1", "2", "3")
        self.send(url, "4", DelaySeconds=10)
        self.receive(url, 1)
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        self.assertEqual(self.attributes(url, *names), dict(zip(names, ("2", "1", "1"), strict=True)))

    def test_only_those_asked_for(self) -> None:
        url = self.queue()
        self.assertEqual(self.attributes(url, "VisibilityTimeout"), {"VisibilityTimeout": "30"})
        self.assertNotIn("Attributes", self.sqs.get_queue_attributes(QueueUrl=url))
        self.assertNotIn("Attributes", self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["KmsMasterKeyId"]))

    def test_unknown(self) -> None:
        self.queue()
        for name in ("Nonsense", ""):
            text = f"Unknown Attribute {name}."
            self.refused("InvalidAttributeName", "get_queue_attributes", text, QueueUrl="q", AttributeNames=[name])
        for name in ("Nonsense", "QueueArn", "ApproximateNumberOfMessages", "All"):
            self.invalid("InvalidAttributeName", f"Unknown Attribute {name}.", **{name: "1"})

    def test_set(self) -> None:
        url = self.queue()
        changes = {
            "VisibilityTimeout": "0",
            "DelaySeconds": "900",
            "MaximumMessageSize": "1024",
            "MessageRetentionPeriod": "60",
            "ReceiveMessageWaitTimeSeconds": "20",
        }
        self.set(url, **changes)
        self.assertEqual(self.attributes(url, *changes), changes)

    def test_ranges(self) -> None:
        self.queue()
        for name, wrong in (
            ("VisibilityTimeout", ("43201", "-1", "x", "", "1.5", "²", "True")),
            ("DelaySeconds", ("901",)),
            ("MaximumMessageSize", ("1023", "1048577")),
            ("MessageRetentionPeriod", ("59", "1209601", "9" * 30)),
            ("ReceiveMessageWaitTimeSeconds", ("21",)),
            ("KmsDataKeyReusePeriodSeconds", ("59", "86401", "x")),
            ("SqsManagedSseEnabled", ("yes", "")),
            ("Policy", ("{", "[]", "1")),
        ):
            for text in wrong:
                self.invalid("InvalidAttributeValue", f"Invalid value for the parameter {name}.", **{name: text})

    def test_fifo_only(self) -> None:
        """What only FIFO queues have is not known on others, but for values that mean nothing."""
        url = self.queue(ContentBasedDeduplication="false")
        self.invalid(
            "InvalidAttributeName", "Unknown Attribute ContentBasedDeduplication.", ContentBasedDeduplication="true"
        )
        self.invalid("InvalidAttributeName", None, DeduplicationScope="messageGroup")
        self.assertNotIn("ContentBasedDeduplication", self.attributes(url))

    def test_kind_of_queue(self) -> None:
        """A queue stays what it is."""
        self.queue("q.fifo")
        self.set("q.fifo", FifoQueue="true")
        self.invalid("InvalidAttributeValue", None, "q.fifo", FifoQueue="false")
        self.invalid("InvalidParameterValue", None, "q.fifo", FifoThroughputLimit="perMessageGroupId")
        self.invalid("InvalidAttributeValue", None, "q.fifo", DeduplicationScope="other")

    def test_kms(self) -> None:
        """Encryption is kept and shown, and removed by an empty text."""
        url = self.queue(KmsMasterKeyId="alias/k", KmsDataKeyReusePeriodSeconds="600")
        shown = self.attributes(url)
        self.assertEqual((shown["KmsMasterKeyId"], shown["KmsDataKeyReusePeriodSeconds"]), ("alias/k", "600"))
        self.assertEqual(shown["SqsManagedSseEnabled"], "false")
        self.set(url, KmsMasterKeyId="")
        self.assertNotIn("KmsMasterKeyId", self.attributes(url))
        self.set(url, SqsManagedSseEnabled="false")
        self.assertEqual(self.attributes(url)["SqsManagedSseEnabled"], "false")

    def test_policy(self) -> None:
        """A policy is kept as it is, and removed by an empty text."""
        policy = '{"Version":"2012-10-17","Statement":[]}'
        url = self.queue(Policy=policy)
        self.assertEqual(self.attributes(url, "Policy"), {"Policy": policy})
        self.set(url, VisibilityTimeout="5")
        self.assertEqual(self.attributes(url, "Policy"), {"Policy": policy})
        self.set(url, Policy="")
        self.assertEqual(self.attributes(url, "Policy"), {})

    def test_no_queue(self) -> None:
        none = "AWS.SimpleQueueService.NonExistentQueue"
        self.refused(none, "get_queue_attributes", None, QueueUrl="none")
        self.refused(none, "set_queue_attributes", None, QueueUrl="none", Attributes={"DelaySeconds": "1"})


class RedrivePolicyTests(SqsCase):
    """RedrivePolicy and RedriveAllowPolicy."""

    def setUp(self) -> None:
        super().setUp()
        self.url = self.queue()
        self.dead = self.arn(self.queue("dead"))

    def set(self, url: str = "q", **attributes: object) -> None:
        given = {name: value if isinstance(value, str) else json.dumps(value) for name, value in attributes.items()}
        self.sqs.set_queue_attributes(QueueUrl=url, Attributes=given)

    def invalid(self, reason: str, policy: object, url: str = "q", name: str = "RedrivePolicy") -> None:
        text = policy if isinstance(policy, str) else json.dumps(policy)
        message = f"Value {text} for parameter {name} is invalid. Reason: {reason}" if reason else None
        self.refused("InvalidParameterValue", "set_queue_attributes", message, QueueUrl=url, Attributes={name: text})

    def shown(self, name: str = "RedrivePolicy", url: str = "q") -> Any:
        text = self.attributes(url, name).get(name)
        return None if text is None else json.loads(text)

    def test_set_and_removed(self) -> None:
        """The count may be a text; it is shown as a number.  An empty policy removes it."""
        for count in (5, "5"):
            self.set(RedrivePolicy={"deadLetterTargetArn": self.dead, "maxReceiveCount": count})
            self.assertEqual(self.shown(), {"deadLetterTargetArn": self.dead, "maxReceiveCount": 5})
        for empty in ("", "{}"):
            self.set(RedrivePolicy=empty)
            self.assertIsNone(self.shown())
            self.set(RedrivePolicy={"deadLetterTargetArn": self.dead, "maxReceiveCount": 5})

    def test_wrong(self) -> None:
        self.invalid("It is not a valid JSON map.", "{")
        self.invalid("It is not a valid JSON map.", "[1]")
        self.invalid(
            "Redrive policy does not contain mandatory attribute: maxReceiveCount.",
            {"deadLetterTargetArn": self.dead},
        )
        self.invalid(
            "Redrive policy does not contain mandatory attribute: deadLetterTargetArn.", {"maxReceiveCount": 1}
        )
        for count in (0, 1001, "x", True, None, 1.5, [1]):
            self.invalid("", {"deadLetterTargetArn": self.dead, "maxReceiveCount": count})
        good = {"deadLetterTargetArn": self.dead, "maxReceiveCount": 1}
        self.invalid("Redrive policy contains an unknown attribute: other.", {**good, "other": 1})
        self.invalid("Invalid value for deadLetterTargetArn.", {**good, "deadLetterTargetArn": "arn:aws:sns:r:1:q"})
        self.invalid("Dead letter target does not exist.", {**good, "deadLetterTargetArn": f"{self.dead}x"})

    def test_kinds(self) -> None:
        """Both queues are of one kind."""
        self.queue("q.fifo")
        reason = "Dead-letter queue must be same type of queue as the source."
        self.invalid(reason, {"deadLetterTargetArn": self.dead, "maxReceiveCount": 1}, "q.fifo")

    def test_allowed(self) -> None:
        """A dead-letter queue says whose messages it takes."""
        policy = {"deadLetterTargetArn": self.dead, "maxReceiveCount": 1}
        self.assertIsNone(self.shown("RedriveAllowPolicy", "dead"))
        self.set("dead", RedriveAllowPolicy={"redrivePermission": "denyAll"})
        self.assertEqual(self.shown("RedriveAllowPolicy", "dead"), {"redrivePermission": "denyAll"})
        self.invalid("", policy)
        by_queue = {"redrivePermission": "byQueue", "sourceQueueArns": [self.arn(self.url)]}
        self.set("dead", RedriveAllowPolicy=by_queue)
        self.assertEqual(self.shown("RedriveAllowPolicy", "dead"), by_queue)
        self.set(RedrivePolicy=policy)
        self.queue("other")
        self.invalid("", policy, "other")
        self.set("dead", RedriveAllowPolicy={"redrivePermission": "allowAll"})
        self.assertIsNone(self.shown("RedriveAllowPolicy", "dead"))
        self.set("other", RedrivePolicy=policy)

    def test_allowed_wrong(self) -> None:
        arn = self.arn(self.url)
        for wrong in (
            "{",
            {"redrivePermission": "other"},
            {"redrivePermission": "byQueue"},
            {"redrivePermission": "byQueue", "sourceQueueArns": []},
            {"redrivePermission": "byQueue", "sourceQueueArns": [arn] * 11},
            {"redrivePermission": "byQueue", "sourceQueueArns": ["arn:x"]},
            {"redrivePermission": "denyAll", "sourceQueueArns": [arn]},
            {"redrivePermission": ["denyAll"]},
        ):
            self.invalid("", wrong, "dead", "RedriveAllowPolicy")

    def test_grant(self) -> None:
        """Who may not use a queue cannot make it a dead-letter queue."""
        self.sqs = self.client(self.gateway.key(queues=["q"]))
        policy = json.dumps({"deadLetterTargetArn": self.dead, "maxReceiveCount": 1})
        self.refused("AccessDenied", "set_queue_attributes", None, QueueUrl="q", Attributes={"RedrivePolicy": policy})


class TagTests(SqsCase):
    """TagQueue, UntagQueue, ListQueueTags."""

    def setUp(self) -> None:
        super().setUp()
        self.url = self.queue()

    def tags(self) -> dict[str, str]:
        tags: dict[str, str] = self.sqs.list_queue_tags(QueueUrl=self.url).get("Tags", {})
        return tags

    def test_tags(self) -> None:
        """Tags are added, replaced and taken away; one that is not there can be taken away too."""
        self.assertEqual(self.tags(), {})
        self.sqs.tag_queue(QueueUrl=self.url, Tags={"a": "1", "b": "2"})
        self.sqs.tag_queue(QueueUrl=self.url, Tags={"b": "3", "c": ""})
        self.sqs.untag_queue(QueueUrl=self.url, TagKeys=["a", "none"])
        self.assertEqual(self.tags(), {"b": "3", "c": ""})

    def test_none(self) -> None:
        text = "The request must contain the parameter Tags."
        self.refused("MissingParameter", "tag_queue", text, QueueUrl=self.url, Tags={})
        text = "Tag keys must be between 1 and 128 characters in length."
        self.refused("InvalidParameterValue", "untag_queue", text, QueueUrl=self.url, TagKeys=[])

    def test_too_many(self) -> None:
        """Fifty tags in all."""
        self.sqs.tag_queue(QueueUrl=self.url, Tags={str(number): "" for number in range(50)})
        text = "Too many tags added for queue q."
        self.refused("InvalidParameterValue", "tag_queue", text, QueueUrl=self.url, Tags={"x": ""})
        self.assertEqual(len(self.tags()), 50)

    def test_too_long(self) -> None:
        self.refused("InvalidParameterValue", "tag_queue", None, QueueUrl=self.url, Tags={"x" * 129: ""})
        self.refused("InvalidParameterValue", "tag_queue", None, QueueUrl=self.url, Tags={"x": "x" * 257})

    def test_no_queue(self) -> None:
        none = "AWS.SimpleQueueService.NonExistentQueue"
        self.refused(none, "tag_queue", None, QueueUrl="none", Tags={"a": "b"})
        self.refused(none, "untag_queue", None, QueueUrl="none", TagKeys=["a"])
        self.refused(none, "list_queue_tags", None, QueueUrl="none")


class PermissionTests(SqsCase):
    """AddPermission and RemovePermission."""

    def setUp(self) -> None:
        super().setUp()
        self.url = self.queue()

    def add(self, label: str = "l", accounts: tuple[str, ...] = ("111111111111",), *actions: str) -> None:
        self.sqs.add_permission(
            QueueUrl=self.url, Label=label, AWSAccountIds=list(accounts), Actions=list(actions or ("SendMessage",))
        )

    def invalid(self, code: str, message: str, **arguments: Any) -> None:
        given = {"Label": "l", "AWSAccountIds": ["111111111111"], "Actions": ["SendMessage"], **arguments}
        self.refused(code, "add_permission", message, QueueUrl=self.url, **given)

    def policy(self) -> Any:
        text = self.attributes(self.url, "Policy").get("Policy")
        return None if text is None else json.loads(text)

    def test_policy(self) -> None:
        """A permission is a statement of the policy; one value stands alone, several are a list."""
        self.add("one")
        self.add("two", ("111111111111", "222222222222"), "ReceiveMessage", "*")
        arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:q"
        statements = [
            {
                "Sid": "one",
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::111111111111:root"},
                "Action": "SQS:SendMessage",
                "Resource": arn,
            },
            {
                "Sid": "two",
                "Effect": "Allow",
                "Principal": {"AWS": ["arn:aws:iam::111111111111:root", "arn:aws:iam::222222222222:root"]},
                "Action": ["SQS:ReceiveMessage", "SQS:*"],
                "Resource": arn,
            },
        ]
        whole = {"Version": "2012-10-17", "Id": f"{arn}/SQSDefaultPolicy"}
        self.assertEqual(self.policy(), {**whole, "Statement": statements})
        self.sqs.remove_permission(QueueUrl=self.url, Label="one")
        self.assertEqual(self.policy(), {**whole, "Statement": statements[1:]})
        self.sqs.remove_permission(QueueUrl=self.url, Label="two")
        self.assertIsNone(self.policy())

    def test_beside_a_policy(self) -> None:
        """A policy that was set is added to, also one with a single statement."""
        statement = {"Sid": "mine", "Effect": "Allow", "Principal": "*", "Action": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": statement})
        self.sqs.set_queue_attributes(QueueUrl=self.url, Attributes={"Policy": policy})
        self.add("l")
        self.assertEqual([one["Sid"] for one in self.policy()["Statement"]], ["mine", "l"])

    def test_wrong(self) -> None:
        self.add("l")
        self.invalid("InvalidParameterValue", "Value l for parameter Label is invalid. Reason: Already exists.")
        self.invalid(
            "InvalidParameterValue",
            "Value SQS:RemovePermission for parameter ActionName is invalid. "
            "Reason: Only the queue owner is allowed to invoke this action.",
            Actions=["RemovePermission"],
        )
        self.invalid("MissingParameter", "The request must contain the parameter Actions.", Actions=[])
        self.invalid(
            "InvalidParameterValue",
            "Value [] for parameter PrincipalId is invalid. Reason: Unable to verify.",
            AWSAccountIds=[],
        )
        self.invalid("OverLimit", "8 Actions were found, maximum allowed is 7.", Actions=["SendMessage"] * 8)
        self.assertEqual(self.last.status, 403)
        self.invalid(
            "InvalidParameterValue", f"Value a b for parameter Label is invalid. Reason: {NAME_RULE}.", Label="a b"
        )
        self.refused(
            "InvalidParameterValue",
            "remove_permission",
            "Value none for parameter Label is invalid. Reason: can't find label on existing policy.",
            QueueUrl=self.url,
            Label="none",
        )


class SeparateRegionTests(SqsCase):
    """Queues of their own for each region."""

    options = {"separate_regions": True}

    def test_regions(self) -> None:
        """The same name is another queue in another region, and lists show one's own."""
        west = self.client(self.key, "us-west-1")
        self.send(self.queue(), "east")
        url = west.create_queue(QueueName="q")["QueueUrl"]
        self.assertEqual(url, f"http://gateway/{ACCOUNT}/q")
        west.send_message(QueueUrl=url, MessageBody="west")
        self.queue("only-east")
        self.assertEqual(self.bodies("q"), ["east"])
        self.assertEqual(west.receive_message(QueueUrl="q")["Messages"][0]["Body"], "west")
        self.assertEqual(west.list_queues()["QueueUrls"], [url])
        self.assertEqual(west.list_queues(QueueNamePrefix="q")["QueueUrls"], [url])
        self.assertEqual(len(self.sqs.list_queues()["QueueUrls"]), 2)
        arn = west.get_queue_attributes(QueueUrl="q", AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        self.assertEqual(arn, f"arn:aws:sqs:us-west-1:{ACCOUNT}:q")

    def test_dead_letters(self) -> None:
        """A dead-letter queue is one of the same region."""
        dead = self.arn(self.queue("dead"))
        west = self.client(self.key, "us-west-1")
        policy = json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": 1})
        self.sqs = west
        self.refused("InvalidParameterValue", "create_queue", None, QueueName="q", Attributes={"RedrivePolicy": policy})
        west.create_queue(QueueName="dead")
        own = {"deadLetterTargetArn": dead.replace("us-east-1", "us-west-1"), "maxReceiveCount": 1}
        self.queue(RedrivePolicy=json.dumps(own))
        self.assertEqual(json.loads(self.attributes("q")["RedrivePolicy"]), own)
