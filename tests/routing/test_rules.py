import copy
import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from architectures import build, learner
from sluicegate.engine.encoding import encode
from sluicegate.errors import UserError
from sluicegate.routing.probing import activations, fit_probe
from sluicegate.routing.router import Router
from sluicegate.routing.rules import bind
from sluicegate.routing.rules.callable import Call
from sluicegate.routing.rules.column import Column
from sluicegate.routing.rules.frequency import Frequency
from sluicegate.routing.rules.probe import Probe
from sluicegate.routing.rules.soft import Soft
from sluicegate.routing.rules.span import Span, matches
from sluicegate.routing.rules.tokens import Tokens
from sluicegate.routing.rules.within import Within
from sluicegate.routing.train import train_routed
from sluicegate.routing.views import aligned, view
from sluicegate.tasks import arithmetic
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule

LABELS = ("retain", "forget", "unlabelled")
TEXTS = ("a tree stood in the forest", "the trees of the forest", "a room", "the tree")


@pytest.fixture(scope="module")
def words():
    """A byte-level BPE tokenizer, as GPT-2's: it knows ' tree' as one token and ' treehouse' as several."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.train_from_iterator(TEXTS * 5, trainers.BpeTrainer(vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=plain)


@pytest.fixture(scope="module")
def stories(words):
    return encode(words, [Item("", text, label="forest" if "tree" in text else "indoors") for text in TEXTS])


@pytest.fixture(scope="module")
def rows(tokenizer, mixed_items):
    return encode(tokenizer, mixed_items)


def spelled(tokenizer, rows, row, found):
    """The tokens of a row that stand where the labels are 1."""
    length = int(rows.lengths[row])
    return [
        tokenizer.decode([i]) for i, label in zip(rows.ids[row, :length].tolist(), found[row, :length].tolist(), strict=True) if label == 1
    ]


# ------------------------------------------------------------------------------ tokens


def test_an_input_rule_labels_where_a_token_stands_and_a_target_rule_one_to_the_left(words, stories):
    batch = stories.batch(range(4))
    listed = {"forget": [" tree", " trees"]}
    on_input = Tokens(listed, words, of="input")(batch, LABELS)
    on_target = Tokens(listed, words, of="target")(batch, LABELS)
    assert [spelled(words, stories, row, on_input) for row in range(4)] == [[" tree"], [" trees"], [], [" tree"]]
    assert [spelled(words, stories, row, on_target) for row in range(4)] == [["a"], ["the"], [], ["the"]]
    assert torch.equal(on_target[:, :-1], on_input[:, 1:])


def test_the_target_rule_is_the_papers():
    assert Tokens({"forget": [3]}).of == "target"
    assert Frequency().of == "target"


def test_the_last_position_has_no_target_and_padding_is_never_labelled():
    batch = {"input_ids": torch.tensor([[5, 7, 7], [7, 7, 7]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    rule = Tokens({"forget": [7]}, of="target", otherwise="unlabelled")
    assert rule(batch, LABELS).tolist() == [[1, 1, 2], [1, 2, 2]]
    assert dataclasses.replace(rule, of="input")(batch, LABELS).tolist() == [[2, 1, 1], [1, 1, 2]]


def test_a_row_may_be_labelled_as_a_whole_by_the_first_label_that_it_has_a_token_of():
    ids = torch.tensor([[1, 7, 2], [8, 7, 1], [8, 1, 1], [1, 2, 3]])
    rule = Tokens({"b": [8], "a": [7]}, per="row")
    assert rule(ids, ("retain", "a", "b", "unlabelled")).tolist() == [1, 2, 2, 0]


def test_tokens_may_be_named_by_text_by_the_vocabularys_spelling_or_by_id(words):
    [tree] = words(" tree")["input_ids"]
    assert Tokens({"forget": [" tree"]}, words).ids == Tokens({"forget": ["Ġtree"]}, words).ids == {"forget": (tree,)}
    assert Tokens({"forget": [tree]}).ids == {"forget": (tree,)}


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"forget": [" tree", " treehouse", "zoo"]}, r"not one token each: ' treehouse' \(Ġtree \| .*\), 'zoo' \(.*rule 'span'"),
        ({"forget": []}, "the list of tokens of the label 'forget' is empty"),
        ({}, r"give a list for each label"),
        ({"forget": " tree"}, r"give a list for each label"),
        ([" tree"], r"give a list for each label"),
        ({"forget": [" tree"], "b": ["Ġtree"]}, "in the lists of two labels, 'forget' and 'b'"),
        ({"forget": [-1]}, "token id -1 is not in the vocabulary"),
        ({"forget": [100000]}, "token id 100000 is not in the vocabulary"),
        ({"forget": [2.5]}, "2.5 is no token"),
    ],
)
def test_tokens_that_are_none_are_named(words, listed, message):
    with pytest.raises(UserError, match=message):
        Tokens(listed, words)


def test_a_text_takes_a_tokenizer_that_knows_it(tokenizer):
    with pytest.raises(UserError, match="'plums' is a text, which takes a tokenizer"):
        Tokens({"forget": ["plums"]})
    with pytest.raises(UserError, match="does not know 'california'"):
        Tokens({"forget": ["california"]}, tokenizer)
    with pytest.raises(UserError, match="of is 'output'; it must be one of input, target"):
        Tokens({"forget": [3]}, of="output")


# ------------------------------------------------------------------------------ frequency


def table(r):
    """w of ratios r, from the formula as the paper prints it."""
    return [1 - 1 / (1 + math.exp(-(1.0 * (x - 1 / x) - 4.0))) for x in r]


def counted(*counts):
    """Rows of two tokens, the second of them token i counts[i] times."""
    ids = [i for i, count in enumerate(counts) for _ in range(count)]
    return torch.tensor([[0, i] for i in ids])


def test_w_is_the_papers_formula():
    rule = Frequency().fit(counted(0, 50, 10, 1), counted(500, 5, 100, 60), vocabulary=4)
    f = [(c + 1) / (61 + 4) for c in (0, 50, 10, 1)]
    g = [(c + 20) / (665 + 80) for c in (500, 5, 100, 60)]
    wanted = table([a / b for a, b in zip(f, g, strict=True)])
    torch.testing.assert_close(rule.weight(torch.arange(4)), torch.tensor(wanted), atol=1e-6, rtol=1e-5)
    assert wanted[1] < 0.01 < 0.9 < wanted[0]


def test_the_ratios_behind_the_papers_weights_are_in_order():
    """The paper's own words: each weight belongs to one ratio, and more typical words weigh less on the rest."""
    weights = {"bird": 0.585, "flew": 0.810, "bear": 0.816, "animals": 0.851, "find": 0.912, "dad": 0.992}
    counts = {}
    for word, w in weights.items():  # r - 1/r = y has one positive root
        y = 4.0 + math.log((1 - w) / w)
        counts[word] = (y + math.sqrt(y * y + 4)) / 2
    forget = counted(0, *(round(1000 * r) for r in counts.values()))
    retain = counted(0, *(1000 for _ in counts))
    rule = Frequency(pseudo_forget=1e-6, pseudo_retain=1e-6).fit(forget, retain)
    found = rule.weight(torch.arange(1, 7))
    assert found.tolist() == sorted(found.tolist())
    scale = len(forget) / len(retain)
    torch.testing.assert_close(found, torch.tensor(table([r / scale for r in counts.values()])), atol=2e-3, rtol=0)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=6), st.lists(st.integers(0, 40), min_size=6, max_size=6))
