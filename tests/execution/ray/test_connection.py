"""A cluster that is not there is named within seconds, and so is what to do."""

import importlib.util
import socket

import pytest

from sluicegate.errors import UserError
from sluicegate.execution.ray.connection import check_address, connected


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
        check_address(address)


def test_nobody_answers():
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:\d+: .*refused.*ray start --head"):
        check_address(unused())


def test_somebody_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")


def test_what_ray_says_of_an_address_is_one_line(monkeypatch):
    ray = pytest.importorskip("ray")

    def refuse(**settings):
        raise ConnectionError("Failed to connect to Ray cluster\nat great length")

    monkeypatch.setattr(ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError) as caught, connected(address):
            pass
    assert str(caught.value).startswith(f"could not connect to a Ray cluster at {address}: Failed to connect to Ray cluster. Start one")


def test_the_client_needs_a_package_more(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ray\[client\]"):
        check_address("ray://127.0.0.1:10001")


def test_the_address_of_the_environment_counts_where_none_is_given(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    with pytest.raises(UserError, match="'elsewhere'"), connected(""):
        pass
    with pytest.raises(UserError, match="'given'"), connected("given"):
        pass
