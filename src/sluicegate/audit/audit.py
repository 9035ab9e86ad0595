"""Audit a model: score it, attack it and a reference alike, and conclude what is left of the knowledge."""

import dataclasses
import hashlib
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.audit.attack import Attack
from sluicegate.audit.page import report_audit
from sluicegate.audit.stage import Relearn
from sluicegate.audit.verdict import Evidence, Verdict, judge
from sluicegate.deprecated import alias
from sluicegate.errors import UserError
from sluicegate.execution.execute import ALONE_SHARDED, identity
from sluicegate.execution.here import Here
from sluicegate.execution.jobs import Job, refuse_launcher, run_jobs
from sluicegate.execution.local import LocalPool
from sluicegate.runs.arm import Arm
from sluicegate.runs.directory import Progress, result_of, write_atomic
from sluicegate.runs.ranks import processes
from sluicegate.values.items import Item, columns_of

if TYPE_CHECKING:
    from sluicegate.audit.suite import SuiteVerdict
    from sluicegate.audit.target import Attacked

RUNS = "runs/audit"
"""Where attacks are kept by default; the page and the numbers of each audit get a folder of their own in it."""
TEXTS = 100
"""On so many rows two tokenizers are compared."""


@dataclass(frozen=True)
class AuditResult:
    """What an audit found."""

    model: Arm
    reference: Arm | None
    harmless: Arm | None
    """The model under fine-tuning on retain rows only, where retain rows were handed in."""
    verdict: Verdict
    page: Path
    """The report, as HTML; audit.json lies beside it."""
    differs: str = ""
    """In what the reference is built otherwise than the model; empty where it is not."""
    suite: "SuiteVerdict | None" = None
    """What the suite of attackers says, where one was run."""
    attacked: "Mapping[str, Mapping[str, Sequence[Attacked]]]" = field(default_factory=dict)
    """What they found: of each model (model, reference, reference 2, original, spiked), by attacker, one a seed."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Attackers that were not run, and why."""
    forget: Sequence[Item] = ()
    """The rows whose facts were attacked."""

    def warnings(self) -> list[str]:
        """What makes the attacks weaker than they could be, once for each arm and text."""
        found = [f"reference: {self.differs}"] * bool(self.differs)
        for name, arm in (("model", self.model), ("reference", self.reference), ("harmless fine-tuning", self.harmless)):
            texts = {text for attack in (arm.attacks.values() if arm else ()) for text in attack["warnings"]}
            found += [f"{name}: {text}" for text in sorted(texts)]
        return found

    def summary(self) -> dict[str, Any]:
        """The numbers, as audit.json and --json give them."""
        arms = {"model": self.model, "reference": self.reference, "harmless": self.harmless}
        verdict = self.verdict
        return {
            "verdict": verdict.word,
            "savings": verdict.savings.as_list() if verdict.savings else None,
            "held_out_above_reference": verdict.excess.as_list() if verdict.excess else None,
            "owned_above_reference": verdict.owned_excess.as_list() if verdict.owned_excess else None,
            "measure": next(iter(self.model.attacks.values())).get("measure", "exact"),
            "measured": next(iter(self.model.attacks.values())).get("measured", ""),
            "seeds": list(self.model.attacks),
            "arms": {name: _summarize_arm(arm) for name, arm in arms.items() if arm},
            "sentences": list(verdict.sentences),
            "warnings": self.warnings(),
        }


