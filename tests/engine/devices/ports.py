"""Ports of this machine for processes that meet."""

import socket


def free_port() -> int:
    """Returns a port that nobody listens at."""
    with socket.create_server(("", 0)) as listener:
        return listener.getsockname()[1]
