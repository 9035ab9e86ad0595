"""Chat templates: what a prompt becomes, on whatever day, and where the answer begins."""

import logging

import pytest

from sluicegate.engine.encoding import chat, encode, fill_template, rendering, visible
from sluicegate.engine.models import load_tokenizer
from sluicegate.errors import UserError
from sluicegate.values.items import Item

BODY = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>%s{% endif %}"
PLAIN = BODY.replace("%s", "")
DATE = "Today: {{ strftime_now('%d %b %Y %H:%M') }}, {{ strftime_now(format='%A') if false else strftime_now('%-d %B') }}. " + PLAIN
KNOWS = BODY.replace(
    "%s", "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"
)
OPEN = BODY.replace("%s", "<think>\n")
OTHER = BODY.replace("%s", "[THINK]")
PARTS = "{% for m in messages %}<{{ m.role }}>{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}<assistant>"
EITHER = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}parts{% endif %}{% endfor %}<assistant>"


@pytest.fixture
def own():
    """A tokenizer of one's own, to put a template on."""
    return load_tokenizer("arithmetic-tiny")


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (PLAIN, "<user>1 + 1 =<assistant>"),
        (DATE, "Today: 26 Jul 2024 00:00, 26 July. <user>1 + 1 =<assistant>"),
        (KNOWS, "<user>1 + 1 =<assistant><think>\n\n</think>\n\n"),
        (OPEN, "<user>1 + 1 =<assistant><think>\n\n</think>\n\n"),
        (OTHER, "<user>1 + 1 =<assistant>[THINK]\n\n[/THINK]\n\n"),
        (PARTS, "<user>1 + 1 =<assistant>"),
        (EITHER, "1 + 1 =<assistant>"),
    ],
)
def test_a_prompt_is_rendered_with_its_words_a_fixed_date_and_no_open_thought(own, template, wanted):
    own.chat_template = template
    assert chat(own, "1 + 1 =") == wanted
    assert chat(own, " 1 + 1 =\n").replace(" 1 + 1 =\n", "1 + 1 =") == wanted
    # A run of before is found again only where its prompts were these.
    assert bool(rendering(own)) == (template not in (PLAIN, EITHER))


@pytest.mark.parametrize(
    ("template", "said"),
    [(PLAIN, []), (KNOWS, ["enable_thinking=False"]), (OPEN, ["leaves <think> open"]), (DATE, ["for 2024-07-26"])],
)
def test_what_was_decided_is_said_once(own, template, said, caplog):
    caplog.set_level(logging.INFO, "sluicegate.rows")
    own.chat_template = template
    for _ in range(2):
        chat(own, "1 + 1 =")
    assert len(caplog.messages) == len(said)
    assert all(words in message for words, message in zip(said, caplog.messages, strict=True))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}<{{ m.role }}>{% endfor %}<assistant>", "drops the prompt"),
        ("{{ raise_exception('roles must alternate') }}", "fails: roles must alternate"),
        ("{% for m in messages %}{{ m.content + 1 }}{% endfor %}", "chat template fails"),
        ("{% for m in messages %}", "chat template fails"),
        ("{% for m in messages %}{{ m.content | replace('=', 'is') }}{% endfor %}<assistant>", "changes the prompt '1 \\+ 1 ='"),
    ],
)
def test_a_template_that_loses_the_prompt_or_fails_is_refused_in_one_line(own, template, said):
    own.chat_template = template
    with pytest.raises(UserError, match=said) as error:
        encode(own, [Item("1 + 1 =", " 2")], template=True)
    assert "\n" not in str(error.value)


def test_the_answer_begins_behind_the_closed_thought(own):
    own.chat_template = "{{ bos_token }}{% for m in messages %} ann {{ m.content }}{% endfor %} now<think>"
    rows = encode(own, [Item("3 * 4 =", " 12")], template=True)
    assert visible(own, rows).endswith("│ 12")


# ------------------------------------------------------------------------------------------- what a template is told

TURNS = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
TURNS += "{% if add_generation_prompt %}<assistant>{% endif %}"
STYLE = "{% if style is defined %}[{{ style }}]{% endif %}" + TURNS


def test_the_system_turn_stands_in_front_and_belongs_to_the_identity(own):
    own.chat_template = TURNS
    plain = chat(own, "1 + 1 =")
    fill_template(own, system="Be brief.")
    assert chat(own, "1 + 1 =") == plain.replace("<user>", "<system>Be brief.<end>\n<user>")
    assert chat(own, turns=[{"role": "system", "content": "ann"}, {"role": "user", "content": "x"}]).startswith("<bos><system>ann<end>")
    assert rendering(own)
    fill_template(own)
    assert chat(own, "1 + 1 =") == plain
    assert not rendering(own)


