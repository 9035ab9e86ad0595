"""The connection to a Ray cluster, and what may be wrong with it."""

import importlib.util
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sluicegate.errors import UserError, first_line

REACH_SECONDS = 5.0
"""How long the head of a cluster may take to answer."""

QUIET = ("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
"""A setting of Ray's, read as it is imported, with which it does not print on our output whatever happens to its machines."""

ADVICE = "Start one (ray start --head), or name its head with --address HOST:PORT."


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Be connected to a cluster that is there already, for the length of the block; return the module ray.

    An empty address is that of RAY_ADDRESS or else of the cluster that this machine belongs to. A connection that the caller
    has made is used as it is. Raises `UserError` where ray is not installed, or no cluster is there. None is ever started.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("--on ray needs the package ray. Install it: pip install 'sluicegate[ray]'.")
    os.environ.setdefault(*QUIET)
    import ray

    if ray.is_initialized():
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS", "") or "auto"
    reach(where)
    try:
        ray.init(address=where, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:  # of many types, by what is wrong: no cluster, another version of ray or Python, a token that is missing
        ray.shutdown()
        at = "that this machine belongs to" if where == "auto" else f"at {where}"
        raise UserError(f"could not connect to a Ray cluster {at}: {first_line(error)}. {ADVICE}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def reach(address: str) -> None:
    """Raise `UserError` where nothing answers at HOST:PORT, or something that is no gRPC server.

    Ray itself goes on asking for minutes, and then ends the process.
    """
    if address == "auto":
        return
    found = re.fullmatch(r"(?P<client>ray://)?(?P<host>[\w.-]+|\[[0-9A-Fa-f:]+\]):(?P<port>\d{1,5})", address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise UserError(f"the address of a Ray cluster is {address!r}; expected HOST:PORT of its head, ray://HOST:PORT, or auto.")
    if found["client"] and importlib.util.find_spec("grpc") is None:
        raise UserError(f"{address} is for Ray's client, which needs one package more. Install it: pip install 'ray[client]'.")
    try:
        with socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout=REACH_SECONDS) as line:
            answers = _speaks_grpc(line)
    except OSError as error:
        raise UserError(f"no Ray cluster answers at {address}: {error.strerror or error}. {ADVICE}") from None
    if not answers:
        raise UserError(f"what answers at {address} is no Ray cluster. {ADVICE}")


def _speaks_grpc(line: socket.socket) -> bool:
    """Whether the other side begins HTTP/2 (RFC 9113, section 3.4), with a frame of settings; True where it is encrypted."""
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("", "0", "false"):
        return True
    line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
    head = b""
    while len(head) < 9 and (more := line.recv(9 - len(head))):
        head += more
    return len(head) == 9 and head[3] == 4
