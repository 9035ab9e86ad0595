from collections import Counter

import pytest

from sluicegate.errors import UserError
from sluicegate_papers.tasks.clusters import CLUSTERS, COMPANY, END, Clusters, cluster_of, tokenizer, vocabulary


def test_every_word_is_one_token_and_no_row_holds_another():
    ids = tokenizer()
    assert len(set(vocabulary())) == len(vocabulary())
    for item in Clusters(3).text(20):
        encoded = ids(item.answer)["input_ids"]
        assert len(encoded) == 1 + 4 * 7
        assert encoded[0] == ids.bos_token_id
        assert ids.unk_token_id not in encoded


def test_text_is_a_function_of_seed_and_purpose():
    assert Clusters(1).text(5) == Clusters(1).text(5)
    assert Clusters(1).text(5) != Clusters(2).text(5)
    assert Clusters(1).text(5) != Clusters(1).text(5, purpose="held out")


def test_words_of_a_cluster_share_their_company_and_others_do_not():
    task = Clusters(0)
    before = {word: Counter() for words in CLUSTERS.values() for word in words.split()}
    for item in task.text(3000):
        words = item.answer.split()
        for i in range(0, len(words), 7):
            assert words[i + 6] == END
            before[words[i + 4]].update(words[i : i + 4])
    for cluster, words in CLUSTERS.items():
        own = set(task.kept[cluster][0])
        for word in words.split():
            inside = sum(n for w, n in before[word].items() if w in own) / before[word].total()
            assert 0.85 < inside < 0.97  # .55 + .35, and what any word of company adds
            favourite = sum(n for w, n in before[word].items() if w in task.kept[cluster][1][word]) / before[word].total()
            assert 0.5 < favourite < 0.8


def test_a_cluster_follows_zipfs_law():
    said = Counter(word for item in Clusters(0).text(4000) for word in item.answer.split() if word not in COMPANY)
    first, second, *_, last = (said[word] for word in CLUSTERS["states"].split())
    assert 1.5 < first / second < 2.6
    assert 6 < first / last < 16


def test_a_word_of_no_cluster_is_refused():
    assert cluster_of("oboe") == "instruments"
    with pytest.raises(UserError, match="'kazoo' is in no cluster"):
        cluster_of("kazoo")
    with pytest.raises(UserError, match="favourites is 13"):
        Clusters(favourites=13)
