"""A page taken apart: its elements, attributes and texts, as browsers build them."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input", "base", "embed"}


@dataclass(frozen=True)
class Node:
    """An element, and the texts inside it, those of its children too."""

    tag: str
    attributes: dict[str, str]
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


class Page(HTMLParser):
    """All elements of a page, in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self._open: list[Node] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.nodes.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.nodes.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for node in self._open:
            node.texts.append(data)

    def all(self, tag: str, kind: str = "") -> list[Node]:
        """The elements of a tag, of those only the ones of a class where one is given."""
        kinds = {kind} if kind else set()
        return [
            node
            for node in self.nodes
            if node.tag == tag and kinds <= set(node.attributes.get("class", "").split())
        ]

    def one(self, tag: str, kind: str = "") -> Node:
        (node,) = self.all(tag, kind)
        return node
