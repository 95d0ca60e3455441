"""What a consumer was too late for."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.overrun import NO_DOUBTS, Doubts, Overrun, Question
from flowgate.message import Run
from flowgate.topics import Topic
from tests.contracts.topics import SHOP


def run(*sequences: int, name: str = "a", qos: int = 1) -> Run:
    return Run(Topic(SHOP, name), [b"x"] * len(sequences), qos=qos, recorded=True, sequences=sequences)


class OverrunTests(SynchronousTestCase):
    """A stream that keeps 64 messages of a topic: each is asked for after 4."""

    def setUp(self) -> None:
        self.overrun = Overrun(64, 10)

    def questions(self) -> list[tuple[str, int]]:
        asked = self.overrun.questions()
        return [(question.subject.split(".")[1] + question.key[0], question.place) for question in asked]

    def test_without_jumps(self) -> None:
        """Where the sequences follow each other there is nothing to ask, however many they are."""
        place = 10
        for start in range(11, 1000, 10):
            runs = [run(*range(start, start + 5)), run(*range(start + 5, start + 10), name="b")]
            self.assertFalse(self.overrun.note(place, runs))
            place = start + 9
        self.assertEqual(self.questions(), [])

    def test_behind_a_jump(self) -> None:
        """Behind a jump each topic is asked for when so many of its messages have come, once for all of them."""
        self.assertFalse(self.overrun.note(10, [run(11, 12)]))
        self.assertFalse(self.overrun.note(12, [run(20, 21, 22), run(23, name="b")]))
        self.assertTrue(self.overrun.note(23, [run(24, 25)]))
        self.assertEqual(self.questions(), [("loga", 12)])
        self.assertFalse(self.overrun.note(25, [run(26, 27, 28, 29, 30)]))  # no jump since the answer
        self.assertTrue(self.overrun.note(30, [run(32, 33, 34, name="b")]))
        self.assertEqual(self.questions(), [("logb", 12)])

    def test_jump_within_a_run(self) -> None:
        """A jump between the messages of one run is one."""
        self.assertTrue(self.overrun.note(10, [run(11, 12, 13, 99)]))
        self.assertEqual(self.questions(), [("loga", 10)])

    def test_later_jumps(self) -> None:
        """After an answer the next question asks from there on."""
        self.overrun.note(10, [run(20, 21, 22, 23)])
        self.assertEqual(self.questions(), [("loga", 10)])
        self.assertFalse(self.overrun.note(23, [run(24, 25)]))
        self.assertTrue(self.overrun.note(25, [run(30, 31, 32, 33)]))
        self.assertEqual(self.questions(), [("loga", 25)])

    def test_kinds_are_apart(self) -> None:
        """Acknowledged and unacknowledged messages of a topic are limited apart, and counted so."""
        self.assertTrue(self.overrun.note(10, [run(20, 21, 22), run(23, 24, 25, 26, qos=0)]))
        self.assertEqual(self.questions(), [("livea", 10)])

    def test_many_topics(self) -> None:
        """What is counted is bounded; then it starts anew from there."""
        for number in range(20_000):
            self.overrun.note(2 * number + 20, [run(2 * number + 22, name=f"t{number}")])
        self.assertTrue(len(self.overrun._topics) <= 16_384)

    def test_doubts(self) -> None:
        """A topic is in doubt if the stream holds all it may of it, and nothing as old as the place in question."""
        asked = [Question((name, True), name, 10) for name in "abc"]
        doubts = Doubts.of_answers(asked, [10, 11, 0])
        self.assertEqual([doubts.of(run(20, name=name)) for name in "abcd"], [0, 10, 0, 0])
        self.assertEqual(doubts.of(run(20, name="b", qos=0)), 0)
        self.assertEqual(NO_DOUBTS.of(run(20)), 0)
