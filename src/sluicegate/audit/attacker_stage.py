"""The stage in which one attacker attacks one model."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sluicegate.audit.attackers import Attacker, attackers
from sluicegate.audit.attackers.gains import Gains
from sluicegate.runs.stage import source
from sluicegate.tasks.stage import OnData

if TYPE_CHECKING:
    from sluicegate.runs.directory import RunContext


@dataclass(frozen=True)
class Attackers(OnData):
    """Attack a model in one of many ways, and measure what comes back of facts that the attacker was never shown."""

    VERB: ClassVar[str] = "attack"
    NEEDS: ClassVar[tuple[str, ...]] = ("forget",)

    original: str = source("model")
    """The model from before unlearning, for attackers that compare with it."""
    attacker: Attacker = Gains()

    @classmethod
    def methods(cls) -> dict[str, type[Attacker]]:
        return attackers()

    @property
    def method(self) -> str:
        return self.attacker.NAME

    def resolved(self) -> Self:
        stage = super().resolved()
        stage.need(*(name for name in self.attacker.NEEDS if name in ("original", "retain")))
        return dataclasses.replace(stage, original=self.original if "original" in self.attacker.NEEDS else "")

    def contents(self) -> dict[str, str]:
        return self.attacker.contents()

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.audit.attacked import attack
        from sluicegate.engine.models import let_go, load_model

        split = self.split()
        model, tokenizer = self.load(once=True)  # the attack leaves it as it was
        original = (lambda: load_model(self.original, dtype=self.dtype, base=self.base)) if self.original else None
        how: dict[str, Any] = {"seed": self.seed, "max_length": self.max_length, "template": self.template, "run": run}
        try:
            found = attack(self.attacker, model, tokenizer, split.forget, split.retain, original=original, **how)
        except BaseException:
            let_go()
            raise
        return {"verb": self.VERB, "method": self.method, "scores": self.score(model, tokenizer, split), **found.to_json()}
