"""Audit a model: score it, attack it and a reference alike, and conclude what is left of the knowledge."""

import dataclasses
import hashlib
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sluicegate.audit.attack import Attack
from sluicegate.audit.page import report_audit
from sluicegate.audit.plan import LACKS, ORIGINAL, SHOWN, SPIKED, TEACH, SuitePlan, check_roles, check_spike, job_name, pick, write_answers
from sluicegate.audit.result import AuditResult
from sluicegate.audit.stage import Relearn
from sluicegate.audit.verdict import Evidence, judge
from sluicegate.deprecated import alias
from sluicegate.errors import UserError
from sluicegate.execution.execute import ALONE_SHARDED, identity
from sluicegate.execution.here import Here
from sluicegate.execution.jobs import Job, refuse_launcher, run_jobs
from sluicegate.execution.local import LocalPool
from sluicegate.runs.arm import Arm
from sluicegate.runs.directory import Progress, result_of, write_atomic
from sluicegate.runs.ranks import processes
from sluicegate.values.items import columns_of

RUNS = "runs/audit"
"""Where attacks are kept by default; the page and the numbers of each audit get a folder of their own in it."""
TEXTS = 100
"""On so many rows two tokenizers are compared."""


def audit(
    model: str | Path,
    *,
    forget: str | Path,
    retain: str | Path = "",
    adjacent: str | Path = "",
    reference: str | Path = "",
    original: str | Path = "",
    suite: str = "standard",
    attackers: str = "",
    spike: float = 0.0,
    spike_method: str = "maxent",
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
    same shape and never saw the forget set; without one, recovery cannot be told from learning. Several, joined by
    commas, show how models that never knew differ by themselves. `original` is the model from before unlearning, which
    shows that an attack can find anything at all. `columns` says what is
    read from which column of the rows (see `sluicegate.read`). `loaded`: base, dtype, system, template_args and
    end_of_turn, as `Relearn` has them.

    The attackers of a `suite` (none, quick, standard or full; see `sluicegate.attackers`), or those named in
    `attackers` (joined by commas), attack each model alike. One that fails leaves the others and is named. Beside them
    the model is fine-tuned on forget facts and, with `retain` rows, on those alone, as `attack` says; quick has the
    attacker gains in place of this. With `spike`, the first reference is taught that share of the forget facts, these
    are suppressed by `spike_method`, and the result is audited too: what there is to be found has to be found.

    A seed draws which half of the facts the attacker owns, and the order of
    its rows; `seeds` is their number, or the seeds themselves. The attacks run in `workers` processes (0: one a core;
    on accelerators never more than one each), so a script calls this under ``if __name__ == "__main__":``. With `procs`
    of 2 or more they run one after another, each by so many processes, which with `shard` divide the weights.

    Writes report.html and audit.json into `out`, where the attacks' run folders lie too; an attack that is finished is
    not run again. By default the attacks lie in runs/audit, and the page in a folder there that is named after the
    model and a hash of all that was asked. Raises `UserError` for a model or rows that cannot be read, and where an
    attack by fine-tuning fails; for a reference that knows the facts, or an original that does not.
    """
    for name, value in (
        *(("model", model), ("reference", reference), ("original", original)),
        *(("forget", forget), ("retain", retain), ("adjacent", adjacent)),
    ):
        if not isinstance(value, str | Path):
            raise UserError(f"{name} is of type {type(value).__name__}; give the name of a folder or file. Save it there first.")
    if not (model and forget):
        raise UserError(f"audit needs {'a forget set (--forget)' if model else 'a model'}. See: sluicegate audit --help")
    from sluicegate.engine.models import adapter_folder

    refuse_launcher()
    together = processes(procs) > 1
    if together and workers:
        raise UserError(f"--procs is {procs} and --workers {workers}: attacks run side by side, or each by several. Leave one out.")
    if shard and not together:
        raise UserError(ALONE_SHARDED)
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"seeds is {seeds!r}; give a number of at least 1, or different seeds.")
    picked, left_out = pick(suite, attackers, {"original": str(original), "retain": str(retain)})
    references = [name for name in str(reference).split(",") if name]
    check_spike(spike, spike_method, bool(references and retain))
    if not picked and (original or spike or len(references) > 1):
        raise UserError("--original, --spike and several references are for a suite of attackers. Leave --suite none out.")
    if shard and picked:  # each needs the model whole
        left_out, picked = dict.fromkeys(picked, "it works in one process, and --shard divides the weights"), {}
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
    arms = {"model": own}  # what the suite attacks
    named = {"reference" if n == 0 else f"reference {n + 1}": name for n, name in enumerate(references)}
    for arm, name in (named | ({ORIGINAL: str(original)} if original else {})).items():
        arms[arm] = dataclasses.replace(own, model=name, base=own.base if adapter_folder(name) else "")
    plans = {"model": own}  # what is fine-tuned
    if retain and own.attack.kind == "forget":
        plans["harmless"] = dataclasses.replace(own, attack=dataclasses.replace(own.attack, kind="retain"))
    plans |= {"reference": arms["reference"]} if references else {}
    # What cannot be read is named here, before any process is started.
    resolved = {name: plan.resolved() for name, plan in (arms | plans).items()}
    hashes = [identity(plan)[0] for plan in resolved.values()]
    shapes = {name: _compare_shapes(resolved["model"], resolved[name]) for name in named}
    differs = " ".join(text.replace("the reference", f"the {name}", 1) for name, (text, _) in shapes.items() if text)
    uniform = shapes["reference"][1] if shapes else math.inf
    suited = SuitePlan(arms, picked, chosen, left_out, spike, spike_method)
    stages, rows = Path(out or RUNS), own.split().forget
    asked = [*hashes, *map(str, chosen), *([*map(str, picked.values()), f"{spike} {spike_method}"] if picked else [])]
    folder = stages if out else stages / _folder_name(str(model), asked)
    if picked and len(arms) > 1:  # what would make all that follows worthless is known after one pass
        scored = run_jobs(suited.scores(stages), Here(), progress)
        check_roles({arm: result_of(at)["scores"]["forget"] for arm, at in scored.items()}, rows)
    # One model after the other: a process that takes several attacks on one model loads it once.
    tuning = [
        Job(job_name(name, "", seed), (), lambda done, plan=plan, seed=seed: dataclasses.replace(plan, seed=seed), stages)  # type: ignore[misc]
        for name, plan in plans.items()
        for seed in chosen
    ]
    failed, folders = dict[str, str](), dict[str, Path]()
    attacks, by_gains = list(suited.jobs(stages)), suite == "quick" and "gains" in picked
    if attacks:  # with several processes a model first and apart: an attacker works in one
        first = [] if by_gains or together else tuning
        folders |= run_jobs([*first, *attacks], LocalPool(1 if together else workers), progress, failed)
    attacked = suited.gather(folders, failed)
    if by_gains := by_gains and "gains" not in left_out:
        plans = {
            name: dataclasses.replace(plan, attack=dataclasses.replace(own.attack, probe=0)) for name, plan in plans.items() if name in arms
        }
    elif any(job.key not in folders for job in tuning):
        folders |= run_jobs(tuning, Here(procs, shard) if together else LocalPool(workers), progress)
    keys = {name: [job_name(name, "gains" if by_gains else "", seed) for seed in chosen] for name in plans}
    tuned = {name: _read_arm(name, dict(zip(chosen, map(folders.__getitem__, own), strict=True))) for name, own in keys.items()}
    evidence = {name: _gather_evidence(arm, plans[name], uniform) for name, arm in tuned.items()}
    verdict = judge(evidence["model"], evidence.get("reference"), evidence.get("harmless"))
    if differs:
        verdict = dataclasses.replace(verdict, sentences=(*verdict.sentences, f"Read this with care: {differs}"))
    found = AuditResult(
        tuned["model"], tuned.get("reference"), tuned.get("harmless"), verdict, folder / "report.html", differs, None, attacked, forget=rows
    )
    found = _with_suite(found, suited, failed, by_gains) if picked or left_out else found
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "audit.json", json.dumps(found.summary(), indent=1))
    if attacked:
        write_answers(attacked, rows, folder / "answers.parquet")
    report_audit(str(model), found, found.page)
    return found


def _with_suite(found: AuditResult, plan: SuitePlan, failed: Mapping[str, str], by_gains: bool) -> AuditResult:
    """The findings with what the suite says of the model, and of the spiked one; its sentences come first.

    The word is fine-tuning's, but for this: what the suite found is hidden, not gone.
    """
    from sluicegate.audit.suite import SuiteVerdict, judge_suite

    attacked, verdict = found.attacked, found.verdict
    facts = len({item.key for item in plan.arms["model"].split().forget})
    told, suites = list[str](), dict[str, SuiteVerdict]()
    for arm in (arm for arm in ("model", SPIKED) if arm in attacked):
        references = [{name: attacked[each][name] for name in attacked[arm]} for each in plan.references]
        suites[arm] = judge_suite(attacked[arm], references, facts)
    suite, spiked = suites.get("model"), suites.get(SPIKED)
    told += suite.sentences if suite else ["No attacker of the suite could attack the model."]
    if plan.spike:
        what = f"Control: a model that never knew, taught {plan.spike:.0%} of the facts and made to suppress them by {plan.spike_method},"
        why = next((failed[key] for key in (TEACH, SPIKED) if key in failed), "no attacker could attack it")
        if spiked:
            why = "" if spiked.found else ", so as much may lie in the audited model unseen"
            why = f"was {'' if spiked.found else 'not '}found (z {spiked.z:.1f}, where {spiked.threshold:.1f} is called found){why}."
        told.append(f"{what} {why if spiked else f'could not be audited: {why}'}")
    why_not = [f"The attacker {name} is left out: {why}" for name, why in plan.left_out.items() if not why.startswith(LACKS)]
    told += [*why_not[:SHOWN], *[f"So are {len(why_not) - SHOWN} more; the page names them."] * (len(why_not) > SHOWN)]
    told.append(f"{'The attacker gains' if by_gains else 'Fine-tuning'} by itself gives the verdict {verdict.word!r}:")
    # Without an excess the reference is no measure, for a suite neither.
    worse = suite is not None and suite.found and verdict.excess is not None and verdict.word != "not suppressed"
    word = "hidden, not gone" if worse else verdict.word
    verdict = dataclasses.replace(verdict, word=word, sentences=(*told, *verdict.sentences))
    return dataclasses.replace(found, verdict=verdict, suite=suite, spiked=spiked, left_out=plan.left_out)


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
    told = {"suite": "none", "attack": attack, "reference": reference, "seeds": seeds, "out": out, "workers": workers}
    return audit(**{**told, "progress": progress, **data})


def _folder_name(model: str, parts: Sequence[str]) -> str:
    """``NAME-hash8``: the model's own name, and a hash of what was asked."""
    name = re.sub(r"[^\w.-]+", "-", Path(model).name).strip(".-") or "model"
    return f"{name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"


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
