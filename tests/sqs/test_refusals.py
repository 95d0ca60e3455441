"""Our refusals in SQS's words."""

from __future__ import annotations

from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import BusUnavailable, Internal, InvalidParameter, NotFound, Refused
from flowgate.queues.model import InvalidAttribute
from flowgate.sqs import resource  # everything that can be refused is known then
from flowgate.sqs.refusals import REFUSALS, in_words_of_sqs
from flowgate.sqs.wire import FAULTS


def kinds(of: type[Refused] = Refused) -> Iterator[type[Refused]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


class RefusalTests(SynchronousTestCase):
    """The one table."""

    def test_complete(self) -> None:
        """Every refusal there is has an error of its own or that of what it is derived from."""
        self.assertTrue(resource)
        for kind in kinds():
            if kind.__module__.startswith("flowgate."):
                self.assertTrue(any(one in REFUSALS for one in kind.__mro__), kind)

    def test_errors_are_known(self) -> None:
        for name, _ in REFUSALS.values():
            self.assertIn(name, FAULTS)

    def test_kinds_of_status(self) -> None:
        """Faults of the client and of ours stay apart, so that SDKs repeat what may be repeated."""
        for kind, (name, _) in REFUSALS.items():
            self.assertEqual(kind.status >= 500, FAULTS[name][1] >= 500, kind)

    def test_texts(self) -> None:
        """Amazon's own text, or what the refusal says."""
        self.assertEqual(in_words_of_sqs(NotFound("x")).message, "The specified queue does not exist.")
        self.assertEqual(in_words_of_sqs(InvalidParameter("x is wrong")).message, "x is wrong")
        self.assertEqual(in_words_of_sqs(InvalidAttribute("y")).name, "InvalidParameterValue")
        self.assertEqual(in_words_of_sqs(BusUnavailable()).status, 503)

    def test_nothing_of_the_inside(self) -> None:
        """What went wrong inside is not told."""
        self.assertNotIn("secret", in_words_of_sqs(Internal("secret")).message)
        self.assertNotIn("secret", in_words_of_sqs(Refused("secret")).message)
