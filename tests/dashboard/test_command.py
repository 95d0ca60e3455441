"""``flowgate user link``."""

from __future__ import annotations

import json

from tests.test_cli import _Tests as CommandCase

ANSWER = {"user": "alice", "link": "http://gateway/dashboard/#link=x", "expires_at": 1}


class LinkCommandTests(CommandCase):
    """The command."""

    def test_link(self) -> None:
        """The link stands alone on the output, or with all else as JSON."""
        self.gateway.say("POST /api/v1/admin/users/alice/link", 201, ANSWER)
        self.assertEqual(self.run_command("user", "link", "alice"), f"{ANSWER['link']}\n")
        self.assertEqual(json.loads(self.run_command("user", "link", "alice", "--json")), ANSWER)
        self.assertEqual([body for *_, body in self.gateway.asked], [{}, {}])

    def test_admin(self) -> None:
        """An administrator is made if that is said."""
        self.gateway.say("POST /api/v1/admin/users/alice/link", 201, ANSWER)
        self.run_command("user", "link", "alice", "--admin")
        self.assertEqual(self.gateway.asked[-1][3], {"admin": True})
