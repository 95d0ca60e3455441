"""Settings: one table, three places, one sentence for what is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import StartError
from flowgate.limits import Limits, TopicPolicy
from flowgate.queues.declared import DeclaredQueue
from flowgate.settings import OPTIONS, Invalid, Options, Settings, load, parse_age
from flowgate.topics import Namespace

EVERYTHING = """
data = "elsewhere"
http = ["tcp:1", "tcp:2"]
mqtt = []
nats = ["nats://a:4222", "nats://b:4222"]
mqtt_client_ca = "ca.pem"
mqtt_client_cert_required = true
durability = "fsync"
replicas = 3
master_secret = "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm"
admin_token = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
master_secret_file = "secrets/master"
admin_token_file = "/run/secrets/admin"
issuer = "https://gateway.example"
sqs_account_id = "000000000042"
sqs_regions = "separate"
metrics = "open"
log_format = "json"
log_requests = true

[signing]
announce = "1h"

[websocket]
origins = ["https://Example.org:443", "http://*.example.org:8000", "null"]
deflate = true

[history]
messages = 50
age = "7d"

[limits]
message_bytes = 1000
connections = 10

[[topics]]
filter = "telemetry/#"
history = false

[[topics]]
filter = "orders/+"
history = { messages = 50, age = "1h" }

[[topics]]
filter = "all"

[[queues]]
user = "alice"
app = "shop"
name = "orders"
visibility = 60
dead_letter = { queue = "orders-dead", max_receives = 3 }
subscriptions = ["sales/#", "alice_shop_returns"]

