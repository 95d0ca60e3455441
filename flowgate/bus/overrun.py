"""Finds out whether the stream has let go of what a consumer had not got to.

A topic loses a message only while the stream holds as many newer ones on it as it may, so whatever a consumer was too
late for is followed by so many others of its topic.  What a consumer says of the number of messages that are still to
come is no help: under load the server counts late.  But where the sequences of the stream follow each other nothing
is missing; and behind a jump it is enough to ask once in a while, for each topic that goes on, whether the stream
still holds the oldest of what came since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from flowgate.bus.names import LIVE, LOG, topic_subject
from flowgate.message import Run

_MOST_TOPICS = 16_384
"""Topics that are counted; when there are more, counting starts anew."""
_SHARE = 16
"""A topic is asked for after so many parts of what the stream holds of it, and may be told late by as much."""

_Key = tuple[str, bool]  # the topic's name, and whether its messages are acknowledged: those are counted apart


def _key(run: Run) -> _Key:
    return run.topic.name, run.qos > 0


@attrs.define(slots=True, eq=False)
class _Count:
    """What came of a topic.

    :ivar place: it has lost nothing up to here.
    :ivar last: the newest that came.
    :ivar messages: how many came behind ``place``.
    """

    place: int
    last: int
    messages: int = 0


@attrs.frozen(slots=True)
class Question:
    """Whether a topic has lost something behind a place."""

    key: _Key
    subject: str
    place: int


class Overrun:
    """What came, by topic, and what is to be asked."""

    __slots__ = ("_due", "_jumped", "_origin", "_quota", "_topics")

    def __init__(self, per_topic: int, place: int) -> None:
        """Begin to count.

        :param per_topic: messages that the stream holds of a topic.
        :param place: nothing is missing up to here.
        """
        self._quota = max(per_topic // _SHARE, 1)
        self._origin = place  # nothing is missing up to here, on any topic
        self._jumped = place  # behind the newest jump
        self._topics: dict[_Key, _Count] = {}
        self._due: dict[_Key, str] = {}

    def note(self, place: int, runs: Sequence[Run]) -> bool:
        """Take note of what came behind ``place``.

        :returns: whether there is something to ask before it may be handed out.
        """
        for run in runs:
            last = run.sequences[-1]
            if last - place != run.count:
                self._jumped = last
            if self._jumped > self._origin:
                self._count(run, place, last)
            else:
                self._origin = self._jumped = last
            place = last
        return bool(self._due)

    def _count(self, run: Run, before: int, last: int) -> None:
        key = _key(run)
        count = self._topics.get(key)
        if count is None:
            if len(self._topics) >= _MOST_TOPICS:
                self._topics.clear()
                self._origin = before
            count = self._topics[key] = _Count(self._origin, last)
        count.last = last
        if count.place >= self._jumped:
            count.place = last
            return
        count.messages += run.count
        if count.messages >= self._quota and key not in self._due:
            self._due[key] = topic_subject(LOG if run.qos else LIVE, run.topic).decode()

    def questions(self) -> list[Question]:
        """What is to be asked; it is taken for answered from now on."""
        due, self._due = self._due, {}
        asked: list[Question] = []
        for key, subject in due.items():
            count = self._topics.get(key)
            if count is not None:
                asked.append(Question(key, subject, count.place))
                count.place, count.messages = count.last, 0
        return asked


class Doubts:
    """Topics that may have lost messages."""

    __slots__ = ("_whole",)

    def __init__(self, whole: Mapping[_Key, int]) -> None:
        """Name topics, each with the place from which on it is whole."""
        self._whole = whole

    @classmethod
    def of_answers(cls, questions: Sequence[Question], firsts: Sequence[int]) -> Doubts:
        """What the answers say.

        :param firsts: for each question the oldest sequence on the subject, 0 if the stream could hold more there.
        """
        asked = zip(questions, firsts, strict=True)
        return cls({question.key: first - 1 for question, first in asked if first > question.place})

    def of(self, run: Run) -> int:
        """From where on the topic of ``run`` is whole; 0 if it is not in doubt."""
        return self._whole.get(_key(run), 0)


NO_DOUBTS = Doubts({})
