import json
import pickle
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from sluicegate.engine import models
from sluicegate.engine.encoding import encode, visible
from sluicegate.engine.models import load, load_tokenizer, locate, save
from sluicegate.errors import UserError
from sluicegate.values.items import Item


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    save(tiny, tokenizer, tmp_path / "model")
    return tmp_path / "model"


class Burglar:
    def __init__(self, loot):
        self.loot = loot

    def __reduce__(self):
        return (open, (str(self.loot), "w"))


def test_pickled_weights_are_refused_and_not_opened(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    loot = tmp_path / "loot"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Burglar(loot)}))
    with pytest.raises(UserError, match=r"pytorch_model\.bin, a pickle, which can run code"):
        load(str(folder))
    assert not loot.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())["lm_head.weight"].close()
    assert loot.exists(), "the pickle was not dangerous, so the test proved nothing"


def test_a_pickle_beside_safetensors_is_not_opened(folder, tmp_path):
    loot = tmp_path / "loot"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Burglar(loot)))
    load(str(folder))
    assert not loot.exists()


def test_code_in_a_model_folder_is_not_run(folder, tmp_path):
    loot = tmp_path / "loot"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "burglar", "auto_map": {"AutoConfig": "burglar.Config", "AutoModelForCausalLM": "burglar.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "burglar.py").write_text(f"open({str(loot)!r}, 'w')")
    with pytest.raises(UserError, match="could not load"):
        load(str(folder))
    assert not loot.exists()


def test_a_folder_without_tokenizer_says_so(folder):
    for path in folder.glob("token*"):
        path.unlink()
    with pytest.raises(UserError, match=r"no tokenizer \(no tokenizer\.json"):
        load(str(folder))


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(UserError, match=r"no model 'arithmetic-tinny'.*Nearest: arithmetic-tiny"):
        load("arithmetic-tinny")


def test_a_folder_that_holds_no_model(tmp_path):
    with pytest.raises(UserError, match="holds no model"):
        locate(str(tmp_path))
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(UserError, match=r"is not finished.*it resumes"):
        locate(str(tmp_path))


def test_damaged_weights_are_a_users_error(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="could not load the model"):
        load(str(folder))


def test_a_run_folder_stands_for_its_model(folder):
    assert locate(str(folder.parent)) == str(folder)


def test_loading_and_drawing_leave_the_callers_generator_alone():
    before = torch.get_rng_state()
    load("arithmetic-tiny", seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fresh_model_is_drawn_from_its_seed(bits):
    first, again, other = (bits.weights(load("arithmetic-tiny", seed=seed)[0]) for seed in (1, 1, 2))
    assert bits.same(first, again)
    assert not bits.same(first, other)


def test_a_failed_save_leaves_the_old_model_whole(folder, tiny, tokenizer, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        tiny.lm_head.weight.zero_()
    monkeypatch.setattr(type(tokenizer), "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        save(tiny, tokenizer, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_saved_folder_can_be_read_by_whoever_could_read_its_parent(folder):
    other = folder.parent / "other"
    other.mkdir()
    assert folder.stat().st_mode == other.stat().st_mode


def test_the_digest_is_of_the_content_and_not_of_the_place(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    digest = models.model_digest(str(folder))
    assert models.model_digest(str(moved)) == digest
    for path in sorted(moved.glob("*")):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert models.model_digest(str(moved)) != digest, path.name
        path.write_bytes(content)


# ------------------------------------------------------------------------------------------ encoding


def test_rows_of_the_task_have_one_bos_and_their_answer_behind_the_bar(tokenizer):
    rows = encode(tokenizer, [Item("3 * 4 =", " 12"), Item("", "the old fox")])
    assert visible(tokenizer, rows, 0) == "<bos> 3 * 4 = │ 12"
    assert visible(tokenizer, rows, 1) == "<bos> │ the old fox"
    batch = rows.batch([0, 1])
    assert batch.answer.tolist() == [[False, False, False, False, True], [True, True, True, False, False]]
    assert batch.real.tolist() == [[True] * 5, [True] * 3 + [False] * 2]


def test_a_text_that_brings_its_own_bos_does_not_get_another(tokenizer):
    rows = encode(tokenizer, [Item("<bos> 3 * 4 =", " 12")])
    assert visible(tokenizer, rows) == "<bos> 3 * 4 = │ 12"


def test_an_answer_outside_the_vocabulary_is_named(tokenizer):
    with pytest.raises(UserError, match=r"row 2 \('3 \* 4 = 1234'\).*cannot represent the answer ' 1234'"):
        encode(tokenizer, [Item("3 * 4 =", " 12"), Item("3 * 4 =", " 1234")])
    encode(tokenizer, [Item("unheard of =", " 12")])  # only what is to be learnt has to be representable


def test_a_row_that_is_too_long_is_named_and_not_cut(tokenizer):
    items = [Item("3 * 4 =", " 12")]
    assert len(encode(tokenizer, items, max_length=6)) == 1
    with pytest.raises(UserError, match=r"row 1 .*6 tokens, more than the 5 allowed.*--max-length"):
        encode(tokenizer, items, max_length=5)


@pytest.mark.parametrize("length", [1, 0, -1])
def test_a_length_without_room_for_a_prediction_is_refused(tokenizer, length):
    with pytest.raises(UserError, match=f"max-length is {length}"):
        encode(tokenizer, [Item("", "the old fox")], max_length=length)


def test_nothing_to_encode_and_nothing_to_predict(tokenizer):
    with pytest.raises(UserError, match="no rows to encode"):
        encode(tokenizer, [])
    with pytest.raises(UserError, match=r"row 1 .*no token to predict"):
        encode(tokenizer, [Item("3 * 4 =", "  ")])


@given(words=st.integers(2, 40), size=st.integers(2, 12))
def test_windows_of_a_long_text_predict_every_token_once(words, size):
    tokenizer = load_tokenizer("arithmetic-tiny")
    text = " ".join(str(n) for n in range(words))
    rows = encode(tokenizer, [Item("", text)], max_length=size)
    batch = rows.batch(range(len(rows)))
    predicted = batch.ids[:, 1:][batch.answer].tolist()
    assert tokenizer.convert_ids_to_tokens(predicted) == [str(n) for n in range(words)]
    assert batch.ids.shape[1] <= size
    assert torch.equal(batch.answer, batch.real)


TEMPLATE = "{{ bos_token }}{% for m in messages %} ann {{ m.content }}{% endfor %}{% if add_generation_prompt %} now{% endif %}"


def test_the_chat_template_puts_the_answer_at_the_start_of_the_reply():
    tokenizer = load_tokenizer("arithmetic-tiny")  # its own: the template is put on it
    tokenizer.chat_template = TEMPLATE + " "
    rows = encode(tokenizer, [Item("3 * 4 =", " 12"), Item("", "the old fox")], template=True)
    assert visible(tokenizer, rows, 0) == "<bos> ann 3 * 4 = now │ 12"
    assert visible(tokenizer, rows, 1) == "<bos> │ the old fox"


def test_a_template_that_is_not_there_is_refused(tokenizer):
    with pytest.raises(UserError, match="no chat template"):
        encode(tokenizer, [Item("a", "b")], template=True)


def byte_level():
    """A byte-level tokenizer that merges nothing, has no BOS, and puts a blank in front of nothing."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "=Ġ"])}
    inner = Tokenizer(BPE(vocabulary, [("=", "Ġ")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def test_a_tokenizer_without_bos_gets_none():
    rows = encode(byte_level(), [Item("ab", "cd"), Item("", "ef")])
    assert rows.lengths.tolist() == [4, 2]
    assert rows.starts.tolist() == [2, 0]
    assert rows.batch([0, 1]).answer.tolist() == [[False, True, True], [True, False, False]]


def test_a_token_across_the_border_belongs_to_the_answer():
    rows = encode(byte_level(), [Item("a=", " b"), Item("é", "ü")])
    assert visible(byte_level(), rows, 0) == "a │ =Ġ b"
    assert int(rows.starts[1]) == 2  # two bytes of prompt


def test_a_batch_splits_into_parts_whose_losses_add_up(tokenizer, mixed_items):
    batch = encode(tokenizer, mixed_items).batch(range(5))
    for parts in (1, 2, 3, 5):
        pieces = batch.split(parts)
        assert torch.equal(torch.cat([p.ids for p in pieces]), batch.ids)
        assert torch.equal(torch.cat([p.index for p in pieces]), batch.index)
        for what in ("rows", "real", "answer", "attention"):
            assert {p.total(what) for p in pieces} == {batch.total(what)}
        assert {p.total("real") for piece in pieces for p in piece.split(2)} == {batch.total("real")}
    assert batch.total("rows") == 5
    assert batch.total("real") == float(batch.real.sum())


def test_selected_rows_keep_their_items(tokenizer, mixed_items):
    rows = encode(tokenizer, mixed_items)
    chosen = rows.select([3, 1])
    assert chosen.items == (mixed_items[3], mixed_items[1])
    assert visible(tokenizer, chosen, 1) == visible(tokenizer, rows, 1)
    assert [b.index.tolist() for b in rows.everything(2)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("prefix", ["module.", "_fsdp_wrapped_module.", ""])
def test_weights_that_are_missing_are_not_drawn_at_random(folder, prefix):
    own = load_file(folder / "model.safetensors")
    left = {prefix + name: value for name, value in own.items() if prefix or "norm" not in name}
    save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks \d+ of the model's weights") as caught:
        load(str(folder))
    assert (f"Its names have '{prefix}' in front: it was saved inside" in str(caught.value)) == bool(prefix)


def test_a_checkpoint_divided_among_processes_is_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "shards").mkdir()
    (folder / "shards" / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(UserError, match=r"divided among processes \(__0_0\.distcp\)\. Put it together first"):
        load(str(folder))
