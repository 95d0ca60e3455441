"""The keys that sign tokens, and how one follows another without a token being refused.

Every key is derived from the master secret and a number, its *generation*: nodes agree on numbers and times alone, and
nothing secret is stored.  A new key is *announced* first: it is in the key set (RFC 7517) and verifies, but signs only
once everybody who keeps the key set for a while has fetched it anew.  The one before it goes on to verify until the
last token that it may have signed has expired.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

import attrs
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from flowgate.auth.secrets import GATEWAY
from flowgate.errors import Conflict, StartError
from flowgate.interfaces import IStore

ENTRY: Final = "signing-keys"
"""Where the bucket for what all nodes agree on has the signing keys."""

LONGEST_LIFE: Final = 86400
"""The longest life of a token in seconds."""
MAX_AGE: Final = 300
"""Seconds that the key set may be kept by who fetches it."""
ANNOUNCE: Final = 600
"""Seconds from the announcement of a key to its first signature: twice what the key set may be kept."""
MOST_KEYS: Final = 16
"""Keys that verify at a time; more cannot be announced."""

ALGORITHM: Final = "ES256"
_ATTEMPTS: Final = 5
# The order of the curve P-256 (FIPS 186-4 D.1.2.3).
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

_log = Logger()


def derived_key(master: bytes, generation: int = 1) -> ec.EllipticCurvePrivateKey:
    """The signing key of a generation.

    48 bytes taken modulo the order leave no noticeable bias (FIPS 186-5 A.2.1).
    """
    derived = HKDF(hashes.SHA256(), 48, None, b"flowgate token signing key %d" % generation).derive(master)
    return ec.derive_private_key(int.from_bytes(derived, "big") % (_P256_ORDER - 1) + 1, ec.SECP256R1())


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


@attrs.frozen(slots=True, eq=False)
class KeyPair:
    """A signing key, ready for use.

    :ivar id: what tokens name it by (``kid``).
    :ivar jwk: its public half, as the key set has it.
    """

    id: str
    private: ec.EllipticCurvePrivateKey = attrs.field(repr=False)
    public: ec.EllipticCurvePublicKey = attrs.field(repr=False)
    jwk: dict[str, str]

    @classmethod
    def of(cls, private: ec.EllipticCurvePrivateKey) -> KeyPair:
        public = private.public_key()
        numbers = public.public_numbers()
        # Members and order of RFC 7638 section 3.2, for the thumbprint.
        point = {
            "crv": "P-256",
            "kty": "EC",
            "x": _base64(numbers.x.to_bytes(32, "big")),
            "y": _base64(numbers.y.to_bytes(32, "big")),
        }
        thumbprint = hashlib.sha256(json.dumps(point, separators=(",", ":"), sort_keys=True).encode()).digest()
        key_id = _base64(thumbprint)[:16]
        return cls(key_id, private, public, {**point, "use": "sig", "alg": ALGORITHM, "kid": key_id})


@attrs.frozen(slots=True)
class SigningKey:
    """What the nodes agree on about one key; times in whole seconds since 1970 UTC.

    :ivar published_at: when it was announced.
    :ivar signs_from: from when on it signs, until a later one does.
    :ivar retired_at: from when on it verifies nothing any more; ``None`` as long as no other is announced.
    """

    generation: int
    published_at: int
    signs_from: int
    retired_at: int | None = None

    @classmethod
    def from_record(cls, record: Any) -> SigningKey:
        """Read one of what :meth:`SigningKeys.rotate` stores.

        :raises ValueError, TypeError: if it is something else.
        """
        key = cls(**record)
        numbers = [key.generation, key.published_at, key.signs_from]
        if key.retired_at is not None:
            numbers.append(key.retired_at)
        if any(type(number) is not int for number in numbers) or key.generation < 1:
            raise ValueError("this is not a signing key")
        return key


FIRST: Final[tuple[SigningKey, ...]] = (SigningKey(1, 0, 0),)
"""The keys of an installation that has never had others."""


def current(keys: Sequence[SigningKey], now: float) -> SigningKey:
    """The key that signs: the newest whose time has come.

    Where the clock is behind that of the node that made the only key there is, that one signs too early.
    """
    return next((key for key in reversed(keys) if key.signs_from <= now), keys[0])


def rotated(keys: Sequence[SigningKey], now: int, announce: int, immediately: bool) -> tuple[SigningKey, ...]:
    """The keys with one more, which is announced now; the same if one is announced already.

    :param keys: by their generations.
    :param now: seconds since 1970 UTC.
    :param announce: seconds until the new key signs.
    :param immediately: have it sign at once, and no other key verify.
    :raises Conflict: if too many would verify.
    """
    newest = keys[-1]
    if immediately:
        return (SigningKey(newest.generation + 1, now, now),)
    if newest.signs_from > now:
        return tuple(keys)
    signs_from = now + announce
    left = [key for key in keys[:-1] if key.retired_at is None or key.retired_at > now]
    left.append(attrs.evolve(newest, retired_at=signs_from + LONGEST_LIFE + MAX_AGE))
    if len(left) >= MOST_KEYS:
        raise Conflict(f"{MOST_KEYS} signing keys verify tokens: wait until the oldest is retired")
    return (*left, SigningKey(newest.generation + 1, now, signs_from))


def _write(keys: Iterable[SigningKey]) -> bytes:
    return json.dumps({"keys": [attrs.asdict(key) for key in keys]}, separators=(",", ":")).encode()


def _read(value: bytes) -> tuple[SigningKey, ...]:
    """Read what :func:`_write` wrote.

    :raises ValueError, TypeError, LookupError, RecursionError: if it is something else.
    """
    keys = tuple(SigningKey.from_record(record) for record in json.loads(value)["keys"])
    if not 1 <= len(keys) <= MOST_KEYS or any(one.generation >= next_.generation for one, next_ in pairwise(keys)):
        raise ValueError("these are not signing keys")
    return keys


class SigningKeys:
    """The signing keys, as this node knows them: kept up to date by the store.

    :param now: seconds since 1970 UTC.
    :param announce: seconds between the announcement of a key and its first signature.
    """

    def __init__(self, master: bytes, store: IStore, now: Callable[[], float], announce: int = ANNOUNCE) -> None:
        self._master = master
        self._store = store
        self._now = now
        self._announce = announce
        self._keys: tuple[SigningKey, ...] = ()
        self._pairs: dict[int, KeyPair] = {}
        self._by_id: dict[str, SigningKey] = {}
        self._damaged = False
        self._watch: Callable[[], None] | None = None
        self._listeners: list[Callable[[str], None]] = []
        self._take(FIRST)

    def start(self) -> Deferred[None]:
        """Read the keys, and follow their changes.

        :raises BusUnavailable: through the Deferred.
        :raises StartError: through the Deferred, if what is stored cannot be read: the keys that this node would go by
            instead may be those that were given up.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._watch = await self._store.watch(GATEWAY, self._changed)
        if self._damaged:
            raise StartError("the stored signing keys (FG_GATEWAY, signing-keys) cannot be read")

    def stop(self) -> None:
        """Follow changes no longer."""
        if self._watch is not None:
            self._watch()
            self._watch = None

    def on_dropped(self, listener: Callable[[str], None]) -> None:
        """Have ``listener`` called with the id of a key that verifies no more before its tokens have expired."""
        self._listeners.append(listener)

    def _changed(self, entry: str, value: bytes | None) -> None:
        if entry != ENTRY:
            return
        try:
            if value is None:
                raise ValueError("nobody removes the keys")
            keys = _read(value)
        except (ValueError, TypeError, LookupError, RecursionError):
            _log.error("the stored signing keys cannot be read, so those that were known before stay")
            self._damaged = True
            return
        # What was stored before what is known here may be told after it.
        if keys[-1].generation > self._keys[-1].generation:
            self._take(keys)

    def _take(self, keys: tuple[SigningKey, ...]) -> None:
        before, self._keys = self._by_id, keys
        self._pairs = {
            key.generation: self._pairs.get(key.generation) or KeyPair.of(derived_key(self._master, key.generation))
            for key in keys
        }
        self._by_id = {self._pairs[key.generation].id: key for key in keys}
        for key_id in before.keys() - self._by_id.keys():
            for listener in self._listeners:
                listener(key_id)

    # -- using

    def signing(self) -> KeyPair:
        """The key that signs now."""
        return self._pairs[current(self._keys, self._now()).generation]

    def verifying(self, key_id: object) -> KeyPair | None:
        """The key of this id, if it verifies now."""
        key = self._by_id.get(key_id) if isinstance(key_id, str) else None
        if key is None or (key.retired_at is not None and key.retired_at <= self._now()):
            return None
        return self._pairs[key.generation]

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys that verify tokens now or will (RFC 7517): first the one that signs."""
        signing = self.signing().id
        found = sorted(self._by_id, key=lambda key_id: key_id != signing)
        pairs = [pair for key_id in found if (pair := self.verifying(key_id)) is not None]
        return {"keys": [dict(pair.jwk) for pair in pairs]}

    def listing(self) -> list[tuple[str, str, SigningKey]]:
        """The keys that verify now, newest first: id, ``announced``, ``signing`` or ``verifying``, and the key."""
        signing = current(self._keys, self._now())
        found = []
        for key_id, key in self._by_id.items():
            if self.verifying(key_id) is not None:
                older = key.generation < signing.generation
                found.append((key_id, "signing" if key is signing else "verifying" if older else "announced", key))
        return found[::-1]

    # -- changing

    def rotate(self, *, immediately: bool = False, generation: int | None = None) -> Deferred[bool]:
        """Announce a new key.  While one is announced and does not sign yet, there is nothing to be done.

        :param immediately: have it sign at once and the others verify nothing: every token that there is ends.
        :param generation: the newest one, as who asks knows it: if there is a newer one, nothing is done.
        :returns: a Deferred of whether there is a new key; fired once it holds here and is stored for the others.
        :raises Conflict: through the Deferred, if too many keys still verify, or others change them all the time.
        """
        return Deferred.fromCoroutine(self._rotate(immediately, generation))

    async def _rotate(self, immediately: bool, generation: int | None) -> bool:
        if immediately and generation is None:
            generation = self._keys[-1].generation  # two who give up the same key at the same time make one new one
        for _ in range(_ATTEMPTS):
            entry = await self._store.get(GATEWAY, ENTRY)
            try:
                keys = FIRST if entry is None else _read(entry.value)
            except (ValueError, TypeError, LookupError, RecursionError):
                raise Conflict("the stored signing keys cannot be read") from None
            if generation is not None and keys[-1].generation > generation:
                fresh = keys
            else:
                fresh = rotated(keys, int(self._now()), self._announce, immediately)
            if fresh == keys:
                self._changed(ENTRY, _write(keys))
                return False
            value = _write(fresh)
            try:
                await self._store.put(GATEWAY, ENTRY, value, 0 if entry is None else entry.revision)
            except Conflict:
                continue
            self._changed(ENTRY, value)
            return True
        raise Conflict("the signing keys are changed by others all the time")
