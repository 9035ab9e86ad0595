"""The stages: each verb as one frozen dataclass, run inside a run folder.

The dataclass is the command line, the table in a recipe and the record in config.toml, so the
three cannot drift. Nothing here imports torch before a stage is run.
"""

from sluicegate.stages.attack import Relearn
from sluicegate.stages.data import OnData, Score
from sluicegate.stages.learning import Distill, Train, Undo, Unlearn
from sluicegate.stages.routed import Ablate, Route

__all__ = ["Ablate", "Distill", "OnData", "Relearn", "Route", "Score", "Train", "Undo", "Unlearn"]