def test_w_lies_between_0_and_1_and_falls_with_the_count_in_forget_text(forget, retain):
    forget = [1, *forget]
    rule = Frequency().fit(counted(*forget), counted(1, *retain), vocabulary=7)
    w = rule.weight(torch.arange(7))
    assert bool(((w >= 0) & (w <= 1)).all())
    more = Frequency().fit(counted(forget[0], forget[1] + 5, *forget[2:]), counted(1, *retain), vocabulary=7)
    assert more.weight(torch.tensor(1)) <= w[1] + 1e-6


def test_the_backward_weights_are_the_papers():
    """a_t = w + (1 - w)(-0.75) on the rest of a site, and 1 on the block, in labelled forget rows; all others learn
    plainly."""
    ids = torch.tensor([[0, 1, 2, 1], [0, 1, 2, 1]])
    counts = Frequency().fit(counted(0, 50, 10, 1), counted(500, 5, 100, 60))
    rule = Within(Column(values=["forget", "retain"]), counts)
    model = build("llama")
    router = Router(model, {"model.layers.*.mlp": {"forget": 16}}, weights={"forget": -0.75})
    soft = bind(rule, router)({"input_ids": ids, "index": torch.tensor([0, 1])})
    w = torch.cat([counts.weight(ids[0, 1:]), torch.ones(1)])
    backward = soft @ router.policy.backward
    torch.testing.assert_close(backward[0, :, 0], w * 1 + (1 - w) * (-0.75))
    assert bool((backward[0, :, 0] < 0).any())
    torch.testing.assert_close(backward[0, :, 1], torch.ones(4))
    torch.testing.assert_close(backward[1], torch.ones(4, 2))


