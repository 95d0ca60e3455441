"""The benchmarks' own arithmetic and bytes; nothing here is timed and no server is started."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import socket
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from xml.etree import ElementTree

import attrs
from twisted.internet.task import Clock
from twisted.python.filepath import FilePath
from twisted.trial.unittest import SynchronousTestCase

from benchmarks import connections, exchanges, fanout, flows, load, queues, report, targets, wire
from benchmarks.__main__ import options
from benchmarks.connections import Failed, HttpConnection, Server, close_mqtt, open_websocket
from benchmarks.cpu import cpu_seconds, read_stat
from benchmarks.exchanges import Span, Worker
from benchmarks.flows import Completer, Subscriber
from benchmarks.lanes import Lane, MarkReceiver, Receiver, Sender
from benchmarks.report import Measured
from benchmarks.rows import ROWS, Row, select
from benchmarks.targets import TARGETS
from flowgate.billing.plans import parse_plan

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def measured(row: Row, values: Mapping[str, list[float]], **errors: list[str]) -> Measured:
    return Measured(row, dict(values), dict(errors))


FAST = Row("fast", "Fast", "messages/s", "fan")
SLOW = Row("slow", "Slow", "ms", "ready", less_is_better=True)
KEPT = Row("kept", "Fast & kept", "messages/s", "fan", own=True, against="fast")


class RatioTests(SynchronousTestCase):
    """How rounds become one number, and numbers become ratios."""

    def test_median_of_rounds(self) -> None:
        """One bad round does not show in the median."""
        self.assertEqual(measured(FAST, {"flowgate": [10.0, 1.0, 11.0]}).median("flowgate"), 10.0)

    def test_no_median_without_values(self) -> None:
        """A target that gave no number has no median."""
        self.assertIsNone(measured(FAST, {}).median("flowgate"))

    def test_more_is_better(self) -> None:
        """Where more is better, the ratio is ours to theirs."""
        found = report.ratios([measured(FAST, {"flowgate": [300.0], "mosquitto": [100.0]})])
        self.assertEqual(found, {"fast": {"mosquitto": 3.0}})

    def test_less_is_better(self) -> None:
        """Where less is better, the ratio is theirs to ours: above 1 still means that we are better."""
        found = report.ratios([measured(SLOW, {"flowgate": [50.0], "mosquitto": [100.0]})])
        self.assertEqual(found, {"slow": {"mosquitto": 2.0}})

    def test_against_another_row(self) -> None:
        """A row of our own is compared with the peers' numbers of the row that it names."""
        rows = [
            measured(FAST, {"flowgate": [300.0], "mosquitto": [100.0]}),
            measured(KEPT, {"flowgate": [50.0]}),
        ]
        self.assertEqual(report.ratios(rows)["kept"], {"mosquitto": 0.5})

    def test_same_row_before_another(self) -> None:
        """Whoever has run a row of our own is compared by it, not by the row that the others have run."""
        own = measured(KEPT, {"flowgate": [50.0], "flowgate-limited": [40.0]})
        other = measured(FAST, {"flowgate-limited": [200.0], "mosquitto": [100.0]})
        self.assertEqual(report.ratios([other, own])["kept"], {"flowgate-limited": 1.25, "mosquitto": 0.5})
        self.assertEqual(report.ratios([own]), {"kept": {"flowgate-limited": 1.25}})

    def test_no_ratio_without_both(self) -> None:
        """A row that a peer or we did not run has no ratio, and does no harm."""
        rows = [measured(FAST, {"mosquitto": [100.0]}), measured(SLOW, {"flowgate": [1.0]})]
        self.assertEqual(report.ratios(rows), {})


