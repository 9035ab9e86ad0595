"""The stage that attacks a model by relearning."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sluicegate.audit.attack import Attack
from sluicegate.stages.data import OnData

if TYPE_CHECKING:
    from sluicegate.runs.room import Room


@dataclass(frozen=True)
class Relearn(OnData):
    """Attack a model by fine-tuning, and measure how fast the forget set comes back."""

    VERB: ClassVar[str] = "relearn"
    TOGETHER: ClassVar[bool] = True
    NEEDS: ClassVar[tuple[str, ...]] = ("forget",)

    attack: Attack = Attack()

    def resolved(self) -> Self:
        stage = super().resolved()
        return dataclasses.replace(stage, attack=dataclasses.replace(self.attack, lrs=self.attack.rates(self.width())))

    @property
    def method(self) -> str:
        return self.attack.in_short()

    def run(self, room: "Room") -> dict[str, Any]:
        from sluicegate.audit.relearn import relearn

        split = self.split()
        model, tokenizer = self.load()
        found = relearn(
            model,
            tokenizer,
            split.forget,
            split.retain,
            self.attack,
            seed=self.seed,
            max_length=self.max_length,
            template=self.template,
            room=room,
        )
        return {
            "verb": self.VERB,
            "method": self.method,
            "scores": self.score(model, tokenizer, split),
            **found.to_json(),
        }