def test_targets_are_counted_where_targets_are_meant():
    batch = {"input_ids": torch.tensor([[3, 1, 2], [3, 1, 9]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    other = torch.tensor([[0, 4]])
    big = {"pseudo_forget": 1e-3, "pseudo_retain": 1e-3}
    first = Frequency(of="target", **big).fit(batch, other)
    second = Frequency(of="input", **big).fit(batch, other)
    assert first.weight(torch.tensor([3])) > 0.5, "a row's first token is nobody's target"
    assert second.weight(torch.tensor([3])) < 0.01
    assert len(first.table) == 6, "the padding's token was not counted"


def test_tokens_beyond_the_vocabulary_count_as_never_seen():
    rule = Frequency().fit(counted(0, 5), counted(3, 4), vocabulary=5)
    assert torch.equal(rule.weight(torch.tensor([5, 4000])), rule.weight(torch.tensor([4, 4])))


def test_frequencies_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="has counted nothing yet"):
        Frequency()(torch.tensor([[1, 2]]), LABELS)
    with pytest.raises(UserError, match="the retain corpus of the rule 'frequency' holds no tokens"):
        Frequency().fit(counted(1, 2), torch.zeros(4, 1, dtype=torch.long))
    with pytest.raises(UserError, match="vocabulary is 2, but the token 2 occurs"):
        Frequency().fit(counted(1, 2, 3), counted(1, 2), vocabulary=2)
    with pytest.raises(UserError, match="both must be above 0"):
        Frequency(pseudo_retain=0)
    with pytest.raises(UserError, match="both must be finite"):
        Frequency(slope=math.inf)
    with pytest.raises(UserError, match="label and otherwise are both 'forget'"):
        Frequency("forget", "forget").fit(counted(1, 2), counted(1, 2))(torch.tensor([[1, 2]]), LABELS)


# ------------------------------------------------------------------------------ span


def test_every_token_that_a_span_touches_is_labelled(words, stories):
    found = matches(stories.items, r"tree stood|orest")
    assert found[0] == [(2, 12), (21, 26)]
    on_input = Span(stories, found, words, of="input")(stories.batch(range(4)), LABELS)
    assert "".join(spelled(words, stories, 0, on_input)) == " tree stood forest"
    assert "".join(spelled(words, stories, 1, on_input)) == " forest"
    on_target = Span(stories, found, words)(stories.batch(range(4)), LABELS)
    assert torch.equal(on_target[:, :-1], on_input[:, 1:])


def test_a_span_follows_its_row_into_any_batch(words, stories):
    rule = Span(stories, {3: [(4, 8)]}, words, of="input")
    assert rule(stories.batch([3, 2]), LABELS).tolist() == [[0, 1], [0, 0]]


def test_spans_are_found_behind_a_bos_and_in_windows_of_a_long_text(tokenizer):
    text = "the old fox sees the red plums today the fox likes plums"
    rows = encode(tokenizer, [Item("", text), Item("", text)], max_length=5)
    assert len(rows) == 6
    found = Span(rows, matches(rows.items, "fox|today"), tokenizer, of="input").inside
    for row in range(6):
        ids = rows.ids[row, : int(rows.lengths[row])].tolist()
        wanted = [i for i, token in enumerate(tokenizer.convert_ids_to_tokens(ids)) if token in ("fox", "today")]
        assert found[row].nonzero().flatten().tolist() == wanted
    assert int(found.sum()) >= 6


def test_spans_may_count_tokens(rows):
    found = Span(rows, {0: [(1, 3)]}, unit="tokens", of="input")(rows.batch([0]), LABELS)
    assert found.tolist() == [[0, 1, 1, 0, 0, 0]]


def test_spans_that_cannot_be_are_refused(words, tokenizer, stories):
    for span in [(20, 27), (-1, 3), (4, 4), (5, 2)]:
        with pytest.raises(UserError, match=rf"row 0 \('a tree.*span {span[0]} to {span[1]} is outside its 26 characters"):
            Span(stories, {0: [span]}, words)
    with pytest.raises(UserError, match="is outside its 2 tokens"):
        Span(stories, {3: [(1, 3)]}, unit="tokens")
    with pytest.raises(UserError, match="a span for row 4, but rows are 0 to 3"):
        Span(stories, {4: [(0, 1)]}, words)
    with pytest.raises(UserError, match="need a fast tokenizer"):
        Span(stories, {0: [(0, 1)]})
    with pytest.raises(UserError, match=r"row 0 .* was not encoded with this tokenizer"):
        Span(stories, {0: [(0, 1)]}, tokenizer)
    with pytest.raises(UserError, match=r"'\(' is no regular expression"):
        matches(stories.items, "(")
    with pytest.raises(UserError, match="'zebra' matches in none of the 4 texts"):
        matches(stories.items, "zebra")
    with pytest.raises(UserError, match="does not say which rows it holds"):
        Span(stories, {0: [(0, 1)]}, words)(stories.ids, LABELS)


# ------------------------------------------------------------------------------ column


def test_a_column_is_an_items_field_a_key_or_a_place(stories):
    known = {"forest": "forget", "indoors": "retain"}
    assert Column("label", known, rows=stories)(stories.batch([2, 0, 1]), LABELS).tolist() == [0, 1, 1]
    assert Column("topic", known)({"input_ids": stories.ids[:2], "topic": ["indoors", "forest"]}, LABELS).tolist() == [0, 1]
    digits = torch.tensor([7, 2, 9])
    assert Column(1, dict.fromkeys(range(5), "forget"), unknown="retain")((torch.rand(3, 4), digits), LABELS).tolist() == [0, 1, 0]
    assert Column("group")({"x": torch.rand(2, 3), "group": ["unlabelled", "forget"]}, LABELS).tolist() == [2, 1]
    assert Column(values=["forget", "retain"])(stories.batch([1, 0]), LABELS).tolist() == [0, 1]


def test_a_column_may_have_a_value_a_token():
    batch = {"input_ids": torch.tensor([[4, 5]]), "tag": [["O", "PER"]]}
    assert Column("tag", {"PER": "forget"}, unknown="retain")(batch, LABELS).tolist() == [[0, 1]]


def test_columns_that_cannot_be_are_refused(stories):
    with pytest.raises(UserError, match=r"holds 'forest', which has no label. Values that have one: 'forrest'.*unknown='retain'"):
        Column("label", {"forrest": "forget"}, rows=stories)(stories.batch([0]), LABELS)
    with pytest.raises(UserError, match=r"holds 'forest', which has no label. Values that have one: .*'forget'"):
        Column("label", rows=stories)(stories.batch([0]), LABELS)
    with pytest.raises(UserError, match=r"items have no column 'lable'. They have: .*label"):
        Column("lable", rows=stories)
    with pytest.raises(UserError, match=r"reads the column 'topci', which the batch has not. It has: .*topic"):
        Column("topci")({"topic": ["a"]}, LABELS)
    with pytest.raises(UserError, match=r"finds no column 'label' in this batch.*rows="):
        Column()(stories.batch([0]), LABELS)
    with pytest.raises(UserError, match="place 2 of a batch that has 2"):
        Column(2)((torch.rand(2, 2), torch.zeros(2)), LABELS)
    with pytest.raises(UserError, match="values for rows 0 to 1, and the batch holds row 2"):
        Column(values=["forget", "retain"])(stories.batch([2, 0]), LABELS)
    with pytest.raises(UserError, match="map is 'forget'"):
        Column("label", "forget")


# ------------------------------------------------------------------------------ callable, soft, within


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(3, dtype=torch.long), r"shape \(3,\) for a batch of \(2,\) or \(2, 5\): one a row or a token"),
        (torch.zeros(2, 4, dtype=torch.long), r"shape \(2, 4\)"),
        (torch.tensor([0, 3]), r"labels from 0 to 3; they must be 0 to 2 \(or -1\): retain, forget, unlabelled"),
        (torch.tensor([0, -2]), "labels from -2 to 0"),
        (torch.tensor([True, False]), "gave torch.bool labels"),
        (torch.rand(2), r"with 3 shares last"),
        (torch.ones(2, 3), "not 0 or more and 1 in sum"),
        (torch.full((2, 3), math.nan), "not 0 or more and 1 in sum"),
        (torch.tensor([[2.0, -1.0, 0.0]] * 2), "not 0 or more and 1 in sum"),
        (["forget", "retian"], "no label 'retian' on this router. There are: .*retain"),
        (["forget"], r"shape \(1,\)"),
        (None, "gave a NoneType"),
        ("forget", "gave a str"),
    ],
)
def test_what_a_function_returns_is_checked(answer, message):
    with pytest.raises(UserError, match=message):
        Call(lambda batch: answer)(torch.zeros(2, 5, dtype=torch.long), LABELS)


