"""What the rooms ask of each other.

Every implementation of an interface here passes the same contract tests (``tests/contracts/``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from flowgate.errors import Refused
from flowgate.message import (
    Backlog,
    Cursor,
    Entry,
    JournalEntry,
    LogEntry,
    RetainedPage,
    Run,
    Stored,
)
from flowgate.topics import Namespace, Topic


class ISubscriber(Interface):
    """One end of a subscription: a connection that takes messages as they happen."""

    def deliver(run: Run, full: bool, qos: int) -> None:
        """Take a run; never block, never raise, never keep more than the subscriber's own bound.

        :param run: the messages; shared with other subscribers, not to be changed.
        :param full: whether this subscriber is shown the full name of the topic.
        :param qos: the highest quality of service granted to its matching subscriptions.
        """


class IReader(Interface):
    """One reader of history: takes stored messages in stream order."""

    def read(run: Run) -> bool:
        """Take the next stored messages (``run.sequences`` are set).

        :returns bool: ``False`` to be given no more until :meth:`IFeed.resume` is called.
        """

    def gap(oldest: Cursor) -> None:
        """Learn, before any message, that history between the cursor and ``oldest`` may be gone.

        :param oldest: the place from which on history is whole.
        """

    def ended(reason: Refused) -> None:
        """Learn that no more will come.

        :param reason: why, for example that the reader fell too far behind.
        """


class IFeed(Interface):
    """A running read of history, as :meth:`IBus.follow` starts it."""

    cursor: Cursor = Attribute("The :class:`Cursor` up to which everything was given to the reader.")

    def resume() -> None:
        """Give more, after :meth:`IReader.read` returned ``False``."""

    def stop() -> None:
        """Give no more, from now on; a second call does nothing."""


class IFilteredFeed(IFeed):
    """A running read of the acknowledged messages on several filters, as :meth:`IBus.follow_filters` starts it."""

    def add(filter_: str) -> Deferred[int]:
        """Read one more filter of the same namespace, from now on.

        :param filter_: a valid filter; one that is read already stays as it is.
        :returns: a Deferred of a sequence (int), fired once every matching message stored from now on will be given;
            what has this sequence or a lower one was stored before the call.
        :raises BusUnavailable: through the Deferred; the filter is not read then.
        """

    def discard(filter_: str) -> None:
        """Read a filter no longer; one that is not read changes nothing."""


class IBusListener(Interface):
    """Where a bus brings what happens; called in the reactor's thread."""

    def arrived(runs: list[Run]) -> None:
        """Take messages for local subscribers, in order: what the stream stored, and what other nodes sent live.

        Runs that this node stored itself may come without ``sequences``.  :meth:`settled` follows.

        :param runs: a list of :class:`Run`; ``recorded`` is ``True`` for stored ones.
        """

    def settled() -> None:
        """Learn that a read's worth of messages and answers of the bus was handed out: what it led to can be sent."""

    def drained() -> None:
        """Learn that ``congested`` went back to ``False``."""

    def availability(available: bool) -> None:
        """Learn that the bus came within reach (``True``) or went away (``False``)."""


