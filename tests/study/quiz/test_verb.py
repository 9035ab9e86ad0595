"""sluicegate quiz, as a user meets it."""

import json
from datetime import UTC, datetime

import pytest

import quiz_toy
from architectures import learner
from sluicegate.engine.models import load_tokenizer, save
from sluicegate_study.app import main
from sluicegate_study.deck.collection import save_file
from sluicegate_study.deck.log import Event, append

OWN = ["--frame", quiz_toy.FRAME, "--draws", "200"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A deck and two models: one that knows it, and one that knows nothing."""
    folder = tmp_path_factory.mktemp("quiz")
    save_file(quiz_toy.deck().files[0], folder / "deck" / "toy.md")
    model, tokenizer = quiz_toy.knowing()
    save(model, tokenizer, folder / "models" / "knows")
    save(learner(3), load_tokenizer("arithmetic-tiny"), folder / "models" / "fresh")
    return folder


def quiz(place, capsys, *words):
    status = main(["quiz", *words, "--deck", str(place / "deck"), "--out", str(place / "out"), *OWN, "--json"])
    said = capsys.readouterr()
    assert status == 0, said.err
    return json.loads(said.out.splitlines()[-1]), said


def test_one_model(place, capsys):
    found, said = quiz(place, capsys, str(place / "models" / "knows"))
    [result] = found["results"].values()
    assert (found["questions"], found["clues"], found["changes"]) == (24, 48, {})
    assert result["measures"]["last_clue"][0] == 1
    assert result["measures"]["chance"][0] == pytest.approx(1 / 12)
    assert set(result["by_category"]) == {"forget", "retain"}
    assert result["curve"]["unit"] == "share of clues"
    assert set(result["auc_by_score"]) == {"raw", "mean", "pmi"}
    assert found["quiz_s"] > 0
    assert "Can its confidence be trusted? knows: " in said.out
    assert "right after the first clue" in said.out
    assert "not fitted" in said.out
    kept = json.loads((place / "out" / "quiz.json").read_text())
    assert len(kept["results"]["knows"]["asked"]) == 24
    assert (place / "out" / "report.html").read_text().startswith("<!doctype html>")


def test_before_and_after(place, capsys):
    knows, fresh = (str(place / "models" / name) for name in ("knows", "fresh"))
    found, said = quiz(place, capsys, fresh, "--before", knows, "--after", knows, fresh)
    assert list(found["models"]) == ["1 knows", "2 fresh", "3 knows", "4 fresh"]
    assert found["changes"]["3 knows"]["all"]["auc"] == [0, 0, 0]
    change = found["changes"]["2 fresh"]
    assert set(change) == {"all", "forget", "retain"}
    assert change["all"]["auc"][2] < -0.2
    assert change["all"]["bound"] == "at most"
    assert "Does it know more? 2 fresh against 1 knows: below" in said.out
    assert "Does it know more? 3 knows against 1 knows: not told apart." in said.out


def test_the_same_numbers_each_time(place, capsys):
    numbers = [quiz(place, capsys, str(place / "models" / "knows"), "--score", "pmi")[0]["results"] for _ in range(2)]
    assert numbers[0] == numbers[1]


def test_the_weight_is_fitted_where_people_have_buzzed_enough(place, capsys):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    log = place / "log.jsonl"
    some = [Event(now, "person:ada", "x", "buzz", {"pos": n / 250, "verdict": "accept" if n % 3 else "reject"}) for n in range(250)]
    append(log, some[:100])
    model = str(place / "models" / "knows")
    found, said = quiz(place, capsys, model, "--log", str(log))
    assert "too few" in said.out
    assert "not fitted" in found["results"]["knows"]["expected_wins_weight"]
    append(log, some[100:])
    append(log, [Event(now, "model:net", "x", "buzz", {"pos": 0.1, "verdict": "accept"})] * 50)
    found, _ = quiz(place, capsys, model, "--log", str(log))
    assert "250 logged buzzes of people" in found["results"]["knows"]["expected_wins_weight"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-model"], "no model 'no-such-model'"),
        (["fresh", "--after", "nowhere"], "no model 'nowhere'"),
        (["fresh", "--deck", "nowhere"], "no deck"),
        (["fresh", "--kind", "cards"], "no cards"),
        (["fresh", "--threshold", "2"], "threshold"),
        (["fresh", "--level", "1"], "--level"),
        (["fresh", "--draws", "5"], "--draws"),
        (["fresh", "--frame", "Say it"], "{clues}"),
        (["fresh", "--log", "nowhere.jsonl"], "no log"),
        (["fresh", "--template"], "chat template"),
    ],
)
def test_mistakes(place, words, said, capsys, monkeypatch):
    monkeypatch.chdir(place / "models")
    deck = [] if "--deck" in words else ["--deck", str(place / "deck")]
    assert main(["quiz", *words, *deck, "--out", str(place / "bad")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_deck_with_errors_is_asked_as_far_as_it_goes(place, capsys):
    broken = place / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "a.md").write_text((place / "deck" / "toy.md").read_text() + "\nT: A tossup without its answer\n")
    status = main(["quiz", str(place / "models" / "fresh"), "--deck", str(broken), "--out", str(place / "out"), *OWN])
    assert status == 0
    assert "1 error in the deck" in capsys.readouterr().out
