"""The API key with which nodes, and Prometheus, ask for metrics where the gateway keeps those to admin keys.

It is derived from the cluster secret, so every node knows it and nothing has to be handed out. It opens ``/metrics``
and ``/metrics/cluster``, and nothing else: what a scrape shows to who listens is good for another scrape only.
"""

from __future__ import annotations

from shoal.cluster.wire import derive_key


def scrape_key(cluster: str, secret: str) -> str:
    """Return the key.

    Args:
        cluster: name of the cluster.
        secret: its secret.
    """
    return "sk-metrics-" + derive_key(secret, f"metrics of {cluster}").hex()
