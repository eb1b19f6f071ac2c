"""A report as Markdown, and the same as one HTML file that holds its pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

from markdown_it import MarkdownIt

_STYLE = """
body { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; color: #1c2430; }
body { font: 15px/1.55 system-ui, sans-serif; }
h1 { font-size: 26px; } h2 { font-size: 19px; margin-top: 34px; } img { max-width: 100%; }
blockquote { border-left: 3px solid #c23b3b; margin: 12px 0; padding: 2px 14px; background: #fbf3f2; }
table { border-collapse: collapse; font-size: 12.5px; display: block; overflow-x: auto; }
th, td { padding: 4px 10px; border: 1px solid #e1e6ec; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { background: #f4f6f8; } code, pre { font: 12.5px/1.5 ui-monospace, Menlo, Consolas, monospace; }
pre { background: #f4f6f8; padding: 10px 12px; overflow-x: auto; }
"""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], n_text: int = 1) -> str:
    """Return a Markdown table whose first `n_text` columns are text, and the rest numbers."""
    rule = ["---" if number < n_text else "---:" for number in range(len(columns))]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (columns, rule, *rows))


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def to_html(text: str, title: str, pictures: Mapping[str, str]) -> str:
    """Return a page of Markdown `text` with its pictures inside.

    Args:
        pictures: name of the file, as `text` links it, -> SVG.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for name, svg in pictures.items():
        data = base64.b64encode(svg.encode()).decode()
        body = body.replace(f'src="{html.escape(name)}"', f'src="data:image/svg+xml;base64,{data}"')
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}</body></html>\n'