def test_a_function_gets_the_batch_as_it_is_and_may_give_anything_that_is_a_label():
    batch = {"input_ids": torch.tensor([[1, 2], [3, 4]]), "score": torch.tensor([1.0, 5.0])}
    seen = []
    rule = Call(lambda b: seen.append(b) or (b["score"] > 3).long())
    assert bind(rule, LABELS)(batch).tolist() == [0, 1]
    assert seen[0] is batch
    assert Call(lambda b: torch.tensor([[-1, 1], [2, 0]]))(batch, LABELS).tolist() == [[-1, 1], [2, 0]]
    assert Call(lambda b: ["forget", "unlabelled"])(batch, LABELS).tolist() == [1, 2]
    shares = torch.tensor([[0.5, 0.5, 0], [0, 0, 1]])
    assert torch.equal(Call(lambda b: shares)(batch, LABELS), shares)
    with pytest.raises(UserError, match="function is 3"):
        Call(3)


def test_soft_labels_are_shares_of_two_labels():
    batch = {"input_ids": torch.tensor([[1, 2], [3, 4]]), "share": [0.25, 1]}
    assert Soft()(batch, LABELS).tolist() == [[0.75, 0.25, 0], [0, 1, 0]]
    tokens = {**batch, "share": torch.tensor([[0.0, 0.5], [1.0, 0.25]])}
    found = Soft(otherwise="unlabelled")(tokens, LABELS)
    assert found.tolist() == [[[0, 0, 1], [0, 0.5, 0.5]], [[0, 1, 0], [0, 0.25, 0.75]]]