class IBus(Interface):
    """Topics: messages between nodes, and their history."""

    available: bool = Attribute("Whether the bus is within reach: acknowledged publishes can be stored now.")
    congested: bool = Attribute("Whether publishers should be read no further until the listener is told ``drained``.")
    epoch: str = Attribute("The epoch of the stream, for cursors; empty before the start.")
    under_way: tuple[int, int] = Attribute("Messages on their way into the stream, and their bytes.")
    reconnects: int = Attribute("How often the bus came within reach again.")

    def publish_one(
        topic: Topic,
        payload: bytes,
        *,
        qos: int = 1,
        message_id: str | None = None,
        ttl: int | None = None,
        retain: bool = False,
        tag: str = "",
    ) -> Deferred[Stored]:
        """Store one message.

        :param topic: where.
        :param payload: what.
        :param qos: 1 or 2, for MQTT subscribers.
        :param message_id: the same id within 5 minutes is stored once (per namespace).
        :param ttl: seconds after which history forgets the message, or ``None`` for the stream's own age.
        :param retain: as :attr:`Run.retain`; the flag travels, :class:`IRetained` keeps the message.
        :param tag: as :attr:`Run.tag`: at most 100 of ``[A-Za-z0-9.]``.
        :returns: a Deferred of :class:`Stored`, fired once the stream has the message.
        :raises BusUnavailable: through the Deferred; the message may or may not be stored.
        :raises MessageTooLarge: through the Deferred; nothing is stored.
        """

    def publish(run: Run) -> Deferred[None]:
        """Store all messages of a run, in order, at the lowest cost per message.

        Whatever is stored is delivered through :meth:`IBusListener.arrived`, on every node, this one too.

        Ids (:attr:`Run.message_ids`) are remembered as those of :meth:`publish_one` are.  The caller promises that
        they are new: a message whose id is known already is passed over without a word.

        :returns: a Deferred of ``None``, fired once the stream has every message.
        :raises BusUnavailable: through the Deferred; any of them may or may not be stored.
        """

    def publish_many(runs: Sequence[Run]) -> Deferred[list[Stored | Refused]]:
        """Store many messages, in order, and learn the place of each.

        It is :meth:`publish_one` for each message, at a lower cost; ids (:attr:`Run.message_ids`) need not be new.

        :param runs: consecutive ones, of any topics.
        :returns: a Deferred of one :class:`Stored` for each message of all runs, in order, or of what it was refused
            with: :class:`MessageTooLarge`, and it is not stored; or :class:`BusUnavailable`, and it may be stored.
        :raises BusUnavailable: through the Deferred; nothing is stored.
        """

    def send(run: Run, record: bool) -> bool:
        """Pass an unacknowledged run to the other nodes and, if ``record``, into history; wait for nothing.

        This node's own subscribers are not served through the bus.

        :returns bool: whether history is going to hold the run (never, while the bus is away).
        """

    def attach(namespace: Namespace) -> Deferred[None]:
        """Want the messages of a namespace; calls count, each needs one :meth:`detach`.

        :returns: a Deferred of ``None``, fired once everything published from now on will arrive.
        """

    def detach(namespace: Namespace) -> None:
        """Take back one :meth:`attach`."""

    def follow(namespace: Namespace, filter_: str, reader: IReader, after: Cursor | None = None) -> Deferred[IFeed]:
        """Read history in stream order, then what is stored from now on, without a gap or a repeat.

        :param namespace: whose topics.
        :param filter_: a valid topic filter inside it.
        :param reader: who reads.
        :param after: read what lies behind it; ``None`` for nothing but the future, sequence 0 for everything.
        :returns: a Deferred of :class:`IFeed`, fired once the reading has begun.
        """

    def history(namespace: Namespace, filter_: str, after: Cursor, limit: int) -> Deferred[list[Run]]:
        """Read one page of history.

        :param after: as in :meth:`follow`.
        :param limit: at most so many messages.
        :returns: a Deferred of a list of :class:`Run` in stream order.
        """

    def follow_filters(
        namespace: Namespace, filters: Iterable[str], reader: IReader, after: Cursor | None = None
    ) -> Deferred[IFilteredFeed]:
        """Read the acknowledged messages on any of several filters, in stream order, each once, as :meth:`follow` does.

        Unacknowledged messages (QoS 0) that history holds are not among them.

        :param filters: valid filters inside ``namespace``; may be none yet.
        :param after: as in :meth:`follow`.
        :returns: a Deferred of :class:`IFilteredFeed`, fired once the reading has begun.
        :raises BusUnavailable: through the Deferred.
        """

    def backlog(
        namespace: Namespace, filters: Iterable[str], after: Cursor, messages: int, size: int
    ) -> Deferred[Backlog]:
        """Find from where on no more than so much waits for a reader of :meth:`follow_filters`.

        :param after: the reader's cursor; of another epoch, or sequence 0, means from the beginning.
        :param messages: at most so many.
        :param size: at most so many bytes of payload.
        :returns: a Deferred of :class:`Backlog`.
        :raises BusUnavailable: through the Deferred.
        """

    def topics(
        namespace: Namespace, prefix: str, after: str, limit: int, admits: Callable[[str], bool]
    ) -> Deferred[list[tuple[str, int]]]:
        """List the topics on which history holds messages.

        It looks at every topic of the namespace, or of the levels that ``prefix`` names whole; for rare calls.

        :param prefix: only names that begin so; may be empty.
        :param after: only names behind this one.
        :param limit: at most so many, the first ones.
        :param admits: tells for a name whether it is to be listed.
        :returns: a Deferred of names, in the order of their characters, each with the count of its messages.
        :raises BusUnavailable: through the Deferred.
        """

    def find(topic: Topic, message_id: str) -> Deferred[int | None]:
        """Look for an acknowledged message by its id, also after the 5 minutes in which its repetition is noticed.

        It reads the topic's history; for rare cases.

        :returns: a Deferred of its sequence (int), or of ``None`` if history does not have it.
        :raises BusUnavailable: through the Deferred.
        """

    def fetch(sequences: Sequence[int]) -> Deferred[dict[int, Run]]:
        """Read stored messages by their places.

        :returns: a Deferred of runs of one message each, by sequence; what is no longer there is missing.
        :raises BusUnavailable: through the Deferred.
        """


