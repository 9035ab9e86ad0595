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

SETTINGS = {"RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_NUM_REDIS_GET_RETRIES": "1"}
"""Settings that Ray reads as it is imported: do not print what happens to its machines, and try an address once (40 s),
not 20 times."""

ADVICE = "Start one (ray start --head), or name its head with --address HOST:PORT."


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Be connected to a cluster that is there already, for the length of the block; return the module ray.

    An empty address is that of RAY_ADDRESS or else of the cluster that this machine belongs to. A connection that the
    caller has made is used as it is. Raises `UserError` where ray is not installed, or no cluster is there. None is
    ever started.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("--on ray needs the package ray. Install it: pip install 'sluicegate[ray]'.")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS", "") or "auto"
    check_address(where)
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


def check_address(address: str) -> None:
    """Raise `UserError` where an address is no HOST:PORT, or nothing answers there: Ray itself would then end the
    process."""
    if address == "auto":
        return
    found = re.fullmatch(r"(?P<client>ray://)?(?P<host>[\w.-]+|\[[0-9A-Fa-f:]+\]):(?P<port>\d{1,5})", address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise UserError(f"the address of a Ray cluster is {address!r}; expected HOST:PORT of its head, ray://HOST:PORT, or auto.")
    if found["client"] and importlib.util.find_spec("grpc") is None:
        raise UserError(f"{address} is for Ray's client, which needs one package more. Install it: pip install 'ray[client]'.")
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at {address}: {error.strerror or error}. {ADVICE}") from None
