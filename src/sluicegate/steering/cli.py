"""sluicegate steer: fit a steering vector, find its orthogonal twins, use them, score them, and write the page."""

import dataclasses
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from sluicegate.cli.command import Verb, print_json, several, summary_of
from sluicegate.cli.progress import watching
from sluicegate.errors import UserError
from sluicegate.execution.runner import run_stage
from sluicegate.runs.directory import RunContext, result_of
from sluicegate.runs.trial import Trial
from sluicegate.steering.fit_stage import DEFAULT, OnModel, SteerFit
from sluicegate.steering.prompts import HELD_OUT
from sluicegate.steering.reading import read_prompts
from sluicegate.steering.score_stage import SteerScore
from sluicegate.steering.twins_stage import SteerTwins
from sluicegate.values.ranges import Dtype

WIDE = 78
"""Columns of an answer in the terminal."""


@dataclass(frozen=True)
class Apply:
    """Print steered answers beside unsteered ones, at one dose or several.

    Without prompts: on two packaged ones. With --kl, dose 1 is scaled to that KL from the unsteered model."""

    vector: Positional[str]
    """Folder of `steer fit` or `steer twins`, or a .safetensors or .gguf file."""
    prompt: Positional[tuple[str, ...]] = ()
    """What to ask."""
    prompts: str = ""
    """File of prompts, one a line, or JSONL with `prompt`."""
    model: str = ""
    """Folder, run folder, fetched model or hub id; default: the model the vector was made with, else smollm2-135m."""
    index: int = -1
    """Which vector of a set, or which layer of a control vector."""
    module: str = ""
    """Module to steer in place of the vector's own."""
    tokens: str = ""
    """Tokens to steer in place of the vector's own: not_first, all, last, prompt, generated, or positions a:b."""
    dose: tuple[float, ...] = (1.0,)
    """Multiples of the vector."""
    kl: float = 0.0
    """Scale dose 1 to this KL from the unsteered model, in nats a token; 0: not."""
    new_tokens: int = 40
    """Tokens an answer; greedy."""
    plain: bool = False
    """Prompts as they are, without the tokenizer's chat template."""
    dtype: Dtype = "auto"
    """Type of the model's numbers; auto: float32 on a CPU, on an accelerator what its weights are saved in."""
    save: Annotated[str, arg(aliases=["-o"])] = ""
    """Write the vector at the first dose: .safetensors, or .gguf, a control vector for llama.cpp."""
    json: bool = False
    """Print the answers as the last line."""

    def run(self) -> int:
        import torch

        from sluicegate.steering.dose import calibrate, curve
        from sluicegate.steering.io import load_vector, save
        from sluicegate.steering.score import generate
        from sluicegate.steering.vector import SteeringSet

        if not self.dose:
            raise UserError("--dose needs at least one number, such as --dose 0.5 1 2.")
        if self.kl < 0:
            raise UserError(f"--kl is {self.kl:g}; it is a number of nats a token, 0 for none.")
        if self.new_tokens < 1:
            raise UserError(f"--new-tokens is {self.new_tokens}; it must be 1 or more.")
        vector = load_vector(self.vector, None if self.index < 0 else self.index)
        vector = dataclasses.replace(vector, module=self.module or vector.module, tokens=self.tokens or vector.tokens)
        prompts = [*self.prompt, *(read_prompts(self.prompts) if self.prompts else ())] or list(HELD_OUT[:2])
        template = False if self.plain or vector.made_from.get("plain") else None
        with watching() as progress:
            name = self.model or str(vector.made_from.get("model") or DEFAULT)
            progress(f"loading {name}", 0, 1, {})
            model, tokenizer = OnModel(model=name, dtype=self.dtype).load()
            progress(f"loading {name}", 1, 1, {})
            if self.kl:
                progress("calibrating", 0, 1, {})
                vector = calibrate(vector, model, tokenizer, prompts, kl=self.kl, template=template)
            kls = [float(v) for v in curve(vector, model, tokenizer, prompts, self.dose, template=template)]
            dosed = torch.stack([dose * vector.values for dose in (0.0, *self.dose)])
            some, run = SteeringSet(dosed, vector.module, vector.tokens), RunContext("", progress)
            plain, *steered = generate(model, tokenizer, some, prompts, new_tokens=self.new_tokens, template=template, run=run)
        unit = f", dose 1 is {vector.made_from['dose']:.3g} times the file's vector" if self.kl else ""
        print(f"{name}, {vector.module}, tokens: {vector.tokens}, norm {vector.norm:.4g}{unit}")
        for n, prompt in enumerate(prompts):
            print(f"\n{prompt}")
            _print_answer("unsteered", plain[n])
            for dose, kl, texts in zip(self.dose, kls, steered, strict=True):
                _print_answer(f"dose {dose:g}, KL {kl:.2f}", texts[n])
        if self.save:
            path = save(vector * self.dose[0], self.save)
            print(f"\nsaved: {path}")
            if path.suffix == ".gguf" and vector.tokens != "all":
                print(f"note: llama.cpp steers every token, also those that this vector spares (tokens: {vector.tokens}).")
        if self.json:
            by_dose = [{"dose": d, "kl": k, "answers": texts} for d, k, texts in zip(self.dose, kls, steered, strict=True)]
            found = {"model": name, "module": vector.module, "norm": vector.norm, "prompts": prompts, "unsteered": plain}
            print_json(found | {"doses": by_dose, "saved": self.save})
        return 0


