"""Stored users and keys, between versions of the gateway."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.permissions import Grants
from flowgate.auth.records import ApiKey, User
from flowgate.topics import Namespace

KEY = ApiKey("FGAK" + "A" * 16, "alice", "shop", "till", Grants.everything(Namespace("alice", "shop")), 1)


class RecordTests(SynchronousTestCase):
    """What is written and read."""

    def test_round_trip(self) -> None:
        """What is written is read as it was."""
        for key in (KEY, ApiKey(KEY.id, "alice", "shop", "", KEY.grants, 1, 2, True, "FGAKB")):
            self.assertEqual(ApiKey.from_json(key.to_json()), key)
        for user in (User("alice", 1), User("alice", 1, True, "gold", True)):
            self.assertEqual(User.from_json(user.to_json()), user)

    def test_nothing_new_before_it_is_used(self) -> None:
        """A record without anything new has just the members that the first version knew, and refused others beside."""
        self.assertEqual(
            set(json.loads(KEY.to_json())),
            {"id", "user", "app", "name", "grants", "created_at", "expires_at", "disabled"},
        )
        self.assertEqual(set(json.loads(User("alice", 1).to_json())), {"name", "created_at", "suspended"})

    def test_members_of_a_newer_version(self) -> None:
        """What a newer version has added is kept, and written back."""
        for record in (KEY, User("alice", 1)):
            written = {**json.loads(record.to_json()), "colour": {"red": [1]}}
            read = type(record).from_json(json.dumps(written).encode())
            self.assertEqual(json.loads(read.to_json()), written)

    def test_format_of_a_newer_version(self) -> None:
        """A record that says that an older version must not guess at it is refused."""
        for record in (KEY, User("alice", 1)):
            written = json.loads(record.to_json())
            type(record).from_json(json.dumps({**written, "format": 1}).encode())
            for wrong in (2, "1", True, None):
                with self.assertRaises(ValueError):
                    type(record).from_json(json.dumps({**written, "format": wrong}).encode())

    def test_no_place_for_more(self) -> None:
        """No member of a record can pass for the place where unknown ones are kept."""
        with self.assertRaises(ValueError):
            User.from_json(json.dumps({**json.loads(User("alice", 1).to_json()), "more": {}}).encode())
