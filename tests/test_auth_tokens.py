"""Tokens: what they say, which are accepted, and how they end."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any
from unittest import mock

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import fail
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth import tokens as module
from flowgate.auth.keys import ApiKey, Keyring
from flowgate.auth.permissions import Grant, Grants
from flowgate.auth.signing import SigningKeys, derived_key
from flowgate.auth.tokens import AUDIENCE, REVOKED, TokenService
from flowgate.bus.memory_store import MemoryStore
from flowgate.errors import (
    AccountSuspended,
    BusUnavailable,
    InsufficientScope,
    InvalidParameter,
    InvalidToken,
    InvalidTopic,
    KeyDisabled,
)
from flowgate.topics import Namespace

NOW = 1_800_000_000
MASTER = b"m" * 43
ISSUER = "https://gateway.example"
HOME = Namespace("alice", "shop")

Token = tuple[dict[str, Any], dict[str, Any]]


def _encode(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _decode(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


class _Tests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = float(NOW)
        self.store = MemoryStore()
        self.keyring, self.tokens = self.node()
        self.key = self.create()
        self.token = self.tokens.issue(self.key).token

    def node(self, master: bytes = MASTER, issuer: str = ISSUER) -> tuple[Keyring, TokenService]:
        keyring = Keyring(self.store, master, lambda: self.now)
        signing = SigningKeys(master, self.store, lambda: self.now)
        tokens = TokenService(keyring, signing, self.store, issuer, lambda: self.now)
        self.successResultOf(signing.start())
        self.successResultOf(keyring.start())
        self.successResultOf(tokens.start())
        self.addCleanup(keyring.stop)
        self.addCleanup(tokens.stop)
        self.addCleanup(signing.stop)
        return keyring, tokens

    def create(self, user: str = "alice", **options: Any) -> ApiKey:
        return self.successResultOf(self.keyring.create(user, "shop", **options))[0]

    def parts(self) -> Token:
        header, claims, _ = self.token.split(".")
        return _decode(header), _decode(claims)

    def signed(self, header: dict[str, Any] | None = None, drop: str = "", /, **claims: Any) -> str:
        """A token with our own signature, whatever it says."""
        good_header, good_claims = self.parts()
        good_claims.update(claims)
        good_claims.pop(drop, None)
        return jwt.encode(good_claims, derived_key(MASTER), "ES256", {**good_header, **(header or {})})

    def refused(self, token: str, tokens: TokenService | None = None) -> str:
        error: InvalidToken = self.assertRaises(InvalidToken, (tokens or self.tokens).verify, token)
        return error.detail


class IssueTests(_Tests):
    """Making tokens."""

    def test_answer(self) -> None:
        """The owner is told how long the token lives and what it is for."""
        issued = self.tokens.issue(self.key)
        self.assertEqual(
            (issued.expires_in, issued.user, issued.app, issued.prefix), (900, "alice", "shop", "alice_shop_")
        )
        self.assertEqual(issued.scope, "publish:alice_shop_# subscribe:alice_shop_# queue:*")

    def test_header_and_claims(self) -> None:
        """The token is an access token of RFC 9068."""
        header, claims = self.parts()
        self.assertEqual(header, {"alg": "ES256", "typ": "at+jwt", "kid": self.tokens.jwks()["keys"][0]["kid"]})
        jti = claims.pop("jti")
        self.assertGreaterEqual(len(jti), 16)
        self.assertEqual(
            claims,
            {
                "iss": ISSUER,
                "sub": "alice",
                "aud": AUDIENCE,
                "iat": NOW,
                "nbf": NOW,
                "exp": NOW + 900,
                "client_id": self.key.id,
                "scope": "publish:alice_shop_# subscribe:alice_shop_# queue:*",
                "fg": {"app": "shop", "pub": ["alice_shop_#"], "sub": ["alice_shop_#"], "queues": ["*"]},
            },
        )

    def test_every_token_has_its_own_id(self) -> None:
        """Two tokens of one key and one second differ."""
        ids = {self.tokens.verify(self.tokens.issue(self.key).token).token_id for _ in range(20)}
        self.assertEqual(len(ids), 20)

    def test_principal(self) -> None:
        """The token's principal has what the key has."""
        principal = self.tokens.verify(self.token)
        self.assertEqual((principal.user, principal.app, principal.home), ("alice", "shop", HOME))
        self.assertEqual((principal.key_id, principal.grants), (self.key.id, self.key.grants))
        self.assertEqual((principal.issued_at, principal.expires_at), (NOW, NOW + 900))

    def test_narrowed(self) -> None:
        """A token may be given less than its key has."""
        issued = self.tokens.issue(self.key, publish=["a"], subscribe=["alice_shop_b/#"], queues=[])
        expected = Grants((Grant(HOME, "a"),), (Grant(HOME, "b/#"),), ())
        self.assertEqual(self.tokens.verify(issued.token).grants, expected)
        self.assertEqual(issued.scope, "publish:alice_shop_a subscribe:alice_shop_b/#")

    def test_never_more_than_the_key(self) -> None:
        """What the key does not grant is refused, and so is another application."""
        key = self.create(publish=["a"])
        self.assertRaises(InsufficientScope, self.tokens.issue, key, publish=["#"])
        self.assertRaises(InsufficientScope, self.tokens.issue, key, subscribe=["a"])
        self.assertRaises(InsufficientScope, self.tokens.issue, key, app="cafe")
        self.assertRaises(InvalidTopic, self.tokens.issue, self.key, publish=["#/a"])
        self.assertEqual(self.tokens.issue(key, app="shop").app, "shop")

    def test_life(self) -> None:
        """A token lives for 60 to 86400 seconds."""
        for ttl in (60, 86400):
            self.assertEqual(self.tokens.issue(self.key, ttl=ttl).expires_in, ttl)
        for ttl in (59, 86401, 0, -1):
            self.assertRaises(InvalidParameter, self.tokens.issue, self.key, ttl=ttl)

    def test_ends_with_its_key(self) -> None:
        """A token does not outlive its key."""
        key = self.create(expires_days=1)
        self.now = NOW + 86400 - 100.5
        self.assertEqual(self.tokens.issue(key).expires_in, 101)

    def test_scope_of_odd_filters(self) -> None:
        """A filter cannot look like two scopes."""
        issued = self.tokens.issue(
            self.key, publish=['a subscribe:bob_cafe_#/"\\'[:21], "größe/+"], subscribe=[], queues=[]
        )
        self.assertEqual(
            issued.scope, "publish:alice_shop_a%20subscribe:bob_cafe_ publish:alice_shop_gr%C3%B6%C3%9Fe/+"
        )

    def test_too_many_grants(self) -> None:
        """A token that would not be accepted is not made."""
        key = self.create(publish=[f"{number}" * 100 for number in range(10, 60)])
        self.assertRaises(InvalidParameter, self.tokens.issue, key)
        self.tokens.verify(self.tokens.issue(key, publish=["10" * 100]).token)