def test_soft_labels_that_are_none_are_refused():
    ids = torch.tensor([[1, 2], [3, 4]])
    with pytest.raises(UserError, match=r"row 1 has 1.5, which is no number between 0 and 1"):
        Soft()({"input_ids": ids, "share": [0.25, 1.5]}, LABELS)
    with pytest.raises(UserError, match="row 0, token 1 has nan"):
        Soft()({"input_ids": ids, "share": torch.tensor([[0, math.nan], [0, 0]])}, LABELS)
    with pytest.raises(UserError, match="not made of numbers"):
        Soft()({"input_ids": ids, "share": ["much", "little"]}, LABELS)


def test_within_labels_tokens_of_some_rows_only():
    ids = torch.tensor([[7, 1, 7], [7, 1, 7], [7, 1, 7]])
    batch = {"input_ids": ids, "group": ["forget", "retain", "unlabelled"]}
    rule = Within(Column("group"), Tokens({"forget": [7]}, of="input", otherwise="unlabelled"))
    assert rule(batch, LABELS).tolist() == [[1, 2, 1], [0, 0, 0], [2, 2, 2]]
    by_row = Within(Column("group"), Call(lambda b: ["retain"] * 3))
    assert by_row(batch, LABELS).tolist() == [0, 0, 2]
    soft = Within(Column("group"), Soft(values=torch.tensor([0.5, 0.5, 0.5])))
    found = soft({**batch, "index": torch.arange(3)}, LABELS)
    assert found.tolist() == [[0.5, 0.5, 0], [1, 0, 0], [0, 0, 1]]
    with pytest.raises(UserError, match=r"first rule of 'within' \('tokens'\) must give each row one label"):
        Within(Tokens({"forget": [7]}), Column("group"))(batch, LABELS)


