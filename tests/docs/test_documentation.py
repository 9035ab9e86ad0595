"""The code on a page of the documentation runs as it stands, block after block, and says what it is there to say."""

import re
from pathlib import Path

from sluicegate.audit.attackers import attackers

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


def test_the_reference_lists_every_attacker_as_it_is():
    page = (DOCS / "reference.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip("`"): (*row[2:4], [n.strip("`-") for n in row[4].split(", ") if n], row[5]) for row in rows}
    assert told == {name: (cls.UNIT, cls.SUITE, list(cls.NEEDS), cls.SOURCE) for name, cls in attackers().items()}
