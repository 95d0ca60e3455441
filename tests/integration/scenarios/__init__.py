"""Self-checking scenarios on one gateway: each has an account of its own, acts at random, and knows what must hold.

``python -m tests.integration.scenarios`` runs all of them in less than a minute; with ``--seed`` and ``--only`` it does
again what has failed, with ``--repeat`` it looks for what fails now and then.
"""
