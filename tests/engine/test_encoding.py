"""Chat templates: what a prompt becomes, on whatever day, and where the answer begins."""

import logging

import pytest

from sluicegate.engine.encoding import chat, encode, rendering, visible
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


def test_a_chat_of_several_turns_is_rendered_turn_by_turn_and_else_joined(own):
    own.chat_template = "{{ bos_token }}{% for m in messages %} {{ 'ann' if m.role == 'user' else 'bo' }} {{ m.content }}{% endfor %} now "
    turns = (("user", "1 + 1 ="), ("assistant", "2"), ("user", "3 * 4 ="))
    item = Item("1 + 1 = 2 3 * 4 =", " 12", turns=turns)
    assert visible(own, encode(own, [item], template=True)) == "<bos> ann 1 + 1 = bo 2 ann 3 * 4 = now │ 12"
    assert visible(own, encode(own, [item])) == visible(own, encode(own, [Item(item.prompt, item.answer)]))
    own.chat_template = "{% for m in messages %}{{ m.content if loop.last else '' }}{% endfor %}"
    with pytest.raises(UserError, match=r"changes the prompt '1 \+ 1 ='"):
        encode(own, [item], template=True)