# ------------------------------------------------------------------------------ probe


def test_a_threshold_decides_or_scores_are_shares():
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    rows = torch.tensor([0.5, 0.49])
    assert Probe(lambda b: rows)(ids, LABELS).tolist() == [1, 0]
    assert Probe(lambda b: rows, threshold=0.3)(ids, LABELS).tolist() == [1, 1]
    torch.testing.assert_close(Probe(lambda b: rows, soft=True)(ids, LABELS), torch.tensor([[0.5, 0.5, 0], [0.51, 0.49, 0]]))
    tokens = torch.tensor([[0.9, 0.1, 0.8], [0.1, 0.9, math.nan]])
    batch = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    assert Probe(lambda b: tokens)(batch, LABELS).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert Probe(lambda b: tokens, of="target")(batch, LABELS).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert Probe(lambda b: tokens, threshold=0.0)(batch, LABELS).tolist() == [[1, 1, 1], [1, 1, 0]]
    torch.testing.assert_close(
        Probe(lambda b: tokens, soft=True, of="target")(batch, LABELS)[..., 1], torch.tensor([[0.1, 0.8, 0], [0.9, 0, 0]])
    )


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.rand(3), r"shape \(3,\); expected \(2,\) for rows or \(2, 3\) for tokens"),
        (torch.rand(2, 1), r"shape \(2, 1\)"),
        (torch.rand(2, 3, 1), r"shape \(2, 3, 1\)"),
        (torch.tensor([0.5, math.nan]), "row 1 has nan"),
        (torch.tensor([3.0, 0.5]), "row 0 has 3, which is no number between 0 and 1.*sigmoid"),
        ([0.5, 0.5], "are a list; they must be a tensor"),
    ],
)
def test_scores_that_cannot_be_are_refused(scores, message):
    with pytest.raises(UserError, match=message):
        Probe(lambda b: scores)(torch.zeros(2, 3, dtype=torch.long), LABELS)


