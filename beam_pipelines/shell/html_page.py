"""The HTML pages of commands: one file each, no script, nothing loaded from anywhere."""

from collections.abc import Sequence
from html import escape


def html_page(title: str, body: str, style: str = "", *, heading: str | None = None, notice: str = "") -> str:
    """Puts a self-contained page together.

    Its content security policy lets a browser run no script and load nothing, whatever `body` says.

    Args:
        title: of the window, plain text.
        body: HTML below the heading. Whoever makes it escapes the texts in it.
        style: CSS on top of that of all pages, which it may override.
        heading: plain text, `title` by default.
        notice: plain text about the data, shown first; may be empty.
    """
    banner = f'<p class="notice"><strong>Notice:</strong> {escape(notice)}</p>\n' if notice else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<main>
<h1>{escape(title if heading is None else heading)}</h1>
{banner}{body}
</main>
</body>
</html>
"""


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text that scrolls where it is too wide.

    Args:
        rows: cells; those of the first row and the first cell of each row are headings.
    """
    head, *body = rows
    header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for label, *cells in body
    )
    return f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table></div>'


_STYLE = """
:root { color-scheme: light; --ink: #1d2330; --muted: #626b7c; --line: #dde1e8; --paper: #fff; --ground: #f4f5f8; }
* { box-sizing: border-box; }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 auto;
  padding: 20px; max-width: 1240px; overflow-wrap: anywhere; }
h1 { font-size: 22px; margin: 0 0 12px; } h2 { font-size: 18px; margin: 28px 0 4px; }
.notice { background: #fff4d6; color: #3d3000; border: 1px solid #e8cf8b; border-radius: 8px; padding: 8px 12px; }
.legend { margin: 0 0 12px; color: var(--muted); max-width: 100ch; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: 3px 12px; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; padding-left: 0; } tbody th { font-weight: normal; color: var(--muted); }
ol { list-style: none; margin: 0; padding: 0; }
@media (max-width: 700px) { body { padding: 10px; } th, td { padding: 3px 6px; } }
"""
