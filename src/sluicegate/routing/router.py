"""The router: labels decide which parts of a model learn from which rows."""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from operator import is_
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.hooks import RemovableHandle

from sluicegate.deprecated import renamed
from sluicegate.errors import UserError, nearest
from sluicegate.routing.ablation import Ablation
from sluicegate.routing.exposure import Report, exposure, mixing
from sluicegate.routing.gradient_hook import GradientHook
from sluicegate.routing.labels import REST, RETAIN, Labels, Weights, as_index, assign, policy
from sluicegate.routing.optimizer_mask import OptimizerMask
from sluicegate.routing.parameter_pieces import Piece, pieces
from sluicegate.routing.pass_context import PassContext
from sluicegate.routing.protect import MaskedForward, works_alone
from sluicegate.routing.sites import At, Extent, Part, Site, find, place

Form = Literal["gate", "protect"]


class Router:
    """Gradient routing for any module, in place.

    ::

        router = Router(model, {"model.layers.*.mlp": {"forget": 64}})
        with router(labels):
            model(**batch).loss.backward()

    `modules` maps globs over module names (see `sites.find`) to blocks: a name, and how many units it has
    at the end, or which (start, stop). Several patterns may use the same block name; several names
    make several blocks, each removable on its own. All units in no block are "the rest".

    Labels, per row (b,) or per token (b, t), are numbers or names of `router.labels`: 0 "retain",
    1.. the blocks in order, and last (or -1) "unlabelled"; floating (b, labels) or (b, t, labels)
    are soft: shares that add up to 1. Unlabelled and retain rows train everything, rows of a block
    train that block only; `weights` says otherwise, for example ``{"forget": -0.75}`` (the rest of
    a site under forget data) or ``{"forget": {"rest": -0.75, "other": 0.1}}``; any real number is
    allowed. `ablate` names the blocks without which a label's rows are computed in the forward
    pass, for example ``{"retain": ["forget"]}``, the default of the parameter form.

    form "gate": activations pass unchanged and gradients are scaled on their way back, at each
    site (Cloud et al. 2024, arXiv 2410.04332, s3). What lies behind the site, and whatever is
    reached round it, still learns: `report` lists it. form "protect": gradients of activations are
    left alone, and rows do not enter the gradient of weights that they may not train, in the whole
    model but for those that a module with children holds itself (SGTM, arXiv 2512.05648). Parameters
    that match the globs `joint_params` (over full names, joined by commas) learn from every row, in either form. Use
    `guard` on the optimiser, or momentum and weight decay go on moving what is held.

    `dim` is the dimension along which the units of a module lie that does not tell (a block of one's own that gives
    pictures, an activation function): 1 for channels first, -1 for features last. `batch_dim` is the dimension of the
    activations that counts the rows: 0, or 1 for models that put time first (`batch_first=False`).

    Under DDP and FSDP2 (`fully_shard`) the router goes on the module itself, before or after it is wrapped,
    and each process enters it with its own rows' labels. What is held back gets gradients of zero, not none,
    so DDP needs `find_unused_parameters` only where plain training does.

    Raises `UserError` for sites that match nothing or twice, blocks that overlap or do not fit, and
    names that do not exist.
    """

    @renamed(sites="modules", joint="joint_params")
    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, Mapping[str, Extent]],
        *,
        form: Form = "gate",
        weights: Weights | None = None,
        ablate: Mapping[str, Sequence[str]] | None = None,
        joint_params: str | Sequence[str] = (),
        at: At = "auto",
        dim: int | None = None,
        batch_dim: int | None = None,
    ) -> None:
        if form not in ("gate", "protect"):
            raise UserError(f"form is {form!r}; it must be gate or protect.")
        if not modules:
            raise UserError("a router needs at least one site, for example {'model.layers.*.mlp': {'forget': 64}}.")
        for pattern, blocks in modules.items():
            if not isinstance(blocks, Mapping):
                raise UserError(f"site {pattern!r}: give its blocks as a mapping, for example {{'forget': 64}}; got {blocks!r}.")
        self.model, self.form = model, form
        names = list(dict.fromkeys(name for blocks in modules.values() for name in blocks))
        if not names:
            raise UserError("the sites name no block. Give each a name and a size, for example {'forget': 64}.")
        if ablate is None:
            ablate = {RETAIN: names} if form == "protect" else {}
        self.policy = policy(names, weights or {}, ablate)
        self.sites = _placed(model, modules, at, dim)
        """Every site with its blocks' units, (start, stop)."""
        given = joint_params.split(",") if isinstance(joint_params, str) else joint_params
        self.joint_params = tuple(pattern.strip() for pattern in given)
        self.batch_dim = _batch_dim(model, batch_dim)
        self._context = PassContext(self.policy, self.batch_dim)
        self._pieces = self._cut()
        self._shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if name in self._pieces}
        self._hooks: list[RemovableHandle] = []
        self._masked: list[MaskedForward] = []
        self._attached: dict[str, nn.Module] = {}
        self._taps: list[GradientHook] = []
        self._pending = False
        """Whether the backward pass of the pass before may still come."""
        self._fresh = 8
        """In how many more passes to look whether what holds rows back is called."""
        self._met: set[object] = set()
        self._before: dict[str, tuple[Tensor | None, int]] = {}
        """By parameter, the gradient and its version when the pass began."""
        self._attach()
        self._watch()

    # ------------------------------------------------------------------------------- what there is

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels; a name's place is its number."""
        return self.policy.labels

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks."""
        return self.policy.blocks

    @property
    def places(self) -> tuple[tuple[Site, dict[str, tuple[int, int]]], ...]:
        """The earlier name of `sites`."""
        warnings.warn("Router.places is now Router.sites", DeprecationWarning, stacklevel=2)
        return self.sites

    def index(self, labels: Labels) -> Tensor:
        """Label names as numbers."""
        return as_index(labels, self.labels)

    def __repr__(self) -> str:
        there = ", ".join(f"{site.name}: {dict(placed)}" for site, placed in self.sites[:3])
        more = f", and {len(self.sites) - 3} more" if len(self.sites) > 3 else ""
        return f"Router(form={self.form!r}, {there}{more})"

    # ------------------------------------------------------------------------------- routing

    def __call__(self, labels: Labels | Callable[[], Labels], *, without: Sequence[str] = ()) -> AbstractContextManager[None]:
        """Route everything inside: forward and backward pass of one batch with these labels (or what a call gives).

        The blocks `without` are ablated in this pass for all rows but their own, beside what `ablate` says: drawn anew
        for every batch, they get a model used to every choice of its blocks.
        """
        return _Pass(self, labels, without)

    def _enter(self, labels: Labels | Callable[[], Labels], without: Sequence[str]) -> None:
        self._unchanged()
        if without and self.form == "protect" and not self.policy.ablates:
            raise UserError(f"without={list(without)}: this router was made with ablate={{}}, so it cannot ablate. Leave ablate out there.")
        given = labels() if callable(labels) else labels
        active = self.policy.without(without) if without else self.policy
        self._context.enter(assign(given, active, self._device()))
        self._context.suspect = self._pending
        if self._fresh:
            self._before = {name: (p.grad, 0 if p.grad is None else p.grad._version) for name, p in self.model.named_parameters()}

    def _leave(self, failed: bool) -> None:
        self._context.leave()
        self._pending = self._context.unfinished and all(p.grad is None for p in self._divided)
        if self._fresh and not failed:
            self._look()

    @contextmanager
    def delayed(self) -> Iterator["Late"]:
        """Route a pass whose labels are only known after the forward pass (an episode's end).

        Inside, call ``.label(labels)`` on what is given before `backward`. Activation form only, and
        without forward ablation, which would have to know the labels sooner.
        """
        self._unchanged()
        if self.form != "gate" or self.policy.ablates:
            raise UserError(
                "labels that come after the forward pass need form='gate' and no ablate=: both others use them in the forward pass."
            )
        self._context.enter(None)
        try:
            yield Late(self)
        finally:
            self._context.leave()

    def guard(self, optimizer: torch.optim.Optimizer, group: Any = None) -> OptimizerMask:
        """Make an optimiser skip, truly, whatever no row since its last step was allowed to train.

        No momentum, no weight decay, and the optimiser's memory of those shares stays as it was. With several
        processes (of process group `group`) a share is skipped when none of them trained it. Only passes inside
        a block of this router count: rows that may train everything go into one too, as "unlabelled". Of several passes
        before one step (accumulation, a batch thrown away, validation) those count that left a gradient.

        Raises `UserError` for LBFGS, whose memory is one vector of all weights.
        """
        if isinstance(optimizer, torch.optim.LBFGS):
            raise UserError("LBFGS keeps one memory of all weights together, so it cannot leave a share alone. Guard AdamW or SGD.")
        parameters = dict(self.model.named_parameters())
        return OptimizerMask(optimizer, {parameters[name]: cut for name, cut in self._pieces.items()}, self._context, group)

    # ------------------------------------------------------------------------------- looking and cutting

    def report(self, batch: Any, loss: Callable[[nn.Module, Any], Tensor] | None = None) -> "Report":
        """Measure which parameters learn from which label: one forward and backward pass a label.

        `batch` goes to the model as keywords (a mapping) or as its argument; `loss(model, batch)`
        gives the scalar where the model's answer has no `.loss`. Gradients are left as they were.
        """
        fresh, self._fresh = self._fresh, 0
        try:
            return exposure(self, batch, loss)
        finally:
            self._fresh = fresh

    def verify(self, batch: Any, loss: Callable[[nn.Module, Any], Tensor] | None = None) -> "Report":
        """Raise `UserError` naming every parameter that is protected from a label and still gets gradient from it.

        What no label is kept from, and where rows meet, is not an error; it is said on stderr, line by line.
        """
        found = self.report(batch, loss)
        found.check()
        for line in found.caveats():
            print(line, file=sys.stderr)  # noqa: T201
        return found

    def ablate(self, *blocks: str) -> Ablation:
        """The edit that cuts these blocks (all of them when none is named)."""
        for name in blocks:
            if name not in self.blocks:
                raise UserError(f"nothing was ever routed to {name!r}. The blocks are {nearest(name, list(self.blocks), most=20)}.")
        wanted = blocks or self.blocks
        cut = ((site, {name: extent for name, extent in placed.items() if name in wanted}) for site, placed in self.sites)
        return Ablation(tuple((site, placed) for site, placed in cut if placed))

    def pieces(self) -> Mapping[str, tuple[Piece, ...]]:
        """How every parameter that is protected from some label is divided among the columns (rest, blocks)."""
        return self._pieces

    def ledgers(self) -> list[set[tuple[bool, ...]]]:
        """For each guarded optimiser, of the passes since its last step, which columns each could train."""
        return self._context.ledgers

    def remove(self) -> None:
        """Take the router off the model, which is then as it was before, weights apart."""
        for handle in self._hooks:
            handle.remove()
        for own in self._masked:
            own.remove()
        self._hooks, self._masked = [], []

    # ------------------------------------------------------------------------------- inside

    def _device(self) -> torch.device:
        if self._divided:
            return self._divided[-1].device
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def _unchanged(self) -> None:
        if not self._hooks and not self._masked:
            raise UserError("this router was removed from its model. Make a new one.")
        same = all(map(is_, [held.get(key) for held, key in self._held], self._seen))
        if same and [p.shape for p in self._divided] == self._sizes:  # surgery leaves the parameter and changes its size
            return  # the same, found without walking the model at every step
        way_out = "Call router.remove() before changing a model, and make a new router after."
        modules = dict(self.model.named_modules())
        for name, module in self._attached.items():
            if modules.get(name) is not module:
                raise UserError(f"the model was changed under the router: {name!r} is another module, or gone. {way_out}")
        for name, parameter in self.model.named_parameters():
            if name in self._shapes and tuple(parameter.shape) != self._shapes[name]:
                was = self._shapes[name]
                raise UserError(f"the model was changed under the router: {name} is {tuple(parameter.shape)} and was {was}. {way_out}")
        self._watch()  # other parameters of the same shapes, as sharding puts there

    def _watch(self) -> None:
        """Note where every attached module hangs, from the model down, and every divided parameter; and what is there
        now."""
        modules = dict(self.model.named_modules())
        held: dict[tuple[int, str], tuple[dict[str, Any], str]] = {}
        for path in self._attached:
            names = path.split(".") if path else []
            for i, key in enumerate(names):
                above: dict[str, Any] = modules[".".join(names[:i])]._modules
                held[id(above), key] = (above, key)
        for name in self._shapes:
            path, _, key = name.rpartition(".")
            own: dict[str, Any] = modules[path]._parameters
            held[id(own), key] = (own, key)
        self._held: list[tuple[dict[str, Any], str]] = list(held.values())
        self._seen: list[Any] = [where.get(key) for where, key in self._held]
        self._divided = [p for p in self._seen if isinstance(p, Tensor)]
        self._sizes = [p.shape for p in self._divided]

    def _attach(self) -> None:
        modules = dict(self.model.named_modules())
        for site, placed in self.sites:
            if self.form == "gate" or self.policy.ablates:
                columns = tuple((start, stop, self.policy.columns.index(name)) for name, (start, stop) in placed.items())
                module, gates = modules[site.hook_module], self.form == "gate"
                hook = GradientHook(site, columns, self._context, gates=gates)
                self._hooks.append(hook.attach(module, site.at))
                self._attached[site.hook_module] = module
                self._taps.append(hook)
        if self.form == "protect":
            by_identity = {id(p): self._pieces[name] for name, p in self.model.named_parameters() if name in self._pieces}
            for path, module in modules.items():  # by identity: a tied weight is used by two modules
                if not works_alone(module) or "parametrizations" in path.split("."):
                    continue
                own_cut = {name: by_identity[id(p)] for name, p in module.named_parameters() if id(p) in by_identity}
                if own_cut:
                    own = MaskedForward(path, module, own_cut, self._context)
                    own.attach()
                    self._masked.append(own)
                    self._attached[path] = module

    def _cut(self) -> dict[str, tuple[Piece, ...]]:
        """Every parameter that some label may not train, cut into columns."""
        parameters = dict(self.model.named_parameters())
        parts: dict[str, tuple[Part, dict[int, tuple[int, int]]]] = {}
        for site, placed in self.sites:
            if self.form == "protect" and not site.parts:
                made = any(is_parametrized(module) for module in self.model.get_submodule(site.name).modules())
                why = " (they are made from others at every call; see torch.nn.utils.parametrize.remove_parametrizations)" if made else ""
                raise UserError(
                    f"site {site.name!r} has no weights of its own{why}, so the parameter form has nothing to protect there. Name a linear "
                    "layer, an MLP or an attention, or use form='gate'."
                )
            for part in site.parts:
                # A gate at a module's output also holds back the gradient of what makes its units, and of nothing
                # behind it.
                if part.parameter not in parameters or (self.form == "gate" and part.consumer):
                    continue
                if part.parameter in parts:
                    raise UserError(f"the parameter {part.parameter!r} is divided at two sites at once. Leave one of them out.")
                parts[part.parameter] = part, {self.policy.columns.index(name): extent for name, extent in placed.items()}
        for pattern in self.joint_params:
            if pattern and not any(fnmatchcase(name, pattern) for name in parameters):
                raise UserError(f"joint_params={pattern!r} matches no parameter. Nearest: {nearest(pattern, list(parameters))}.")
        if self.form == "protect":
            self._refuse_experts(parameters)
        # What a module with children holds itself is used in ways that only it knows.
        leaves = {id(p) for m in self.model.modules() if works_alone(m) for p in m.parameters()}
        found = {}
        for name, parameter in parameters.items():
            wanted = name in parts if self.form == "gate" else id(parameter) in leaves
            if wanted and not self._is_joint(name):
                found[name] = pieces(parameter, *parts.get(name, (None, {})), gated=self.form == "gate")
        if not found and self.form == "protect":
            given = ", ".join(self.joint_params)
            raise UserError(f"joint_params={given!r} matches every parameter, so nothing would be protected. Leave some out.")
        return found

    def _is_joint(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.joint_params)

    def _refuse_experts(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Raise for a mixture of experts: its weights, [experts, ...], see tokens in an order of their own."""
        stacks = [
            f"{path}.{name}".lstrip(".")
            for path, module in self.model.named_modules()
            for name, p in module.named_parameters(recurse=False)
            if not works_alone(module)
            and p.dim() > 2
            and getattr(module, "num_experts", None) == p.shape[0]
            and not self._is_joint(f"{path}.{name}".lstrip("."))
        ]
        if stacks:
            share = sum(parameters[name].numel() for name in stacks if name in parameters) / sum(p.numel() for p in parameters.values())
            raise UserError(
                f"{len(stacks)} parameter(s), {stacks[0]!r} first, hold the weights of experts, which get their tokens in an order "
                f"of their own, so no row can be held back. Let them, {share:.0%} of all weights, learn from every row, joint_params="
                f"{','.join(dict.fromkeys('*' + '.'.join(name.split('.')[-2:]) for name in stacks))!r}, or use form='gate'."
            )

    def _look(self) -> None:
        """After the first pass that leaves gradients: what holds rows back must have been called where they arrived."""
        before, self._before, self._fresh = self._before, {}, self._fresh - 1
        named = dict(self.model.named_parameters())
        new = set()
        for name, p in named.items():
            grad, version = before.get(name, (None, 0))
            if p.grad is not None and (p.grad is not grad or p.grad._version != version):
                new.add(name)
        self._met |= self._context.met  # gradients of an earlier pass may be among the new ones
        met = self._met
        if not new or self._context.compiled or (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return  # what is compiled is called unseen, and what another process used has a gradient here too
        names = {id(p): name for name, p in named.items()}
        called = {names[id(p)] for own in self._masked if own in met for p in own.module.parameters()}
        missed = {name: None for name in self._pieces if self._masked and name in new and name not in called}
        idle = [tap.site for tap in self._taps if tap not in met]
        # A gate that was not called holds back nothing of what makes its units.
        missed |= {part.parameter: None for site in idle for part in site.parts if part.parameter in new and part.parameter in self._pieces}
        if missed:
            raise UserError(
                f"{len(missed)} weight(s) learn without a call of their module, so no row is held back from them: "
                f"{', '.join(list(missed)[:6])}. Let them learn from every row, joint_params={','.join(missed)!r}, or name other sites."
            )
        self._fresh = 0
        unused = [f"the site {site.name!r} was not called in the first pass, so nothing was routed there." for site in idle]
        for line in (*mixing(self.model), *unused):
            warnings.warn(line, stacklevel=4)


class _Pass:
    """The block of one batch. A class, and not a generator: it is entered at every step."""

    __slots__ = ("_given", "_router", "_without")

    def __init__(self, router: Router, given: Labels | Callable[[], Labels], without: Sequence[str]) -> None:
        self._router, self._given, self._without = router, given, without

    def __enter__(self) -> None:
        self._router._enter(self._given, self._without)

    def __exit__(self, kind: object, *_: object) -> None:
        self._router._leave(failed=kind is not None)


class Late:
    """Where the labels of a delayed pass are handed in."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def label(self, labels: Labels) -> None:
        """Let these labels hold for the pass; call it before `backward`."""
        router = self._router
        if not router._context.open:
            raise UserError("the block was left, so its labels come too late.")
        router._context.take(assign(labels, router.policy, router._device()))


def _batch_dim(model: nn.Module, given: int | None) -> int:
    """Which dimension counts the rows: 0, unless said; asked where a module puts time there."""
    if given not in (None, 0, 1):
        raise UserError(f"batch_dim is {given!r}; it must be 0 (rows first) or 1 (time first).")
    first = next((name for name, m in model.named_modules() if getattr(m, "batch_first", True) is False), None)
    if given is None and first is not None:
        raise UserError(
            f"module {first!r} puts time first (batch_first=False), so labels may be taken for time steps. Say batch_dim=1 if the "
            "activations at sites and weights begin with time, or batch_dim=0 if they begin with rows."
        )
    return given or 0


def _placed(
    model: nn.Module, modules: Mapping[str, Mapping[str, Extent]], at: At, dim: int | None
) -> tuple[tuple[Site, dict[str, tuple[int, int]]], ...]:
    """Every site with its blocks' units."""
    found: list[tuple[Site, dict[str, tuple[int, int]]]] = []
    by_tap: dict[tuple[str, str], str] = {}
    for pattern, blocks in modules.items():
        for site in find(model, pattern, at, dim):
            key = (site.hook_module, site.at)
            if key in by_tap:
                raise UserError(
                    f"the site {site.name!r} is matched twice: by {by_tap[key]!r} and by {pattern!r}. Name all its blocks in one place."
                )
            by_tap[key] = pattern
            found.append((site, place(site, dict(blocks))))
    return tuple(found)


__all__ = ["REST", "Form", "Late", "Router"]