[[queues]]
user = "alice"
app = "shop"
name = "orders-dead"
"""

HOSTILE_VALUES = (
    *("1", "-1", "true", "0.5", "nan", "inf", '""', '"a"', "[]", "[[]]", '["a", 1]', "{}", "{ a = 1 }", "1979-05-27"),
    *('"24h"', '"\\u0000"', "9223372036854775808", '[{ filter = "a", history = [] }]', "[{ filter = [] }]"),
    *('[{ user = "a", app = "b", name = "c", subscriptions = [{}] }]', '[{ user = "a", app = "b", name = [] }]'),
    *('[{ user = "a", app = "b", name = "c", dead_letter = { queue = [] } }]', "[{ user = {} }]"),
    *('[{ user = "a", app = "b", name = "c", tags = { a = 1 }, dead_letter_allow = [[]], type = [] }]', "[[{}]]"),
    *('[{ filter = "a", history = { age = [] } }]', '[{ filter = "a", history = { messages = [] } }]'),
)


class _Tests(SynchronousTestCase):
    def setUp(self) -> None:
        self.file = Path(self.mktemp())

    def load(self, text: str | bytes = "", environment: dict[str, str] | None = None, **options: Any) -> Settings:
        self.file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return load({"config": str(self.file), **options}, environment or {})

    def sentence(self, text: str | bytes = "", environment: dict[str, str] | None = None, **options: Any) -> str:
        """The one sentence with which this is refused."""
        sentence = str(self.assertRaises(StartError, self.load, text, environment, **options))
        self.assertNotIn("\n", sentence)
        return sentence


class SourceTests(_Tests):
    """Where values come from."""

    def test_defaults(self) -> None:
        """Without any word the contract's defaults hold."""
        settings = load({}, {})
        self.assertEqual(settings, attrs.evolve(Settings(), data=Path("flowgate-data").absolute()))
        self.assertEqual(settings.http, ("tcp:8080:interface=127.0.0.1",))
        self.assertEqual(settings.mqtt, ("tcp:1883:interface=127.0.0.1",))
        self.assertEqual((settings.nats, settings.durability), ((), "os"))
        self.assertEqual((settings.history_messages, settings.history_age), (1000, 86400))
        self.assertEqual(settings.limits, Limits())

    def test_file(self) -> None:
        """Everything can stand in the file."""
        self.assertEqual(
            self.load(EVERYTHING),
            Settings(
                data=Path("elsewhere").absolute(),
                http=("tcp:1", "tcp:2"),
                mqtt=(),
                nats=("nats://a:4222", "nats://b:4222"),
                mqtt_client_ca=Path("ca.pem").absolute(),
                mqtt_client_cert_required=True,
                durability="fsync",
                replicas=3,
                master_secret="m" * 32,
                master_secret_file=Path("secrets/master").absolute(),
                admin_token="a" * 32,
                admin_token_file=Path("/run/secrets/admin"),
                issuer="https://gateway.example",
                signing_announce=3600,
                sqs_account_id="000000000042",
                sqs_regions="separate",
                metrics="open",
                log_format="json",
                log_requests=True,
                history_messages=50,
                history_age=7 * 86400,
                websocket_origins=("https://example.org", "http://*.example.org:8000", "null"),
                websocket_deflate=True,
                limits=Limits(message_bytes=1000, connections=10),
                policies=(
                    TopicPolicy("telemetry/#", False),
                    TopicPolicy("orders/+", True, 3600),
                    TopicPolicy("all", True),
                ),
                queues=(
                    DeclaredQueue(
                        Namespace("alice", "shop"),
                        "orders",
                        {"visibility": 60, "dead_letter": {"queue": "orders-dead", "max_receives": 3}},
                        ("alice_shop_sales/#", "alice_shop_returns"),
                    ),
                    DeclaredQueue(Namespace("alice", "shop"), "orders-dead"),
                ),
            ),
        )

    def test_precedence(self) -> None:
        """The command line goes before the environment, that before the file."""
        text, environment = 'durability = "os"\nissuer = "file"\nhttp = ["tcp:1"]', {"FLOWGATE_DURABILITY": "fsync"}
        self.assertEqual(self.load(text, environment).durability, "fsync")
        self.assertEqual(self.load(text, environment, durability="os").durability, "os")
        self.assertEqual(self.load(text, environment).issuer, "file")
        self.assertEqual(self.load(text, {"FLOWGATE_HTTP": "tcp:2 tcp:3"}, http=["tcp:4"]).http, ("tcp:4",))

    def test_every_option_in_the_environment(self) -> None:
        """Every option has a name in the environment, and its own field."""
        limits = {f"limits.{name}": str(value - 1 if value else 1) for name, value in attrs.asdict(Limits()).items()}
        samples = {"history.age": "2h", "history.messages": "3", "replicas": "3", "durability": "fsync", **limits}
        samples["mqtt_client_cert_required"] = samples["websocket.deflate"] = "true"
        samples["websocket.origins"] = "https://a.example http://localhost:3000"
        samples.update({"webhooks.allow": "10.1.0.0/16 fd00:1::/32", "webhooks.http": "true"})
        samples["signing.announce"] = "20m"
        samples["billing.webhook"] = "https://operator.example/usage"
        samples.update({"dashboard.enabled": "false", "dashboard.secure": "true"})
        samples.update({"metrics": "open", "log_format": "json", "log_requests": "true"})
        samples.update({"sqs_account_id": "000000000042", "sqs_regions": "separate"})
        usual = load({}, {})
        for option in OPTIONS:
            settings = load({}, {option.variable: samples.get(option.name, "tcp:7")})
            names = [field.name for field in attrs.fields(Settings)]
            changed = [name for name in names if getattr(settings, name) != getattr(usual, name)]
            self.assertEqual(changed, ["limits" if option.name in limits else option.field], option.name)

    def test_lists_in_the_environment(self) -> None:
        """Several values stand with spaces between them."""
        self.assertEqual(load({}, {"FLOWGATE_NATS": " nats://a  nats://b "}).nats, ("nats://a", "nats://b"))

    def test_file_named_in_the_environment(self) -> None:
        """``FLOWGATE_CONFIG`` names the file; ``--config`` goes before it."""
        self.file.write_text('issuer = "file"')
        self.assertEqual(load({}, {"FLOWGATE_CONFIG": str(self.file)}).issuer, "file")
        self.assertEqual(load({"config": str(self.file)}, {"FLOWGATE_CONFIG": "/nowhere"}).issuer, "file")

    def test_foreign_variables(self) -> None:
        """What belongs to the ``flowgate`` command, or to others, is no option of the gateway."""
        load({}, {"FLOWGATE_KEY": "x", "FLOWGATE_URL": "y", "PATH": "z", "flowgate_data": "no", "MY_FLOWGATE_X": "1"})

    def test_secrets_are_not_shown(self) -> None:
        """The settings as a text do not show the secrets."""
        shown = repr(self.load(EVERYTHING))
        self.assertNotIn("mmmm", shown)
        self.assertNotIn("aaaa", shown)

    def test_every_limit_is_an_option(self) -> None:
        """No bound is left out of the table."""
        names = {option.name for option in OPTIONS}
        self.assertLessEqual({f"limits.{field.name}" for field in attrs.fields(Limits)}, names)