def test_a_threshold_that_is_no_probability_is_refused():
    for threshold in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match="must lie between 0 and 1"):
            Probe(lambda b: b, threshold=threshold)
    with pytest.raises(UserError, match=r"scores is 0.5"):
        Probe(0.5)


@pytest.fixture(scope="module")
def groups(tokenizer):
    split = arithmetic().split()
    items = [*split.forget[::3][:24], *split.retain[::3][:24]]
    return encode(tokenizer, items), torch.tensor([True] * 24 + [False] * 24)


def test_a_probe_finds_in_a_models_activations_what_it_was_fitted_on(tokenizer):
    split = arithmetic().split()
    rows = encode(tokenizer, [*split.forget[:80], *split.retain[:80]])
    forget = torch.arange(160) < 80
    some = torch.arange(160) % 2 == 0
    for architecture, module in (("llama", "model.layers.1"), ("gpt2", "transformer.h.0.mlp")):
        model = build(architecture)
        probe = fit_probe(model, rows.select(some.nonzero().flatten()), forget[some], module)
        found = Probe(probe)(rows.select((~some).nonzero().flatten()).batch(range(80)), LABELS)
        right = (found == forget[~some].long()).float().mean()
        assert probe.accuracy == 1.0
        assert right > 0.9, "multiplication and addition are told apart on rows that it has not seen"


def test_the_probe_is_the_minimum_of_its_loss(groups):
    rows, forget = groups
    model = build("llama")
    probe = fit_probe(model, rows, forget, "model.layers.0", decay=0.1)
    batch = rows.batch(range(48))
    h = activations(model, "model.layers.0", batch)
    mask = batch.attention[..., None].float()
    z = ((h * mask).sum(1) / mask.sum(1) - probe.mean) / probe.scale
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    y = forget.float()
    share = torch.where(forget, 0.5 / 24, 0.5 / 24)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(z @ weight + bias, y, reduction="none")
    ((share * losses).sum() + 0.05 * weight.square().sum()).backward()
    assert float(weight.grad.norm()) < 1e-3
    assert float(bias.grad.abs()) < 1e-3
    torch.testing.assert_close(probe(batch), torch.sigmoid(z @ probe.weight + probe.bias))


def test_a_probe_on_tokens_scores_every_token(groups, tokenizer):
    rows, _ = groups
    batch = rows.batch(range(48))
    [star] = tokenizer("*", add_special_tokens=False)["input_ids"]
    probe = fit_probe(build("llama"), rows, rows.ids == star, "model.layers.0", per="token")
    scores = probe(batch)
    assert scores.shape == batch.ids.shape
    assert probe.accuracy > 0.99
    assert torch.equal((scores > 0.5) & batch.attention, batch.ids == star)


