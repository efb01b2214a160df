"""Which network interface has an address: what vLLM's distributed runtime wants to be told."""

from __future__ import annotations

from collections.abc import Mapping

import psutil


def interface_of(address: str) -> str:
    """Return the name of the interface of this machine that has a numeric address, "" if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address.partition("%")[0] == address for a in addresses):
            return name
    return ""


def group_environment(address: str, interface: str) -> Mapping[str, str]:
    """Return the variables by which vLLM, Gloo and NCCL find the right network.

    By themselves they take the address of the machine's name, or that of the default route.

    Args:
        address: numeric address of this node.
        interface: that has it; "" leaves the choice to Gloo and NCCL.
    """
    chosen = {"VLLM_HOST_IP": address}
    if interface:
        chosen |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    return chosen
