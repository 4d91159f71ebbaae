"""An HTML page as a test sees it."""

from html.parser import HTMLParser

VOID = {"meta", "line", "circle", "polyline", "rect", "br", "img"}


class Page(HTMLParser):
    """A parsed page: its text, attributes, and whether every element is closed where it should be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.open, self.attributes, self.words = source, [], [], []
        self.tables, self.charts = [], 0
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.charts += tag == "svg"
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "br":
            self.handle_data(" ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
