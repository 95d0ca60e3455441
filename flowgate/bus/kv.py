"""The store, in JetStream's key-value buckets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import nats.js.errors
from nats.aio.client import Client
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KV_DEL, KV_PURGE, KeyValue
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from flowgate.bus.connection import IConnectionListener, NatsConnection, to_deferred, translate
from flowgate.errors import InvalidParameter, NotFound, Refused
from flowgate.interfaces import IStore
from flowgate.message import Entry
from flowgate.bus.keys import check_key

_MARKER_SECONDS = 24 * 3600
"""How long the bus remembers that a key was removed; a watch that was away for longer compares all keys anyway."""