class IRetained(Interface):
    """The retained messages: the last one of each topic published with that wish (MQTT 3.1.1 section 3.3.1.3)."""

    def put(
        topic: Topic, payload: bytes, qos: int, ttl: int | None = None, place: Cursor | None = None
    ) -> Deferred[None]:
        """Keep a message as the retained one of its topic; an empty payload removes what is kept ([MQTT-3.3.1-10]).

        Calls of one node for one topic take effect in the order in which they are made.  On all nodes a message with a
        place never takes the place of one that is the same or later in history, also if that one was a removal.

        :param qos: 0 to 2, as it was published.
        :param ttl: seconds after which it is forgotten, or ``None`` for never.
        :param place: where history has it; ``None`` if it does not, or nobody knows.
        :returns: a Deferred of ``None``, fired once it, or what was put after it, is stored.
        :raises BusUnavailable: through the Deferred; it may or may not be stored.
        :raises MessageTooLarge: through the Deferred; nothing is stored.
        """

    def page(namespace: Namespace, filter_: str, after: int = 0, limit: int = 1000) -> Deferred[RetainedPage]:
        """Read a page of the retained messages whose topic matches ``filter_``, in the order of their keeping.

        What is put while pages are read is on a later page.

        :param after: 0, or :attr:`RetainedPage.after` of the page before, or the sequence of any run.
        :param limit: at most so many messages, and 1,000.
        :returns: a Deferred of :class:`RetainedPage`; at most 256 KiB, but one message at least, if there is one.
            The ``sequences`` of its runs are places among the retained messages, not in history.
        :raises BusUnavailable: through the Deferred.
        """

    def fetch(sequences: Sequence[int]) -> Deferred[dict[int, Run]]:
        """Read retained messages by their places, as :meth:`page` told them.

        :returns: a Deferred of runs of one message each, by sequence; what was replaced or removed is missing.
        :raises BusUnavailable: through the Deferred.
        """


class IGroupMember(Interface):
    """One member of a group that shares a subscription."""

    def take(run: Run, handles: Sequence[str]) -> None:
        """Take messages that no other member gets, unless this one gives them back; never raise.

        After an outage of the bus a message that is not done may come again, to this member or another.

        :param run: no more messages than were asked for and not yet given.
        :param handles: for each message what :meth:`IMembership.done` needs.
        """

    def lost(reason: Refused) -> None:
        """Learn that the membership has ended by itself."""


