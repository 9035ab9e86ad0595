"""The site of the documentation builds without a warning, needs nothing from elsewhere, and names what the package
offers."""

import os
import re
import subprocess
import sys

import pytest

import sluicegate
from pages import ROOT

pytest.importorskip("mkdocstrings", reason="mkdocs is not installed: pip install -e '.[docs]'")
pytest.importorskip("material", reason="mkdocs-material is not installed: pip install -e '.[docs]'")


def build(config, out):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", out]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=env, cwd=ROOT)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", out)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


def test_every_public_name_is_in_the_reference(site):
    page = (site / "reference.html").read_text(encoding="utf-8")
    shown = {path.rpartition(".")[2] for path in re.findall(r'id="sluicegate\.([\w.]+)"', page)}
    assert not [name for name in sluicegate.__all__ if name not in shown]


def test_no_page_loads_a_script_or_style_from_elsewhere(site):
    found = re.compile(r'<(?:script|link rel="(?:stylesheet|preconnect)"|img)[^>]*?(?:src|href)="?(https?:[^" >]+)')
    loaded = {url for page in site.rglob("*.html") for url in found.findall(page.read_text(encoding="utf-8"))}
    assert not loaded


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Page\n\nSee [that](no-such-page.md) and [this](#nowhere).\n")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    text = re.sub(r"^nav:\n(  .*\n)+", "nav: [index.md]\n", text, flags=re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(text)
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert "no-such-page.md" in done.stderr
    assert "#nowhere" in done.stderr
