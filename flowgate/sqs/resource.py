"""Where SQS clients find the protocol: ``/`` and ``/sqs``, and below the paths of queue URLs."""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from flowgate.allowances import FREE, Allowance
from flowgate.auth.keys import Keyring
from flowgate.auth.permissions import Principal
from flowgate.errors import Internal, InvalidParameter, InvalidToken, NotFound, Refused
from flowgate.http.answers import Answer, Route, wrong_method
from flowgate.http.bodies import media_type
from flowgate.http.health import welcome
from flowgate.http.request import Request
from flowgate.queues.service import Queues
from flowgate.rates.attempts import Attempts, network_of
from flowgate.sqs.call import Call
from flowgate.sqs.names import Naming
from flowgate.sqs.operations import operations
from flowgate.sqs.query import (
    FORM_TYPE,
    XML_TYPE,
    operation_of_action,
    read_parameters,
    read_query,
    write_xml,
    write_xml_error,
)
from flowgate.sqs.refusals import in_words_of_sqs
from flowgate.sqs.signature import Claim, Headers, Signatures, read_claim
from flowgate.sqs.wire import (
    JSON_TYPE,
    SqsError,
    error_headers,
    operation_of_target,
    read_json,
    write_json,
    write_json_error,
)

_log = Logger()

_MOUNT: Final = b"/sqs"
_QUEUE_PATH = re.compile(rb"(?:/sqs)?/(?:queue|[0-9]+)/([^/]+)/?\Z")
_HOST = re.compile(r"[A-Za-z0-9.:_\[\]-]{1,255}\Z")
_FOREVER: Final = float("inf")

_MOST_FAILURES: Final = 60
_FAILURES_SECONDS: Final = 60


class _Json:
    """A request of the JSON protocol."""

    def __init__(self, target: bytes, body: bytes) -> None:
        self._target = target
        self._body = body

    def operation(self) -> str:
        return operation_of_target(self._target)

    def arguments(self, operation: str) -> dict[str, Any]:
        return read_json(operation, self._body)

    def answer(self, operation: str, result: Mapping[str, Any] | None, request_id: str) -> Answer:
        return Answer(200, write_json(result), JSON_TYPE, ((b"x-amzn-RequestId", request_id.encode()),))

    def failure(self, error: SqsError, request_id: str) -> Answer:
        headers = ((b"x-amzn-RequestId", request_id.encode()), *error_headers(error))
        return Answer(error.status, write_json_error(error), JSON_TYPE, headers)


class _Query:
    """A request of the query protocol."""

    def __init__(self, path: bytes, parameters: dict[str, str]) -> None:
        self._path = path
        self._parameters = parameters

    def operation(self) -> str:
        return operation_of_action(self._parameters.get("Action"))

    def arguments(self, operation: str) -> dict[str, Any]:
        found = _QUEUE_PATH.match(self._path)
        if found is not None:
            self._parameters.setdefault("QueueUrl", found[1].decode("latin-1"))
        return read_query(operation, self._parameters)

    def answer(self, operation: str, result: Mapping[str, Any] | None, request_id: str) -> Answer:
        body = write_xml(operation, result, request_id)
        return Answer(200, body, XML_TYPE, ((b"x-amzn-RequestId", request_id.encode()),))

    def failure(self, error: SqsError, request_id: str) -> Answer:
        headers = ((b"x-amzn-RequestId", request_id.encode()), *error_headers(error))
        return Answer(error.status, write_xml_error(error, request_id), XML_TYPE, headers)


