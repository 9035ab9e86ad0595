"""``deck refit``: fit the 21 weights that say when a card comes up again to a learner's own reviews."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from sluicegate_study.command import name_learner, parse_time, print_json
from sluicegate_study.errors import UserError, program
from sluicegate_study.formatting import nan_to_none


@dataclass(frozen=True)
class Refit:
    """Fit FSRS-6's weights to your own reviews, for review to use from now on.

    They are taken only if a fit to the earlier reviews says more about the latest fifth than the published weights do.
    The reviews stay as they are: every state is replayed from them, so nothing is lost, and --reset goes back."""

    deck: Positional[str]
    """Folder of Markdown files, one file, or the name of a deck that comes with the program."""
    learner: str = ""
    """Whose reviews; default: person: and your login name."""
    log: str = ""
    """File of the reviews; default: log.jsonl with the deck."""
    reset: bool = False
    """Fit nothing, and use the published weights again."""
    now: str = ""
    """Note this time, as 2026-11-22T19:00:00Z, instead of now."""
    json: bool = False
    """Print what was found as the last line."""

    def run(self) -> int:
        from sluicegate_study.deck.log import read_log
        from sluicegate_study.deck.shipped import find_log
        from sluicegate_study.review.memory import locate_weights, save_weights
        from sluicegate_study.review.refit import History, refit

        path, learner, now = Path(self.log) if self.log else find_log(self.deck), self.learner or name_learner(), parse_time(self.now)
        file = locate_weights(path)
        if not path.exists():
            raise UserError(f"no reviews in {str(path)!r}. To make some: {program()} deck review {self.deck}")
        if self.reset:
            save_weights(path, learner, None, now)
            print(f"{learner}: the published weights from now on; the fits before are still noted in {file}")
            if self.json:
                print_json({"fitted": False, "kept": "reset", "log": str(path)})
            return 0
        log = read_log(path)
        found = refit(History.of(log, learner))
        if found.kept:
            print(found.kept)
        else:
            more = {"reviews": found.reviews, "held_out": found.held_out, "loss": found.loss, "default_loss": found.default_loss}
            save_weights(path, learner, found.weights, now, **more)
            print(f"fitted to {found.reviews} reviews: {file}")
            print(f"log-loss on the latest {found.held_out}: {found.loss:.4f} by a fit to the others, {found.default_loss:.4f} published")
            print("review uses these weights from now on; every state is replayed with them")
        if self.json:
            numbers = nan_to_none({"fitted": not found.kept, **vars(found), "weights": list(found.weights)})
            print_json({**numbers, "log": str(path), "weights_file": str(file)})
        return 0
