"""What is retained, for one new subscription of a WebSocket client."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from flowgate.errors import Refused
from flowgate.gateway import Gateway, Interest
from flowgate.message import Run
from flowgate.replay import Place, Replay
from flowgate.websocket import frames
from flowgate.websocket.reading import Connection, Reading


class Retained:
    """The retained messages of one subscription: from the replay to frames.

    :ivar live_too: whether new messages are sent as they come, not read from history.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        interest: Interest,
        gateway: Gateway,
        clock: IReactorTime,
        reading: Reading | None,
    ) -> None:
        """Be ready; from now on ``live`` is to be told what the subscription brings.

        :param reading: the history that the subscription reads; it may wait until all that is retained was sent.
        """
        self.live_too = reading is None
        self._reading = reading
        held = reading if reading is not None and reading.holding else None
        self._connection = connection
        self._name = name
        expected = None if held is None else held.brings
        self._replay = Replay(gateway, [interest], clock, self._behind, self._give, self._over, expected)
        self.start = self._replay.start
        self.resume = self._replay.resume
        self.stop = self._replay.stop
        self.live = self._replay.live

    def _behind(self) -> bool:
        return self._connection.behind

    def _give(self, run: Run, full: bool, place: Place | None) -> None:
        cursor = "" if self._reading is None else self._reading.meta_cursor
        self._connection.send_messages(frames.encode_retained(run, full, cursor, self._connection.framing), run.count)

    def _over(self, reason: Refused | None) -> None:
        if reason is not None:
            self._connection.lost(self._name, reason)
        elif self._reading is not None:
            self._reading.release()
