"""What is sent to Ray's workers as it stands, since the package may not be there: functions and classes made inside functions,
which Ray sends by value, and which import nothing of the package before they have looked for it."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

MOST = 10_000
"""Messages kept for a driver that does not ask for them."""


def package() -> str:
    """The version of the package here."""
    try:
        return version("sluicegate")
    except PackageNotFoundError:
        return "not installed"


def visitor(wanted: str) -> Callable[..., Any]:
    """A function that runs a stage (the fields of an `Order`) on a worker, if the package is there in the version `wanted`.

    It returns a `Report`, or words that say what is wrong with the worker's machine.
    """

    def visit(order: Any, board: Any, *parcels: Any) -> Any:
        import importlib
        import platform
        import sys
        from importlib.metadata import PackageNotFoundError, version

        here = f"the machine {platform.node()} ({sys.executable})"
        try:
            importlib.import_module("sluicegate")
        except ImportError as error:
            return f"{here} cannot import sluicegate: {error}. Install version {wanted} there."
        try:
            found = version("sluicegate")
        except PackageNotFoundError:
            found = "not installed"
        if found != wanted:
            return f"{here} has sluicegate {found}, and this one is {wanted}. Install the same version on all."
        try:
            remote = importlib.import_module("sluicegate.execution.ray.worker")
        except ImportError as error:
            return f"{here} cannot import sluicegate.execution.ray.worker: {error}. Install what is missing there."
        return remote.work(remote.Order(**order), parcels, board.tell.remote if board is not None else None)

    return visit


def board() -> type[Any]:
    """The class of the actor on which workers leave their progress for the driver."""

    class Board:
        def __init__(self) -> None:
            self.messages: list[Any] = []

        def tell(self, *message: Any) -> None:
            self.messages.append(message)
            del self.messages[:-MOST]

        def take(self) -> list[Any]:
            taken, self.messages = self.messages, []
            return taken

    return Board
