"""The README's example runs as it stands, and says what it is there to say."""

import re
from pathlib import Path

import pytest
import torch


@pytest.mark.slow
def test_the_library_in_twenty_lines(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    [code] = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "sg.relearn" in code]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    torch.set_num_threads(1)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    said = dict(re.findall(r"^(suppressed|UNDO) saves (-?[\d.]+)", capsys.readouterr().out, re.MULTILINE))
    assert float(said["suppressed"]) > float(said["UNDO"]) + 0.2


def test_the_readme_is_short():
    assert len((Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").splitlines()) <= 90
