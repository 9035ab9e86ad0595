"""The code on a page of the documentation runs as it stands, block after block, and says what it is there to say."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def run(page: str, capsys) -> str:
    """Run a page's blocks of Python in one namespace; return what they printed."""
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    return capsys.readouterr().out


def test_gradient_routing(capsys):
    said = run("routing.md", capsys)
    assert "learns from every label" not in said  # nothing is joint in the parameter form, unless it is asked for
    table = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith(("rest", "forget"))}
    assert float(table["rest"][1]) == 0 < float(table["rest"][0])
    assert float(table["forget"][0]) == 0 < float(table["forget"][1])
    assert "32 units taken out at 1 sites\n224 True" in said
    assert said.rstrip().endswith("True")
