"""Which fields of a dataclass have a help string under them in the source, which the command line shows."""

import ast
import inspect
import textwrap


def undocumented(cls) -> list[str]:
    """The names of the fields without a string under them; fields that are dataclasses themselves need none."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    missing = []
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or "ClassVar" in ast.unparse(statement.annotation):
            continue
        told = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant) and isinstance(following.value.value, str)
        if not told or not following.value.value.strip():
            missing.append(statement.target.id)
    return missing
