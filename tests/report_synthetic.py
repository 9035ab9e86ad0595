"""Small experiments and audits made by hand, for the tests of the reports."""

from pathlib import Path

from sluicegate.audit.result import AuditResult
from sluicegate.audit.verdict import Verdict
from sluicegate.experiments.experiment import Outcome
from sluicegate.experiments.recipe import Recipe
from sluicegate.runs.arm import Arm
from sluicegate.values.curves import Curve

EFFORT = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)
SLOW = (0.0, 0.02, 0.06, 0.2, 0.5, 0.9)
FAST = (0.1, 0.4, 0.7, 0.95, 1.0, 1.0)
MIDDLE = (0.0, 0.05, 0.12, 0.35, 0.7, 0.95)

FULL = {
    "base": {"verb": "train", "model": "arithmetic-tiny", "learn": ["unlabelled"]},
    "gold": {"verb": "train", "model": "arithmetic-tiny", "learn": ["retain"]},
    "maxent": {"verb": "unlearn", "method": "maxent", "model": "@base"},
    "distill": {"verb": "distill", "model": "@maxent"},
    "gentle": {"verb": "undo", "model": "@maxent", "alpha": 0.4},
    "harsh": {"verb": "undo", "model": "@maxent", "alpha": 0.8},
}
CURVES = {"base": (1.0,) * 6, "gold": SLOW, "maxent": FAST, "distill": MIDDLE, "gentle": FAST, "harsh": MIDDLE}
FLOPS = {"base": 15e9, "gold": 10e9, "maxent": 2e9, "distill": 17e9, "gentle": 4e9, "harsh": 13e9}


def arm(name, settings, curve, flops, seeds, effort=EFFORT, forget=0.1, spread=0.01, folder=None):
    """One arm: its curve shifted a little from seed to seed; no curve, no attack; `forget` None: not scored."""
    scores = {"retain": {"exact": 0.98, "argmax": 0.985, "probability": 0.9, "loss": 0.1}}
    if forget is not None:
        scores["forget"] = {"exact": forget, "argmax": forget, "probability": forget / 2, "loss": 4.0}
    verb = settings["verb"]
    results = {
        seed: {
            "verb": verb,
            "method": str(settings.get("method", settings.get("alpha", ""))),
            "steps": 80 + seed,
            "scores": scores,
            "flops": {"student": flops * 0.5, "teacher": 0.0, "evaluation": 1e8, "total": flops * 0.5},
            "reached": True,
        }
        for seed in seeds
    }
    attacks = {}
    for seed in seeds if curve else ():
        row = tuple(min(1.0, value * (1 + spread * seed)) for value in curve)
        record = Curve(effort, (row,), (seed,), attack="abc").to_json()
        other = Curve(effort, (tuple(0.6 * v for v in row),), (seed,), attack="abc").to_json()
        attacks[seed] = {"owned": record, "held_out": other, "retain": [0.9] * len(effort), "warnings": []}
    folders = {seed: (folder or Path("nowhere")) / f"{verb}-{seed}" for seed in seeds}
    return Arm(name, results, attacks, dict.fromkeys(seeds, flops), folders)


def experiment(
    arms=FULL,
    curves=CURVES,
    *,
    seeds=(0, 1, 2),
    reference="gold",
    pretrained="base",
    attack=True,
    effort=EFFORT,
    forget=0.1,
    spread=0.01,
    **recipe,
):
    """An outcome with these arms; `curves` gives each one's mean recall, cut to the length of `effort`."""
    made = Recipe(
        name=recipe.pop("name", "by-hand"),
        arms=arms,
        attack={"steps": int(effort[-1])} if attack else {},
        reference=reference,
        pretrained=pretrained,
        **recipe,
    )
    found = {
        name: arm(
            name,
            settings,
            curves.get(name, MIDDLE)[: len(effort)] if attack else None,
            FLOPS.get(name, 5e9),
            seeds,
            effort,
            1.0 if name == pretrained and forget is not None else forget,
            spread,
        )
        for name, settings in arms.items()
    }
    return Outcome(made, tuple(seeds), found)


def without(*names):
    """The full recipe's arms without some."""
    return {name: settings for name, settings in FULL.items() if name not in names}


def audited(model, reference, sentences, *, warnings=(), savings=None, **suite):
    """What an audit found, from two arms; `suite` are further fields of its result."""
    if warnings:
        attacks = {seed: attack | {"warnings": list(warnings)} for seed, attack in model.attacks.items()}
        model = Arm(model.name, model.results, attacks, model.flops, model.folders)
    verdict = Verdict("hidden, not gone", tuple(sentences), savings)
    return AuditResult(model, reference, None, verdict, Path("nowhere"), **suite)
