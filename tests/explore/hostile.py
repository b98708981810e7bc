"""Texts that try to break a page, and a parser of what became of them."""

from __future__ import annotations

from html.parser import HTMLParser

TEXTS = {
    "empty": "",
    "one token": "a",
    "script": "</script><script>alert('x')</script> <b onclick=\"x\">&amp;\u2028\u2029",
    "right to left": "في قديم الزمان שלום",
    "emoji and marks": "👩‍👩‍👧 e\u0301 \u0301 🏳️‍🌈 \x00\x07\u202eabc\u202c",
    "white space": "  \n\n\t \r\n x ",
    "many scripts": "猫 мир हिन्दी ไทย 한국어",
}


class Page(HTMLParser):
    """Every element with its attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._inside = "", ""
        self.blocks: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in self.blocks else self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.blocks[self._inside].append(data)
        else:
            self.text += data
