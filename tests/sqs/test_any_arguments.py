"""Any arguments: whatever a client sends, it is answered, and never with a fault of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine
from typing import Any, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import Internal, Refused
from flowgate.sqs.attributes import KNOWN
from flowgate.sqs.call import Call
from flowgate.sqs.names import Naming
from flowgate.sqs.operations import operations
from flowgate.sqs.query import read_query, write_xml, write_xml_error
from flowgate.sqs.refusals import in_words_of_sqs
from flowgate.sqs.wire import (
    OPERATIONS,
    List,
    Map,
    Number,
    Shape,
    SqsError,
    Structure,
    read,
    write_json,
    write_json_error,
)
from tests.http_client import HttpClient, principal

ARN = "arn:aws:sqs:us-east-1:123456789012:"
TEXTS = st.one_of(
    st.sampled_from(
        (
            *("", "q", "q.fifo", "dead", "All", ".*", "a", "1", "0", "true", "String", "Binary", "AAE=", "\0", "none"),
            *(f"{ARN}q", f"{ARN}dead", f"{ARN}", "http://h/1/q", "http://h/1/q.fifo", "{}", "[]", "null"),
            f'{{"deadLetterTargetArn":"{ARN}dead","maxReceiveCount":1}}',
            '{"deadLetterTargetArn":[],"maxReceiveCount":{}}',
            '{"redrivePermission":{},"sourceQueueArns":{}}',
            f'{{"redrivePermission":"byQueue","sourceQueueArns":["{ARN}q",1]}}',
            '{"Statement":{"Sid":[]}}',
            '{"Version":1,"Statement":7}',
            "eyJ0YXNrSWQiOiAieCIsICJzb3VyY2VBcm4iOiBbXX0=",
            "Z",
        )
    ),
    st.text(max_size=20),
)
NAMES = st.one_of(st.sampled_from(sorted(KNOWN)), TEXTS)
NUMBERS = st.one_of(st.integers(-2, 25), st.integers(-(10**18), 10**18))


def values(shape: Shape) -> st.SearchStrategy[Any]:
    """Values that have the types of ``shape``."""
    if isinstance(shape, Structure):
        needed = {name: values(of) for name, of in shape.members.items() if name in shape.required}
        optional = {name: values(of) for name, of in shape.members.items() if name not in shape.required}
        return st.fixed_dictionaries(needed, optional=optional)
    if isinstance(shape, List):
        return st.lists(values(shape.of), max_size=3)
    if isinstance(shape, Map):
        return st.dictionaries(NAMES, values(shape.of), max_size=3)
    return NUMBERS if isinstance(shape, Number) else TEXTS


CALLS = st.sampled_from(sorted(set(OPERATIONS))).flatmap(
    lambda name: st.tuples(st.just(name), values(OPERATIONS[name].takes))
)


class AnyArgumentsTests(SynchronousTestCase):
    """Arguments of the right types and strange values."""

    def test_answered(self) -> None:
        """A sequence of calls ends each with a result or an error that can be written in both protocols."""

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(CALLS, max_size=12))
        def check(calls: list[tuple[str, dict[str, Any]]]) -> None:
            site = HttpClient()
            site.clock.advance(1000)
            perform = operations(site.queues)
            naming = Naming("123456789012")
            for name, fifo in (("dead", False), ("q", False), ("q.fifo", True)):
                given_ = {"FifoQueue": "true"} if fifo else {}
                calls.insert(0, ("CreateQueue", {"QueueName": name, "Attributes": given_}))
            for operation, arguments in calls:
                checked = read(arguments, OPERATIONS[operation].takes, "")
                call = Call(principal(), "us-east-1", lambda: "http://h", checked, naming)
                outcome: list[Any] = []
                waiting: Deferred[Any] = ensureDeferred(cast("Coroutine[Any, Any, Any]", perform[operation](call)))
                waiting.addBoth(outcome.append)
                site.clock.pump([1] * 25)
                [result] = outcome
                if isinstance(result, Failure):
                    error = result.value
                    if isinstance(error, Refused):
                        self.assertNotIsInstance(error, Internal)
                        error = in_words_of_sqs(error)
                    if not isinstance(error, SqsError):
                        result.raiseException()
                    self.assertLess(error.status, 500)
                    self.assertTrue(write_json_error(error) and write_xml_error(error, "1"))
                else:
                    self.assertIsInstance(write_json(result), bytes)
                    self.assertTrue(write_xml(operation, result, "1"))
            site.queues.stop()

        check()

    def test_query(self) -> None:
        """Any parameters of the query protocol are read, or refused."""
        parts = st.sampled_from(
            ("QueueUrl", "Attribute", "1", "2", "Name", "Value", "Entries", "SendMessageBatchRequestEntry", "", "Id")
        )
        names = st.lists(parts, min_size=1, max_size=6).map(".".join)

        @settings(max_examples=300, deadline=None)
        @given(st.sampled_from(sorted(set(OPERATIONS))), st.dictionaries(names, TEXTS, max_size=8))
        def check(operation: str, parameters: dict[str, str]) -> None:
            with contextlib.suppress(SqsError):
                read_query(operation, parameters)

        check()
