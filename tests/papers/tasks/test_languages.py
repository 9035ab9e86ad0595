import math
from collections import Counter

import numpy as np
import pytest
import torch

from sluicegate.errors import UserError
from sluicegate.values.items import Item
from sluicegate_papers.tasks.languages import BEGIN, LIKELY, Languages, byte_rows, two_languages, two_texts


def test_the_floor_is_what_a_model_that_knows_the_language_has():
    task = Languages(seed=3)
    assert task.floor == pytest.approx(0.613, abs=1e-3)
    rows, table = task.rows("forget", 400), task.followers("forget")
    chance = {}
    for a in range(16):
        for b in range(16):
            chance |= {(a, b, int(c)): p for c, p in zip(table[a, b], LIKELY, strict=True)}
    found = [-math.log(chance[tuple(row[t - 2 : t + 1])]) for row in rows.tolist() for t in range(task.first, task.length)]
    assert np.mean(found) == pytest.approx(task.floor, abs=4 * np.std(found) / len(found) ** 0.5)


def test_a_row_begins_with_its_language_and_nothing_else_tells_them_apart():
    task = Languages()
    kept, lost = task.rows("retain", 300), task.rows("forget", 300)
    assert (kept[:, 0] == 16).all()
    assert (lost[:, 0] == 17).all()
    assert set(kept[:, 1:].flat) == set(lost[:, 1:].flat) == set(range(16))
    pairs = [set(zip(rows[:, 1:-1].flat, rows[:, 2:].flat, strict=True)) for rows in (kept, lost)]
    assert len(pairs[0] & pairs[1]) > 0.9 * 256
    # The likeliest follower of a pair is the same in both no more often than by chance.
    same = (task.followers("retain")[..., 0] == task.followers("forget")[..., 0]).mean()
    assert same < 0.2


def test_rows_are_a_function_of_the_seed_and_the_purpose():
    assert (Languages(seed=1).rows("retain", 5) == Languages(seed=1).rows("retain", 5)).all()
    assert (Languages(seed=1).rows("retain", 5) != Languages(seed=2).rows("retain", 5)).any()
    assert (Languages(seed=1).followers("retain") != Languages(seed=2).followers("retain")).any()
    train, held = Languages().rows("retain", 200), Languages().rows("retain", 200, "held out")
    assert not {tuple(row) for row in train} & {tuple(row) for row in held}
    with pytest.raises(UserError, match="retain and forget"):
        Languages().rows("other", 1)


@pytest.mark.parametrize(("wrong", "said"), [({"symbols": 2}, "symbols is 2"), ({"length": 3}, "length is 3")])
def test_a_language_that_cannot_be_is_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        Languages(**wrong)


def test_a_third_of_the_rows_is_to_be_forgotten_and_only_what_can_be_predicted_counts():
    corpus = two_languages(Languages(length=8), 90, 10, 4)
    assert (corpus.kept, len(corpus.train)) == (60, 90)
    assert (corpus.train.ids[:60, 0] == 16).all()
    assert (corpus.train.ids[60:, 0] == 17).all()
    batch = corpus.train.batch([0])
    assert batch.answer.tolist() == [[False, False, True, True, True, True, True]]
    assert corpus.forget_tokens(np.arange(90)) == 30 * 5
    assert {name: len(rows) for name, rows in corpus.held.items()} == {"retain": 10, "forget": 10}


def test_what_is_labelled_at_a_small_share_is_labelled_at_a_large_one():
    corpus = two_languages(Languages(length=8), 90, 10, 4)
    few, rest = corpus.labelled(0.1, seed=5)
    half, _ = corpus.labelled(0.5, seed=5)
    every, none = corpus.labelled(1.0, seed=5)
    assert (len(few), len(rest), len(half), len(every), len(none)) == (3, 27, 15, 30, 0)
    assert set(few) < set(half) < set(every) == set(range(60, 90))
    assert set(few) | set(rest) == set(every)
    assert set(corpus.labelled(0.5, seed=6)[0]) != set(half)


def test_texts_become_windows_of_bytes():
    rows = byte_rows((Item("", "hällo"), Item("", "world")), 5)
    content = "hällo\n\nworld".encode()
    assert rows.ids.tolist() == [[BEGIN, *content[i : i + 4]] for i in (0, 4, 8)]
    assert rows.starts.tolist() == [1, 1, 1]


def texts(count=40):
    return {name: byte_rows((Item("", word * count),), 5) for name, word in (("retain", "abcd"), ("forget", "wxyz"))}


def test_texts_are_dealt_out_so_that_no_row_is_used_twice():
    own = {
        name: byte_rows((Item("", "".join(f"{i:03d}." for i in range(start, start + 40))),), 5)
        for name, start in (("retain", 0), ("forget", 500))
    }
    corpus = two_texts(own, 30, 6, 4, seed=0, vocabulary=257)
    groups = [corpus.train, *corpus.held.values(), corpus.relearn, corpus.repair, corpus.choose]
    used = Counter(tuple(row) for rows in groups for row in rows.ids.tolist())
    assert max(used.values()) == 1
    assert [len(rows) for rows in groups] == [30, 6, 6, 4, 4, 4]
    assert corpus.kept == 20
    assert all(bytes(row[1:].tolist()) < b"500" for row in torch.cat([corpus.train.ids[:20], corpus.repair.ids, corpus.choose.ids]))
    assert all(bytes(row[1:].tolist()) >= b"500" for row in torch.cat([corpus.train.ids[20:], corpus.relearn.ids]))
    again = two_texts(own, 30, 6, 4, seed=1, vocabulary=257)
    assert again.train.ids.tolist() != corpus.train.ids.tolist()


def test_a_text_that_is_too_short_is_named_with_what_it_lacks():
    own = texts() | {"forget": byte_rows((Item("", "too short to train on"),), 5)}
    with pytest.raises(UserError, match=r"forget text gives 5 rows, and 14 are the least: 6 held out, and 4 each"):
        two_texts(own, 30, 6, 4, seed=0, vocabulary=257)
    corpus = two_texts(texts(), 1000, 6, 4, seed=0, vocabulary=257)
    assert len(corpus.train) == 40 - 14 + 40 - 10
