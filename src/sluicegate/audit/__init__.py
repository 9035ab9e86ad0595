"""Measure what is left: attacks and probes that end in a curve."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sluicegate.audit.result import AuditResult


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> "AuditResult":
        from sluicegate.audit.audit import audit

        return audit(*args, **kwargs)


# `sluicegate.audit` is this package, and people call `sg.audit(...)`: importing any part of the package puts it in the
# place of the function of that name, so the package itself has to answer the call.
sys.modules[__name__].__class__ = _CallablePackage