class RowTests(SynchronousTestCase):
    """The table of rows."""

    def test_names_are_unique(self) -> None:
        """A row can be named without doubt."""
        self.assertEqual(len({row.name for row in ROWS}), len(ROWS))

    def test_jobs_exist(self) -> None:
        """Every row names a job that the load generator has."""
        self.assertEqual({row.job for row in ROWS} - {"ready"}, set(load.JOBS))

    def test_comparisons_exist(self) -> None:
        """A row is compared only with a row that the peers run."""
        peers = {row.name for row in ROWS if not row.own}
        self.assertEqual([row.name for row in ROWS if row.against and row.against not in peers], [])

    def test_who_runs_what(self) -> None:
        """Peers run no rows of our own and none of another protocol, mosquitto with its disk only those that can
        differ by it."""
        rows = [
            FAST,
            KEPT,
            Row("session", "Session", "messages/s", "relayed", kept=True),
            Row("sqs", "SQS", "messages/s", "queue_send", protocol="sqs"),
            Row("http", "HTTP", "messages/s", "http_publish", protocol="http"),
        ]
        does = {name: [row.name for row in rows if target.does(row)] for name, target in TARGETS.items()}
        every = ["fast", "session"]
        self.assertEqual(
            does,
            {
                "flowgate": [row.name for row in rows],
                "flowgate-limited": [row.name for row in rows],
                "nats-server": every,
                "mosquitto": every,
                "mosquitto-disk": ["session"],
                "nchan": ["http"],
                "moto_server": ["sqs"],
            },
        )

    def test_limited(self) -> None:
        """The gateway with limits has a plan in which every bound is set."""
        configured = tomllib.loads(targets._LIMITED)
        plan = parse_plan("all", configured["plans"]["all"])
        self.assertEqual((configured["default_plan"], plan.limited, plan.prepaid), ("all", True, True))
        self.assertEqual([name for name, value in attrs.asdict(plan.rates).items() if value is None], [])

    def test_our_own_are_named(self) -> None:
        """The gateway configured otherwise is measured only if it is named."""
        self.patch(sys, "argv", ["benchmarks"])
        self.assertEqual([one.name for one in options().targets if one.ours], [])
        self.patch(sys, "argv", ["benchmarks", "--targets", "flowgate,flowgate-limited"])
        self.assertEqual([one.name for one in options().targets], ["flowgate", "flowgate-limited"])

    def test_program_alone_is_not_enough(self) -> None:
        """nginx without its module nchan is no target, and that is found out before it is started."""
        places = [FilePath(self.mktemp()), FilePath(self.mktemp())]
        self.patch(targets, "_NCHAN_PLACES", [place.path for place in places])
        self.patch(targets, "_find", lambda program: f"/usr/sbin/{program}")
        self.assertFalse(TARGETS["nchan"].installed)
        places[1].makedirs()
        places[1].child("ngx_nchan_module.so").touch()
        self.assertTrue(TARGETS["nchan"].installed)

    def test_every_queue_row_has_its_peer(self) -> None:
        """What is done over REST is done over SQS's protocol too, with the same parameters, and compared with that."""
        by_name = {row.name: row for row in ROWS}
        ours = [row for row in ROWS if row.parameters.get("protocol") == "rest"]
        self.assertEqual(len(ours), 10)
        for row in ours:
            theirs = by_name[row.against or ""]
            self.assertEqual(theirs.parameters, {**row.parameters, "protocol": "sqs"})
            self.assertEqual((theirs.job, theirs.protocol, theirs.own), (row.job, "sqs", False))

    def test_http_rows(self) -> None:
        """nchan runs what is published over HTTP one by one; batches, MQTT publishers and slow readers are our own."""
        runs = [row.name for row in ROWS if TARGETS["nchan"].does(row)]
        fans = [f"http-{receive}-1-{count}" for receive in ("sse", "websocket") for count in (50, 1000)]
        self.assertEqual(runs, [*fans, "http-publish"])

    def test_select_by_pattern(self) -> None:
        """Names and patterns choose rows, in the table's order."""
        chosen = [row.name for row in select("http-publish,one-p*")]
        self.assertEqual(chosen, ["one-p50", "one-p99", "http-publish"])

    def test_select_all(self) -> None:
        """Without a choice every row is run."""
        self.assertEqual(select(None), ROWS)

    def test_select_unknown(self) -> None:
        """A misspelt row is named and not passed over."""
        error = self.assertRaises(ValueError, select, "ready,htpp-*")
        self.assertIn("htpp-*", str(error))


