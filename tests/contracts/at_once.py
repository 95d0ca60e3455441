"""Test cases over fakes: the test moves their clock, so nothing has to be waited for, and no reactor turns."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

_T = TypeVar("_T")


class AtOnceTestCase(SynchronousTestCase):
    """Takes tests and a ``setUp`` that are coroutines, as trial's own ``TestCase`` does.

    That one lets the reactor turn after every test, for 20 milliseconds with asyncio's.
    """

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        for name in dir(cls):
            if name == "setUp" or name.startswith("test_"):
                method = getattr(cls, name)
                if iscoroutinefunction(method):
                    setattr(cls, name, _at_once(method))

    def assertFailure(self, deferred: Deferred[_T], *expectedFailures: type[BaseException]) -> Deferred[_T]:
        """Expect a failure; the same as in trial's ``TestCase``.

        :returns: a Deferred of its exception.
        """

        def succeeded(result: object) -> Any:
            raise self.failureException(f"{result!r} instead of {expectedFailures}")

        def failed(failure: Failure) -> Any:
            failure.trap(*expectedFailures)
            return failure.value

        return deferred.addCallbacks(succeeded, failed)


def _at_once(method: Callable[..., Any]) -> Callable[..., None]:
    @wraps(method)
    def run(case: SynchronousTestCase) -> None:
        results: list[object] = []
        Deferred.fromCoroutine(method(case)).addBoth(results.append)
        if not results:
            case.fail("it waits for what does not happen by itself")
        if isinstance(results[0], Failure):
            results[0].raiseException()

    return run
