"""Experts: several modules in the place of one, mixed by a gate that can be steered.

Source: the two-expert policy of Cloud et al. 2024 (arXiv 2410.04332, section 4.3), where labels
decide which expert learns from an episode, and at the end the gate is held at the wanted one.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sluicegate.deprecated import renamed
from sluicegate.errors import UserError, nearest
from sluicegate.routing.labels import RETAIN, UNLABELLED, Labels, as_index
from sluicegate.routing.router import Router
from sluicegate.routing.sites import Extent, Part, Site
from sluicegate.values.edits import Applied


class _Pass:
    """What holds for one pass only; a copy of the model begins with none of it."""

    def __init__(self) -> None:
        self.logits: Tensor | None = None
        self.steers: tuple[Steer, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()


class Experts(nn.Module):
    """Modules of one shape, mixed by a gate: ``y = sum_k p_k(x) expert_k(x)``, ``p = softmax(gate(x))``.

    `experts` are modules by name, each [b, ..., d_in] -> [b, ..., d_out]. `gate(x)` gives logits
    [b, K] or [b, ..., K], or one logit, of the first, where there are two experts (a sigmoid).

    To a router the experts are the units of one site, under this module's own name; `route` makes
    such a router. Rows of a label train its expert alone, unlabelled rows train everything. An expert
    called "retain" is the router's rest.
    """

    def __init__(self, experts: Mapping[str, nn.Module], gate: nn.Module | None) -> None:
        super().__init__()
        parameters = [id(p) for expert in experts.values() for p in expert.parameters()]
        if len(experts) < 2 or UNLABELLED in experts or len(set(parameters)) != len(parameters):
            raise UserError(f"got the experts {', '.join(experts) or 'none'}; give two or more, none {UNLABELLED}, which share no weights.")
        self.experts = nn.ModuleDict(experts)
        self.gate = gate
        self.outputs = nn.Identity()
        """What the experts say, [b, ..., d_out, K]: where a router scales the experts' gradients."""
        self.weights = nn.Identity()
        """Their shares: where a router holds the model's loss, but not the gate's own, back from the gate."""
        self._pass = _Pass()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the experts."""
        return tuple(self.experts)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, as the router has them: retain, the other experts in order, unlabelled."""
        return (RETAIN, *(name for name in self.names if name != RETAIN), UNLABELLED)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if (alone := self._alone()) is not None:
            return self.experts[alone](x, *args, **kwargs)  # type: ignore[no-any-return]
        assert self.gate is not None
        logits = self.gate(x)
        if logits.shape[-1] == 1 and len(self.names) == 2:
            logits = torch.cat([logits, torch.zeros_like(logits)], -1)
        if logits.shape[-1] != len(self.names):
            raise UserError(f"the gate gives {logits.shape[-1]} logits for {len(self.names)} experts ({', '.join(self.names)}).")
        self._pass.logits = logits if torch.is_grad_enabled() else None
        return self._mixed(logits.softmax(-1), x, *args, **kwargs)

    def _alone(self) -> str | None:
        """The expert that a steer leaves alone, whatever the gate says."""
        last = self._pass.steers[-1] if self._pass.steers else None
        return last.alone if last is not None and last.dose == 1 else None

    def _mixed(self, shares: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        for steer in self._pass.steers:
            shares = steer.forced(shares, self.names)
        outputs: Tensor = self.outputs(torch.stack([expert(x, *args, **kwargs) for expert in self.experts.values()], -1))
        shares = self.weights(shares).to(outputs.dtype)
        missing = (1,) * (outputs.dim() - shares.dim())
        return (outputs * shares.reshape(*shares.shape[:-1], *missing, shares.shape[-1])).sum(-1)

    def gate_loss(self, labels: Labels) -> Tensor:
        """Cross-entropy of the gate in the last forward pass against the labels, a scalar.

        `labels`, [b] or [b, t], are names or numbers of `labels`. Rows that no expert belongs to
        (unlabelled; retain, where no expert is called so) do not count; without any other the loss is 0.
        """
        logits, self._pass.logits = self._pass.logits, None
        if logits is None:
            raise UserError("the gate has not been asked since its last loss. Run the model, with gradients on, before gate_loss.")
        given, shape = numbered(labels, self.labels), logits.shape[:-1]
        if given.shape != shape[: given.dim()]:
            raise UserError(f"labels are {tuple(given.shape)}, but the gate spoke on {tuple(shape)}. Give one a row.")
        expert = torch.tensor([self.names.index(n) if n in self.names else -1 for n in self.labels])
        wanted = expert.to(logits.device)[given.to(logits.device)].reshape(*given.shape, *(1,) * (len(shape) - given.dim()))
        wanted = wanted.expand(shape).flatten()
        total = F.cross_entropy(logits.flatten(0, -2).float(), wanted, ignore_index=-1, reduction="sum")
        return total / (wanted >= 0).sum().clamp_min(1)

    def steered(self, weights: Mapping[str, float]) -> AbstractContextManager[None]:
        """Force some experts' shares for the length of a block; see `Steer`."""
        return Steer(weights)(self)

    def routing_site(self, name: str) -> Site:
        """The site that `sites.find` gives for this module: one unit an expert, to which all its parameters belong."""
        prefix = f"{name}." if name else ""
        parts = tuple(
            Part(f"{prefix}experts.{expert}.{own}", 0, torch.full((len(parameter),), k))
            for k, (expert, module) in enumerate(self.experts.items())
            for own, parameter in module.named_parameters()
            if parameter.dim()
        )
        return Site(name, "features", f"{prefix}outputs", "output", len(self.names), parts=parts)


def numbered(labels: Labels, names: tuple[str, ...]) -> Tensor:
    """Labels, (b,) or (b, t), as numbers from 0 on; raises `UserError` for anything else."""
    given = as_index(labels, names)
    whole = not given.is_floating_point() and given.dtype != torch.bool and given.dim() in (1, 2) and given.numel() > 0
    if not whole or not -1 <= int(given.min()) <= int(given.max()) < len(names):
        legend = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        raise UserError(
            f"labels {given.flatten()[:6].tolist()} of shape {tuple(given.shape)}: give (batch,) or (batch, tokens) of {legend} (or -1)."
        )
    return given.long() % len(names)


def route(model: nn.Module, **options: Any) -> Router:
    """A router whose blocks are the experts of all the model's `Experts`; `options` are the router's.

    Rows of a label train its expert alone, and the gate by nothing but `gate_loss`; unlabelled rows
    train everything, and so do retain rows, unless there is an expert of that name: then they leave
    the other experts alone, and train it, the gate and whatever lies around. Activation form only:
    the parameter form would hold the gate's own loss back as well.
    """
    if options.get("form", "gate") != "gate":
        raise UserError(f"form is {options['form']!r}; experts are routed with form='gate', or their gate could not learn from its labels.")
    sites: dict[str, dict[str, Extent]] = {}
    others: dict[str, float] = {}
    retained = False
    for path, module in found(model).items():
        sites[path] = {name: (k, k + 1) for k, name in enumerate(module.names) if name != RETAIN}
        sites[f"{path}.weights".lstrip(".")] = {}
        others |= dict.fromkeys(sites[path], 0.0)
        retained = retained or RETAIN in module.names
    if retained:
        options = {"weights": {RETAIN: others} | dict(options.pop("weights", None) or {})} | options
    return Router(model, sites, **options)


def found(model: nn.Module, pattern: str = "*") -> dict[str, Experts]:
    """The model's `Experts` by name; raises `UserError` when none matches the glob."""
    every = {path: module for path, module in model.named_modules() if isinstance(module, Experts)}
    chosen = {path: module for path, module in every.items() if fnmatchcase(path, pattern)}
    if not chosen:
        raise UserError(f"{pattern!r} matches no Experts. The model's are: {nearest(pattern, list(every), most=8) or 'none'}.")
    return chosen


@dataclass(frozen=True)
class Steer(Applied):
    """Experts' shares, forced: an edit.

    The named experts have exactly these shares; the others divide the remainder as the gate would,
    or evenly where it gives them nothing. ``edit * 0.5`` goes half the way from the gate's shares to
    the forced ones; 0 is the identity. Of several, one inside the other, the inner comes last.

    Baked, a share of 1 puts that expert in the place of its `Experts`, as an ordinary module; other
    shares cannot be baked.
    """

    shares: Mapping[str, float]
    """Share of each named expert: 0 or more, at most 1 together."""
    modules: str = "*"
    """Which `Experts`: a glob over the model's module names."""
    dose: float = 1.0
    """1: the forced shares; 0: the gate's."""

    def __post_init__(self) -> None:
        total = sum(self.shares.values())
        if not self.shares or not all(share >= 0 for share in self.shares.values()) or not total <= 1 + 1e-6:
            raise UserError(f"the shares are {dict(self.shares)}; they must be 0 or more, and at most 1 together.")

    @property
    def alone(self) -> str | None:
        """The expert that has everything."""
        return next((name for name, share in self.shares.items() if share == 1 == sum(self.shares.values())), None)

    def forced(self, shares: Tensor, names: tuple[str, ...]) -> Tensor:
        """The gate's shares [..., K] after the edit; they still add up to 1."""
        wanted = shares.new_tensor([self.shares.get(name, 0.0) for name in names])
        free = torch.tensor([name not in self.shares for name in names], device=shares.device)
        others = shares * free
        total = others.sum(-1, keepdim=True)
        least = torch.finfo(total.dtype).tiny  # below it shares have no digits left to divide by
        divided = torch.where(total > least, others / total.clamp_min(least), free / free.sum().clamp_min(1))
        return torch.lerp(shares, wanted + (1 - wanted.sum()) * divided, self.dose) if self.dose else shares

    @contextmanager
    def _applied(self, model: nn.Module) -> Iterator[None]:
        chosen = self._chosen(model).values()
        before = [(module._pass, module._pass.steers) for module in chosen]
        try:
            for state, steers in before:
                state.steers = (*steers, self)
            yield
        finally:
            for state, steers in before:
                state.steers = steers

    def _chosen(self, model: nn.Module) -> dict[str, Experts]:
        chosen = found(model, self.modules)
        for path, module in chosen.items():
            for name in self.shares:
                if name not in module.names:
                    raise UserError(f"{path or 'the model'} has no expert {name!r}. There are: {', '.join(module.names)}.")
            if set(self.shares) == set(module.names) and abs(sum(self.shares.values()) - 1) > 1e-6:
                raise UserError(f"the shares of all of {', '.join(module.names)} are {dict(self.shares)}; together they must be 1.")
        return chosen

    def __mul__(self, dose: float) -> Self:
        return replace(self, dose=self.dose * dose)

    def bake(self, model: nn.Module) -> None:
        """Put the one expert that has the share of 1 in the place of its `Experts`, for good."""
        chosen = self._chosen(model)
        if self.alone is None or self.dose != 1 or "" in chosen:
            raise UserError(
                f"shares {dict(self.shares)} at dose {self.dose:g} cannot be baked: only a share of 1 can, in a model that holds the "
                "Experts as a part. Use `with steer(model): ...`."
            )
        for path, module in reversed(chosen.items()):  # those within others first
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, module.experts[self.alone])


Steer.__init__ = renamed(sites="modules")(Steer.__init__)  # type: ignore[method-assign]
