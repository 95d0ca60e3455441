"""Tokens: short-lived JWTs (RFC 7519, RFC 9068) that an API key is exchanged for."""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any
from urllib.parse import quote

import attrs
import jwt
from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from flowgate.auth.certificates import principal_of
from flowgate.auth.keys import ApiKey, Keyring
from flowgate.auth.permissions import Grants, Principal
from flowgate.auth.signing import ALGORITHM, LONGEST_LIFE, SigningKeys
from flowgate.errors import BusUnavailable, InsufficientScope, InvalidParameter, InvalidToken
from flowgate.interfaces import IStore

_log = Logger()

REVOKED = "FG_REVOKED"

SHORTEST_LIFE, DEFAULT_LIFE = 60, 900
"""The life of a token in seconds; the longest is a matter of the signing keys."""

TAKEN_BACK = "another account has taken back what the token permitted there"
"""Why a token is no longer good for what it was good for, after the end of a share."""

AUDIENCE = "flowgate"
_TYPE = "at+jwt"  # RFC 9068 section 2.1
_CLAIMS = ("iss", "sub", "aud", "iat", "nbf", "exp", "jti", "client_id", "fg")
_MOST_BYTES = 8192
_LEEWAY = 5
"""Seconds by which another node's clock may differ."""
_CACHED = 10_000
"""Verified tokens that are remembered, so that a request costs no signature check of its own."""
_FORGOTTEN_AT_ONCE = 20
"""Expired revocations dropped by one revocation: more than it adds, and few enough to wait for."""
_TEXT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
# RFC 6749 section 3.3: what may stand in a scope.  The wildcards stay readable; a blank would begin another scope.
_SCOPE_CHARACTERS = "!#$&'()*+,/:;<=>?@[]^`{|}~"


@attrs.frozen(slots=True)
class IssuedToken:
    """A token and what its owner is told of it; ``expires_in`` in seconds."""

    token: str = attrs.field(repr=False)
    expires_in: int
    scope: str
    user: str
    app: str
    prefix: str


def _is_canonical(part: str) -> bool:
    """Whether the bits of the last character that carry nothing are zero (RFC 4648 section 3.5)."""
    over = len(part) % 4
    if over == 0:
        return True
    return over != 1 and part[-1] in ("AQgw" if over == 2 else "AEIMQUYcgkosw048")


