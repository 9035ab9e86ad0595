"""A student that begins with narrow MLPs and is widened to the teacher's shape later, without a change of its
outputs."""

import copy

from transformers import PreTrainedModel

from sluicegate.engine.models import fresh
from sluicegate.errors import UserError


def build_small(teacher: PreTrainedModel, share: float, seed: int) -> PreTrainedModel:
    """A newly initialised model of the teacher's shape but for its MLPs, which have `share` of the units.

    Raises `UserError` for a share outside (0, 1), or a configuration that does not say how wide its MLPs are.
    """
    if not 0 < share < 1:
        raise UserError(f"small is {share:g}; it is the share of the MLPs' units that the student begins with, between 0 and 1.")
    config = copy.deepcopy(teacher.config)
    inner = config.get_text_config()
    field = next((name for name in ("intermediate_size", "n_inner") if hasattr(inner, name)), None)
    if field is None:
        raise UserError(f"a {type(teacher).__name__} does not say how wide its MLPs are, so no small one can be made. Leave --small out.")
    whole = getattr(inner, field) or 4 * inner.hidden_size
    setattr(inner, field, max(1, round(share * whole)))
    return fresh(config, seed, teacher.dtype)


def grow(student: PreTrainedModel, teacher: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Widen the student's MLPs to the teacher's, in place; its outputs stay what they were (Net2Net, Chen et al. 2016,
    arXiv 1511.05641).

    Different from the source: new units get input weights drawn from `seed` and output weights of zero, not copies of
    old units.
    """
    from sluicegate.routing.sites import find
    from sluicegate.routing.surgery import expand

    wanted = {site.name: site.units or 0 for site in find(teacher, "mlp_hidden")}
    missing = {site.name: {"new": wanted[site.name] - (site.units or 0)} for site in find(student, "mlp_hidden")}
    expand(student, {name: blocks for name, blocks in missing.items() if blocks["new"] > 0}, seed=seed)
    return student