class SqsCalls:
    """Authenticates requests in Amazon's way, and gives them to the operations.

    :param now: seconds since 1970 UTC.
    :param account: the account id in URLs and ARNs: twelve digits.
    :param separate_regions: whether each region has queues of its own.
    :param allowance: finds who pays for what is sent.
    """

    def __init__(
        self,
        queues: Queues,
        keyring: Keyring,
        now: Callable[[], float],
        account: str = "123456789012",
        separate_regions: bool = False,
        allowance: Callable[[Principal], Allowance] = lambda _: FREE,
    ) -> None:
        self._keyring = keyring
        self._naming = Naming(account, separate_regions)
        self._signatures = Signatures(keyring.secret_of, now)
        self._failures = Attempts(now, _MOST_FAILURES, _FAILURES_SECONDS)
        self._operations = operations(queues, allowance)

    def routes(self) -> list[Route]:
        paths = ("/", "/sqs", "/sqs/", "/<int:account>/<queue>", "/sqs/<int:account>/<queue>", "/queue/<queue>")
        return [Route(method, path, self.call, protocol="sqs") for path in paths for method in ("POST", "GET")]

    async def call(self, request: Request, **parts: object) -> Answer:
        """Answer a request of either protocol."""
        path, _, query = request.uri.partition(b"?")
        if path == b"/" and request.method != b"POST" and b"Action=" not in query:
            return await welcome(request)
        if request.method == b"HEAD":
            return wrong_method(request, "GET, POST")  # it would do something and not show it
        headers = {name.lower(): values for name, values in request.requestHeaders.getAllRawHeaders()}
        asked = _protocol(request, path, query, headers)
        try:
            principal, region = self._authenticate(request, path, query, headers)
            operation = asked.operation()
            base = partial(_base, request, path, headers)
            call = Call(principal, region, base, asked.arguments(operation), self._naming)
            return asked.answer(operation, await self._operations[operation](call), request.request_id)
        except SqsError as error:
            request.refused = error.name
            return asked.failure(error, request.request_id)
        except CancelledError:
            raise
        except Refused as refusal:
            if refusal.status == 500:
                _log.failure("request {request_id}: refused by a fault of ours", request_id=request.request_id)
            request.refused = refusal.code
            return asked.failure(in_words_of_sqs(refusal), request.request_id)
        except Exception:
            if not request.gone:
                _log.failure("request {request_id} failed", request_id=request.request_id)
            request.refused = Internal.code
            return asked.failure(in_words_of_sqs(Internal()), request.request_id)

    def _authenticate(self, request: Request, path: bytes, query: bytes, headers: Headers) -> tuple[Principal, str]:
        """Find who asks, and from which region.

        :raises SqsError: if the signature is wrong.
        :raises Refused: if the key may not be used.
        """
        claim = read_claim(query, headers)
        if b"x-amz-security-token" in headers or b"X-Amz-Security-Token=" in query:
            raise InvalidToken("there are no session tokens")
        address = network_of(request.address)
        try:
            self._signatures.verify(claim, request.method, path, query, headers, request.body())
        except SqsError as error:
            if error.name != "SignatureDoesNotMatch":
                raise
            # Whoever signs rightly is let in all the same: key ids are public, and addresses are shared.
            if self._failures.wait((address, claim.key_id)):
                raise SqsError("RequestThrottled", "Too many requests with a wrong signature; wait a minute.") from None
            if self._failures.add((address, claim.key_id)):
                _log.warn("a request that was signed as {key_id} has a wrong signature", key_id=claim.key_id)
            if self._keyring.find(claim.key_id) is None:
                raise in_words_of_sqs(InvalidToken()) from None
            raise
        return self._principal(claim), claim.region

    def _principal(self, claim: Claim) -> Principal:
        key = self._keyring.find(claim.key_id)
        if key is None:
            raise InvalidToken("the API key is not known")
        self._keyring.check(key)
        return Principal(
            user=key.user,
            app=key.app,
            home=key.home,
            key_id=key.id,
            grants=key.grants,
            expires_at=_FOREVER if key.expires_at is None else float(key.expires_at),
            token_id=f"key {key.id}",
            issued_at=float(key.created_at),
        )


def _protocol(request: Request, path: bytes, query: bytes, headers: Headers) -> _Json | _Query:
    """Which protocol a request speaks.

    :raises NotFound: if none.
    """
    target = headers.get(b"x-amz-target")
    if target is not None:
        return _Json(target[0], request.body())
    try:
        parameters = read_parameters(query, False)
        if request.method == b"POST" and media_type(request) == FORM_TYPE:
            parameters.update(read_parameters(request.body(), True))
    except SqsError as error:
        raise InvalidParameter(error.message) from None
    if "Action" not in parameters:
        raise NotFound("there is no such thing here but Amazon SQS's protocol, which is explained in /docs#sqs")
    return _Query(path, parameters)


def _base(request: Request, path: bytes, headers: Headers) -> str:
    """What the URLs of queues begin with, as the client sees this place."""
    host = headers.get(b"host", (b"",))[0].decode("latin-1")
    if not _HOST.match(host):
        host = "localhost"
    # A proxy that ends TLS says so; who lies about it misleads nobody else.
    secure = request.isSecure() or headers.get(b"x-forwarded-proto", (b"",))[0] == b"https"
    mount = _MOUNT.decode() if path == _MOUNT or path.startswith(_MOUNT + b"/") else ""
    return f"{'https' if secure else 'http'}://{host}{mount}"