class IMembership(Interface):
    """A place in a group, as :meth:`IGroups.join` gives it."""

    def ask(count: int) -> None:
        """Be ready for ``count`` messages more."""

    def done(handles: Sequence[str]) -> None:
        """Say that messages were delivered: nobody will be given them again.

        What is said while the bus is away holds once it is back, unless they were given to somebody else meanwhile.
        """

    def leave() -> None:
        """End the membership; what was given and is not done is given to other members at once."""


class IGroups(Interface):
    """Shared subscriptions: every message on a filter is given to one member of a group, on any node."""

    def join(
        namespace: Namespace,
        group: str,
        filter_: str,
        member: IGroupMember,
        *,
        durable: bool = False,
        ordered: bool = False,
    ) -> Deferred[IMembership]:
        """Become a member.  The group begins with its first member: it has the messages that are stored from then on.

        :param group: any text; private to the namespace, the filter and ``durable``.  What clients write has no ``/``.
        :param durable: the group goes on without members, until :meth:`forget`: what is stored meanwhile is given to
            those who come later, as far as history still has it.  Others end some time after their last member left.
        :param ordered: only for a new group: one message at a time, on all nodes together, and none before the one
            before it is done; whoever gets it again gets it before any later one.
        :returns: a Deferred of :class:`IMembership`, fired once every message from now on is given to some member.
        :raises BusUnavailable: through the Deferred.
        """

    def forget(namespace: Namespace, group: str, filter_: str) -> Deferred[None]:
        """End a durable group, for all nodes; what it has not been given is forgotten.  Members here are told ``lost``.

        A group that other nodes should not make again is one whose members there leave, or call this too.  If members
        are here, a group that somebody has made anew since they joined stays.

        :returns: a Deferred of ``None``, fired once there is none, also if there was none.
        :raises BusUnavailable: through the Deferred; nothing has changed then.
        """

    def room(topic: Topic, count: int, published: bool = False) -> Deferred[None] | None:
        """Say that messages are about to be published, and learn whether durable groups can follow.

        Who publishes no faster than that does not lose messages by the bound of history before a group has them.

        :param published: they are published already, unacknowledged, and it is to be learned whether more can be.
        :returns: ``None`` if they can be published now; or a Deferred of ``None``, fired once they can, in the order
            of the calls for one topic.  After some time without any progress of the group it is fired, too.
        :raises BusUnavailable: through the Deferred, if this node stops.
        """

    def stored(topic: Topic, count: int) -> None:
        """Say that messages for which there was :meth:`room` are stored, or not."""

    any: bool = Attribute("Whether there is any group on any node, as far as it is known here.")

    def wants(topic: Topic) -> bool:
        """Whether some group of any node may want messages on ``topic``: then also unacknowledged ones are stored."""


class IPeers(Interface):
    """The other nodes of this gateway: small messages between them, by core NATS."""

    node: str = Attribute("The name of this node; another one after every start.")
    alone: bool = Attribute("Whether there can be no other node.")

    def answer(verb: str, handler: Callable[[bytes], Deferred[bytes]]) -> None:
        """Have ``handler`` called with each question under ``verb``; what its Deferred fires is the answer.

        A Deferred that fails leaves the question without an answer.
        """

    def ask(node: str, verb: str, payload: bytes = b"", timeout: float = 5.0) -> Deferred[bytes]:
        """Ask another node.

        :param timeout: seconds.
        :returns: a Deferred of the answer (bytes).
        :raises NotFound: through the Deferred, at once, if no such node is connected to the bus.
        :raises BusUnavailable: through the Deferred, if the bus is away or there is no answer in time.
        """

    def tell(verb: str, payload: bytes) -> None:
        """Tell all other nodes something; whether it arrives is not known."""

    def hear(verb: str, handler: Callable[[bytes], None]) -> None:
        """Have ``handler`` called with what other nodes :meth:`tell` under ``verb``."""


