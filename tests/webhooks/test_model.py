"""Webhooks as values."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import Conflict, InvalidParameter
from flowgate.topics import Namespace
from flowgate.webhooks.addresses import AddressPolicy
from flowgate.webhooks.model import State, Webhook, check_name, check_url, pause
from flowgate.webhooks.signing import OVERLAP_SECONDS, Secrets, sign

HOME = Namespace("alice", "shop")
WEBHOOK = Webhook(
    home=HOME,
    name="w",
    id="0123456789abcdef",
    filter="alice_shop_sales/#",
    full=False,
    url="https://receiver.example/",
    dead_letter="dead",
    max_receives=10,
    secret=1,
    secret_since=1000,
    state=State.ENABLED,
    created_at=1000,
    modified_at=1000,
)

GOOD = (
    *("https://a.example", "https://a.example/", "https://a.example:8443/x?y=z&a=b@c", "https://a-b_c.example/%20"),
    *("https://93.184.216.34/x", "https://[2606:4700::1111]:444/", "https://xn--bcher-kva.example/"),
)
BAD = (
    *("", "a.example", "ftp://a.example/", "HTTPS://a.example/", "//a.example/", "https:a.example", "https:///x"),
    *("https://user@a.example/", "https://u:p@a.example/", "https://a.example\\@b.example/", "https://a.example#x"),
    *("https://a.example/#x", "https://a.example/ x", "https://a.example/\r\nHost: b", "https://a.example/\n"),
    *("https://bücher.example/", "https://a.example/ü", "https://a.example:/", "https://a.example:0/"),
    *(
        "https://a.example:65536/",
        "https://a.example?x",
        "https://[::1/",
        "https://::1/",
        "https://a.example/" + 2048 * "x",
    ),
    *("https://127.0.0.1/", "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://169.254.169.254/latest/"),
    *("https://2130706433/", "https://127.1/", "https://0/", "https://[fd00::1]/", "https://10.0.0.1:80/"),
)


class ModelTests(SynchronousTestCase):
    """Checks, what is stored, and retries."""

    def test_good_urls(self) -> None:
        """URLs of public hosts are taken."""
        for url in GOOD:
            check_url(url, AddressPolicy(), False)

    def test_bad_urls(self) -> None:
        """What is no plain https URL, or has an address that is not public, is refused."""
        for url in BAD:
            self.assertRaises(InvalidParameter, check_url, url, AddressPolicy(), True)

    def test_http(self) -> None:
        """``http:`` is taken only if the operator allows it."""
        self.assertRaises(InvalidParameter, check_url, "http://a.example/", AddressPolicy(), False)
        check_url("http://a.example/", AddressPolicy(), True)

    def test_allowed(self) -> None:
        """An address that the operator allows is taken."""
        check_url("https://10.1.2.3/", AddressPolicy(["10.1.0.0/16"]), False)

    def test_names(self) -> None:
        """A name has 1 to 64 characters of a few kinds."""
        for name in ("w", "A_b-9", 64 * "x"):
            check_name(name)
        for name in ("", "a.b", "a b", "ä", "a/b", 65 * "x", "a\n"):
            self.assertRaises(InvalidParameter, check_name, name)

    def test_stored(self) -> None:
        """What is stored is read as the same."""
        self.assertEqual(Webhook.decode(HOME, "w", WEBHOOK.encode()), WEBHOOK)

    def test_stored_by_others(self) -> None:
        """What another version stored is refused, not guessed at."""
        for value in (b"", b"{}", b"[]", b"1", WEBHOOK.encode().replace(b'"enabled"', b'"paused"')):
            self.assertRaises(Conflict, Webhook.decode, HOME, "w", value)
        more = WEBHOOK.encode().replace(b"{", b'{"more":1,')
        self.assertRaises(Conflict, Webhook.decode, HOME, "w", more)

    def test_hidden_place(self) -> None:
        """Its queue is in a namespace that no user can have."""
        place = WEBHOOK.place
        self.assertRaises(InvalidParameter, Namespace.checked, place.user, place.app)

    def test_takes(self) -> None:
        """It takes the topics of its filter and namespace."""
        for topic, taken in (
            *(("alice_shop_sales/a", True), ("alice_shop_sales", True), ("alice_shop_other", False)),
            *(("bob_shop_sales/a", False), ("alice_shop2_sales/a", False)),
        ):
            self.assertEqual(WEBHOOK.takes(topic), taken, topic)

    def test_pauses(self) -> None:
        """Retries wait 1, 5, 30, 120, then 600 seconds, give or take a fifth."""
        self.assertEqual([pause(attempt, 0.5) for attempt in range(1, 8)], [1, 5, 30, 120, 600, 600, 600])
        self.assertEqual([pause(attempt, 0.0) for attempt in range(1, 6)], [1, 4, 24, 96, 480])
        self.assertEqual([pause(attempt, 1.0) for attempt in range(1, 6)], [1, 6, 36, 144, 720])


class SecretTests(SynchronousTestCase):
    """Secrets and signatures."""

    def test_signature(self) -> None:
        """The signature is HMAC-SHA256 over time, dot and body (by ``openssl dgst -sha256 -hmac secret``)."""
        self.assertEqual(
            sign("secret", 1800000000, b'{"topic":"a","data":1}'),
            "v1=93b6b1d41868bfe5d2e05a55d6da2e98232b2bd449bda146d4d21034b21079f8",
        )

    def test_of_its_own(self) -> None:
        """A secret is another one for each gateway, namespace, name, making and number."""
        secrets = {
            Secrets(master).secret(one)
            for master in (b"one", b"two")
            for one in (
                WEBHOOK,
                attrs.evolve(WEBHOOK, home=Namespace("bob", "shop")),
                attrs.evolve(WEBHOOK, name="v"),
                attrs.evolve(WEBHOOK, id="f" * 16),
                attrs.evolve(WEBHOOK, secret=2),
            )
        }
        self.assertEqual(len(secrets), 10)
        for secret in secrets:
            self.assertRegex(secret, r"\Afgwh_[A-Za-z0-9_-]{43}\Z")

    def test_renewed(self) -> None:
        """For a day after a secret was renewed both sign, the new one first."""
        secrets = Secrets(b"master")
        renewed = attrs.evolve(WEBHOOK, secret=2, secret_since=5000)
        old, new = secrets.secret(WEBHOOK), secrets.secret(renewed)
        self.assertEqual(secrets.signatures(renewed, 5000.5, b"x"), f"{sign(new, 5000, b'x')},{sign(old, 5000, b'x')}")
        after = 5000 + OVERLAP_SECONDS
        self.assertEqual(secrets.signatures(renewed, after, b"x"), sign(new, after, b"x"))
        self.assertEqual(secrets.signatures(WEBHOOK, 1000, b"x"), sign(old, 1000, b"x"))
