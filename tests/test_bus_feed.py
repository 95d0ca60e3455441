"""The way of one reader through pages to the live end, with every step in the test's hand."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.feed import FEED_MESSAGES, Feed
from flowgate.bus.overrun import Doubts
from flowgate.bus.reading import Page, SubjectSource
from flowgate.bus.stream import StreamSettings, StreamState
from flowgate.errors import BusUnavailable
from flowgate.message import Cursor, Run
from flowgate.topics import Topic
from tests.contracts.topics import SHOP, Reader, numbered

TOPIC = Topic(SHOP, "a")
SUBJECT = "fg.*.alice.shop.-.>"
STATE = StreamState("now", 1, 1000, False)


def stored(start: int, stop: int) -> Run:
    """Messages whose payloads are their sequences."""
    return Run(TOPIC, numbered(start, stop), qos=1, recorded=True, sequences=list(range(start, stop)))


class FakeHistory:
    """Pages that the test hands out; history is what it says."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Deferred[Page]]] = []
        self.firsts: dict[str, int] = {}
        self.current = STATE
        self.looks = 0
        self.ahead = [False]
        self.cancelled: list[Deferred[Page]] = []

    def page(self, subject: str, after: int) -> Deferred[Page]:
        page: Deferred[Page] = Deferred(self.cancelled.append)
        self.asked.append((after, page))
        return page

    async def state(self) -> StreamState:
        self.looks += 1
        return self.current

    async def full_firsts(self, subject: str) -> dict[str, int]:
        return self.firsts

    async def following(self, subject: str, after: int) -> int:
        return after + 1 if self.ahead.pop(0) else 0


class FakeTail:
    last = 1000
    given = 0

    def __init__(self) -> None:
        self.removed: list[Feed] = []

    def remove(self, feed: Feed) -> None:
        self.removed.append(feed)


class FakeFeeds:
    """What a feed needs of the bus."""

    epoch = "now"

    def __init__(self, replicas: int = 1) -> None:
        self.reactor = Clock()
        self.history = FakeHistory()
        self.settings = StreamSettings(replicas=replicas)
        self.back: Deferred[None] = Deferred()

    def within_reach(self) -> Deferred[None]:
        return self.back


