"""Networks, each written once with ordinary layers.

`slotkit.slotify` makes slot machines of them; left alone they are the learned-weight twins.
"""

from slotkit.models.registry import NETWORKS, Network, create, describe

__all__ = ["NETWORKS", "Network", "create", "describe"]
