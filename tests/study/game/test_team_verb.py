"""sluicegate team, and the files it reads."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sluicegate_study.app import main
from sluicegate_study.deck.collection import load_deck
from sluicegate_study.deck.log import Event, append, read_log
from sluicegate_study.errors import UserError
from sluicegate_study.game.team_files import PRESETS, PRIOR, assemble_team, rate_players, read_players, read_shares

WIDE = "player,Science,Arts\nada,.8,.1\nben,.1,.1\n"
SHARES = "category,share\nScience,3\nArts,1\n"
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def wrote(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def run(tmp_path, capsys, *words):
    players, shares = wrote(tmp_path / "p.csv", WIDE), wrote(tmp_path / "s.csv", SHARES)
    assert main(["team", str(players), "--shares", str(shares), "--json", *words]) == 0
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1])


def test_a_team(tmp_path, capsys):
    out, found = run(tmp_path, capsys)
    assert found["shares"] == {"Science": 0.75, "Arts": 0.25}
    assert found["now"]["value"] == pytest.approx(0.75 * 0.82 + 0.25 * 0.19)
    assert found["now"]["uncovered"] == pytest.approx(1 - found["now"]["value"])
    assert (found["now"]["best_player"], found["now"]["swing"]) == ("ada", pytest.approx(0.75 * 0.72 + 0.25 * 0.09))
    assert found["exact"]["value"] >= found["greedy"]["value"] > found["now"]["value"]
    assert sum(sum(row.values()) for row in found["exact"]["hours"].values()) == pytest.approx(20)
    assert found["block"] == 2
    assert "the plan is the best one" in out
    assert "(sure: 1/2)" in out
    _, shared = run(tmp_path, capsys, "--common")
    assert shared["exact"]["value"] >= found["exact"]["value"] - 1e-12
    _, idle = run(tmp_path, capsys, "--hours", "0")
    assert idle["exact"]["value"] == idle["now"]["value"]


def test_what_takes_too_long_is_said_to_be_greedy(tmp_path, capsys):
    text = "player,Science,Arts\n" + "".join(f"p{n},.{n},.1\n" for n in range(1, 8))
    assert (
        main(["team", str(wrote(tmp_path / "p.csv", text)), "--shares", str(wrote(tmp_path / "s.csv", SHARES)), "--block", "1", "--json"])
        == 0
    )
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert found["exact"] is None
    assert found["bound"] >= found["greedy"]["value"]
    assert "the plan is greedy" in out


def test_three_ways_to_write_players(tmp_path):
    wide = read_players(wrote(tmp_path / "w.csv", WIDE))
    long = read_players(
        wrote(tmp_path / "l.csv", "player,category,skill,half\nada,Science,.8,5\nada,Arts,.1,\nben,Science,.1,\nben,Arts,.1,\n")
    )
    toml = read_players(
        wrote(
            tmp_path / "t.toml",
            "[ada]\nhours = 3\nhalf.Science = 5\nskill = {Science = 0.8, Arts = 0.1}\n"
            "[ben]\nhalf = 7\nskill = {Science = 0.1, Arts = 0.1}\n",
        )
    )
    assert wide.skill == long.skill == toml.skill
    assert long.half == {"ada": {"Science": 5.0}}
    assert toml.half == {"ada": {"Science": 5.0}, "ben": {"Science": 7.0, "Arts": 7.0}}
    assert toml.hours == {"ada": 3.0}
    team = assemble_team({"Arts": 1, "Science": 1, "Nothing": 0}, toml, half=10, ceiling=0.9)
    assert team.categories == ("Arts", "Science")
    assert team.half.tolist() == [[10, 5], [7, 7]]
    assert team.skill.tolist() == [[0.1, 0.8], [0.1, 0.1]]


def test_shares(tmp_path):
    assert sum(PRESETS["acf"].values()) == sum(PRESETS["pace"].values()) == 20
    assert read_shares(str(wrote(tmp_path / "s.toml", "[shares]\nScience = 3\nArts = 1\n"))) == {"Science": 3.0, "Arts": 1.0}
    deck = wrote(
        tmp_path / "d.md",
        "+++\ncategory = 'Art/Music'\n+++\nT: a b c.\nANSWER: x\n\nT: d e f.\nANSWER: y\ncategory: Science/CS\n\nQ: g?\nA: h\n",
    )
    assert read_shares(str(deck)) == {"Art": 1.0, "Science": 1.0}
    assert read_shares(str(deck), depth=2) == {"Art/Music": 1.0, "Science/CS": 1.0}
    bare = wrote(tmp_path / "e.md", "Q: g?\nA: h\n")
    with pytest.raises(UserError, match="has a category"):
        read_shares(str(bare))
    with pytest.raises(UserError, match="acf"):
        read_shares("naqt")


def test_skills_from_the_log(tmp_path, capsys):
    (tmp_path / "x.md").write_text("Q: a?\nA: b\nid: a\ncategory: Science/CS\n")
    log = tmp_path / "log.jsonl"
    reviews = [Event(NOW, "ada", "a", "card", {"grade": grade}) for grade in (1, 3, 3, 4)]
    append(log, [*reviews, Event(NOW, "bot:even", "a", "card", {"grade": 4})])
    found = rate_players(read_log(log), deck=load_deck(tmp_path))
    assert found.answers == {"ada": {"Science": 4}}
    assert found.skill["ada"]["Science"] == pytest.approx((3 + PRIOR * 0.75) / (4 + PRIOR))
    with pytest.raises(UserError, match="no answer with a category"):
        rate_players(read_log(log))
    assert main(["team", str(log), "--deck", str(tmp_path), "--json"]) == 0
    out = capsys.readouterr().out
    assert "Science 4 answers" in out
    assert json.loads(out.splitlines()[-1])["players"] == ["ada"]


def test_skills_from_games(tmp_path):
    turn = {"game": "g", "tick": 5, "mark": 0, "d": 0, "n": 9, "pos": 0.5, "alone": False, "value": 10}
    log = tmp_path / "log.jsonl"
    append(log, [Event(NOW, "ada", "g", "game", {"rules": {"name": "acf"}, "bot": "even", "tossups": 20})])
    for n, (category, kind, verdict) in enumerate(
        [("Art/Music", "buzz", "accept"), ("Art", "pass", "reject"), ("Science", "buzz", "reject"), ("Science", "pass", "accept")]
    ):
        append(log, [Event(NOW, "ada", f"t{n}", kind, {**turn, "category": category, "verdict": verdict})])
    append(log, [Event(NOW, "ada", "t2", "override", {"game": "g", "of": "buzz", "verdict": "accept", "value": 10})])
    found = read_players(log)
    assert found.answers == {"ada": {"Art": 2, "Science": 2}}
    assert found.skill["ada"] == pytest.approx(
        {"Art": (1 + PRIOR * 0.75) / (2 + PRIOR), "Science": (2 + PRIOR * 0.75) / (2 + PRIOR), "": 0.75}
    )
    assert read_players(log, depth=2).answers == {"ada": {"Art/Music": 1, "Art": 1, "Science": 2}}
    team = assemble_team({"Art": 1, "History": 1}, found, half=10, ceiling=0.9)
    assert team.skill[0, 1] == 0.75  # nothing is known of it: the player's overall rate


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("player,Science\nada,.5\n", "no skill in Arts"),
        ("player,Science,Art\nada,.5,.5\n", "it has Art, which have no share"),
        ("player,Science,Arts\nada,.5\n", "line 2"),
        ("player,Science,Arts\nada,2,.5\n", "0 to 1"),
        ("player,Science,Arts\nada,x,.5\n", "'x'"),
        ("name,Science,Arts\nada,.5,.5\n", "column player"),
        ("player,Science,Arts\nada,.5,.5\nada,.5,.5\n", "ada twice"),
        ("player,category,skill\nada,Science,.5\nada,Science,.5\n", "in Science twice"),
        ("player,Science,Arts\n", "no player"),
        ('player,Science,Arts\n"ada,.5,.5\n', "is not CSV"),
    ],
)
def test_files_that_are_none(tmp_path, capsys, text, said):
    players, shares = wrote(tmp_path / "p.csv", text), wrote(tmp_path / "s.csv", SHARES)
    assert main(["team", str(players), "--shares", str(shares)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hours", "-1"], "--hours"),
        (["--block", "-1"], "--block"),
        (["--half", "0"], "--half"),
        (["--depth", "0"], "--depth"),
        (["--ceiling", "2"], "ceiling"),
        (["--hours", "10000", "--block", "0.001"], "larger --block"),
        (["--shares", "nowhere"], "no distribution"),
    ],
)
def test_options_that_are_none(tmp_path, capsys, words, said):
    players, shares = wrote(tmp_path / "p.csv", WIDE), wrote(tmp_path / "s.csv", SHARES)
    assert main(["team", str(players), *([] if "--shares" in words else ["--shares", str(shares)]), *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no players"):
        read_players(tmp_path / "no.csv")
    with pytest.raises(UserError, match=r"\.csv, \.toml or \.jsonl"):
        read_players(wrote(tmp_path / "x.txt", ""))
    for text, said in (
        ("ada = 3", "skill"),
        ("[ada]\nskill = {a = 1}\nx = 2", "'x'"),
        ("=", "not TOML"),
        ("[ada]\nskill = {a = true}", "True"),
    ):
        with pytest.raises(UserError, match=said):
            read_players(wrote(tmp_path / "x.toml", text))
