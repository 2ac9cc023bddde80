"""Tables as markdown and as LaTeX."""

from __future__ import annotations

import html

from .tables import Table


def escape_markdown(text: str) -> str:
    """Escape text from outside for Markdown: no tags, links, code or line breaks."""
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{char}" if char in "\\|[]`" else char for char in text)


def format_markdown(table: Table) -> str:
    """Format a table as Markdown under its title, with its note."""
    head = list(table.head)
    if table.groups:  # markdown has no spans: the group goes into the head
        titles = [title for title, width in table.groups for _ in range(width)]
        head = [f"{title}: {name}" if title else name for title, name in zip(titles, head, strict=True)]
    rows = [
        [f"**{escape_markdown(c.text)}**" if c.bold else escape_markdown(c.text) for c in row] for row in table.rows
    ]
    grid = [[escape_markdown(name) for name in head], ["---"] * len(head), *rows]
    return "\n".join(
        [
            f"## {escape_markdown(table.title)}",
            "",
            *(f"| {' | '.join(row)} |" for row in grid),
            "",
            escape_markdown(table.note),
            "",
        ]
    )


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--",
}  # fmt: skip


def format_latex(table: Table) -> str:
    """Format a table as a booktabs table."""

    def escape(text: str) -> str:
        return "".join(LATEX.get(char, char) for char in text)

    above = []
    if table.groups:
        above.append(" & ".join(rf"\multicolumn{{{width}}}{{c}}{{{escape(t)}}}" for t, width in table.groups) + r" \\")
        first = 1
        for title, width in table.groups:
            above += [rf"\cmidrule(lr){{{first}-{first + width - 1}}}"] if title else []
            first += width
    rows = [
        " & ".join(rf"\textbf{{{escape(c.text)}}}" if c.bold else escape(c.text) for c in row) + r" \\"
        for row in table.rows
    ]
    return "\n".join(
        [
            r"\begin{table}[t]", r"\centering", rf"\caption{{{escape(f'{table.title}. {table.note}')}}}",
            rf"\begin{{tabular}}{{l{'c' * (len(table.head) - 1)}}}", r"\toprule", *above,
            " & ".join(map(escape, table.head)) + r" \\", r"\midrule", *rows, r"\bottomrule", r"\end{tabular}",
            r"\end{table}", "",
        ]
    )  # fmt: skip