class AgeTests(SynchronousTestCase):
    """Ages as people write them."""

    def test_units(self) -> None:
        """Seconds, minutes, hours, days."""
        self.assertEqual([parse_age(text) for text in ("30s", "15m", "24h", "7d")], [30, 900, 86400, 604800])

    def test_wrong(self) -> None:
        """Anything else is refused, also an age that the bus cannot count."""
        values: tuple[object, ...] = (
            "",
            "0s",
            "1",
            "1w",
            "-1s",
            "1.5h",
            "1h30m",
            " 1h",
            "1h\n",
            "٣s",
            5,
            True,
            None,
            [],
            "36501d",
        )
        for wrong in values:
            self.assertRaises(Invalid, parse_age, wrong)


class RefusalTests(_Tests):
    """What stops the start, and how it is said."""

    def test_unknown_key(self) -> None:
        """An unknown key is named, with file and nearest known one."""
        for text, named, near in (
            ("htpp = []", "'htpp'", "'http'"),
            ("[limits]\nconection = 1", "'limits.conection'", "'limits.connections'"),
            ("[history]\nmesages = 1", "'history.mesages'", "'history.messages'"),
            ("[[topic]]\nfilter = 'a'", "'topic'", "'topics'"),
            ("[[topics]]\nfilter = 'a'\nhistroy = true", "'histroy'", "'history'"),
            ("[[topics]]\nfilter = 'a'\nhistory = { aeg = '1h' }", "'aeg'", "'age'"),
            ('config = "other.toml"', "'config'", ""),
            ("[limit]", "'limit'", "'limits'"),
            ("durabilty = {}", "'durabilty'", "'durability'"),
        ):
            sentence = self.sentence(text)
            for part in (str(self.file), named, near):
                self.assertIn(part, sentence)

    def test_later_tables(self) -> None:
        """Plans come with later versions: until then they are unknown, not ignored."""
        self.assertIn("plans", self.sentence("[plans.free]\nmessages = 1"))

    def test_plans(self) -> None:
        """A plan is read with its name; what is wrong in one is named with its place."""
        (plan,) = self.load("[plans.free]\nunits = 100\nperiod = 'day'\npublish_rate = 7").plans
        self.assertEqual((plan.name, plan.units, plan.period, plan.rates.publish_rate), ("free", 100, "day", 7))
        self.assertEqual(self.load("").plans, ())
        for text, place, named in (
            ("plans = 1", "plans", "[plans.<name>]"),
            ("[plans]\nfree = 1", "plans.free", "[plans.free]"),
            ("[plans.free]\nunits = -1", "plans.free", "units"),
            ("[plans.free]\nunit = 1", "plans.free", "did you mean"),
            ("[plans.'a b']", "plans.a b", "name of a plan"),
        ):
            sentence = self.sentence(text)
            self.assertIn(place, sentence)
            self.assertIn(named, sentence)

    def test_queues(self) -> None:
        """A declaration of a queue is checked as a whole, and what is wrong is named with its place."""
        begin = "[[queues]]\nuser = 'u'\napp = 'a'\nname = 'q'\n"
        for text, place, named in (
            ("queues = 1", "queues", "[[queues]]"),
            ("queues = [1]", "queues[0]", "table"),
            ("[[queues]]\nuser = 'u'\napp = 'a'", "queues[0]", "name"),
            ("[[queues]]\nuser = 'u_u'\napp = 'a'\nname = 'q'", "queues[0]", "user must be"),
            ("[[queues]]\nuser = 'u'\napp = 7\nname = 'q'", "queues[0]", "app"),
            ("[[queues]]\nuser = 'u'\napp = 'a'\nname = 'q q'", "queues[0]", "name of a queue"),
            (begin + "visibilty = 1", "queues[0]", "did you mean 'visibility'"),
            (begin + "fifo = true", "queues[0]", "'fifo'"),
            (begin + "visibility = 43201", "queues[0]", "visibility must be"),
            (begin + "retention = 1979-05-27", "queues[0]", "retention must be"),
            (begin + "dead_letter = 'x'", "queues[0]", "dead_letter must be"),
            (begin + "dead_letter = { queue = 'x.fifo' }", "queues[0]", "dead-letter queue"),
            (begin + "type = 'fifo'", "queues[0]", "type must be"),
            (begin + "subscriptions = 'a'", "queues[0]", "subscriptions must be"),
            (begin + "subscriptions = ['a#']", "queues[0]", "'#'"),
            (begin + "subscriptions = ['$SYS/#']", "queues[0]", "$SYS"),
            (begin + begin, "queues[1]", "declared twice"),
        ):
            sentence = self.sentence(text)
            for part in (str(self.file), place, named):
                self.assertIn(part, sentence, text)

    def test_sqs(self) -> None:
        """The account is 12 digits as a text, so that zeros at its beginning stay; regions have two ways."""
        for text in (
            "sqs_account_id = 123456789012",
            "sqs_account_id = '12345678901'",
            "sqs_account_id = '١23456789012'",
        ):
            self.assertIn("12 digits", self.sentence(text))
        self.assertIn("shared or separate", self.sentence("sqs_regions = 'none'"))

    def test_unknown_variable(self) -> None:
        """An unknown variable is named, with the nearest known one."""
        sentence = self.sentence(environment={"FLOWGATE_DURABILTY": "os"})
        self.assertIn("FLOWGATE_DURABILTY", sentence)
        self.assertIn("FLOWGATE_DURABILITY", sentence)

    def test_wrong_type(self) -> None:
        """A value of another type is refused with its key and what is allowed."""
        for text, key, allowed in (
            ('http = "tcp:1"', "http", "list"),
            ("http = [1]", "http", "text"),
            ("data = 5", "data", "text"),
            ('data = ""', "data", "text"),
            ('data = "a\\u0000b"', "data", "text"),
            ('replicas = "3"', "replicas", "1 to 5"),
            ("replicas = true", "replicas", "1 to 5"),
            ("replicas = 3.0", "replicas", "1 to 5"),
            ('durability = "disk"', "durability", "os or fsync"),
            ("[durability]", "durability", "table"),
            ("history = 5", "history", "table"),
            ("limits = []", "limits", "table"),
            ("[history]\nage = 86400", "history.age", "24h"),
            ("[webhooks]\nallow = ['10.1.2.3/16']", "webhooks.allow", "10.1.0.0/16"),
            ("[webhooks]\nallow = ['localhost']", "webhooks.allow", "networks"),
            ("topics = 1", "topics", "[[topics]]"),
            ("topics = [1]", "topics[0]", "table"),
            ("[[topics]]", "topics[0]", "filter"),
            ("[[topics]]\nfilter = 1", "topics[0]", "filter"),
            ("[[topics]]\nfilter = 'a'\nhistory = 'no'", "topics[0]", "true, false"),
            ("[[topics]]\nfilter = 'a'\n[[topics]]\nfilter = 'a/#/b'", "topics[1]", "'#'"),
        ):
            sentence = self.sentence(text)
            for part in (str(self.file), key, allowed):
                self.assertIn(part, sentence, text)

    def test_out_of_range(self) -> None:
        """A number outside its bounds is refused with the bounds, wherever it stands."""
        self.assertIn("1 to 5", self.sentence("replicas = 6"))
        self.assertIn("1 to 1048576", self.sentence("[limits]\nmessage_bytes = 1048577"))
        self.assertIn("from 65536", self.sentence("[limits]\nsubscriber_buffer_bytes = 1"))
        for text in ("0", "-1", "x", "1.5", "", "9" * 5000, "٣"):
            sentence = self.sentence(environment={"FLOWGATE_REPLICAS": text})
            self.assertIn("FLOWGATE_REPLICAS", sentence)
            self.assertIn("1 to 5", sentence)

    def test_broken_file(self) -> None:
        """A file that is no TOML, or cannot be read, is named."""
        for text in (b"a =", b"\xff", b"a = 1\na = 2", b"a = " + b"[" * 5000, b"replicas = " + b"9" * 5000, b"\0"):
            self.assertIn(str(self.file), self.sentence(text))
        missing = str(self.file) + ".none"
        self.assertIn(missing, self.sentence(config=missing))
        self.assertIn("cannot be read", self.sentence(config=str(self.file.parent)))

    def test_messages_of_a_topic(self) -> None:
        """One stream keeps one number for all topics: another number in a policy is refused, not ignored."""
        policy = "[[topics]]\nfilter = 'a'\nhistory = { messages = 10 }"
        self.assertIn("history.messages", self.sentence(policy))
        self.assertEqual(self.load("[history]\nmessages = 10\n" + policy).policies, (TopicPolicy("a", True),))

    def test_messages_given_elsewhere(self) -> None:
        """The number that counts is the one that holds, also if it comes from the environment."""
        policy = "[[topics]]\nfilter = 'a'\nhistory = { messages = 10 }"
        self.load(policy, {"FLOWGATE_HISTORY_MESSAGES": "10"})

    def test_age_of_a_topic(self) -> None:
        """A topic cannot be kept longer than the stream."""
        self.assertIn("history.age", self.sentence("[[topics]]\nfilter = 'a'\nhistory = { age = '25h' }"))

    def test_history_table_without_members(self) -> None:
        """A table means that there is history, also an empty one."""
        self.assertEqual(self.load("[[topics]]\nfilter = 'a'\nhistory = {}").policies, (TopicPolicy("a", True),))

    @hypothesis(max_examples=200, deadline=None)
    @given(st.binary(max_size=200))
    def test_hostile_bytes(self, data: bytes) -> None:
        """Nothing but settings or a ``StartError`` comes of any file."""
        self.setUp()
        try:
            self.load(data)
        except StartError:
            return

    @hypothesis(max_examples=200, deadline=None)
    @given(
        st.sampled_from([option.name for option in OPTIONS] + ["topics", "queues", "history", "limits", "x"]),
        st.sampled_from(HOSTILE_VALUES),
    )
    def test_hostile_values(self, name: str, value: str) -> None:
        """Nothing but settings or a ``StartError`` comes of any value under any name."""
        self.setUp()
        try:
            self.load(f"{name} = {value}")
        except StartError as error:
            self.assertNotIn("\n", str(error))

    @hypothesis(max_examples=200, deadline=None)
    @given(st.sampled_from([option.variable for option in OPTIONS]), st.text(max_size=20))
    def test_hostile_environment(self, name: str, value: str) -> None:
        """Nothing but settings or a ``StartError`` comes of any text in the environment."""
        try:
            load({}, {name: value})
        except StartError as error:
            self.assertIn(name, str(error))