class IQueueFollower(Interface):
    """Whoever keeps the state of a queue: is brought what its log holds, in order, each entry once."""

    def restart(checkpoint: bytes | None, upto: int) -> None:
        """Forget everything: the state begins anew.

        What follows begins with those message entries up to ``upto`` that the log still has.

        :param checkpoint: what was given to :meth:`IQueueLog.save`; ``None`` for a log without any.
        :param upto: the sequence whose state ``checkpoint`` describes; 0 without one.
        :raises Refused: if it cannot be used; :meth:`IQueueLogs.open` fails with that, and a log that is open tries
            again later.
        """

    def entries(entries: Sequence[LogEntry]) -> None:
        """Take the next entries.  Never raise."""

    def gone() -> None:
        """Learn that the queue was removed, here or on another node: nothing more will come."""


class IQueueLog(Interface):
    """The log of one queue, shared by all nodes: whatever happens to the queue is an entry, and the order of the
    entries is the order in which it happened.  As :meth:`IQueueLogs.open` gives it."""

    incarnation: str = Attribute("Names the making of the queue: another one for a later queue of the same name.")
    available: bool = Attribute("Whether the bus is within reach: what the follower knows is up to date, about.")
    largest: int = Attribute("Most bytes that head and payload of one entry may have together.")

    def append(head: bytes, payload: bytes = b"") -> Deferred[int]:
        """Add an entry.  It is given to the followers of all nodes, to our own perhaps before this fires.

        Entries of one node are stored in the order in which they are appended, but for those that fail.

        :param head: at most 48 KiB, without CR and LF.
        :param payload: the bodies of messages; an entry with a payload is kept until :meth:`trim` says otherwise.
        :returns: a Deferred of its sequence, fired once it is stored.
        :raises BusUnavailable: through the Deferred; the entry may or may not be stored, now or a moment later.
        :raises NotFound: through the Deferred, if the queue was removed.
        """

    def read(sequences: Sequence[int]) -> Deferred[dict[int, bytes]]:
        """Read the payloads of entries; what is no longer there is missing.

        :raises BusUnavailable: through the Deferred.
        """

    def save(checkpoint: bytes, upto: int) -> Deferred[bool]:
        """Keep the state that the queue has after the entry ``upto``, so that nobody needs the entries before.

        :returns: a Deferred of whether it was kept: ``False`` if another node has kept one since the last
            :meth:`IQueueFollower.restart` or :meth:`save` here.
        :raises BusUnavailable: through the Deferred.
        """

    def trim(upto: int, first: int, dead: Sequence[int]) -> Deferred[None]:
        """Let go of entries that nobody needs, after a :meth:`save`.

        :param upto: entries without payload up to here, this one too.
        :param first: all entries before this one.
        :param dead: entries with payload, besides.
        :raises BusUnavailable: through the Deferred.
        """

    def close() -> None:
        """Follow the log no more; what is under way ends as it may."""


class IQueueLogs(Interface):
    """The queues' logs: the bus's part of queues, without any policy.  ``namespace`` and ``name`` name a queue."""

    def create(namespace: Namespace, name: str) -> Deferred[bool]:
        """Make the log if it does not exist.

        :returns: a Deferred of bool: whether it was made now.
        :raises BusUnavailable: through the Deferred.
        """

    def delete(namespace: Namespace, name: str) -> Deferred[None]:
        """Remove the log with all that it holds.

        :raises NotFound: through the Deferred.
        :raises BusUnavailable: through the Deferred.
        """

    def open(namespace: Namespace, name: str, follower: IQueueFollower) -> Deferred[IQueueLog]:
        """Follow a log from its beginning or its last checkpoint on, until :meth:`IQueueLog.close`.

        While the bus is away nothing comes; what was missed comes afterwards, or :meth:`IQueueFollower.restart`.

        :returns: a Deferred of :class:`IQueueLog`, fired once the follower has everything that is stored now.
        :raises NotFound: through the Deferred, if there is no such queue.
        :raises BusUnavailable: through the Deferred.
        """