class JwksTests(_Tests):
    """The public keys."""

    def test_verifies_our_tokens(self) -> None:
        """A stranger verifies a token with nothing but the key set."""
        key = jwt.PyJWKSet.from_dict(self.tokens.jwks())[self.parts()[0]["kid"]]
        claims = jwt.decode(
            self.token,
            key.key,
            algorithms=["ES256"],
            audience=AUDIENCE,
            issuer=ISSUER,
            options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
        self.assertEqual(claims["sub"], "alice")

    def test_thumbprint(self) -> None:
        """The key's id is the beginning of its RFC 7638 thumbprint."""
        key = self.tokens.jwks()["keys"][0]
        members = {name: key[name] for name in ("crv", "kty", "x", "y")}
        digest = hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest()
        self.assertTrue(base64.urlsafe_b64encode(digest).decode().startswith(key["kid"]))

    def test_nothing_private(self) -> None:
        """Only the public members are shown."""
        self.assertEqual(set(self.tokens.jwks()["keys"][0]), {"kty", "crv", "x", "y", "use", "alg", "kid"})

    def test_shared_by_nodes(self) -> None:
        """Nodes with one master secret have one key; with another, another."""
        self.assertEqual(self.node()[1].jwks(), self.tokens.jwks())
        self.assertNotEqual(self.node(b"n" * 43)[1].jwks(), self.tokens.jwks())


class RefusalTests(_Tests):
    """Tokens that are not accepted."""

    def test_malformed(self) -> None:
        """What is no token at all is refused."""
        header, claims, signature = self.token.split(".")
        for wrong in (
            "",
            ".",
            "..",
            "a.b.c",
            f"{header}.{claims}",
            f"{header}.{claims}.",
            f"{self.token}.",
            f"{self.token}.{signature}",
            f"{self.token}=",
            f" {self.token}",
            f"{self.token}\n",
            f"{header}.{claims}\n.{signature}",
            "ü" + self.token,
            "A" * 9000,
            f"{header}.{claims}.{signature}" + "A" * 8192,
            "\ud800",
        ):
            self.refused(wrong)

    def test_no_signature(self) -> None:
        """``alg: none`` is refused in every spelling, with and without a signature."""
        header, claims = self.parts()
        signature = self.token.split(".")[2]
        for algorithm in ("none", "None", "NONE", "nOnE", "", None):
            for end in ("", signature):
                self.refused(f"{_encode({**header, 'alg': algorithm})}.{_encode(claims)}.{end}")

    def test_other_algorithm(self) -> None:
        """A token signed with our public key as an HMAC secret is refused."""
        header, claims = self.parts()
        start = f"{_encode({**header, 'alg': 'HS256'})}.{_encode(claims)}"
        for secret in (MASTER, json.dumps(self.tokens.jwks()["keys"][0]).encode(), b""):
            digest = hmac.digest(secret, start.encode(), "sha256")
            self.refused(f"{start}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}")

    def test_other_key(self) -> None:
        """A token of another key is refused, also if it brings that key along."""
        header, claims = self.parts()
        key = ec.generate_private_key(ec.SECP256R1())
        own = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
        for more in ({}, {"jwk": own}, {"jku": "https://elsewhere.example"}, {"x5u": "https://elsewhere.example"}):
            self.refused(jwt.encode(claims, key, "ES256", {**header, **more}))

    def test_other_master(self) -> None:
        """A token of another installation is refused."""
        self.refused(self.token, self.node(b"n" * 43)[1])

    def test_other_issuer(self) -> None:
        """A token of another issuer is refused, also if it has our key."""
        self.refused(self.token, self.node(issuer="https://other.example")[1])
        self.refused(self.signed(iss="https://other.example"))

    def test_other_audience(self) -> None:
        """A token for another audience is refused."""
        for audience in ("other", ["other"], [], "", None, 5):
            self.refused(self.signed(aud=audience))

    def test_other_type(self) -> None:
        """A JWT that is no access token is refused."""
        for type_ in ("JWT", "", None, "AT+JWT", 5, ["at+jwt"]):
            self.refused(self.signed({"typ": type_}))

    def test_other_key_id(self) -> None:
        """A token that names another key is refused."""
        for key_id in ("", None, 5, "../../etc/passwd"):
            try:
                token = self.signed({"kid": key_id})
            except jwt.PyJWTError:
                continue  # the library does not even write it
            self.refused(token)

    def test_missing_claims(self) -> None:
        """Every claim is required."""
        for name in ("iss", "sub", "aud", "iat", "nbf", "exp", "jti", "client_id", "fg"):
            self.refused(self.signed(None, name))

    def test_claims_of_another_shape(self) -> None:
        """A claim of another type is refused."""
        wrong: tuple[Any, ...] = (None, True, [], {}, -1.5, 10**400)
        for name in ("sub", "jti", "client_id", "fg", "exp", "nbf", "iat"):
            for value in wrong:
                try:
                    token = self.signed(**{name: value})
                except (TypeError, jwt.PyJWTError):
                    continue  # the library does not even write it
                self.refused(token)
        for claim in ({"app": "shop"}, {"app": 5, **self.key.grants.to_claim()}, {**self.key.grants.to_claim()}):
            self.refused(self.signed(fg=claim))

    def test_of_somebody_else(self) -> None:
        """A token whose key belongs to another user or application is refused."""
        fg = self.parts()[1]["fg"]
        self.refused(self.signed(sub="bob"))
        self.refused(self.signed(fg={**fg, "app": "cafe"}))
        self.refused(self.signed(client_id="FGAK" + "A" * 16))

    def test_expiry(self) -> None:
        """A token ends at its time, to the moment, also if it was verified before."""
        self.now = NOW + 899.999
        self.tokens.verify(self.token)
        self.now = NOW + 900
        self.refused(self.token)
        self.refused(self.token, self.node()[1])

    def test_clocks(self) -> None:
        """Another node's clock may be 5 seconds ahead, not more."""
        for claim in ("nbf", "iat"):
            ahead: dict[str, Any] = {claim: NOW + 5}
            self.tokens.verify(self.signed(**ahead))
            ahead[claim] += 1
            self.refused(self.signed(**ahead))

    def test_every_character_counts(self) -> None:
        """A token in which any one character is another is refused: there is one text of a token."""
        for index in range(len(self.token)):
            for other in ("A", "B", "x", "_", "!", "."):
                if other != self.token[index]:
                    self.refused(self.token[:index] + other + self.token[index + 1 :])

    def test_last_character(self) -> None:
        """The last character of a part, which has bits without meaning, counts too, whatever the JWT library thinks."""
        with mock.patch.object(jwt, "get_unverified_header", side_effect=AssertionError("was given on")):
            for part in ("aa", "ab", "a", "aaab", "aaaB1", "aaaaaaB"):
                if module._is_canonical(part):
                    continue
                self.refused(f"{part}.AA.AA")
        self.assertEqual(
            [
                part
                for part in ("AA", "AQ", "AB", "AAA", "AAE", "AAB", "AAAA", "AAAB", "A")
                if module._is_canonical(part)
            ],
            ["AA", "AQ", "AAA", "AAE", "AAAA", "AAAB"],
        )

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_mutated(self, data: st.DataObject) -> None:
        """Nothing but refusals comes of a token that was changed anywhere, by anything."""
        at = data.draw(st.integers(0, len(self.token)))
        cut = data.draw(st.integers(0, 5))
        mutated = self.token[:at] + data.draw(st.text(max_size=5)) + self.token[at + cut :]
        if mutated != self.token:
            self.refused(mutated)

    @settings(max_examples=200, deadline=None)
    @given(st.text() | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*", fullmatch=True))
    def test_random(self, text: str) -> None:
        """Nothing but a refusal comes of any text."""
        self.refused(text)

    @settings(max_examples=200, deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk", "zip"]),
            st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()),
        ),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(), s, max_size=3),
            max_leaves=5,
        ),
    )
    def test_hostile_header(self, header: dict[str, Any], claims: Any) -> None:
        """Nothing but a refusal comes of any header and any claims without our signature."""
        good, _ = self.parts()
        self.refused(f"{_encode({**good, **header})}.{_encode(claims)}.{self.token.split('.')[2]}")

    def test_nested_header(self) -> None:
        """A header nested deeper than the JSON parser goes is refused."""
        nested = base64.urlsafe_b64encode(b"[" * 3000).decode()
        self.refused(f"{nested}.{nested[:2000]}.AA")

    @settings(max_examples=200, deadline=None)
    @given(
        st.sampled_from(["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "client_id", "fg", "scope"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda s: st.lists(s, max_size=3) | st.dictionaries(st.sampled_from(["app", "pub", "sub", "queues"]), s),
            max_leaves=8,
        ),
    )
    def test_hostile_claims(self, name: str, value: Any) -> None:
        """Nothing but a principal or a refusal comes of any claim with our own signature."""
        try:
            token = self.signed(**{name: value})
        except (TypeError, ValueError, OverflowError, jwt.PyJWTError):
            return  # the library does not even write it
        try:
            self.tokens.verify(token)
        except InvalidToken:
            return


class StateTests(_Tests):
    """What happens to a key or a user happens to their tokens, at once, also to those seen before."""

    def setUp(self) -> None:
        super().setUp()
        self.told: list[str] = []
        self.tokens.on_revoked(self.told.append)
        self.tokens.verify(self.token)

    def test_revoked_key(self) -> None:
        """Tokens of a revoked key are not valid any more, and listeners learn the key's id."""
        self.successResultOf(self.keyring.revoke(self.key.id))
        self.refused(self.token)
        self.assertEqual(self.told[:1], [self.key.id])

    def test_suspended_user(self) -> None:
        """Tokens of a suspended user rest until the suspension ends."""
        self.successResultOf(self.keyring.suspend("alice", True))
        self.assertRaises(AccountSuspended, self.tokens.verify, self.token)
        self.assertEqual(self.told[:1], ["alice"])
        self.successResultOf(self.keyring.suspend("alice", False))
        self.tokens.verify(self.token)

    def test_unknown_key(self) -> None:
        """Tokens of a key that is gone are not valid."""
        self.successResultOf(self.store.delete("FG_KEYS", self.key.id))
        self.refused(self.token)

    def test_only_these_errors(self) -> None:
        """A key's state is never told as ``KeyDisabled`` to who has but a token."""
        self.successResultOf(self.keyring.revoke(self.key.id))
        with self.assertRaises(InvalidToken):
            try:
                self.tokens.verify(self.token)
            except KeyDisabled as error:  # pragma: no cover
                self.fail(str(error))


class RevocationTests(_Tests):
    """The end of one token."""

    def revoke(self, token: str) -> str:
        principal = self.tokens.verify(token)
        self.successResultOf(self.tokens.revoke(principal))
        return principal.token_id

    def test_here(self) -> None:
        """A revoked token is refused, others of the same key are not."""
        other = self.tokens.issue(self.key).token
        self.revoke(self.token)
        self.refused(self.token)
        self.tokens.verify(other)

    def test_at_once(self) -> None:
        """It holds once its revoker is told so, without waiting for the watch of the store; listeners learn it once."""
        told: list[str] = []
        self.tokens.on_revoked(told.append)
        token_id = self.revoke(self.token)
        self.assertEqual(told, [token_id])
        other = self.tokens.issue(self.key).token
        self.tokens.stop()
        self.revoke(other)
        self.refused(other)

    def test_again(self) -> None:
        """A token is revoked once: the second time nothing is stored."""
        principal = self.tokens.recognize(self.token)
        self.revoke(self.token)
        with mock.patch.object(self.store, "put", lambda *_: fail(BusUnavailable())):
            self.successResultOf(self.tokens.revoke(principal))

    def test_stopped(self) -> None:
        """A stopped node follows no longer."""
        _, elsewhere = self.node()
        elsewhere.stop()
        self.revoke(self.token)
        elsewhere.verify(self.token)

    def test_everywhere(self) -> None:
        """It is refused on the other nodes too, whose listeners are told once, and after a restart."""
        _, elsewhere = self.node()
        told: list[str] = []
        elsewhere.on_revoked(told.append)
        elsewhere.verify(self.token)
        token_id = self.revoke(self.token)
        self.refused(self.token, elsewhere)
        self.refused(self.token, self.node()[1])
        self.assertEqual(told, [token_id])

    def test_bus_away(self) -> None:
        """A revocation that could not be stored is not said to hold."""
        principal = self.tokens.verify(self.token)
        with mock.patch.object(self.store, "put", lambda *_: fail(BusUnavailable())):
            self.failureResultOf(self.tokens.revoke(principal), BusUnavailable)

    def test_expired_ones_are_forgotten(self) -> None:
        """Revocations are kept as long as their tokens would live on a node whose clock is behind."""
        old = self.revoke(self.token)
        for later, kept in ((904, True), (905, False)):
            self.now = NOW + later
            self.revoke(self.tokens.issue(self.key).token)
            self.assertEqual(self.successResultOf(self.store.get(REVOKED, old)) is not None, kept)

    def test_forgetting_can_wait(self) -> None:
        """A revocation holds, also if the old ones cannot be tidied up now; the next one does it."""
        old = self.revoke(self.token)
        self.now = NOW + 905
        with mock.patch.object(self.store, "delete", lambda *_: fail(BusUnavailable())):
            token = self.tokens.issue(self.key).token
            self.revoke(token)
            self.refused(token)
        self.revoke(self.tokens.issue(self.key).token)
        self.assertIsNone(self.successResultOf(self.store.get(REVOKED, old)))

    def test_few_at_once(self) -> None:
        """One revocation waits for few deletions, however many there are to do."""
        for _ in range(50):
            self.revoke(self.tokens.issue(self.key).token)
        self.now = NOW + 905
        with mock.patch.object(self.store, "delete", wraps=self.store.delete) as delete:
            self.revoke(self.tokens.issue(self.key).token)
        self.assertEqual(delete.call_count, 20)

    def test_unreadable(self) -> None:
        """A revocation that cannot be read holds."""
        principal = self.tokens.verify(self.token)
        for value in (b"", b"soon", b"nan", b"\xff", b"9" * 400):
            with capturedLogs() as logged:
                self.successResultOf(self.store.put(REVOKED, principal.token_id, value))
            self.assertEqual(len(logged), 1)
            self.refused(self.token)
            self.successResultOf(self.store.delete(REVOKED, principal.token_id))


class CacheTests(_Tests):
    """Verified tokens are remembered."""

    def test_no_second_check(self) -> None:
        """The signature of a token is checked once."""
        with mock.patch.object(jwt, "decode", wraps=jwt.decode) as decode:
            for _ in range(3):
                self.tokens.verify(self.token)
        self.assertEqual(decode.call_count, 1)

    def test_bounded(self) -> None:
        """Of too many tokens, the one that was not used for longest is checked again."""
        self.patch(module, "_CACHED", 3)
        texts = [self.tokens.issue(self.key).token for _ in range(3)]
        for text in (*texts, texts[0], self.token):
            self.tokens.verify(text)
        with mock.patch.object(jwt, "decode", wraps=jwt.decode) as decode:
            self.tokens.verify(texts[0])
            self.tokens.verify(self.token)
            self.assertEqual(decode.call_count, 0)
            self.tokens.verify(texts[1])
            self.assertEqual(decode.call_count, 1)

    def test_refused_ones_are_not_kept(self) -> None:
        """Wrong tokens take no room."""
        for number in range(20):
            self.refused(self.signed(aud=f"other{number}"))
        self.assertEqual(len(self.tokens._verified), 0)

    def test_size_comes_first(self) -> None:
        """A text that is too long is not parsed at all."""
        with mock.patch.object(module, "_is_canonical", side_effect=AssertionError("parsed")):
            self.refused("A.A." + "A" * 8189)
