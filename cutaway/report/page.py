"""The page: title, facts, sections of words and figures, rendered to one self-contained HTML text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
from markupsafe import Markup

from cutaway.report.svg import tag

VERSION = "1"  # of the page's layout


@dataclass(frozen=True)
class Figure:
    """A picture or table: its title, its body, and one sentence that says what to look for.

    On a wide screen it takes one of two columns; `wide` takes both, `tall` has two figures beside it.
    """

    title: str
    caption: str
    body: Markup
    wide: bool = False
    tall: bool = False


@dataclass(frozen=True)
class Section:
    """A chapter of the page.

    Args:
        id: the anchor.
        title: the heading.
        words: paragraphs computed from the results.
        figures: what is shown.
        missing: sentences that say what is absent and why.
        failed: whether `missing` reports an error.
        extra: markup after the figures (details).
    """

    id: str
    title: str
    words: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    missing: Sequence[str] = ()
    failed: bool = False
    extra: Markup | str = ""


@dataclass(frozen=True)
class Page:
    """Everything the template shows; `facts` are (value, label) pairs."""

    title: str
    lede: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    footer: str = ""


def render(page: Page) -> str:
    """Render the page to HTML; text is escaped, markup made by the figures is not.

    >>> text = render(Page("A < B", "words", [("1", "fact")], [Section("s", "Title", ["One."])]))
    >>> "A &lt; B" in text and "http" not in text
    True
    """
    folder = resources.files("cutaway.report") / "templates"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["bind"] = bind
    template = environment.from_string((folder / "report.html").read_text("utf-8"))
    css = Markup((folder / "report.css").read_text("utf-8"))
    return template.render(page=page, css=css, version=VERSION)


def bind(text: str) -> str:
    """Keep a number and the unit after it on one line.

    >>> bind("98.3 % of 360, 95 %")
    '98.3\\xa0% of 360, 95\\xa0%'
    """
    return re.sub(r"(?<=\d) (?=%|±|s\b|min\b|k\b|M\b|G\b|points\b)|(?<=±) (?=\d)", "\u00a0", text)


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[object]],
    numeric: Sequence[int] = (),
    total: bool = False,
    class_: str = "",
) -> Markup:
    """Make a table; the columns `numeric` are aligned right, and the last row stands out when it is a total."""

    def cell(kind: str, column: int, content: object) -> Markup:
        return tag(kind, content, class_="n" if column in numeric else None)

    head = tag("thead", tag("tr", *(cell("th", i, text) for i, text in enumerate(heads)))) if any(heads) else ""
    body = [
        tag(
            "tr",
            *(cell("td", i, one) for i, one in enumerate(row)),
            class_="total" if total and row is rows[-1] else None,
        )
        for row in rows
    ]
    return tag("table", head, tag("tbody", *body), class_=class_ or None)
