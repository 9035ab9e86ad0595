"""The stage that attacks a model by relearning."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sluicegate.audit.attack import Attack
from sluicegate.tasks import read
from sluicegate.tasks.stage import OnData

if TYPE_CHECKING:
    from sluicegate.runs.directory import RunContext


@dataclass(frozen=True)
class Relearn(OnData):
    """Attack a model by fine-tuning, and measure how fast the forget set comes back."""

    VERB: ClassVar[str] = "relearn"
    GROUP: ClassVar[str] = "audit and attack"
    TOGETHER: ClassVar[bool] = True
    NEEDS: ClassVar[tuple[str, ...]] = ("forget",)

    attack: Attack = Attack()

    def resolved(self) -> Self:
        stage = super().resolved()
        attack = dataclasses.replace(self.attack, lrs=self.attack.rates(self.width()))
        if attack.metric(read(self.forget, "forget", self.columns)) == "loss":  # written down: the hash is to tell it from exact answers
            attack = dataclasses.replace(attack, measure="loss")
        return dataclasses.replace(stage, attack=attack)

    @property
    def method(self) -> str:
        return self.attack.in_short()

    def run(self, run: "RunContext") -> dict[str, Any]:
        from sluicegate.audit.relearn import relearn
        from sluicegate.engine.models import let_go

        split = self.split()
        model, tokenizer = self.load(once=True)  # the attack leaves it as it was
        how: dict[str, Any] = {"seed": self.seed, "max_length": self.max_length, "template": self.template, "run": run}
        try:
            found = relearn(model, tokenizer, split.forget, split.retain, self.attack, **how)
        except BaseException:
            let_go()
            raise
        return {
            "verb": self.VERB,
            "method": self.method,
            "scores": self.score(model, tokenizer, split),
            **found.to_json(),
        }
