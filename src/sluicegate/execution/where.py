"""Where the stages of a recipe run: options that `run` and `sweep` share."""

from dataclasses import dataclass
from typing import Literal

from sluicegate.errors import UserError
from sluicegate.execution.jobs import Executor
from sluicegate.execution.local import LocalPool


@dataclass(frozen=True)
class Where:
    """The choice of an executor."""

    on: Literal["local", "ray"] = "local"
    """Processes of this machine, or tasks of a Ray cluster that is there already (needs the extra ray)."""
    address: str = ""
    """With --on ray: HOST:PORT of the cluster's head; default: RAY_ADDRESS, or the cluster that this machine belongs
    to."""
    resources: tuple[str, ...] = ()
    """With --on ray: what a stage takes up, cpus=N and gpus=N, or of one kind of stage VERB.gpus=N; default: cpus=1
    gpus=0."""
    workers: int = 0
    """Stages at a time; 0: one a core of this machine (on accelerators never more than one each), or as many as the
    cluster has room for."""

    def executor(self) -> Executor:
        """The executor that the options ask for; `UserError` for options that do not go together."""
        if self.workers < 0:
            raise UserError(f"--workers is {self.workers}; it is a number of stages at a time, 0 or more.")
        if self.on == "local":
            for option, value in (("--address", self.address), ("--resources", " ".join(self.resources))):
                if value:
                    raise UserError(f"{option} {value} is about a cluster, and the stages would run on this machine. Add: --on ray")
            return LocalPool(self.workers)
        from sluicegate.execution.ray.cluster import OnRay
        from sluicegate.execution.ray.resources import read_resources

        return OnRay(self.address, self.workers, read_resources(self.resources))