def audit(
    model: str | Path,
    *,
    forget: str | Path,
    retain: str | Path = "",
    adjacent: str | Path = "",
    reference: str | Path = "",
    attack: Attack | None = None,
    seeds: int | Sequence[int] = 3,
    out: str | Path = "",
    columns: str | Mapping[str, str] = "",
    max_length: int = 256,
    template: bool = False,
    workers: int = 0,
    procs: int = 0,
    shard: bool = False,
    progress: Progress | None = None,
    **loaded: Any,
) -> AuditResult:
    """Attack `model`, and `reference` alike, over several seeds, and judge whether the forget set is gone or hidden.

    Models are names or folders, rows are files or packaged sources (several joined by commas). The `reference` has the
    same shape and never saw the forget set; without one, recovery cannot be told from learning. `columns` says what is
    read from which column of the rows (see `sluicegate.read`). `loaded`: base, dtype, system, template_args and
    end_of_turn, as `Relearn` has them. With `retain` rows, the
    model is also fine-tuned on those alone. A seed draws which half of the facts the attacker owns, and the order of
    its rows; `seeds` is their number, or the seeds themselves. The attacks run in `workers` processes (0: one a core;
    on accelerators never more than one each), so a script calls this under ``if __name__ == "__main__":``. With `procs`
    of 2 or more they run one after another, each by so many processes, which with `shard` divide the weights.

    Writes report.html and audit.json into `out`, where the attacks' run folders lie too; an attack that is finished is
    not run again. By default the attacks lie in runs/audit, and the page in a folder there that is named after the
    model and a hash of all that was asked. Raises `UserError` for a model or rows that cannot be read, and where an
    attack fails.
    """
    for name, value in (("model", model), ("reference", reference), ("forget", forget), ("retain", retain), ("adjacent", adjacent)):
        if not isinstance(value, str | Path):
            raise UserError(f"{name} is of type {type(value).__name__}; give the name of a folder or file. Save it there first.")
    if not (model and forget):
        raise UserError(f"audit needs {'a forget set (--forget)' if model else 'a model'}. See: sluicegate audit --help")
    refuse_launcher()
    together = processes(procs) > 1
    if together and workers:
        raise UserError(f"--procs is {procs} and --workers {workers}: attacks run side by side, or each by several. Leave one out.")
    if shard and not together:
        raise UserError(ALONE_SHARDED)
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"seeds is {seeds!r}; give a number of at least 1, or different seeds.")
    own = Relearn(
        model=str(model),
        forget=str(forget),
        retain=str(retain),
        adjacent=str(adjacent),
        columns=",".join(f"{name}={column}" for name, column in columns_of(columns).items()),
        max_length=max_length,
        template=template,
        attack=attack or Attack(),
        **loaded,
    )
    plans = {"model": own}
    if retain and own.attack.kind == "forget":
        plans["harmless"] = dataclasses.replace(own, attack=dataclasses.replace(own.attack, kind="retain"))
    if reference:
        from sluicegate.engine.models import adapter_folder

        whole = adapter_folder(str(reference)) is None
        plans["reference"] = dataclasses.replace(own, model=str(reference), base="" if whole else own.base)
    # What cannot be read is named here, before any process is started.
    resolved = {name: plan.resolved() for name, plan in plans.items()}
    hashes = [identity(plan)[0] for plan in resolved.values()]
    differs, uniform = _compare_shapes(resolved["model"], resolved["reference"]) if reference else ("", math.inf)
    stages = Path(out or RUNS)
    folder = stages if out else stages / _folder_name(str(model), [*hashes, *map(str, chosen)])
    # One model after the other: a process that takes several attacks on one model loads it once.
    jobs = [
        Job(f"{name} seed {seed}", (), lambda done, plan=plan, seed=seed: dataclasses.replace(plan, seed=seed), stages)  # type: ignore[misc]
        for name, plan in plans.items()
        for seed in chosen
    ]
    folders = run_jobs(jobs, Here(procs, shard) if together else LocalPool(workers), progress)
    arms = {name: _read_arm(name, {seed: folders[f"{name} seed {seed}"] for seed in chosen}) for name in plans}
    evidence = {name: _gather_evidence(arm, plans[name], uniform) for name, arm in arms.items()}
    verdict = judge(evidence["model"], evidence.get("reference"), evidence.get("harmless"))
    if differs:
        verdict = dataclasses.replace(verdict, sentences=(*verdict.sentences, f"Read this with care: {differs}"))
    found = AuditResult(
        arms["model"], arms.get("reference"), arms.get("harmless"), verdict, folder / "report.html", differs, forget=own.split().forget
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "audit.json", json.dumps(found.summary(), indent=1))
    report_audit(str(model), found, found.page)
    return found


