"""A Ray cluster in this process, for the tests of what we do with one: a task runs when it is handed over."""

import pickle
import sys
from contextlib import contextmanager
from types import SimpleNamespace

from sluicegate.execution.ray import cluster
from sluicegate.execution.ray.bootstrap import progress_queue


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class WorkerCrashedError(RayError):
    pass


class Ray:
    """Stands for the module. `sees`: whether the workers see this machine's files. `lost`: whether each worker dies."""

    exceptions = SimpleNamespace(
        RayError=RayError,
        RayTaskError=RayTaskError,
        WorkerCrashedError=WorkerCrashedError,
        NodeDiedError=type("NodeDiedError", (RayError,), {}),
        OutOfMemoryError=type("OutOfMemoryError", (RayError,), {}),
        ObjectLostError=type("ObjectLostError", (RayError,), {}),
    )

    def __init__(self, *, sees=True, lost=False, nodes=((1.0, 0.0),)):
        self.sees, self.lost, self.have = sees, lost, nodes
        self.asked, self.put_in, self.cancelled = [], [], []
        self._values = {}

    def remote(self, **settled):
        def wrap(function):
            def options(**more):
                return SimpleNamespace(remote=lambda *args: self._run(function, settled | more, args))

            return SimpleNamespace(options=options)

        return wrap

    def _run(self, function, options, args):
        order, queue, *transfers = args
        order = pickle.loads(pickle.dumps(order))
        if not self.sees:
            order["sight"] = ("/not/on/this/machine",)
        self.asked.append(options)
        driver, sys.argv = sys.argv, ["default_worker.py", "--redis-password=secret"]
        try:
            if self.lost:
                raise WorkerCrashedError("the worker died")
            found = pickle.loads(pickle.dumps(function(order, queue, *(self._values[ref] for ref in transfers))))
        except WorkerCrashedError as error:
            found = error
        except Exception as error:
            found = RayTaskError(error)
        finally:
            sys.argv = driver
        return self._keep(found)

    def _keep(self, value):
        ref = f"ref-{len(self._values)}"
        self._values[ref] = value
        return ref

    def put(self, value):
        self.put_in.append(value)
        return self._keep(value)

    def get(self, ref):
        if isinstance(self._values[ref], Exception):
            raise self._values[ref]
        return self._values[ref]

    def wait(self, refs, num_returns=1, timeout=None):
        return refs[:num_returns], refs[num_returns:]

    def cancel(self, ref, force):
        self.cancelled.append(ref)

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}} for cpus, gpus in self.have]

    def started_queue(self):
        own = progress_queue()()

        def call(method):
            return SimpleNamespace(remote=lambda *args: self._keep(method(*args)))

        return SimpleNamespace(put=call(own.put), take=call(own.take))


def pretend(monkeypatch, **how):
    """Let `OnRay` find this cluster; return it."""
    ray = Ray(**how)

    @contextmanager
    def connected(address):
        yield ray

    monkeypatch.setattr(cluster, "connected", connected)
    monkeypatch.setattr(cluster, "_start_queue", lambda _: ray.started_queue())
    return ray