class IStore(Interface):
    """Small values under keys, shared by all nodes: accounts, API keys, configuration.

    Keys are 1–200 of ``[A-Za-z0-9_.-]`` with no dot at either end.
    """

    def get(bucket: str, key: str) -> Deferred[Entry | None]:
        """:returns: a Deferred of :class:`Entry`, or of ``None`` if there is none."""

    def put(bucket: str, key: str, value: bytes, revision: int | None = None) -> Deferred[int]:
        """Write a value.

        :param value: the value.
        :param revision: write only if the entry still has this revision; 0: only if there is none.
        :returns: a Deferred of the new revision (int).
        :raises Conflict: through the Deferred, if the revision differs.
        """

    def delete(bucket: str, key: str, revision: int | None = None) -> Deferred[None]:
        """Remove the entry if it exists.

        :param revision: remove only if the entry still has this revision.
        :returns: a Deferred of ``None``.
        :raises Conflict: through the Deferred, if there is an entry with another revision.
        """

    def watch(bucket: str, changed: Callable[[str, bytes | None], None]) -> Deferred[Callable[[], None]]:
        """Follow a bucket: ``changed(key, value)`` is called for every entry now, then for every change.

        ``value`` is ``None`` for a removed entry.

        :returns: a Deferred of a function without arguments that ends the watch; fired after the entries of now.
        """


class IJournal(Interface):
    """Books that are only ever written on: what was done, for those who answer for it.

    A book is 1–32 of ``[a-z-]``; owners and entry ids are 1–128 of ``[A-Za-z0-9_:-]``.  Nothing is ever changed or
    removed, so who writes decides how fast a book grows.
    """

    def append(book: str, owner: str, entry_id: str, value: bytes) -> Deferred[bool]:
        """Write an entry, once: under retries, crashes and several nodes there is one entry of each owner and id.

        :param owner: whom it concerns; ids of different owners have nothing to do with each other.
        :param value: at most 8 KiB.
        :returns: a Deferred of ``True``, fired once it is stored; of ``False`` if the owner has an entry of this id in
            the book already, also if that has another value: it stays as it is.
        :raises InvalidParameter: through the Deferred, if a name is not allowed.
        :raises MessageTooLarge: through the Deferred; nothing is written.
        :raises BusUnavailable: through the Deferred; it may or may not be written, so try again with the same id.
        """

    def page(book: str, owner: str, before: int | None, limit: int) -> Deferred[list[JournalEntry]]:
        """Read entries, the newest first; for rare calls.

        :param owner: whose; empty for those of all owners.
        :param before: only entries with a lower sequence; ``None`` for the newest of all.
        :param limit: at most so many, 1 to 1,000.  Fewer mean that there are no older ones.
        :returns: a Deferred of a list of :class:`JournalEntry`; what was appended before the call is among them.
        :raises InvalidParameter: through the Deferred, if a name or ``limit`` is not allowed.
        :raises BusUnavailable: through the Deferred.
        """


class ITagged(Interface):
    """Finds in the stream what messages were tagged with (:attr:`Run.tag`), after whoever published them has gone."""

    def mark() -> Deferred[int]:
        """A place in the stream: what is published from now on comes behind it.

        :raises BusUnavailable: through the Deferred.
        """

    def read(user: str, app: str, after: int, take: Callable[[str, int], None]) -> Deferred[None]:
        """Read all tagged messages that the stream still has behind a place, acknowledged or not.

        :param app: only those on topics of this application; empty for all of the user's.
        :param after: a place; 0 for the beginning.
        :param take: called with the tag and the size in bytes of each.
        :returns: a Deferred of ``None``, fired once all were read that were stored before the call.
        :raises BusUnavailable: through the Deferred.
        """
