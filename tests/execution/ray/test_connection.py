"""A cluster that is not there is named within seconds, and so is what to do."""

import importlib.util
import socket
import threading
from contextlib import contextmanager

import pytest

from sluicegate.errors import UserError
from sluicegate.execution.ray.connection import connected, reach


@contextmanager
def answering(words):
    """A server on this machine that says `words` to whoever comes, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            try:
                line, _ = server.accept()
            except OSError:
                return
            with line:
                line.recv(100)
                line.sendall(words)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def unused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_without_ray_the_extra_is_named(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else real(name, *more))
    with pytest.raises(UserError, match=r"pip install 'sluicegate\[ray\]'"), connected(""):
        pass


@pytest.mark.parametrize("address", ["nonsense", "host", "host:", "host:0", "host:70000", "http://host:1", "local", "a b:1"])
def test_an_address_that_is_none_is_named(address):
    with pytest.raises(UserError, match="expected HOST:PORT"):
        reach(address)


def test_nobody_answers():
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:\d+: .*refused.*ray start --head"):
        reach(unused())


def test_something_else_answers():
    with answering(b"HTTP/1.0 400 Bad Request\r\n\r\n") as address, pytest.raises(UserError, match="is no Ray cluster"):
        reach(address)
    with answering(b"") as address, pytest.raises(UserError, match="is no Ray cluster"):
        reach(address)


def test_a_server_of_grpc_is_let_pass():
    with answering(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as address:
        reach(address)


def test_the_client_needs_a_package_more(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ray\[client\]"):
        reach("ray://127.0.0.1:10001")


def test_the_address_of_the_environment_counts_where_none_is_given(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    with pytest.raises(UserError, match="'elsewhere'"), connected(""):
        pass
    with pytest.raises(UserError, match="'given'"), connected("given"):
        pass