class FeedTests(SynchronousTestCase):
    """One feed."""

    def setUp(self) -> None:
        self.make()

    def make(
        self,
        replicas: int = 1,
        appetite: int = 10**9,
        after: Cursor | None = None,
        state: StreamState | None = STATE,
    ) -> None:
        self.feeds = FakeFeeds(replicas)
        self.history = self.feeds.history
        self.tail = FakeTail()
        self.reader = Reader(appetite)
        cursor = after or Cursor("now", 10)
        source = SubjectSource(self.history, SUBJECT)  # type: ignore[arg-type]
        self.feed = Feed(self.feeds, self.tail, source, self.reader, cursor.sequence)  # type: ignore[arg-type]
        self.feed.begin(state, cursor)

    def give_page(self, *runs: Run, more: bool = False, suspect: bool = True) -> int:
        """Answer the page that is asked for; returns behind what it was asked for."""
        after, page = self.history.asked.pop(0)
        page.callback(Page(list(runs), more, [SUBJECT] if suspect else []))
        return after

    def test_pages_then_tail(self) -> None:
        """Page after page from the cursor on, until nothing is left; then what the tail brings."""
        self.assertEqual(self.give_page(stored(11, 14), more=True), 10)
        self.assertEqual(self.give_page(stored(14, 16)), 13)
        self.feed.tailed([stored(16, 18)])
        self.assertEqual(self.reader.sequences, list(range(11, 18)))
        self.assertEqual(self.history.asked, [])

    def test_overlap(self) -> None:
        """What the tail brought while pages were read comes after them, and nothing comes twice."""
        self.feed.tailed([stored(12, 15), stored(15, 16)])
        self.give_page(stored(11, 14))
        self.assertEqual(self.reader.sequences, list(range(11, 16)))
        self.feed.tailed([stored(15, 17)])
        self.assertEqual(self.reader.sequences, list(range(11, 17)))

    def test_overflow_while_catching_up(self) -> None:
        """What the tail brought in excess is dropped and read by one page more."""
        self.feed.tailed([stored(20, 21 + FEED_MESSAGES)])
        self.feed.tailed([stored(21 + FEED_MESSAGES, 25 + FEED_MESSAGES)])
        self.give_page(stored(11, 20))
        self.assertEqual(self.give_page(stored(20, 25 + FEED_MESSAGES)), 19)
        self.assertEqual(self.reader.sequences, list(range(11, 25 + FEED_MESSAGES)))

    def test_overflow_by_bytes(self) -> None:
        """Large messages fill the buffer as many small ones do."""
        self.feed.tailed([Run(TOPIC, [bytes(300_000)], qos=1, sequences=[20])])
        self.give_page(stored(11, 20))
        self.assertEqual(len(self.history.asked), 1)

    def test_overflow_while_paused(self) -> None:
        """A live reader that pauses too long goes on by pages from where it was."""
        self.make(appetite=2)
        self.give_page(stored(11, 12))
        self.feed.tailed([stored(12, 13)])
        self.feed.tailed([stored(13, 14 + FEED_MESSAGES)])
        self.reader.appetite = 9
        self.feed.resume()
        self.assertEqual(self.give_page(stored(13, 14 + FEED_MESSAGES)), 12)
        self.assertEqual(self.reader.sequences, list(range(11, 14 + FEED_MESSAGES)))

    def test_pause_within_a_page(self) -> None:
        """The rest of a page waits for the reader, and so does the next page."""
        self.make(appetite=1)
        self.give_page(stored(11, 12), stored(12, 13), more=True)
        self.assertEqual((self.reader.sequences, self.history.asked), ([11], []))
        self.reader.appetite = 5
        self.feed.resume()
        self.assertEqual((self.reader.sequences, self.history.asked[0][0]), ([11, 12], 12))

    def test_pause_within_a_read_of_the_tail(self) -> None:
        """The rest of what the tail brought waits for the reader."""
        self.make(appetite=2)
        self.give_page()
        self.feed.tailed([stored(11, 12), stored(12, 13), stored(13, 14)])
        self.assertEqual(self.reader.sequences, [11, 12])
        self.reader.appetite = 9
        self.feed.resume()
        self.assertEqual(self.reader.sequences, [11, 12, 13])

    def test_gap(self) -> None:
        """A full subject that begins behind the cursor may have lost something: told before the first message."""
        self.history.firsts = {"full": 31}
        self.give_page(stored(31, 33))
        self.assertEqual(self.reader.seen, [Cursor("now", 30), b"31", b"32"])

    def test_gap_is_told_once(self) -> None:
        """What was told is not told again with the next page; a further loss is."""
        self.history.firsts = {"full": 31}
        self.give_page(stored(20, 21), more=True)
        self.tail.last = 1001
        self.give_page(stored(21, 22), more=True)
        self.assertEqual(self.reader.gaps, [Cursor("now", 30)])
        self.tail.last = 1002
        self.history.firsts = {"full": 51}
        self.give_page(stored(51, 52))
        self.assertEqual(self.reader.gaps, [Cursor("now", 30), Cursor("now", 50)])

    def test_no_look_without_news(self) -> None:
        """While nothing new is stored nothing is lost by number, so one look serves many pages."""
        for sequence in range(11, 15):
            self.give_page(stored(sequence, sequence + 1), more=True)
        self.assertEqual(self.history.looks, 1)

    def test_gap_by_age(self) -> None:
        """On a stream that is old enough, a beginning behind the cursor may be a loss by age."""
        self.history.current = StreamState("now", 500, 1000, True)
        self.give_page(stored(600, 601))
        self.assertEqual(self.reader.seen, [Cursor("now", 499), b"600"])

    def test_from_earliest(self) -> None:
        """From the beginning, what had gone before is no loss; what goes from then on is."""
        self.make(after=Cursor("now", 0))
        self.history.firsts = {"full": 31}
        self.give_page(stored(20, 21), more=True)
        self.tail.last = 1001
        self.history.firsts = {"full": 51}
        self.give_page(stored(51, 52))
        self.assertEqual(self.reader.seen, [b"20", Cursor("now", 50), b"51"])

    def test_lagging_replica(self) -> None:
        """With replicas, the leader has the last word on whether nothing is left."""
        self.make(replicas=3)
        self.history.ahead = [True, False]
        self.give_page(stored(11, 12))
        self.assertEqual(self.give_page(stored(12, 13)), 11)
        self.feed.tailed([stored(13, 14)])
        self.assertEqual(self.reader.sequences, [11, 12, 13])

    def test_doubts(self) -> None:
        """A live reader is told what may be missing before it is given what came; a loss told by a page is no news."""
        self.give_page(stored(11, 12))
        doubts = Doubts({("a", True): 1010})
        self.feed.tailed([stored(1001, 1002)], doubts)
        self.feed.tailed([stored(1002, 1003)], doubts)
        self.feed.tailed([stored(1003, 1004)], Doubts({("b", True): 2000}))
        self.assertEqual(self.reader.seen, [b"11", Cursor("now", 1010), b"1001", b"1002", b"1003"])

    def test_doubts_of_a_reader_that_is_not_ready(self) -> None:
        """Pages tell what a paused reader has missed, and a reader that waits for pages gets them anew."""
        for paused in (True, False):
            self.make(appetite=2 if paused else 9)
            self.give_page(stored(11, 12))
            self.feed.tailed([stored(12, 13)])
            if paused:
                self.feed.tailed([stored(13, 14)])
            self.feed.tailed([stored(1001, 1002)], Doubts({("a", True): 1000}) if paused else None)
            self.reader.appetite = 9
            self.feed.resume()
            self.assertEqual(self.give_page(stored(1001, 1002)), 12)
            self.assertEqual(self.reader.sequences, [11, 12, 1001])

    def test_unproven_place(self) -> None:
        """A cursor that turns out to lie beyond the end is told, and everything is read."""
        self.make(after=Cursor("now", 1000), state=None)
        self.assertEqual((self.give_page(), self.history.asked, self.reader.seen), (1000, [], []))
        self.make(after=Cursor("now", 1001), state=None)
        self.assertEqual(self.give_page(), 1001)
        self.assertEqual(self.give_page(stored(1, 3)), 0)
        self.assertEqual(self.reader.seen, [Cursor("now", 0), b"1", b"2"])

    def test_bus_away_while_reading(self) -> None:
        """A page that fails is asked for again once the bus is back."""
        self.history.asked.pop(0)[1].errback(BusUnavailable())
        self.assertEqual(self.history.asked, [])
        self.feeds.back.callback(None)
        self.feeds.reactor.advance(1)
        self.give_page(stored(11, 12))
        self.assertEqual(self.reader.sequences, [11])

    def test_reopened(self) -> None:
        """After the bus was away a live reader looks for what it missed before it takes more from the tail."""
        self.give_page(stored(11, 12))
        self.feed.reopened(STATE, False)
        self.feed.tailed([stored(14, 15)])
        self.give_page(stored(12, 14))
        self.assertEqual(self.reader.sequences, [11, 12, 13, 14])

    def test_stream_made_anew(self) -> None:
        """If the stream was made anew meanwhile, the reader is told and begins again."""
        self.give_page(stored(11, 12))
        self.feed.reopened(StreamState("later", 1, 3, False), True)
        self.assertEqual(self.give_page(stored(1, 2)), 0)
        self.assertEqual(self.reader.seen, [b"11", Cursor("later", 0), b"1"])
        self.assertEqual(self.feed.cursor, Cursor("later", 1))

    def test_stream_made_anew_amid_a_page(self) -> None:
        """A page of the old stream that is still to be given is not given as one of the new."""
        self.make(appetite=1)
        self.give_page(stored(11, 12), stored(12, 13))
        self.feed.reopened(StreamState("later", 1, 3, False), True)
        self.reader.appetite = 9
        self.feed.resume()
        self.assertEqual(self.give_page(stored(1, 2)), 0)
        self.assertEqual(self.reader.seen, [b"11", Cursor("later", 0), b"1"])

    def test_stop_while_reading(self) -> None:
        """A feed stopped amid a page gives no more, cancels what it waits for, and leaves its tail once."""
        self.feed.stop()
        self.feed.stop()
        self.feed.resume()
        self.feed.tailed([stored(11, 12)])
        self.assertEqual((len(self.history.cancelled), self.reader.seen, self.tail.removed), (1, [], [self.feed]))

    def test_stop_from_inside_read(self) -> None:
        """A reader may stop its feed from inside ``read``, in a page and in a read of the tail."""
        for live in (False, True):
            self.make()
            if live:
                self.give_page()
            self.reader.until(lambda: len(self.reader.runs) == 1).addCallback(lambda _: self.feed.stop())
            if live:
                self.feed.tailed([stored(11, 12), stored(12, 13)])
            else:
                self.give_page(stored(11, 12), stored(12, 13))
            self.assertEqual(self.reader.sequences, [11])

    def test_end(self) -> None:
        """A reader whose feed is ended learns why, once."""
        self.feed.end(BusUnavailable())
        self.feed.end(BusUnavailable())
        self.assertEqual([type(one) for one in self.reader.seen], [BusUnavailable])
