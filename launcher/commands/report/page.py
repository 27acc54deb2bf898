"""A page of sections: HTML that needs nothing from elsewhere, on any screen and on paper."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from ringlet.comm.schedules import svg

STYLE = """
@media screen{:root{color-scheme:light dark}}
:root{--ink:INK;--soft:SOFT;--faint:FAINT;--shade:EMPTY;--paper:PAPER}
@media screen and (prefers-color-scheme:dark){:root{DARK}REPAINT}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 FONT}
header,main,footer{max-width:1320px;margin:0 auto;padding:0 20px}
h1{font-size:1.6rem;margin:1.2rem 0 .2rem}h2{font-size:1.3rem;margin:2.2rem 0 .4rem}
h3{font-size:1.05rem;margin:1.6rem 0 .4rem}h1,h2,h3,p,td,li{overflow-wrap:anywhere}
p,li{max-width:48rem;margin:.4rem 0}.note,figcaption,caption{color:var(--soft)}a{color:inherit}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:16px}
figure{margin:0}figcaption{font-size:.85rem}
.charts svg{width:100%;height:auto;max-width:520px;display:block}
.wide{overflow-x:auto;margin:.6rem 0}.wide svg{display:block}
:focus-visible{outline:2px solid var(--ink);outline-offset:2px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
caption{text-align:left;font-size:.85rem;padding:.2rem 0}
th,td{text-align:left;padding:.25rem 1rem .25rem 0;border-bottom:1px solid var(--faint);
vertical-align:top;font-weight:400}thead th{font-weight:600;white-space:nowrap}
td.n,th.n{text-align:right}td.n,th{white-space:nowrap}
pre{background:var(--shade);border:1px solid var(--faint);padding:.6rem;overflow-x:auto;
font-size:.8rem;line-height:1.4}
.failed{border-left:5px solid var(--ink);padding-left:.8rem}
@media print{body{font-size:10pt}.wide,pre{overflow:visible}.wide svg{max-width:100%;height:auto}
.charts{grid-template-columns:1fr 1fr}pre{white-space:pre-wrap}
figure,tr{break-inside:avoid}h2,h3{break-after:avoid}}
"""


def page(title: str, facts: str, sections: Iterable[str]) -> str:
    """The whole file."""
    names = ("INK", "SOFT", "FAINT", "EMPTY", "PAPER")
    style, dark = STYLE, ""
    for name, variable in zip(names, ("ink", "soft", "faint", "shade", "paper"), strict=True):
        light = getattr(svg, name)
        style = style.replace(f":{name}", f":{light}")
        dark += f"--{variable}:{svg.DARK[light]};"
    style = style.replace("DARK", dark).replace("REPAINT", svg.dark_rules())
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{style.replace('FONT', svg.FONT)}</style>\n</head>\n<body>",
            f'<header><h1>{escape(title)}</h1><p class="note">{escape(facts)}</p></header>\n<main>',
            *sections,
            "</main>\n</body>\n</html>\n",
        )
    )


def section(heading: str, *parts: str, level: int = 3) -> str:
    """A part of the page; nothing if it has no content."""
    content = "\n".join(filter(None, parts))
    return f"<section>\n<h{level}>{escape(heading)}</h{level}>\n{content}\n</section>" * bool(
        content
    )


def paragraph(words: str, kind: str = "") -> str:
    """Words as they are."""
    return f"<p{f' class={kind}' if kind else ''}>{escape(words)}</p>"


def charts(pictures: Iterable[str]) -> str:
    """Pictures side by side, as many as there is room for."""
    found = [f"<figure>{_inline(each)}</figure>" for each in pictures]
    return f'<div class="charts">\n{chr(10).join(found)}\n</div>' if found else ""


_numbers = iter(range(1 << 62))


def wide(picture: str, words: str) -> str:
    """A picture that keeps its size, within what can be scrolled; `words` say what it shows."""
    return _scrolled(f"<figure>{_inline(picture)}</figure>", words)


def table(words: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a caption; the first cell of each row names it. Numbers stand right."""
    rows = [list(row) for row in rows]
    right = [
        n > 0 and all(re.match(r"[\d.,-]+( |$)|$", row[n]) for row in rows)
        for n in range(len(head))
    ]
    kinds = [' class="n"' if each else "" for each in right]
    cells = [
        f'<th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{k}>{escape(c)}</td>" for k, c in zip(kinds[1:], row[1:], strict=True))
        for row in rows
    ]
    heads = (
        f'<th scope="col"{k}>{escape(c)}</th>' if c else "<td></td>"
        for k, c in zip(kinds, head, strict=True)
    )
    top = f"<thead><tr>{''.join(heads)}</tr></thead>" if any(head) else ""
    body = "\n".join(f"<tr>{row}</tr>" for row in cells)
    return _scrolled(
        f"<table><caption>{escape(words)}</caption>{top}\n<tbody>\n{body}\n</tbody></table>", words
    ) * bool(rows)


def pre(words: str, text: str) -> str:
    """Text as it was printed, that can be scrolled."""
    return f'<pre tabindex="0" role="group" aria-label="{escape(words)}">{escape(text)}</pre>'


def _scrolled(content: str, words: str) -> str:
    label = f'tabindex="0" role="group" aria-label="{escape(words)}"'
    return f'<div class="wide" {label}>{content}</div>'


def _inline(picture: str) -> str:
    """An SVG file's text as a part of a page: named, its patterns its own, without its style."""
    title = re.search(r"<title>(.*?)</title>", picture, re.DOTALL)
    name = title[1] if title else ""
    text = re.sub(r"<(style|title)>.*?</\1>\s*", "", picture, flags=re.DOTALL)
    number = next(_numbers)
    text = re.sub(r'(id="|url\(#)k', rf"\1p{number}k", text)
    label = name.replace('"', "&quot;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()
