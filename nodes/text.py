"""Text, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from rmbus.media import Frame
from rmbus.node import Node
from rmbus.nodes.asking import asked


class TextProcessor(Node):
    """Takes `{"text": ..., "operations": [...]}` and gives `{"text", "operations", "results", "processed_by"}`.

    `results` has what each operation makes of the text, by its name: `uppercase`, `lowercase`, `reverse`, `word_count`,
    `char_count`, `title_case`, `remove_spaces`, `first_word`, `last_word`. Each is applied to the text as it came. An
    operation that there is not is named in its place: "Unknown operation: shout". A text without words has "" as its
    first and last word. `processed_by` is the name of the node.

    Other input is a ValueError, raised as such also where the node runs elsewhere: "Input must be a dictionary", "Input
    must contain 'text' and 'operations' keys", "'text' must be a string", "'operations' must be a list of names".
    """

    deterministic = True

    def process(self, frame: Frame) -> dict[str, Any]:
        """Return the results, with what was asked."""
        request = asked(frame, ("text", "operations"))
        text, operations = request["text"], request["operations"]
        if not isinstance(text, str):
            raise ValueError("'text' must be a string")
        if not isinstance(operations, list | tuple):
            raise ValueError("'operations' must be a list of names")
        names = cast("list[object]", operations)
        if not all(isinstance(name, str) for name in names):
            raise ValueError("'operations' must be a list of names")
        return {
            "text": text,
            "operations": operations,
            "results": {name: _result(cast(str, name), text) for name in names},
            "processed_by": self.name,
        }


def _result(operation: str, text: str) -> object:
    function = _OPERATIONS.get(operation)
    return f"Unknown operation: {operation}" if function is None else function(text)


def _words(text: str) -> list[str]:
    return text.split() or [""]


_OPERATIONS: Final[dict[str, Callable[[str], object]]] = {
    "uppercase": str.upper,
    "lowercase": str.lower,
    "reverse": lambda text: text[::-1],
    "word_count": lambda text: len(text.split()),
    "char_count": len,
    "title_case": str.title,
    "remove_spaces": lambda text: text.replace(" ", ""),
    "first_word": lambda text: _words(text)[0],
    "last_word": lambda text: _words(text)[-1],
}