def inspect(
    data: Mapping[str, Any],
    attack: Attack,
    *,
    reference: str = "",
    seeds: Sequence[int] = (0, 1, 2),
    out: Path,
    workers: int = 0,
    progress: Progress | None = None,
) -> AuditResult:
    """`audit` under its old name, with the model and rows in a table."""
    warnings.warn("sluicegate.inspect is now sluicegate.audit(model, forget=..., ...)", DeprecationWarning, stacklevel=2)
    return audit(**{"attack": attack, "reference": reference, "seeds": seeds, "out": out, "workers": workers, "progress": progress, **data})


def _folder_name(model: str, parts: Sequence[str]) -> str:
    """``NAME-hash8``: the model's own name, and a hash of what was asked."""
    name = re.sub(r"[^\w.-]+", "-", Path(model).name).strip(".-") or "model"
    return f"{name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"


def _summarize_arm(arm: Arm) -> dict[str, Any]:
    return {
        "scores": {group: arm.scores(group) for group in next(iter(arm.results.values()))["scores"]},
        "steps": list(arm.owned.effort),
        "owned": [list(row) for row in arm.owned.recall],
        "held_out": [list(row) for row in arm.held_out.recall],
    }


def _read_arm(name: str, folders: dict[int, Path]) -> Arm:
    results = {seed: result_of(folder) for seed, folder in folders.items()}
    # The model was handed in, so what making it cost is not known here.
    return Arm(name, results, results, dict.fromkeys(results, 0.0), folders)


def _gather_evidence(arm: Arm, plan: Relearn, uniform: float) -> Evidence:
    measure = next(iter(arm.attacks.values())).get("measure", "exact")
    right = arm.scores("forget")[0]  # no seed in it: the model is given
    probability = (
        arm.scores("forget", "probability")[0] if measure not in ("argmax", "loss") else math.exp(-arm.scores("forget", "loss")[0])
    )
    # Facts count, not rows: the phrasings of one are known or not known together.
    facts = len({item.key for item in plan.split().forget})
    half = min(facts // 2, plan.attack.probe or facts)
    return Evidence(right, probability, arm.owned, arm.held_out, measure, facts, half, uniform, plan.attack.kind != "retain")


def _compare_shapes(model: Relearn, reference: Relearn) -> tuple[str, float]:
    """In what two models differ that should have the same shape (a sentence, or nothing), and ln of the reference's
    vocabulary.

    Raises `UserError` where they cannot be compared: other learning rates, which follow the width, are another attack;
    and scores of tokens mean something else where the same text is other tokens.
    """
    from sluicegate.engine.encoding import encode
    from sluicegate.engine.models import load_tokenizer, read_config

    if model.attack.lrs != reference.attack.lrs:
        raise UserError(
            f"the model is {model.width()} wide and the reference {reference.width()}, so the attacks would have other learning rates. "
            "Give both the same with --lrs, or a reference of the model's shape."
        )
    ours, theirs = (read_config(stage.model, stage.base).get_text_config() for stage in (model, reference))
    names = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    sizes = [(name, getattr(ours, name, None), getattr(theirs, name, None)) for name in names]
    found = [f"{name} is {theirs}, and {ours} in the model" for name, ours, theirs in sizes if ours != theirs]
    shown = model.split().forget[:TEXTS]  # as the attack will see them, with the chat template where that is asked for
    ids = [
        encode(tokenizer, shown, max_length=model.max_length, template=model.template).ids.tolist()
        for tokenizer in (stage.tell(load_tokenizer(stage.model, stage.base)) for stage in (model, reference))
    ]
    if ids[0] != ids[1]:
        other = f"another tokenizer{' or chat template' * model.template}"
        if model.attack.metric(model.split().forget) != "exact":
            raise UserError(
                f"the reference {reference.model!r} has {other} than the model, so shares of tokens and losses a token cannot be "
                "compared. Give a reference with the same tokenizer, or rows with short answers, which are counted whole."
            )
        found.append(f"it has {other}")
    differs = f"the reference has another shape ({'; '.join(found)}), so a difference may be the shape's." if found else ""
    return differs, math.log(theirs.vocab_size)


__getattr__ = alias(__name__, Inspection="AuditResult")