class TokenService:
    """Makes and checks tokens.

    They are signed with ES256, which every JWT library verifies (EdDSA is missing in many).  The algorithm is fixed
    here and never taken from a token.

    :param now: seconds since 1970 UTC.
    """

    def __init__(
        self, keyring: Keyring, signing: SigningKeys, store: IStore, issuer: str, now: Callable[[], float]
    ) -> None:
        self._keyring = keyring
        self._signing = signing
        self._store = store
        self._issuer = issuer
        self._now = now
        self._verified: OrderedDict[str, Principal] = OrderedDict()
        self._revoked: dict[str, float] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._watch: Callable[[], None] | None = None
        keyring.on_disabled(self._tell)
        signing.on_dropped(self._key_dropped)

    def start(self) -> Deferred[None]:
        """Learn which tokens were revoked, and follow."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._watch = await self._store.watch(REVOKED, self._revocation_changed)

    def stop(self) -> None:
        """Follow revocations no longer."""
        if self._watch is not None:
            self._watch()
            self._watch = None

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys that verify tokens (RFC 7517)."""
        return self._signing.jwks()

    # -- making

    def issue(
        self,
        key: ApiKey,
        *,
        app: str | None = None,
        ttl: int = DEFAULT_LIFE,
        publish: Sequence[str] | None = None,
        subscribe: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
    ) -> IssuedToken:
        """Make a token for the owner of ``key``.

        :param app: the application, which has to be the key's own.
        :param ttl: seconds of life, 60 to 86400.
        :param publish: filters that narrow the key's grants; short names belong to its application.
        :raises InvalidParameter: if ``ttl`` is out of range.
        :raises InvalidTopic: if a filter is malformed.
        :raises InsufficientScope: if more is asked for than the key grants.
        """
        if app is not None and app != key.app:
            raise InsufficientScope(f"the key is not for the application {app[:40]!r}")
        if not SHORTEST_LIFE <= ttl <= LONGEST_LIFE:
            raise InvalidParameter(f"ttl must be {SHORTEST_LIFE} to {LONGEST_LIFE} seconds")
        now = int(self._now())
        if key.expires_at is not None:
            ttl = min(ttl, key.expires_at - now)
        grants = key.grants.narrowed(key.home, publish, subscribe, queues)
        scope = " ".join(
            [f"publish:{quote(str(grant), _SCOPE_CHARACTERS)}" for grant in grants.publish]
            + [f"subscribe:{quote(str(grant), _SCOPE_CHARACTERS)}" for grant in grants.subscribe]
            + [f"queue:{name}" for name in grants.queues]
        )
        claims = {
            "iss": self._issuer,
            "sub": key.user,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + ttl,
            "jti": secrets.token_urlsafe(16),
            "client_id": key.id,
            "scope": scope,
            "fg": {"app": key.app, **grants.to_claim()},
        }
        signing = self._signing.signing()
        token = jwt.encode(claims, signing.private, ALGORITHM, {"typ": _TYPE, "kid": signing.id})
        if len(token) > _MOST_BYTES:
            raise InvalidParameter("the key has too many grants for one token: narrow them in the request")
        return IssuedToken(token, ttl, scope, key.user, key.app, key.home.prefix)

    # -- checking

    def verify(self, token: str) -> Principal:
        """Find whose token this is; its grants outside its own application are what shares cover now.

        :raises InvalidToken: if it is malformed, not ours, expired, revoked, or its key is no longer good.
        :raises AccountSuspended: if its user is suspended.
        """
        principal = self.recognize(token)
        self._check(principal)
        return self._keyring.limited(principal)

    def check(self, principal: Principal) -> None:
        """Check that who was let in before would be let in now; when the token expires is not looked at.

        :raises InvalidToken: if the token or its key was revoked, or another account has taken back what was permitted.
        :raises AccountSuspended: if the user is suspended.
        """
        if principal.signing_key and self._signing.verifying(principal.signing_key) is None:
            raise InvalidToken("the token is not one of this gateway")
        self._check(principal)
        if self._keyring.limited(principal) is not principal:
            raise InvalidToken(TAKEN_BACK)

    def _check(self, principal: Principal) -> None:
        if principal.token_id in self._revoked:
            raise InvalidToken("the token was revoked")
        key = self._keyring.find(principal.key_id)
        if key is None or key.disabled:
            raise InvalidToken("the token's API key was revoked")
        self._keyring.check(key)

    def verify_certificate(self, certificate: x509.Certificate) -> Principal:
        """Find whose certificate this is, which TLS has verified: it stands for a token of its key with all grants.

        :raises InvalidToken: if it names no key that is known, or it or the key has expired.
        :raises KeyDisabled: if the key was revoked.
        :raises AccountSuspended: if the user is suspended.
        """
        return self._keyring.limited(principal_of(certificate, self._keyring, self._now()))

    def recognize(self, token: str) -> Principal:
        """Find for whom this token was made, whether or not it may be used now.

        :raises InvalidToken: if it is malformed, not ours, or expired.
        """
        principal = self._verified.get(token)
        if principal is None:
            principal = self._verify(token)
            if len(self._verified) >= _CACHED:
                self._verified.popitem(last=False)
            self._verified[token] = principal
        else:
            self._verified.move_to_end(token)
        if principal.expires_at <= self._now():
            self._verified.pop(token, None)
            raise InvalidToken("the token has expired")
        return principal

    def _verify(self, token: str) -> Principal:
        # Not every version of the JWT library insists on the one way to write a token: a second text of the same
        # token would be one more entry in the cache, and a "tampered" token that works.
        if len(token) > _MOST_BYTES or not _TEXT.match(token) or not all(map(_is_canonical, token.split("."))):
            raise InvalidToken("this is not a token")
        try:
            header = jwt.get_unverified_header(token)
            signed_by = self._signing.verifying(header.get("kid"))
            if header.get("typ") != _TYPE or signed_by is None:
                raise InvalidToken("the token is not one of this gateway")
            claims: dict[str, Any] = jwt.decode(
                token,
                signed_by.public,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=self._issuer,
                # Time is checked against our own clock, below and at each use.
                options={"require": list(_CLAIMS), "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
            return self._principal(claims, signed_by.id)
        except jwt.PyJWTError:
            raise InvalidToken("the token is not valid") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            # Only reached with a valid signature of ours on claims of another shape, or by limits of the JSON parser.
            raise InvalidToken("the token is not valid") from None

    def _principal(self, claims: dict[str, Any], signing_key: str) -> Principal:
        times = [claims[name] for name in ("iat", "nbf", "exp")]
        texts = [claims[name] for name in ("sub", "jti", "client_id")]
        if any(type(value) is not int for value in times) or any(type(value) is not str for value in texts):
            raise InvalidToken("the token is not valid")
        if max(times[0], times[1]) > self._now() + _LEEWAY:
            raise InvalidToken("the token is not valid yet")
        claim = dict(claims["fg"])
        app = claim.pop("app")
        grants = Grants.from_claim(claim)
        key = self._keyring.find(claims["client_id"])
        if key is None or (key.user, key.app) != (claims["sub"], app):
            raise InvalidToken("the token's API key was revoked")
        return Principal(
            user=key.user,
            app=key.app,
            home=key.home,
            key_id=key.id,
            grants=grants,
            expires_at=float(times[2]),
            token_id=claims["jti"],
            issued_at=float(times[0]),
            signing_key=signing_key,
        )

    # -- revoking

    def on_revoked(self, listener: Callable[[str], None]) -> None:
        """Have ``listener`` called with the id of a revoked token, API key or signing key, or the name of a suspended
        user."""
        self._listeners.append(listener)

    def _tell(self, who: str) -> None:
        for listener in self._listeners:
            listener(who)

    def _key_dropped(self, key_id: str) -> None:
        # Only tokens that have not expired are of interest, and which of them it has signed is quickly found anew.
        self._verified.clear()
        self._tell(key_id)

    def revoke(self, principal: Principal) -> Deferred[None]:
        """Revoke one token, on every node (RFC 7009); again is no error.

        :returns: a Deferred of ``None``, fired once it holds here and is stored for the others.
        """
        return Deferred.fromCoroutine(self._revoke(principal))

    async def _revoke(self, principal: Principal) -> None:
        if principal.token_id in self._revoked:
            return
        value = b"%d" % int(principal.expires_at)
        await self._store.put(REVOKED, principal.token_id, value)
        self._revocation_changed(principal.token_id, value)
        await self._forget_expired()

    async def _forget_expired(self) -> None:
        """Drop revocations of tokens that have expired anyway: the bucket holds no more than a day of them."""
        now = self._now()
        oldest = islice(self._revoked.items(), _FORGOTTEN_AT_ONCE)
        for token_id in [token_id for token_id, expires_at in oldest if expires_at + _LEEWAY <= now]:
            try:
                await self._store.delete(REVOKED, token_id)
            except BusUnavailable:
                return  # the revocation itself is stored; the next one tidies up
            self._revoked.pop(token_id, None)

    def _revocation_changed(self, token_id: str, value: bytes | None) -> None:
        if value is None:
            self._revoked.pop(token_id, None)
        elif token_id not in self._revoked:
            try:
                expires_at = float(int(value))
            except (ValueError, OverflowError):
                _log.error("the revocation of {token_id} cannot be read, so it holds for good", token_id=token_id)
                expires_at = float("inf")
            self._revoked[token_id] = expires_at
            self._tell(token_id)
