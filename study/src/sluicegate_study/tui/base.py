"""The frame of both full-screen programs: a page that scrolls, one line to type in, one line of keys.

It needs the keyboard alone, and 40 columns.
"""

from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from sluicegate_study.formatting import escape_controls

Line = tuple[str, str]
"""A text and its style: a role below, or nothing."""
ROLES = {"": "", "dim": "dim", "good": "$text-success", "bad": "$text-error", "ask": "$text-warning", "strong": "bold"}


def assemble_content(*parts: Line | str) -> Content:
    """Texts one after another, each as it is: control characters written out, nothing read as markup."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Content.assemble(*((escape_controls(text), ROLES[role]) for text, role in pairs))


class Program(App[None]):
    """The frame. A program fills it in `show`, handles `typed` and `pressed`, and ends by ctrl+c or ctrl+q wherever it
    is."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    #head { height: auto; padding: 0 1; background: $panel; color: $foreground; }
    #page { height: 1fr; padding: 1 1 0 1; scrollbar-size-vertical: 1; }
    #page Static { height: auto; margin-bottom: 1; max-width: 100; }
    #clock { height: 1; padding: 0 1; color: $text-warning; }
    #typed { border: round $primary; }
    #typed:focus { border: round $primary; }
    #keys { height: auto; padding: 0 1; background: $panel; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "end", "end", priority=True),
        Binding("ctrl+q", "end", "end", priority=True),
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "move(-10)", show=False),
        Binding("pagedown", "move(10)", show=False),
    ]
    PARTS: ClassVar[tuple[str, ...]] = ()
    """The names of what stands on the page, from above."""

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        with VerticalScroll(id="page", can_focus=False):
            for name in self.PARTS:
                yield Static(id=name, markup=False)
        yield Static(id="clock", markup=False)
        yield Input(id="typed", max_length=400)
        yield Static(id="keys", markup=False)

    def on_mount(self) -> None:
        self.show()

    def show(self) -> None:
        """Show what there is now."""
        raise NotImplementedError

    def typed(self, text: str) -> None:
        """A line was typed and sent."""

    def pressed(self, key: str) -> None:
        """A key was pressed while nothing is being typed."""

    def put(self, name: str, *parts: Line | str) -> None:
        """Fill one of the parts; without a text it takes no room."""
        part = self.query_one(f"#{name}", Static)
        part.display = any((pair if isinstance(pair, str) else pair[0]) for pair in parts)
        part.update(assemble_content(*parts))

    def ask(self, hint: str | None, keys: str) -> None:
        """Open the line to type in, with a hint in it; None: close it. `keys` says what can be pressed."""
        line = self.query_one("#typed", Input)
        if hint is None:
            self.set_focus(None)
        elif not line.display or line.placeholder != hint:
            line.value = ""
        line.display = hint is not None
        if hint is not None:
            line.placeholder = hint
            line.focus()
        self.put("keys", keys)

    @property
    def typing(self) -> bool:
        """Whether the line to type in is open."""
        return bool(self.query_one("#typed", Input).display)

    @property
    def line(self) -> str:
        """What is being typed."""
        return self.query_one("#typed", Input).value

    def top(self) -> None:
        """Go to the top of the page."""
        self.query_one("#page", VerticalScroll).scroll_home(animate=False)

    def end_of_page(self) -> None:
        """Go to the end of the page, where the last words are."""
        self.query_one("#page", VerticalScroll).scroll_end(animate=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.input.value = ""
        self.typed(event.value)

    def on_key(self, event: object) -> None:
        key = getattr(event, "key", "")
        if not self.typing and isinstance(key, str):
            self.pressed(key)

    def action_move(self, lines: int) -> None:
        self.query_one("#page", VerticalScroll).scroll_relative(y=lines, animate=False)

    def action_end(self) -> None:
        self.exit()