class OptionsTests(SynchronousTestCase):
    """The options of ``twistd flowgate``."""

    def parse(self, *arguments: str) -> Settings:
        options = Options()
        with mock.patch.dict(os.environ, clear=True):
            options.parseOptions(list(arguments))
        return options.settings

    def test_all(self) -> None:
        """Every option of the contract is there; endpoints and NATS servers can be repeated."""
        config = Path(self.mktemp())
        config.write_text('issuer = "file"')
        settings = self.parse(
            *("--data", "d", "--http", "tcp:1", "--http", "tcp:2", "--mqtt", "tcp:3", "--nats", "nats://a"),
            *("--config", str(config), "--durability", "fsync"),
        )
        self.assertEqual((settings.data, settings.http), (Path("d").absolute(), ("tcp:1", "tcp:2")))
        self.assertEqual((settings.mqtt, settings.nats), (("tcp:3",), ("nats://a",)))
        self.assertEqual((settings.durability, settings.issuer), ("fsync", "file"))

    def test_two_of_them(self) -> None:
        """One command line does not know another one's values."""
        self.assertEqual(self.parse("--http", "tcp:1").http, ("tcp:1",))
        self.assertEqual(self.parse().http, Settings().http)

    def test_wrong_value(self) -> None:
        """A value that is not allowed ends the process with one sentence and status 1."""
        ended = self.assertRaises(SystemExit, self.parse, "--durability", "disk")
        self.assertEqual(str(ended), "flowgate: --durability must be os or fsync")

    def test_unknown_option(self) -> None:
        """What twistd itself understands to be wrong is a usage error."""
        self.assertRaises(usage.UsageError, self.parse, "--bad")
        self.assertRaises(usage.UsageError, self.parse, "argument")