def test_several_turns_are_one_prompt(own):
    own.chat_template = TURNS
    turns = [{"role": "user", "content": "3 * 4 ="}, {"role": "assistant", "content": "12"}, {"role": "user", "content": "1 + 1 ="}]
    assert chat(own, turns=turns) == "<bos><user>3 * 4 =<end>\n<assistant>12<end>\n<user>1 + 1 =<end>\n<assistant>"


def test_a_templates_variables_are_typed_and_known(own):
    own.chat_template = STYLE
    fill_template(own, args="style=[1,2]")
    assert chat(own, "x").startswith("[[1, 2]]")
    fill_template(own, args='style={"a": 1, "b": true}')
    assert chat(own, "x").startswith("[{'a': 1, 'b': True}]")
    fill_template(own, args={"style": "short"})
    first = rendering(own)
    fill_template(own, args="style=plain words")
    assert chat(own, "x").startswith("[plain words]")
    assert rendering(own) not in ("", first)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("styl=1", r"sets 'styl', which this chat template does not mention\. It asks for: style\."),
        ("messages=1", "sets 'messages', which"),
        ("style", "is 'style'; expected key=value"),
        ("a-b=1", "expected key=value"),
    ],
)
def test_a_variable_that_changes_nothing_is_refused(own, args, said):
    own.chat_template = STYLE
    with pytest.raises(UserError, match=said):
        fill_template(own, args=args)


def test_thinking_that_is_asked_for_is_not_turned_off(own, caplog):
    own.chat_template = KNOWS
    fill_template(own, args="enable_thinking=true")
    assert chat(own, "1 + 1 =") == "<user>1 + 1 =<assistant><think>\n\n</think>\n\n"  # open, so that it is closed
    assert not any("enable_thinking=False" in text for text in caplog.messages)


@pytest.mark.parametrize(("behind", "shown"), [("<end>\n", "12 <end>"), (" <end>", "12 <end>")])
def test_the_token_that_ends_the_turn_belongs_to_the_answer_where_asked(own, behind, shown):
    own.add_special_tokens({"eos_token": "<end>"})
    own.chat_template = "{% for m in messages %}{{ m.content }}" + behind + "{% endfor %}{% if add_generation_prompt %} now {% endif %}"
    item = [Item("3 * 4 =", " 12")]
    assert visible(own, encode(own, item, template=True)).endswith("│ 12")
    before = rendering(own)
    fill_template(own, end_of_turn=True)
    assert visible(own, encode(own, item, template=True)).endswith(f"│ {shown}")
    assert encode(own, item).ids[0, -1] != own.eos_token_id  # without the template nothing is added
    assert rendering(own) != before


def test_a_template_without_such_a_token_or_a_system_turn_says_so(own):
    own.chat_template = TURNS  # whose <end> is no token here
    fill_template(own, end_of_turn=True)
    with pytest.raises(UserError, match=r"ends an answer with no token of its own\. Leave --end-of-turn out"):
        encode(own, [Item("3 * 4 =", " 12")], template=True)
    own.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no such role') }}{% endif %}" + PLAIN
    fill_template(own, system="Be brief.")
    with pytest.raises(UserError, match=r"fails: no such role\. Leave --system out"):
        chat(own, "1 + 1 =")
    own.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}<assistant>"
    with pytest.raises(UserError, match=r"changes the prompt 'Be brief\.'.*Leave --system out"):
        chat(own, "1 + 1 =")


def test_a_chat_of_several_turns_is_rendered_turn_by_turn_and_else_joined(own):
    own.chat_template = "{{ bos_token }}{% for m in messages %} {{ 'ann' if m.role == 'user' else 'bo' }} {{ m.content }}{% endfor %} now "
    turns = (("user", "1 + 1 ="), ("assistant", "2"), ("user", "3 * 4 ="))
    item = Item("1 + 1 = 2 3 * 4 =", " 12", turns=turns)
    assert visible(own, encode(own, [item], template=True)) == "<bos> ann 1 + 1 = bo 2 ann 3 * 4 = now │ 12"
    assert visible(own, encode(own, [item])) == visible(own, encode(own, [Item(item.prompt, item.answer)]))
    own.chat_template = "{% for m in messages %}{{ m.content if loop.last else '' }}{% endfor %}"
    with pytest.raises(UserError, match=r"changes the prompt '1 \+ 1 ='"):
        encode(own, [item], template=True)