class ReportTests(SynchronousTestCase):
    """What is written."""

    def setUp(self) -> None:
        self.rows = [
            measured(FAST, {"flowgate": [300.0, 310.0, 290.0], "mosquitto": [100.0, 90.0, 110.0]}),
            measured(KEPT, {"flowgate": [50.0]}),
            measured(SLOW, {"flowgate": [1.0]}, mosquitto=["no answer", "no answer"]),
        ]

    def test_numbers(self) -> None:
        """Numbers are rounded to three digits."""
        shown = [report.number(one) for one in (None, 0.0, 0.12345, 3.14159, 99.96, 1234.5, 1_545_678.0)]
        self.assertEqual(shown, ["–", "0", "0.123", "3.14", "100", "1,230", "1,550,000"])

    def test_table(self) -> None:
        """The table has a line for each row, and names each error once."""
        lines = report.table(self.rows, ["flowgate", "mosquitto"]).splitlines()
        self.assertEqual(lines[0].split("  ")[0].strip(), "medians")
        self.assertEqual(lines[2].split(), ["Fast,", "messages/s", "300", "100", "3"])
        self.assertEqual(lines[4].split(), ["Slow,", "ms", "1", "error", "–"])
        self.assertEqual(lines[5:], ["mosquitto: no answer (slow)"])

    def test_table_of_peers_alone(self) -> None:
        """Where we did not run there are no columns of ratios."""
        lines = report.table([measured(FAST, {"mosquitto": [1.0]})], ["mosquitto"]).splitlines()
        self.assertEqual(lines[0].split(), ["medians", "mosquitto"])

    def test_table_of_cpu(self) -> None:
        """The least of the rounds counts, and how much more than we the others needed."""
        row = measured(FAST, {})
        row.cpu = {"flowgate": [3e-6, 2e-6], "flowgate-limited": [5e-6, 2.5e-6, 4e-6]}
        lines = report.cpu_table([row, measured(SLOW, {})], ["flowgate", "flowgate-limited"]).splitlines()
        self.assertEqual([line.split() for line in lines[2:]], [["Fast", "2", "2.5", "1.25"], ["Slow", "–", "–", "–"]])

    def test_cpu(self) -> None:
        """User's and system's time are found behind whatever name a process has; one that is gone has used nothing."""
        fields = " ".join(str(number) for number in range(3, 30))
        ticks = os.sysconf("SC_CLK_TCK")
        self.assertEqual(read_stat(f"17 (a) 1 (b) {fields}\n"), (14 + 15) / ticks)
        self.assertEqual(cpu_seconds(2**22 + 1), 0.0)
        self.assertGreater(cpu_seconds(os.getpid()), 0.0)

    def test_document(self) -> None:
        """The JSON has the circumstances, every round, the medians and the ratios."""
        document = json.loads(json.dumps(report.document(self.rows, {"rounds": 3})))
        self.assertEqual(document["rounds"], 3)
        self.assertEqual(
            document["rows"][0],
            {
                "name": "fast",
                "title": "Fast",
                "unit": "messages/s",
                "less_is_better": False,
                "against": None,
                "values": {"flowgate": [300.0, 310.0, 290.0], "mosquitto": [100.0, 90.0, 110.0]},
                "cpu": {},
                "medians": {"flowgate": 300.0, "mosquitto": 100.0},
                "ratios": {"mosquitto": 3.0},
                "errors": {},
            },
        )

    def test_picture(self) -> None:
        """The picture is well-formed and has a bar with its number for each ratio."""
        root = ElementTree.fromstring(report.picture(self.rows, "x < y & z"))
        texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        self.assertIn("Fast & kept", texts)
        self.assertEqual([text for text in texts if text in ("3", "0.5")], ["3", "0.5"])

    def test_picture_without_ratios(self) -> None:
        """A run of the peers alone still gives a picture."""
        ElementTree.fromstring(report.picture([measured(FAST, {"mosquitto": [1.0]})], ""))