@dataclass(frozen=True)
class Report:
    """Write the page of a finished `steer score` again."""

    run_folder: Positional[str]
    """Its folder."""
    out: Annotated[str, arg(aliases=["-o"])] = ""
    """File to write; default: report.html in the folder."""
    json: bool = False
    """Print the file's place as the last line."""

    def run(self) -> int:
        folder = Path(self.run_folder)
        if not folder.is_dir():
            raise UserError(f"no folder {self.run_folder!r}. Give the folder of a finished `sluicegate steer score`.")
        page = _page(folder, Path(self.out or folder / "report.html"))
        print(page)
        if self.json:
            print_json({"page": str(page)})
        return 0


def _print_answer(label: str, text: str) -> None:
    print(f"  {label}")
    for line in text.strip().splitlines() or ["(nothing)"]:
        for part in textwrap.wrap(line, WIDE) or [""]:
            print(f"    {part}".rstrip())


def _page(folder: Path, path: Path) -> Path:
    from sluicegate.steering.page import report_steering

    found = result_of(folder)
    if found.get("verb") != SteerScore.VERB:
        raise UserError(
            f"{str(folder)!r} is a run of {found.get('verb')!r}, which has no such page. Score it first: sluicegate steer score {folder}"
        )
    config = (folder / "config.toml").read_text("utf-8")
    return report_steering(found, path, title=f"Steering {found['model']}", command=f"sluicegate run {folder}/config.toml", config=config)


STAGES: dict[str, type[Trial]] = {"fit": SteerFit, "twins": SteerTwins, "score": SteerScore}
MADE_FROM = {"twins": "--vector", "score": "--vectors"}
"""The option that a first word without dashes stands for."""


def _action(action: str) -> Verb:
    """A stage's verb; its first word without dashes names what the stage is made from."""
    cls = STAGES[action]

    def call(words: list[str]) -> int:
        if words and not words[0].startswith("-") and action in MADE_FROM:
            words = [MADE_FROM[action], *words]
        return run_stage(cls, words, f"steer {action}", partial(_show, action))

    return Verb(action, summary_of(cls), "", call)


def _show(action: str, seeds: Sequence[int], results: Sequence[dict[str, Any]], folders: Sequence[Path]) -> dict[str, Any]:
    pages = [str(_page(folder, folder / "report.html")) if action == "score" else "" for folder in folders]
    for seed, found, folder, page in zip(seeds, results, folders, pages, strict=True):
        _show_one(action, seed, found, folder, page)
    return {"measures": [found["measures"] for found in results]} | ({"pages": pages} if any(pages) else {})


def _show_one(action: str, seed: int, found: Mapping[str, Any], folder: Path, page: str) -> None:
    if action == "score":
        from sluicegate.steering.page import verdicts

        for said in verdicts(found):
            print(said)
    else:
        width = max(map(len, found["measures"]))
        meanings = STAGES[action].MEASURES
        for name, value in found["measures"].items():
            print(f"  {name:<{width}}  {'-' if value is None else f'{value:.4g}':>9}  {meanings[name]}")
    if action == "fit":
        kls, rates = (found["curves"][f"{name} by dose"] for name in ("kl", "rate"))
        print("\n  dose  KL, nats a token  shows it")
        for dose, kl, rate in zip(kls["x"], kls["y"], rates["y"], strict=True):
            print(f"  {dose:>4g}  {kl:>16.3f}  {rate:>8.0%}")
        for text in found["warnings"]:
            print(f"warning: {text}.")
        for n, prompt in enumerate(found["prompts"][:2]):
            print(f"\n{prompt}")
            for label in ("unsteered", "steered"):
                _print_answer(label, found["answers"][label][n])
    print(f"\nseed {seed}: kept in {folder}")
    if page:
        print(f"report: {page}")
    following = {"fit": "steer twins", "twins": "steer score"}.get(action)
    if following:
        print(f"next:   sluicegate {following} {shlex.quote(str(folder))}")
    sys.stdout.flush()


STEER = several(
    "steer",
    "Fit a steering vector, find hundreds of orthogonal twins, use and score them",
    "steer",
    {"fit": _action("fit"), "twins": _action("twins"), "apply": Apply, "score": _action("score"), "report": Report},
)