def test_reading_leaves_the_model_as_it_was(groups, bits):
    rows, forget = groups
    model = build("gpt2").train()
    model.transformer.h[0].eval()
    before, state = bits.weights(model), torch.get_rng_state()
    probe = fit_probe(model, rows, forget, "transformer.h.1")
    first, second = probe(rows.batch([0])), probe(rows.batch([0]))
    assert torch.equal(first, second), "dropout is off"
    assert model.training
    assert not model.transformer.h[0].training
    assert model.transformer.h[1].training
    assert bits.same(bits.weights(model), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.transformer.h[1]._forward_hooks


def test_any_module_can_be_probed_through_a_forward_of_its_own():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    high = x[:, 0] > 0
    probe = fit_probe(net, (x, high), high, "1", forward=lambda model, batch: model(batch[0]))
    found = Probe(probe)((x, high), LABELS)
    assert float((found == high.long()).float().mean()) > 0.9


def test_probes_that_cannot_be_are_refused(groups):
    rows, forget = groups
    model = build("llama")
    with pytest.raises(UserError, match=r"no module 'model.layer.0'. Nearest: .*model.layers.0"):
        fit_probe(model, rows, forget, "model.layer.0")
    with pytest.raises(UserError, match="all 48 rows are not positive; a probe needs both kinds"):
        fit_probe(model, rows, ~(forget | ~forget), "model.layers.0")
    with pytest.raises(UserError, match=r"positive has shape \(3,\) for 48 rows"):
        fit_probe(model, rows, [True] * 3, "model.layers.0")
    with pytest.raises(UserError, match=r"positive has shape \(48, 2\)"):
        fit_probe(model, rows, forget[:, None].expand(48, 2), "model.layers.0", per="token")
    with pytest.raises(UserError, match="decay is 0"):
        fit_probe(model, rows, forget, "model.layers.0", decay=0)


@pytest.mark.parametrize("form", ["gate", "protect"])
def test_a_probe_on_the_model_that_is_routed_works_while_it_trains(groups, form):
    rows, forget = groups
    model = learner()
    router = Router(model, {"model.layers.*.mlp": {"forget": 16}}, form=form)
    probe = fit_probe(model, rows, forget, "model.layers.0")
    fixed = dataclasses.replace(probe, model=copy.deepcopy(model))
    before = fixed(rows.batch(range(8)))
    train_routed(model, rows, Probe(probe), router, Schedule(steps=2, lr=1e-2, batch=8))
    assert torch.equal(fixed(rows.batch(range(8))), before)
    assert not torch.equal(probe(rows.batch(range(8))), before)


# ------------------------------------------------------------------------------ routing by a rule


def test_a_rule_in_training_ends_where_labels_by_hand_end(rows, bits):
    ends = []
    for labels in (Column("fact", {"3*4": "forget"}, unknown="retain", rows=rows), ["forget", "forget", "retain", "retain", "retain"]):
        model = learner()
        router = Router(model, {"model.layers.*.mlp": {"forget": 16}}, form="protect")
        index = router.index(labels) if isinstance(labels, list) else None
        given = labels if index is None else (lambda batch, index=index: index[batch.index])
        train_routed(model, rows, given, router, Schedule(steps=3, lr=1e-3, batch=4))
        ends.append(bits.weights(model))
    assert bits.same(*ends)


def test_a_tensor_of_ids_a_mapping_and_encoded_rows_are_seen_alike(rows):
    batch = rows.batch([0, 1])
    mapping = {"input_ids": batch.ids, "attention_mask": batch.attention.long()}
    for other in (mapping, view(batch), view(mapping)):
        ids, real = view(other).tokens("x")
        assert torch.equal(ids, batch.ids)
        assert torch.equal(real, batch.attention)
    assert view(batch.ids).tokens("x")[1].all()
    rule = Tokens({"forget": [7]})
    assert torch.equal(rule(mapping, LABELS), rule(batch, LABELS))


def test_batches_that_cannot_be_labelled_are_refused():
    with pytest.raises(UserError, match=r"reads tokens, and this batch has none .*'input_ids'"):
        Tokens({"forget": [7]})(torch.rand(2, 3), LABELS)
    for batch in (3, "text", {}, ()):
        with pytest.raises(UserError, match=r"cannot label this batch|without columns"):
            bind(Tokens({"forget": [7]}), LABELS)(batch)
    with pytest.raises(UserError, match="'input_ids' is a list"):
        view({"input_ids": [[1, 2]]})
    with pytest.raises(UserError, match="of is 'both'"):
        aligned(torch.zeros(2, 2), "both", 0)


def test_a_model_in_half_precision_is_probed_in_full(groups):
    rows, forget = groups
    model = build("llama")
    full = fit_probe(model, rows, forget, "model.layers.0")
    half = fit_probe(model.to(torch.bfloat16), rows, forget, "model.layers.0")
    assert half(rows.batch(range(8))).dtype == half.weight.dtype == torch.float32
    assert float(((half(rows.batch(range(48))) > 0.5) == forget).float().mean()) == half.accuracy
    assert abs(half.accuracy - full.accuracy) < 0.05