class WireTests(SynchronousTestCase):
    """The bytes that are sent."""

    def test_mark_stands_once(self) -> None:
        """A message is 64 bytes and is counted once."""
        self.assertEqual((len(wire.PAYLOAD), wire.PAYLOAD.count(wire.MARK)), (64, 1))

    def test_mqtt_connect(self) -> None:
        """Without a password there is no user name either."""
        self.assertEqual(wire.mqtt_connect("ab", keep_alive=60), b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02ab")

    def test_mqtt_connect_with_token(self) -> None:
        """The token is the password of the user Bearer; a long one makes the length take two bytes."""
        packet = wire.mqtt_connect("ab", "t" * 200, keep_alive=60)
        rest = b"\x00\x04MQTT\x04\xc2\x00\x3c\x00\x02ab\x00\x06Bearer\x00\xc8" + b"t" * 200
        self.assertEqual(packet, b"\x10" + bytes([len(rest) % 128 | 128, len(rest) // 128]) + rest)

    def test_mqtt_connect_to_a_session(self) -> None:
        """Without a clean session its flag alone is missing."""
        self.assertEqual([wire.mqtt_connect("ab", "t", clean=clean)[9] for clean in (True, False)], [0xC2, 0xC0])

    def test_mqtt_subscribe(self) -> None:
        """A SUBSCRIBE carries packet id 1, the filter and its QoS."""
        self.assertEqual(wire.mqtt_subscribe("a/b", 2), b"\x82\x08\x00\x01\x00\x03a/b\x02")

    def test_mqtt_publish_qos_0(self) -> None:
        """At QoS 0 there is no packet id."""
        self.assertEqual(wire.mqtt_publish("a/b"), b"\x30\x45\x00\x03a/b" + wire.PAYLOAD)

    def test_mqtt_publish_qos_1(self) -> None:
        """At QoS 1 the packet id follows the topic."""
        self.assertEqual(wire.mqtt_publish("a/b", 258), b"\x32\x47\x00\x03a/b\x01\x02" + wire.PAYLOAD)

    def test_mqtt_publish_flags(self) -> None:
        """QoS 2 and RETAIN are flags of the first byte."""
        self.assertEqual(wire.mqtt_publish("a/b", 258, qos=2, retain=True), b"\x35" + wire.mqtt_publish("a/b", 258)[1:])

    def test_ring_of_ids(self) -> None:
        """A ring at QoS 1 uses each id of the window once, so that none is reused before its PUBACK."""
        ring, size = wire.publish_ring("a", 1000, 1), len(wire.mqtt_publish("a", 1))
        ids = [int.from_bytes(ring[at + 5 : at + 7], "big") for at in range(0, len(ring), size)]
        self.assertEqual(ids, list(range(1, 1001)))

    def test_mixed_ring(self) -> None:
        """Packets of many sizes are on average as long as the others, and each is counted once."""
        ring = wire.mixed_ring("live/00", 132)
        self.assertEqual((len(ring), ring.count(wire.MARK)), (132 * len(wire.mqtt_publish("live/00")), 132))
        self.assertNotEqual(ring[1], ring[ring.index(wire.MARK) + 2])

    def test_http_request(self) -> None:
        """A body is compact JSON with its length."""
        self.assertEqual(
            wire.http_request("POST", "/p", "tok", {"a": [1]}),
            b"POST /p HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer tok\r\n"
            b'Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"a":[1]}',
        )

    def test_publish_request(self) -> None:
        """Both servers take the same body; nchan's channel is named in the query."""
        ours, theirs = (wire.publish_request("a/b", "t", b"x", nchan=nchan) for nchan in (False, True))
        self.assertTrue(ours.startswith(b"POST /api/v1/publish HTTP/1.1\r\n"))
        self.assertEqual(
            theirs.partition(b"\r\n"), (b"POST /api/v1/publish?topic=a%2Fb HTTP/1.1", *ours.partition(b"\r\n")[1:])
        )
        self.assertTrue(ours.endswith(b'\r\n\r\n{"topic":"a/b","message":"x"}'))

    def test_accepted_types(self) -> None:
        """nchan answers in JSON, and opens an event stream, only for those who accept that."""
        self.assertIn(b"\r\nAccept: application/json\r\n", wire.publish_request("a", "t"))
        self.assertIn(b"\r\nAccept: text/event-stream\r\n", wire.sse_request("a", "t"))

    def test_sqs_request(self) -> None:
        """A request is signed as AWS's documents say, by the time at which the signer was made."""
        requests = wire.SqsRequests("FGAK.secret", "127.0.0.1:80", lambda: 1_440_938_160.0)
        head, _, body = requests.request("SendMessage", {"MessageBody": "x"}).partition(b"\r\n\r\n")
        self.assertEqual(body, b'{"MessageBody":"x"}')
        key = b"AWS4secret"
        for part in (b"20150830", b"us-east-1", b"sqs", b"aws4_request"):
            key = hmac.digest(key, part, "sha256")
        canonical = (
            b"POST\n/\n\ncontent-type:application/x-amz-json-1.0\nhost:127.0.0.1:80\nx-amz-date:20150830T123600Z\n"
            b"x-amz-target:AmazonSQS.SendMessage\n\ncontent-type;host;x-amz-date;x-amz-target\n"
            + hashlib.sha256(body).hexdigest().encode()
        )
        to_sign = "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/sqs/aws4_request\n"
        to_sign += hashlib.sha256(canonical).hexdigest()
        self.assertEqual(
            head.decode().split("\r\n"),
            [
                "POST / HTTP/1.1",
                "Host: 127.0.0.1:80",
                "X-Amz-Target: AmazonSQS.SendMessage",
                "Content-Type: application/x-amz-json-1.0",
                "X-Amz-Date: 20150830T123600Z",
                "Authorization: AWS4-HMAC-SHA256 Credential=FGAK/20150830/us-east-1/sqs/aws4_request, "
                "SignedHeaders=content-type;host;x-amz-date;x-amz-target, "
                f"Signature={hmac.digest(key, to_sign.encode(), 'sha256').hex()}",
                "Content-Length: 19",
            ],
        )

    def test_sse_request(self) -> None:
        """The topic is escaped."""
        self.assertTrue(wire.sse_request("a/b", "t").startswith(b"GET /api/v1/subscribe?topic=a%2Fb HTTP/1.1\r\n"))

    def test_websocket_text(self) -> None:
        """A frame is final, masked with zeros, and uses the longer length from 126 bytes on."""
        self.assertEqual(wire.websocket_text({"a": 1}), b'\x81\x87\0\0\0\0{"a":1}')
        self.assertEqual(wire.websocket_text({"a": "x" * 200})[:8], b"\x81\xfe\x00\xd0\0\0\0\0")


class LoadTests(SynchronousTestCase):
    """What the generators count and hold back."""

    def pair(self) -> tuple[socket.socket, socket.socket]:
        here, there = socket.socketpair()
        self.addCleanup(here.close)
        self.addCleanup(there.close)
        return here, there

    def test_receiver_counts_whole_messages(self) -> None:
        """Half a message is not counted until the other half is there."""
        here, there = self.pair()
        receiver = Receiver(here, 10)
        counts = []
        for size in (15, 4, 1):
            there.send(bytes(size))
            receiver.read()
            counts.append(receiver.messages)
        self.assertEqual(counts, [1, 1, 2])

    def test_mark_receiver_ignores_older_bytes(self) -> None:
        """Marks that an earlier read left in the buffer are not counted again."""
        here, there = self.pair()
        receiver = MarkReceiver(here)
        for data in (b"..~..~..~", b"~.", b"..."):
            there.send(data)
            receiver.read()
        self.assertEqual(receiver.messages, 4)

    def test_mark_of_answers(self) -> None:
        """Answers are counted by a mark of their own."""
        here, there = self.pair()
        receiver = MarkReceiver(here, b"{")
        there.send(b"HTTP/1.1 200 OK\r\n\r\n{}~HTTP/1.1 200 OK\r\n\r\n{}")
        receiver.read()
        self.assertEqual(receiver.messages, 2)

    def test_websocket_of_nchan(self) -> None:
        """Where the handshake subscribes, nothing more is sent and no acknowledgement is awaited."""
        here, there = self.pair()
        self.patch(connections, "connect", lambda _port: here)
        there.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        open_websocket(Server(mqtt=0, pid=0, http=1, nchan=True), "a/b")
        head, _, rest = there.recv(4096).partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"GET /ws?token=&topic=a%2Fb HTTP/1.1\r\n"))
        self.assertEqual(rest, b"")

    def test_peak_of_memory(self) -> None:
        """The peak of a process's memory stays when the memory is given back, until it is forgotten."""
        pid, size = os.getpid(), 64 * 1024 * 1024
        fanout.reset_peak(pid)
        before = fanout.peak_bytes(pid)
        bytes(bytearray(size))
        higher = fanout.peak_bytes(pid)
        fanout.reset_peak(pid)
        self.assertGreater(higher, before + size)
        self.assertLess(fanout.peak_bytes(pid), higher - size)

    def test_receiver_notices_the_end(self) -> None:
        """A connection that the server closed is a failure and not silence."""
        here, there = self.pair()
        receiver = Receiver(here, 10)
        there.close()
        self.assertRaises(Failed, receiver.read)

    def test_lane_keeps_the_window(self) -> None:
        """No more than the window is under way; with several receivers the slowest counts."""
        here, there = self.pair()
        fast, slow = Receiver(self.pair()[0], 1), Receiver(self.pair()[0], 1)
        lane = Lane([Sender(here, b"ab", 1)], [fast, slow], window=6, burst=2)
        lane.top_up()
        fast.units, slow.units = 6, 3
        lane.top_up()
        self.assertEqual((lane.sent, there.recv(100)), (8, b"abababab"))

    def test_lane_waits_for_a_burst(self) -> None:
        """Room for less than a burst is left alone."""
        here, _there = self.pair()
        receiver = Receiver(self.pair()[0], 1)
        lane = Lane([Sender(here, b"ab", 1)], [receiver], window=6, burst=2)
        lane.top_up()
        receiver.units = 1
        lane.top_up()
        self.assertEqual(lane.sent, 6)

    def test_lane_sends_whole_bursts(self) -> None:
        """A ring of packets of many sizes may only be cut where it begins."""
        here, _there = self.pair()
        lane = Lane([Sender(here, b"abc", 1)], [Receiver(self.pair()[0], 1)], window=8, burst=3)
        lane.top_up()
        self.assertEqual(lane.sent, 6)

    def test_senders_take_turns(self) -> None:
        """Several senders share a window burst by burst."""
        pairs = [self.pair() for _ in range(3)]
        lane = Lane([Sender(here, b"abcd", 1) for here, _ in pairs], [Receiver(self.pair()[0], 1)], window=8, burst=2)
        lane.top_up()
        self.assertEqual([there.recv(100) for _, there in pairs], [b"abcd", b"ab", b"ab"])

    def test_window_waits_for_acknowledgements(self) -> None:
        """The window waits for acknowledgements as for receivers, and they are due, but only receivers are measured."""
        here, _there = self.pair()
        receiver, acknowledgements = Receiver(self.pair()[0], 1), Receiver(self.pair()[0], 1)
        lane = Lane([Sender(here, b"ab", 1)], [receiver], 4, 1, [acknowledgements])
        lane.top_up()
        receiver.units, acknowledgements.units = 4, 1
        lane.top_up()
        self.assertEqual((lane.sent, lane.received, lane.outstanding), (5, 4, 5))

    def test_window_does_not_wait_for_answers(self) -> None:
        """What several senders are answered is due, together, but more is sent meanwhile."""
        senders = [Sender(self.pair()[0], b"ab", 1) for _ in range(2)]
        receiver, *answers = (Receiver(self.pair()[0], 1) for _ in range(3))
        lane = Lane(senders, [receiver], 4, 2, answers=answers)
        lane.top_up()
        receiver.units = 4
        lane.top_up()
        self.assertEqual((lane.sent, lane.received, lane.due, lane.outstanding), (8, 4, 16, 12))
        receiver.units, answers[0].units, answers[1].units = 8, 5, 3
        self.assertEqual(lane.outstanding, 0)
        lane.reset()
        self.assertEqual([one.units for one in (receiver, *answers)], [0, 0, 0])

    def test_answer_waits_for_the_end_of_a_message(self) -> None:
        """What a sender answers is sent before what it owes, but not inside of a message that it has begun."""
        here, there = self.pair()
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        sender = Sender(here, b"abcdef" * 10_000, 6)
        sender.give(10_000)
        sender.answer(b"123")
        data = b""
        while len(data) < 60_003:
            data += there.recv(1000)
            sender.flush()
        self.assertEqual((data.index(b"123") % 6, data.replace(b"123", b"")), (0, b"abcdef" * 10_000))
        self.assertLess(data.index(b"123"), 60_000)

    def test_http_response_in_parts(self) -> None:
        """A response counts once its body is whole."""
        here, there = self.pair()
        connection = HttpConnection(here)
        response = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
        there.send(response[:-1])
        first = connection.read()
        there.send(response[-1:])
        self.assertEqual((first, connection.read()), (None, response))

    def test_http_response_without_body(self) -> None:
        """204 has no body and needs no length."""
        here, there = self.pair()
        there.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        self.assertIsNotNone(HttpConnection(here).read())

    def test_http_connection_that_ends(self) -> None:
        """A server may have one answer for each connection: then the next request needs another connection."""
        here, there = self.pair()
        connection = HttpConnection(here)
        there.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.read()
        self.assertTrue(connection.closed)

    def test_http_refusal(self) -> None:
        """A refused request fails the row instead of being counted."""
        here, there = self.pair()
        there.send(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")
        self.assertRaises(Failed, HttpConnection(here).read)


class FlowTests(SynchronousTestCase):
    """The receiving ends of QoS 1 and 2."""

    def pair(self) -> tuple[socket.socket, socket.socket]:
        here, there = socket.socketpair()
        self.addCleanup(here.close)
        self.addCleanup(there.close)
        return here, there

    def subscriber(self, qos: int) -> tuple[Subscriber, socket.socket]:
        here, there = self.pair()
        return Subscriber(here, "a/b", qos), there

    def test_qos_1_is_acknowledged(self) -> None:
        """Each message is answered with a PUBACK of its own id, and counts then; DUP and RETAIN do not matter."""
        subscriber, there = self.subscriber(1)
        again = wire.mqtt_publish("a/b", 258)
        there.send(wire.mqtt_publish("a/b", 1) + b"\x3b" + again[1:])
        subscriber.read()
        self.assertEqual((there.recv(100), subscriber.messages), (b"\x40\x02\x00\x01\x40\x02\x01\x02", 2))

    def test_qos_2_counts_once_it_is_complete(self) -> None:
        """PUBLISH is answered with PUBREC; PUBREL with PUBCOMP, and only then the message counts."""
        subscriber, there = self.subscriber(2)
        there.send(wire.mqtt_publish("a/b", 7, qos=2) + b"\x62\x02\x00\x05" + wire.mqtt_publish("a/b", 8, qos=2))
        subscriber.read()
        self.assertEqual(there.recv(100).hex(" ", 4), "50020007 70020005 50020008")
        self.assertEqual(subscriber.messages, 1)

    def test_packets_at_every_split(self) -> None:
        """A packet is answered once it is whole, wherever the reads cut what was sent."""
        sent = wire.mqtt_publish("a/b", 7, qos=2) + b"\x62\x02\x00\x05" + wire.mqtt_publish("a/b", 8, qos=2)
        for cut in range(1, len(sent)):
            subscriber, there = self.subscriber(2)
            for part in (sent[:cut], sent[cut:]):
                there.send(part)
                subscriber.read()
            self.assertEqual(there.recv(100).hex(" ", 4), "50020007 70020005 50020008", cut)

    def test_another_qos(self) -> None:
        """A message at another QoS than that of the row fails it."""
        subscriber, there = self.subscriber(1)
        there.send(wire.mqtt_publish("a/b", 7, qos=2))
        self.assertRaises(Failed, subscriber.read)

    def test_publisher_completes(self) -> None:
        """A publisher answers PUBREC with PUBREL and counts PUBCOMP."""
        here, there = self.pair()
        completer = Completer(here, Sender(here, b"ab", 1))
        there.send(b"\x50\x02\x00\x01\x50\x02\x00\x02\x70\x02\x00\x09\x50\x02\x01\x03")
        completer.read()
        self.assertEqual((there.recv(100).hex(" ", 4), completer.messages), ("62020001 62020002 62020103", 1))

    def test_publish_without_acknowledgement(self) -> None:
        """What is published beforehand must be acknowledged by the packets of its QoS."""
        here, there = self.pair()
        there.send(b"\x50\x02\x00\x01")
        self.assertRaises(Failed, flows.publish_all, here, wire.mqtt_publish("a/b", 1), 1, 1)

    def test_more_than_was_due(self) -> None:
        """Anything that arrives after the last message that was due fails the row."""
        here, there = self.pair()
        there.send(wire.mqtt_publish("a/b"))
        self.assertRaises(Failed, close_mqtt, here)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%b\r\n{}"


class ExchangeTests(SynchronousTestCase):
    """Requests one by one, and the time in which they count."""

    def pair(self) -> tuple[socket.socket, socket.socket]:
        here, there = socket.socketpair()
        self.addCleanup(here.close)
        self.addCleanup(there.close)
        return here, there

    def test_workers_take_turns(self) -> None:
        """Each worker is given the answers to its own requests, until all have ended."""
        given: list[tuple[int, bytes]] = []
        ends = [self.pair() for _ in range(2)]

        def worker(number: int, there: socket.socket, requests: int) -> Worker:
            for _ in range(requests):
                there.send(OK % b"")
                given.append((number, (yield b"ask")))

        exchanges.exchange(
            [HttpConnection(here) for here, _ in ends],
            [worker(number, there, 1 + number) for number, (_, there) in enumerate(ends)],
        )
        self.assertEqual(sorted(given), [(0, OK % b""), (1, OK % b""), (1, OK % b"")])
        self.assertEqual([there.recv(100) for _, there in ends], [b"ask", b"askask"])

    def test_worker_without_a_request(self) -> None:
        """A worker that wants nothing is no reason to wait."""
        exchanges.exchange([HttpConnection(self.pair()[0])], [iter_worker()])

    def test_connection_is_opened_again(self) -> None:
        """What the server closed after its answer is opened again for the next request, and for a later exchange."""
        ends = [self.pair() for _ in range(3)]
        for _, there in ends:
            there.send(OK % b"Connection: close\r\n")
        sockets = iter([here for here, _ in ends])

        class Reopened(HttpConnection):
            def open(self) -> None:
                self._use(next(sockets))

        connection = Reopened(next(sockets))

        def worker() -> Worker:
            yield b"one"
            yield b"two"

        exchanges.exchange([connection], [worker()])
        exchanges.ask(connection, b"three")
        self.assertEqual([there.recv(100) for _, there in ends], [b"one", b"two", b"three"])

    def test_ask(self) -> None:
        """One request gives its answer."""
        here, there = self.pair()
        there.send(OK % b"")
        self.assertEqual(exchanges.ask(HttpConnection(here), b"ask"), OK % b"")

    def test_span(self) -> None:
        """Nothing counts before a quarter of the time and after the end, and the end is told."""
        clock = Clock()
        self.patch(exchanges, "time", SimpleNamespace(perf_counter=clock.seconds))
        span = Span(4.0)
        going = []
        for pause, count in ((0.5, 100), (0.5, 1), (3.5, 2), (0.5, 100)):
            clock.advance(pause)
            going.append(span.add(count))
        self.assertEqual((going, span.rate), ([True, True, True, False], 0.75))


def iter_worker() -> Worker:
    """A worker that has ended before it asked for anything."""
    yield from ()


class QueueTests(SynchronousTestCase):
    """What the generators of queues ask for."""

    server = Server(mqtt=0, pid=0, http=80, token="tok", api_key="FGAK.secret")

    def rest(self) -> queues.RestQueue:
        return queues.RestQueue(self.server, "q")

    def sqs(self) -> queues.SqsQueue:
        return queues.SqsQueue(self.server, "q")

    def shown(self, request: bytes) -> tuple[str, object]:
        """The beginning of a request's path, or its operation, and its body."""
        head, _, body = request.partition(b"\r\n\r\n")
        operation = re.search(rb"X-Amz-Target: AmazonSQS\.(\w+)", head)
        what = operation[1] if operation else head.partition(b" HTTP")[0]
        return what.decode(), json.loads(body) if body else None

    def test_rest(self) -> None:
        """One message has calls of its own, several go by a batch."""
        queue, body, path = self.rest(), wire.PAYLOAD.decode(), "/api/v1/queues/q/messages"
        self.assertEqual(
            [
                self.shown(one)
                for one in (
                    queue.send(1),
                    queue.send(2),
                    queue.receive(10, 1),
                    queue.delete([b"a-b"]),
                    queue.delete([b"a", b"b"]),
                    queue.remove(),
                )
            ],
            [
                (f"POST {path}", {"body": body}),
                (f"POST {path}/batch", {"messages": [{"id": "0", "body": body}, {"id": "1", "body": body}]}),
                (f"POST {path}/receive", {"max": 10, "wait": 1}),
                (f"DELETE {path}/a-b", None),
                (f"POST {path}/delete", {"receipts": ["a", "b"]}),
                ("DELETE /api/v1/queues/q", None),
            ],
        )

    def test_sqs(self) -> None:
        """The same in Amazon's words."""
        queue, body, url = self.sqs(), wire.PAYLOAD.decode(), {"QueueUrl": ""}
        entries = [{"Id": "0", "MessageBody": body}, {"Id": "1", "MessageBody": body}]
        receipts = [{"Id": "0", "ReceiptHandle": "a"}, {"Id": "1", "ReceiptHandle": "b"}]
        self.assertEqual(
            [
                self.shown(one)
                for one in (
                    queue.send(1),
                    queue.send(2),
                    queue.receive(10, 1),
                    queue.delete([b"a"]),
                    queue.delete([b"a", b"b"]),
                    queue.remove(),
                )
            ],
            [
                ("SendMessage", {**url, "MessageBody": body}),
                ("SendMessageBatch", {**url, "Entries": entries}),
                ("ReceiveMessage", {**url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 1}),
                ("DeleteMessage", {**url, "ReceiptHandle": "a"}),
                ("DeleteMessageBatch", {**url, "Entries": receipts}),
                ("DeleteQueue", url),
            ],
        )

    def test_receipts(self) -> None:
        """Receipts are found whether there are spaces after the colons or not."""
        self.assertEqual(self.rest().receipts(b'{"messages":[{"receipt":"a"},{"receipt": "b"}]}'), [b"a", b"b"])
        self.assertEqual(self.sqs().receipts(b'{"Messages": [{"ReceiptHandle": "a"}]}'), [b"a"])

    def test_refused_part_of_a_batch(self) -> None:
        """A batch of which something was refused fails the row, though its status is 200."""
        for response in (b'{"successful":[],"failed":[]}', b'{"Successful": [], "Failed": []}', b""):
            queues.check(response)
        for response in (b'"failed":[{"id":"0"}]', b'"Failed": [{"Id": "0"}]'):
            self.assertRaises(Failed, queues.check, response)

    def test_cycle(self) -> None:
        """A cycle ends when as many were deleted as were sent; it asks for no more than is owed."""
        added: list[int] = []

        class Counting(Span):
            def add(self, count: int) -> bool:
                added.append(count)
                return False

        worker = queues.cycle(self.rest(), 3, Counting(1.0))
        steps = [self.shown(next(worker))]
        receipts = b'"receipt":"%d"'
        for response in (b"", receipts % 1 + receipts % 2, b"", b"", receipts % 3):
            steps.append(self.shown(worker.send(response)))
        path = "/api/v1/queues/q/messages"
        self.assertEqual(
            steps[1:],
            [
                (f"POST {path}/receive", {"max": 3, "wait": 1}),
                (f"POST {path}/delete", {"receipts": ["1", "2"]}),
                (f"POST {path}/receive", {"max": 1, "wait": 1}),
                (f"POST {path}/receive", {"max": 1, "wait": 1}),
                (f"DELETE {path}/3", None),
            ],
        )
        self.assertRaises(StopIteration, worker.send, b"")
        self.assertEqual(added, [2, 1])

    def test_fill(self) -> None:
        """A queue is filled by batches of ten, the last one whole; what was sent is told."""
        here, there = socket.socketpair()
        self.addCleanup(here.close)
        self.addCleanup(there.close)
        connection = HttpConnection(here)
        requests: list[bytes] = []

        def send(request: bytes) -> None:
            requests.append(request)
            there.send(OK % b"")

        self.patch(connection, "send", send)
        queue = self.rest()
        self.assertEqual((queues.fill(queue, [connection], 15), requests), (20, [queue.send(10)] * 2))
