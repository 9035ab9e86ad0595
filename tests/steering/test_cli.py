"""sluicegate steer: from prompts to a vector, its twins, answers and the page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import steering_tiny
from sluicegate.app import main
from sluicegate.steering.io import load_vector, read_gguf
from tiny_stages import SRC


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A place with a model, prompts, a fitted vector and five twins."""
    folder = tmp_path_factory.mktemp("steer")
    own = steering_tiny.material(folder)
    words = [f"--{name}={own[name]}" for name in ("model", "pairs", "prompts", "behaviour")]
    assert main(["steer", "fit", *words, "--new-tokens", "4", "--out", str(folder / "fit")]) == 0
    return folder, own


@pytest.fixture(scope="module")
def twins(made):
    folder, own = made
    words = ["--k", "5", "--steps", "2", "--along", "3", "--prompts", own["prompts"], "--out", str(folder / "twins")]
    assert main(["steer", "twins", str(folder / "fit"), *words]) == 0
    return folder / "twins"


def said(capsys, *words, status=0):
    capsys.readouterr()
    assert main(list(words)) == status
    found = capsys.readouterr()
    return found.out if status == 0 else " ".join(found.err.split())


def test_fit_says_what_it_found_and_what_comes_next(made, capsys):
    folder, own = made
    words = [f"--{name}={own[name]}" for name in ("model", "pairs", "prompts", "behaviour")]
    text = said(capsys, "steer", "fit", *words, "--new-tokens", "4", "--out", str(folder / "fit"), "--json")  # not run again
    assert "norm of the vector" in text
    assert "unsteered\n" in text
    assert "dose  KL, nats a token  shows it" in text
    assert f"next:   sluicegate steer twins {folder / 'fit'}" in text
    assert json.loads(text.splitlines()[-1])["measures"][0]["norm"] == pytest.approx(load_vector(folder / "fit").norm)


def test_apply_prints_steered_beside_unsteered_answers_at_every_dose(made, capsys):
    folder, _own = made
    words = ("steer", "apply", str(folder / "fit"), "3 + 4", "ann fills 3", "--dose", "0", "1", "8", "--new-tokens", "5", "--json")
    text = said(capsys, *words)
    assert text.count("unsteered") >= 2
    assert text.count("dose 8, KL ") == 2
    found = json.loads(text.splitlines()[-1])
    assert found["prompts"] == ["3 + 4", "ann fills 3"]
    nothing, one, eight = found["doses"]
    assert nothing["answers"] == found["unsteered"]
    assert nothing["kl"] == pytest.approx(0, abs=1e-5)
    assert 0 < one["kl"] < eight["kl"]
    assert eight["answers"] != found["unsteered"]


def test_apply_keeps_to_a_kl_budget_and_saves_what_it_applied(made, capsys, tmp_path):
    folder, _own = made
    file = tmp_path / "v.gguf"
    words = (
        "steer",
        "apply",
        str(folder / "fit"),
        "3 + 4",
        "--kl",
        "0.05",
        "--dose",
        "2",
        "1",
        "--new-tokens",
        "2",
        "--save",
        str(file),
        "--json",
    )
    text = said(capsys, *words)
    assert "dose 1 is" in text
    assert "llama.cpp steers every token" in text
    assert json.loads(text.splitlines()[-1])["doses"][1]["kl"] == pytest.approx(0.05, rel=0.03)
    assert read_gguf(file)[1].norm == pytest.approx(2 * json.loads(text.splitlines()[-1])["norm"], rel=1e-5)
    again = said(capsys, "steer", "apply", str(file), "3 + 4", "--new-tokens", "2")
    assert "model.layers.1, tokens: not_first" in again


def test_twins_then_score_then_the_page(made, twins, capsys):
    folder, own = made
    out = folder / "score"
    words = ("--prompts", own["prompts"], "--new-tokens", "4", "--along", "3", "--randoms", "2", "--doses", "0", "1", "--out", str(out))
    text = said(capsys, "steer", "score", str(twins), *words, "--json")
    assert "of 5 within 0.5 nats a token of the base" in text
    assert "random vectors of its norm" in text
    found = json.loads(text.splitlines()[-1])
    assert found["pages"] == [str(out / "report.html")]
    page = (out / "report.html").read_text()
    assert page.count('<td class="mark') == (1 + 1 + 2 + 6 + 5) * 3
    assert "holds one of the words plums, bags, shells, 12" in page
    (out / "report.html").unlink()
    assert said(capsys, "steer", "report", str(out)).strip() == str(out / "report.html")
    assert (out / "report.html").read_text() == page
    assert "has no such page. Score it first" in said(capsys, "steer", "report", str(twins), status=2)


def test_one_twin_is_applied_by_its_number(twins, capsys):
    text = said(capsys, "steer", "apply", str(twins), "3 + 4", "--index", "2", "--new-tokens", "2")
    assert "dose 1" in text
    assert "Say which (--index)" in said(capsys, "steer", "apply", str(twins), "3 + 4", status=2)


def test_several_seeds_have_folders_of_their_own(made, capsys, tmp_path):
    _folder, own = made
    words = [f"--{name}={own[name]}" for name in ("model", "pairs", "prompts", "behaviour")]
    out = tmp_path / "many"
    text = said(capsys, "steer", "fit", *words, "--arm", "random", "--new-tokens", "2", "--seeds", "2", "--out", str(out), "--json")
    assert json.loads(text.splitlines()[-1])["seeds"] == [0, 1]
    assert load_vector(out / "seed-0").values.tolist() != load_vector(out / "seed-1").values.tolist()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fitt",), "steer has no 'fitt'. There are: fit"),
        (("apply", "lost"), "no steering vector 'lost'"),
        (("apply", "v.pt"), "is a pickle, which can run code"),
        (("report", "lost"), "no folder 'lost'"),
        (("twins",), "steer twins needs --vector"),
        (("score",), "steer score needs --vectors"),
        (("fit", "--behaviour", "words:a"), "is a rule without prompts"),
    ],
)
def test_mistakes_are_named(capsys, words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in said(capsys, "steer", *words, status=2)
    assert list(Path().iterdir()) == []  # and nothing is left behind


def test_a_bad_dose_or_budget_is_named(made, capsys):
    folder, _own = made
    vector = str(folder / "fit")
    assert "--kl is -1" in said(capsys, "steer", "apply", vector, "--kl", "-1", status=2)
    assert "--new-tokens is 0" in said(capsys, "steer", "apply", vector, "--new-tokens", "0", status=2)
    assert "no module 'model.layer.9'" in said(capsys, "steer", "apply", vector, "3 + 4", "--module", "model.layer.9", status=2)


def test_help_names_the_actions_and_imports_no_torch():
    script = "import sys\nfrom sluicegate.app import main\nfor w in ([], ['fit','--help'], ['apply','--help'], ['score','--help']):\n"
    script += "    try:\n        main(['steer', *w])\n    except SystemExit:\n        pass\nsys.exit(3 if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": str(SRC)}, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    for name in ("fit", "twins", "apply", "score", "report"):
        assert f"  {name}" in done.stdout
