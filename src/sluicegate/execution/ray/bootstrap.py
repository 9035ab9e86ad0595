"""What is sent to Ray's workers by value, since the package may not be there: a function and a class made inside
functions, which import nothing of the package before they have looked for it."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

MOST = 10_000
"""Messages kept for a driver that does not ask for them."""


def package_version() -> str:
    """The version of the package here."""
    try:
        return version("sluicegate")
    except PackageNotFoundError:
        return "not installed"


def bootstrap(wanted: str) -> Callable[..., Any]:
    """A function that runs a stage (the fields of an `Order`) on a worker, if the package is there in the version
    `wanted`.

    It returns a `Report`, or words that say what is wrong with the worker's machine.
    """

    def start_stage(order: Any, queue: Any, *transfers: Any) -> Any:
        import importlib
        import platform
        import sys
        from importlib.metadata import PackageNotFoundError, version

        here = f"the machine {platform.node()} ({sys.executable})"
        for module in ("sluicegate", "sluicegate.execution.ray.worker"):
            try:
                worker = importlib.import_module(module)
                found = version("sluicegate")
            except PackageNotFoundError:
                found = "not installed"
            except ImportError as error:
                fix = f"version {wanted}" if module == "sluicegate" else "what is missing"
                return f"{here} cannot import {module}: {error}. Install {fix} there."
            if found != wanted:
                return f"{here} has sluicegate {found}, and this one is {wanted}. Install the same version on all."
        return worker.run_order(worker.Order(**order), transfers, queue.put.remote if queue is not None else None)

    return start_stage


def progress_queue() -> type[Any]:
    """The class of the actor on which workers leave their progress for the driver."""

    class ProgressQueue:
        def __init__(self) -> None:
            self.messages: list[Any] = []

        def put(self, *message: Any) -> None:
            self.messages.append(message)
            del self.messages[:-MOST]

        def take(self) -> list[Any]:
            taken, self.messages = self.messages, []
            return taken

    return ProgressQueue
