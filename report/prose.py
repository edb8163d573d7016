"""Markdown of the notebooks → HTML: formulas become MathML here, citations become links, nothing is left to JavaScript.

Both Markdown cells and computed prose (`display(Markdown(...))`) pass through `Prose`.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any

from math_core import LatexError, LatexToMathML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from bibliography import Bibliography
from errors import BuildError

if TYPE_CHECKING:
    from mistune import InlineParser, InlineState

LABEL = re.compile(r"\\label\{([^}]*)\}")
# [@key], [@key; @other] and with a place in it: [@key, Eq. 7]
ONE_CITATION = r"@[\w:.-]*\w(?:,[^\[\];@]*)?"
CITATION = rf"\[(?P<citation_body>{ONE_CITATION}(?:\s*;\s*{ONE_CITATION})*)\]"
# numbered environments of LaTeX, and what they hold once our own number stands beside them
INNER_ENVIRONMENT = {"equation": None, "align": "aligned", "gather": "gathered"}
BAR = '<mo stretchy="false">¯</mo>'

_converter = LatexToMathML(fancy_error=False)


def mathml(tex: str, display: bool, where: str) -> str:
    """TeX → one <math> element; TeX that cannot be converted stops the build."""
    try:
        # the class lets the style sheet lift a bar, which fonts set so low that ᾱ reads as α
        return _converter.convert_with_local_state(tex, displaystyle=display).replace(BAR, f'<mo class="bar"{BAR[3:]}')
    except LatexError as error:
        # the message starts with the character's offset, which says little without the source beside it
        reason = re.sub(r"^\d+:\s*", "", str(error)) or "cannot be converted"
        raise BuildError(f"{where}: formula ${tex.strip()}$: {reason}") from None


class Prose(IPythonRenderer):
    """nbconvert's own Markdown renderer with formulas and citations done at build time."""

    def __init__(self, where: str, bibliography: Bibliography, attachments: dict | None = None, computed: bool = False):
        super().__init__(
            escape=computed, allow_harmful_protocols=False, exclude_anchor_links=True, attachments=attachments or {}
        )
        self.where = where
        self.bibliography = bibliography

    def inline_math(self, body: str) -> str:
        """$…$"""
        return mathml(body, display=False, where=self.where)

    def block_math(self, body: str) -> str:
        r"""$$…$$, numbered where it carries a \label."""
        labels = LABEL.findall(body)
        if len(labels) > 1:
            raise BuildError(f"{self.where}: formula ${body.strip()}$: expected one \\label, found {len(labels)}")
        identity = f' id="{escape(labels[0])}"' if labels else ""
        # a span, because Markdown puts this into a paragraph, where a block element would end the paragraph
        return f'<span class="equation"{identity}>{mathml(LABEL.sub("", body), True, self.where)}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        r"""\begin{align}…\end{align} outside dollars."""
        inner = INNER_ENVIRONMENT.get(name.rstrip("*"), name)
        label = "".join(f"\\label{{{found}}}" for found in LABEL.findall(body))
        body = LABEL.sub("", body)
        return self.block_math((body if inner is None else f"\\begin{{{inner}}}{body}\\end{{{inner}}}") + label)

    def citation(self, body: str) -> str:
        """(Ulyanov et al. 2018; Ho et al. 2020, Eq. 7), each a link into the list of references."""
        return f'<span class="citation">({"; ".join(self._one_citation(part) for part in body.split(";"))})</span>'

    def _one_citation(self, part: str) -> str:
        key, _, place = part.strip().lstrip("@").partition(",")
        reference = self.bibliography.cite(key, self.where)
        place = f", {escape(place.strip())}" if place.strip() else ""
        return f'<a href="#ref-{key}" title="{escape(reference.text)}">{escape(reference.label)}</a>{place}'


def _parse_citation(_inline: InlineParser, match: re.Match, state: InlineState) -> int:
    state.append_token({"type": "citation", "raw": match.group("citation_body")})
    return match.end()


def to_html(
    source: str,
    where: str,
    bibliography: Bibliography,
    attachments: dict[str, Any] | None = None,
    computed: bool = False,
) -> str:
    """Render one piece of Markdown; `where` names it in errors.

    computed: the text holds values, a file's name perhaps: HTML in it is shown as it is written
    """
    markdown = MarkdownWithMath(renderer=Prose(where, bibliography, attachments, computed))
    markdown.inline.register("citation", CITATION, _parse_citation, before="link")
    return markdown.render(source)
