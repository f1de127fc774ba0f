"""Networks, each written once with ordinary layers.

`slotkit.slotify` makes slot machines of them; left alone they are the learned-weight twins.
"""

from slotkit.models.registry import NETWORKS, OWN, Network, create, describe, own_network

__all__ = ["NETWORKS", "OWN", "Network", "create", "describe", "own_network"]
