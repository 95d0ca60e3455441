"""AWS Signature Version 4: who signed a request, in its header or in its URL."""

from __future__ import annotations

import hashlib
import hmac
import posixpath
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

import attrs

from flowgate.sqs.wire import SqsError

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SKEW: Final = 15 * 60
"""Seconds that the clocks may differ."""
_LONGEST_LIFE: Final = 7 * 24 * 3600
"""Seconds that a presigned URL is good for at most."""
_CACHED: Final = 1000
"""Signing keys that are remembered: one for each key id, day and region."""
_MOST_SIGNED: Final = 64
"""Most headers in a signature."""

_CREDENTIAL = re.compile(r"([A-Za-z0-9_]{1,128})/([0-9]{8})/([a-z0-9-]{1,32})/([a-z0-9]{1,32})/aws4_request\Z")
_SIGNATURE = re.compile(r"[0-9a-f]{64}\Z")
_TIME = re.compile(r"[0-9]{8}T[0-9]{6}Z\Z", re.ASCII)
_HEADER_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+(?:;[!#$%&'*+.^_`|~0-9a-z-]+)*\Z")
_UNRESERVED: Final = "-_.~"

Headers = Mapping[bytes, Sequence[bytes]]
"""The values of every header by its name in lower case, as they came."""


@attrs.frozen(slots=True)
class Claim:
    """What a request says of its signature, unchecked.

    :ivar key_id: of the access key whose secret was used.
    :ivar region: that the client believes to be in.
    :ivar lifetime: seconds; ``None`` if the signature is in the header.
    """

    key_id: str
    date: str
    region: str
    service: str
    time: str
    signed: tuple[str, ...]
    signature: str
    lifetime: int | None


def _incomplete(what: str) -> SqsError:
    return SqsError("IncompleteSignature", what)


def _digest(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The key that signs the requests of one day, region and service."""
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = _digest(key, part)
    return key


def query_pairs(query: bytes) -> list[tuple[bytes, bytes]]:
    """The parameters of a raw query string; "+" is a plus."""
    pairs = []
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            pairs.append((unquote_to_bytes(name), unquote_to_bytes(value)))
    return pairs


def canonical_path(path: bytes) -> str:
    """The path as it is signed: without dots and doubled slashes, percent-encoded once more."""
    if path in (b"", b"/"):  # nearly always
        return "/"
    text = path.decode("latin-1")
    normal = posixpath.normpath("/" + text.lstrip("/"))
    if normal != "/" and text.endswith("/"):
        normal += "/"
    return quote_from_bytes(normal.encode("latin-1"), "/" + _UNRESERVED)


def canonical_query(pairs: Iterable[tuple[bytes, bytes]]) -> str:
    """The parameters as they are signed: percent-encoded in one way, sorted."""
    encoded = [(quote_from_bytes(name, _UNRESERVED), quote_from_bytes(value, _UNRESERVED)) for name, value in pairs]
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))


class Signatures:
    """Verifies signatures.

    :param secret_of: the secret of an access key, by its id; of any id, so that nobody learns which there are.
    :param now: seconds since 1970 UTC.
    :param service: that requests have to be signed for.
    """

    def __init__(self, secret_of: Callable[[str], str], now: Callable[[], float], service: str = "sqs") -> None:
        self._secret_of = secret_of
        self._now = now
        self._service = service
        self._keys: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()

    def verify(self, claim: Claim, method: bytes, path: bytes, query: bytes, headers: Headers, body: bytes) -> None:
        """Check the signature of a request.

        :param claim: as :func:`read_claim` finds it in the request.
        :param path: as it came, percent-encoded.
        :param query: as it came, without the question mark.
        :raises SqsError: if it is of another time, or does not fit the request.
        """
        pairs = query_pairs(query) if query else []
        if claim.lifetime is not None:
            pairs = [pair for pair in pairs if pair[0] != b"X-Amz-Signature"]
        self._check(claim, headers)
        lines = [method.decode("latin-1"), canonical_path(path), canonical_query(pairs)]
        for name in claim.signed:
            values = headers.get(name.encode(), ())
            text = b",".join(b" ".join(value.split()) for value in values)
            lines.append(f"{name}:{text.decode('latin-1')}")
        # The digest of what came, whatever x-amz-content-sha256 says that it is.
        lines += ["", ";".join(claim.signed), hashlib.sha256(body).hexdigest()]
        request = hashlib.sha256("\n".join(lines).encode("latin-1")).hexdigest()
        scope = f"{claim.date}/{claim.region}/{claim.service}/aws4_request"
        right = _digest(self._signing_key(claim), f"{_ALGORITHM}\n{claim.time}\n{scope}\n{request}").hex()
        if not hmac.compare_digest(right, claim.signature):
            raise SqsError(
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
                "Access Key and signing method. Behind a proxy, check that it passes the Host header on as it came.",
            )

    def _check(self, claim: Claim, headers: Headers) -> None:
        if claim.service != self._service:
            text = f"Credential should be scoped to correct service: '{self._service}'."
            raise SqsError("SignatureDoesNotMatch", text)
        if claim.time[:8] != claim.date:
            raise SqsError(
                "SignatureDoesNotMatch",
                f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
                f"'{claim.date}' != '{claim.time[:8]}'.",
            )
        try:
            signed_at = _seconds(claim.time)
        except ValueError:
            raise _incomplete("Date must be in ISO-8601 'basic format'.") from None
        now = self._now()
        until = signed_at + (_SKEW if claim.lifetime is None else claim.lifetime)
        if not signed_at - _SKEW <= now <= until:
            here = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
            raise SqsError(
                "RequestExpired",
                f"The request was signed at {claim.time}, and it is {here} here. Signatures are good for 15 minutes, "
                "those of presigned URLs for the time that they name; check the clock of the client.",
            )
        if "host" not in claim.signed:
            raise SqsError("SignatureDoesNotMatch", "'Host' must be a 'SignedHeader' in the AWS Authorization.")
        for name in headers:
            if name.startswith(b"x-amz-") and name.decode("latin-1") not in claim.signed:
                raise SqsError(
                    "SignatureDoesNotMatch",
                    f"'{name.decode('latin-1')[:80]}' must be a 'SignedHeader' in the AWS Authorization.",
                )

    def _signing_key(self, claim: Claim) -> bytes:
        # Keys that nobody has are kept too: they are to take no other time than those that somebody has.
        name = (claim.key_id, claim.date, claim.region)
        key = self._keys.get(name)
        if key is None:
            key = signing_key(self._secret_of(claim.key_id), claim.date, claim.region, claim.service)
            if len(self._keys) >= _CACHED:
                self._keys.popitem(last=False)
            self._keys[name] = key
        else:
            self._keys.move_to_end(name)
        return key


def _seconds(text: str) -> float:
    """The time that ``text`` says, in seconds since 1970 UTC.

    :raises ValueError: if there is no such time.
    """
    year, month, day = int(text[:4]), int(text[4:6]), int(text[6:8])
    return datetime(
        year, month, day, int(text[9:11]), int(text[11:13]), int(text[13:15]), tzinfo=timezone.utc
    ).timestamp()


def read_claim(query: bytes, headers: Headers) -> Claim:
    """Find what a request says of its signature.

    :raises SqsError: if it has none, or it cannot be read.
    """
    authorization = headers.get(b"authorization")
    if authorization is None:
        return _claim_of_query(query_pairs(query))
    return _claim_of_header(authorization, headers)


def _claim_of_header(authorization: Sequence[bytes], headers: Headers) -> Claim:
    if len(authorization) != 1:
        raise _incomplete("There is more than one Authorization header.")
    scheme, _, rest = authorization[0].decode("latin-1").strip().partition(" ")
    if scheme != _ALGORITHM:
        raise SqsError(
            "MissingAuthenticationToken", f"Requests to Amazon SQS's protocol are signed: Authorization: {_ALGORITHM} …"
        )
    fields = {}
    for part in rest.split(","):
        name, _, value = part.strip().partition("=")
        fields[name] = value
    for name in ("Credential", "SignedHeaders", "Signature"):
        if not fields.get(name):
            raise _incomplete(f"Authorization header requires '{name}' parameter.")
    times = headers.get(b"x-amz-date", ())
    if len(times) != 1:
        raise _incomplete("Authorization header requires existence of one 'X-Amz-Date' header.")
    return _claim(fields["Credential"], times[0].decode("latin-1"), fields["SignedHeaders"], fields["Signature"], None)


def _claim_of_query(pairs: Iterable[tuple[bytes, bytes]]) -> Claim:
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name.startswith(b"X-Amz-"):
            if name.decode("latin-1") in fields:
                raise _incomplete(f"The parameter {name.decode('latin-1')[:40]} is given twice.")
            fields[name.decode("latin-1")] = value.decode("latin-1")
    if fields.get("X-Amz-Algorithm") != _ALGORITHM:
        raise SqsError("MissingAuthenticationToken", "Request is missing Authentication Token.")
    for needed in ("X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"):
        if not fields.get(needed):
            raise _incomplete(f"AWS query-string parameters must include '{needed}'.")
    life = fields["X-Amz-Expires"]
    if not (life.isascii() and life.isdigit() and len(life) <= 6 and 1 <= int(life) <= _LONGEST_LIFE):
        raise _incomplete(f"X-Amz-Expires must be a number of seconds from 1 to {_LONGEST_LIFE}.")
    return _claim(
        fields["X-Amz-Credential"],
        fields["X-Amz-Date"],
        fields["X-Amz-SignedHeaders"],
        fields["X-Amz-Signature"],
        int(life),
    )


def _claim(credential: str, signed_at: str, names: str, signature: str, lifetime: int | None) -> Claim:
    found = _CREDENTIAL.match(credential)
    if found is None:
        raise _incomplete("Credential must have the form KEY-ID/YYYYMMDD/REGION/sqs/aws4_request.")
    if not _TIME.match(signed_at):
        raise _incomplete("Date must be in ISO-8601 'basic format'.")
    if not _HEADER_NAMES.match(names) or names.count(";") >= _MOST_SIGNED:
        raise _incomplete("SignedHeaders must be names of headers in lower case, with ';' between them.")
    if not _SIGNATURE.match(signature):
        raise _incomplete("Signature must be 64 hexadecimal digits in lower case.")
    key_id, date, region, service = found.groups()
    return Claim(key_id, date, region, service, signed_at, tuple(names.split(";")), signature, lifetime)
