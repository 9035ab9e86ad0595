"""Train one arm on one board at one share of oversight, and look at it, exactly, as it learns."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sluicegate.engine.sampling import seed_of
from sluicegate.engine.training import Batches, Evaluation, Fitted, Ledger, fit
from sluicegate.errors import UserError, nearest
from sluicegate.oversight.board import Board, check_share, shown
from sluicegate.routing.experts import route
from sluicegate.routing.router import Router
from sluicegate.runs.directory import Checkpoint, RunContext
from sluicegate_papers.oversight.arms import ARMS, Arm
from sluicegate_papers.oversight.episodes import Episodes, play, reach
from sluicegate_papers.oversight.looking import look_at, table
from sluicegate_papers.oversight.nets import Agent
from sluicegate_papers.oversight.objective import Objective, Tally, lesson, tally
from sluicegate_papers.oversight.settings import Settings
from sluicegate_papers.oversight.steer import judged
from sluicegate_papers.oversight.stopping import PICKS, Window, pick


@dataclass
class Trained:
    """What came of it."""

    agent: Agent
    looks: list[dict[str, float]]
    """Figures of each look; see `looking.look_at`."""
    pictures: dict[str, Tensor]
    """Policies at each look on the boards that are shown."""
    policy: Tensor | None
    """[states, 4] the policy that is judged, at the end; None for boards too large for a table."""
    flops: float
    warnings: list[str] = field(default_factory=list)

    def picks(self) -> dict[str, dict[str, float]]:
        """The looks that are reported, by rule."""
        return {rule: self.looks[pick(rule, self.looks)] for rule in PICKS}


def train(
    arm: str, board: Board, share: float, settings: Settings | None = None, *, seed: int = 0, run: RunContext | None = None
) -> Trained:
    """Train `arm` from nothing with each of the two squares overseen with probability `share`.

    Deterministic for a seed and a number of threads, also over interruptions. Raises `UserError` for an arm or a share
    that is none.
    """
    if arm not in ARMS:
        raise UserError(f"there is no arm {arm!r} to train. Nearest: {nearest(arm, list(ARMS))}. All: {', '.join(ARMS)}.")
    check_share(share)
    return Training(ARMS[arm], board, share, settings or Settings(), seed).run(run or RunContext())


class Training:
    """One run: which episodes go into which update, a function of the seed, the update and the nets."""

    def __init__(self, arm: Arm, board: Board, share: float, settings: Settings, seed: int) -> None:
        self.arm, self.board, self.share, self.settings, self.seed = arm, board, share, settings, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "nets"))
            self.agent = Agent(arm, board, settings.width)
        self.router = routed(self.agent, arm)
        self._places = np.zeros(board.states if board.tabulated else 0, np.int64)
        """Where a state is among those that the nets looked at last."""
        self.window = Window()
        self.labelled = np.zeros(2)
        """Labelled episodes so far: Diamonds, Ghosts."""
        self.pictures: list[dict[str, Tensor]] = []

    # ------------------------------------------------------------------------------- an update

    def batch(self, step: int) -> Batches:
        """Play the update's episodes with the nets as they are, and sum them up; the nets have looked at every state
        involved."""
        rng = np.random.default_rng([seed_of(self.seed, "episodes"), step])
        starts = self.board.start(rng, self.settings.episodes, self.share)
        if self.board.tabulated:
            states = reach(self.board, starts)
            chances = self._answers(states)
            episodes = play(self.board, starts, lambda at: chances[self._places[at]], rng)
        else:  # so many states that it is cheaper to ask on the way
            episodes = play(self.board, starts, self._asked, rng)
            states = np.unique(episodes.state)
            self._answers(states)
        placed = self._placed(states, episodes.state)
        verdict = self._verdict(states, episodes)
        taught = lesson(self.arm, episodes, self.share, self.settings.label_weight, rng, verdict)
        if step == 0 and not taught.weight.any():
            raise UserError(
                f"none of the first {len(episodes)} episodes was labelled or timed out, so this arm, which learns from no others, has "
                f"nothing to begin with at a share of {self.share:g}. Take more episodes an update."
            )
        self.window.add(episodes.ending, episodes.seen, episodes.discounted)
        for i in (1, 2):
            self.labelled[i - 1] += (episodes.seen & (episodes.ending == i)).sum()
        return {"train": tally(episodes, taught, placed, len(states), routed=self.router is not None)}

    def _answers(self, states: np.ndarray) -> np.ndarray:
        """[k, 4] the acting policy; what the nets said stays, with its graph, for the objective."""
        with torch.enable_grad():
            self.agent.look(torch.from_numpy(self.board.observe(states)))
        if self.board.tabulated:
            self._places[states] = np.arange(len(states))
        with torch.no_grad():
            found: np.ndarray = self.agent(torch.arange(len(states))).exp().numpy()
        return found

    def _placed(self, states: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._places[wanted] if self.board.tabulated else np.searchsorted(states, wanted)
        return found

    def _asked(self, states: np.ndarray) -> np.ndarray:
        with self.agent.looking(torch.from_numpy(self.board.observe(states))) as places:
            found: np.ndarray = self.agent(places).exp().numpy()
        return found

    def _verdict(self, states: np.ndarray, episodes: Episodes) -> np.ndarray | None:
        if self.agent.verdict is None or self.agent.verdict.said is None:
            return None
        told = torch.sigmoid(self.agent.verdict.said[:, 0]).detach().numpy()
        found: np.ndarray = told[self._placed(states, episodes.last)].astype(float)
        return found

    def _around(self, batches: Batches) -> AbstractContextManager[None]:
        return nullcontext() if self.router is None else self.router(batches["train"].labels)

    def _flops(self, batch: Tally) -> float:
        """Of a forward pass of all nets over the states."""
        return 2.0 * batch.k * sum(p.numel() for p in self.agent.parameters() if p.dim() > 1)

    # ------------------------------------------------------------------------------- the run

    def run(self, run: RunContext) -> Trained:
        fitted = fit(
            self.agent,
            Objective(self.arm, self.settings.entropy),
            self.batch,
            self.settings.schedule(),
            seed=self.seed,
            run=_Keeping(run, self),
            name="train",
            evaluation=Evaluation(self._look, lambda step: step % self.settings.look == 0 or step == self.settings.updates),
            around=self._around,
            guard=None if self.router is None else self.router.guard,
            meter=self._flops,
        )
        self.agent.forget()
        return self._trained(fitted)

    def _look(self, agent: nn.Module, ledger: Ledger) -> dict[str, float]:
        figures, pictures = look_at(self.agent, self.arm, self.board, self.share, self.seed)
        window, self.window = self.window, Window()
        self.pictures.append(pictures)
        return figures | {"seen": window.seen(self.share), "weighted": window.weighted(self.share), "labelled": window.labelled}

    def _trained(self, fitted: Fitted) -> Trained:
        steps = torch.tensor([int(record["step"]) for record in fitted.records])
        stacked = (
            {name: torch.stack([p[name] for p in self.pictures]) for name in self.pictures[0] if name != "placements"}
            if self.pictures
            else {}
        )
        policy = None
        if self.board.exact:
            policy = torch.from_numpy(table(self.agent, self.board, np.arange(self.board.states), judged(self.arm))).float()
        return Trained(
            self.agent,
            fitted.records,
            {"steps": steps, "placements": torch.tensor(shown(self.board)), **stacked},
            policy,
            fitted.ledger.total,
            self._warnings(),
        )

    def _warnings(self) -> list[str]:
        arm = self.arm
        if arm.reward in ("any", "oracle") and not (arm.routed or arm.weighted or arm.avoid):
            return []  # it takes no notice of labels
        said, episodes = [], self.settings.episodes * self.settings.updates
        for name, count in zip(("Diamond", "Ghost"), self.labelled, strict=True):
            if not count:
                said.append(
                    f"none of {episodes:,} training episodes was seen to end at the {name}, so nothing was learnt from that: at a share "
                    f"of {self.share:g}, take more episodes or more updates. The figures are those of an agent without such labels."
                )
        if not self.labelled.any():
            said.append("no stopping rule had anything to go by: what is reported as stopped is the last look.")
        return said


def routed(agent: Agent, arm: Arm) -> Router | None:
    """The router of an arm whose labels route, else None.

    Rows of a label train its expert alone, and the gate by its own loss only; the head and the baseline learn from
    everything.
    """
    if not arm.routed:
        return None
    weights: Mapping[str, Any] = {"ghost": {"diamond": -1.0}} if arm.avoid == "negative" else {}
    return route(agent, weights=weights)


class _Keeping(RunContext):
    """A room that keeps, beside the nets, what a run counted and drew, so that an interrupted one goes on exactly."""

    def __init__(self, run: RunContext, training: Training) -> None:
        super().__init__(run.title)
        self.path, self._run, self._training = run.path, run, training

    def log(self, record: Mapping[str, Any]) -> None:
        self._run.log({key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()})

    def progress(self, part: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        self._run.progress(part, done, total, numbers)

    def checkpoint_due(self) -> bool:
        return self._run.checkpoint_due()

    def save_checkpoint(self, part: str, values: Mapping[str, Any], tensors: Mapping[str, Tensor], *, finished: bool) -> None:
        t = self._training
        own = {"own/window": torch.tensor(t.window.values(), dtype=torch.float64), "own/labelled": torch.from_numpy(t.labelled)}
        own |= {f"own/picture/{i}/{name}": tensor for i, one in enumerate(t.pictures) for name, tensor in one.items()}
        self._run.save_checkpoint(part, values, {**tensors, **own}, finished=finished)

    def load_checkpoint(self, part: str) -> Checkpoint | None:
        found = self._run.load_checkpoint(part)
        if found is None:
            return None
        t, own = self._training, {key: tensor for key, tensor in found.tensors.items() if key.startswith("own/")}
        rest = {key: tensor for key, tensor in found.tensors.items() if key not in own}
        t.window = Window(*own.pop("own/window").tolist())
        t.labelled = own.pop("own/labelled").numpy().copy()
        t.pictures = []
        for key in sorted(own, key=lambda key: int(key.split("/")[2])):
            _, _, number, name = key.split("/")
            t.pictures += [{}] * (int(number) + 1 - len(t.pictures))
            t.pictures[int(number)] = t.pictures[int(number)] | {name: own[key]}
        return Checkpoint(found.values, rest, found.finished)
