"""Draws docs/context.svg, from the chunk pairs of runtime/context/context_parallel.py.

    python docs/context.py docs/context.svg

Left: which rank computes which pair of chunks, and in which step of the ring. Right: whose keys
and values are where in each step.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from ringlet.comm.schedules.svg import FAINT, FONT, INK, SOFT, colour
from ringlet.runtime.context.context_parallel import chunk_pairs, chunks_needed

SIZE = 4
CELL, TOP, LEFT = 46, 142, 110
TABLE, COLUMN, ROW = LEFT + 2 * SIZE * CELL + 120, 96, 92
WIDTH, HEIGHT = TABLE + SIZE * COLUMN + 12, TOP + 2 * SIZE * CELL + 56


def text(x: float, y: float, words: str, size: int = 12, fill: str = SOFT, at: str = "") -> str:
    anchor = f' text-anchor="{at}"' if at else ""
    weight = ' font-weight="600"' if fill == INK else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}"{weight} fill="{fill}"{anchor}>{words}</text>'
    )


def chunk_of(rank: int, late: int) -> int:
    return 2 * SIZE - 1 - rank if late else rank


def rank_of(chunk: int) -> int:
    return min(chunk, 2 * SIZE - 1 - chunk)


def pairs() -> Iterator[str]:
    """The square of chunk pairs: a cell in the colour of its rank, with the step's number."""
    yield text(LEFT, TOP - 66, "Who computes what", 15, INK)
    yield text(LEFT, TOP - 47, "across: chunk of keys; down: chunk of queries; number: step")
    for chunk in range(2 * SIZE):
        middle, paint = chunk * CELL + CELL / 2 + 4, colour(rank_of(chunk))
        yield text(LEFT + middle - 4, TOP - 9, str(chunk), 13, INK, "middle")
        yield text(LEFT - 12, TOP + middle, str(chunk), 13, INK, "end")
        yield text(LEFT - 34, TOP + middle, f"rank {rank_of(chunk)}", 12, paint, "end")
    frame = f'width="{CELL}" height="{CELL}" stroke="#ffffff" stroke-width="2"'
    for chunk in range(4 * SIZE**2):
        x, y = LEFT + chunk % (2 * SIZE) * CELL, TOP + chunk // (2 * SIZE) * CELL
        yield f'<rect x="{x}" y="{y}" {frame} fill="#f1f3f6"/>'
    for rank in range(SIZE):
        for step in range(SIZE):
            owner = (rank + step) % SIZE
            for queries, keys, diagonal in chunk_pairs(rank, owner):
                x, y = LEFT + chunk_of(owner, keys) * CELL, TOP + chunk_of(rank, queries) * CELL
                yield from pair(x, y, rank, step, diagonal)


def pair(x: float, y: float, rank: int, step: int, diagonal: bool) -> Iterator[str]:
    side = CELL - 2
    corner = "" if diagonal else f"h{side}"
    down = f"l{side} {side}" if diagonal else f"v{side}"
    yield f'<path d="M{x + 1} {y + 1}{corner}{down}h-{side}z" fill="{colour(rank)}"/>'
    shift = CELL / 4 if diagonal else CELL / 2
    yield text(
        x + shift + 1, y + CELL * (0.8 if diagonal else 0.6), str(step), 13, "#fff", "middle"
    )


def blocks() -> Iterator[str]:
    """The ring: chunks of keys and values on each rank, step by step."""
    yield text(TABLE - 50, TOP - 66, "Whose keys and values are where", 15, INK)
    yield text(TABLE - 50, TOP - 47, "a late chunk goes down to rank 0 and no further")
    for rank in range(SIZE):
        x = TABLE + rank * COLUMN
        yield text(x + 32, TOP - 9, f"rank {rank}", 12, colour(rank), "middle")
        for step in range(SIZE):
            owner, y = (rank + step) % SIZE, TOP + step * ROW + 4
            for late in range(2):
                here = late < chunks_needed(rank, owner)
                yield from box(x + late * 34, y, owner, late, here)
            if step < SIZE - 1:
                yield from arrow(rank, step)
    for step in range(SIZE):
        yield text(TABLE - 50, TOP + step * ROW + 27, f"step {step}")


def box(x: float, y: float, owner: int, late: int, here: bool) -> Iterator[str]:
    frame = f'<rect x="{x}" y="{y}" width="30" height="36" rx="3"'
    if here:
        yield f'{frame} fill="{colour(owner)}"/>'
        yield text(x + 15, y + 23, str(chunk_of(owner, late)), 13, "#fff", "middle")
    else:
        yield f'{frame} fill="none" stroke="{FAINT}" stroke-dasharray="3 3"/>'


def arrow(rank: int, step: int) -> Iterator[str]:
    """The block that leaves for the rank below, in the colour of its owner."""
    owner, below = (rank + step) % SIZE, (rank - 1) % SIZE
    x, to_x = TABLE + rank * COLUMN + 32, TABLE + below * COLUMN + 32
    y, to_y = TOP + step * ROW + 44, TOP + (step + 1) * ROW - 6
    paint, bend = colour(owner), 26
    yield (
        f'<path d="M{x} {y}C{x} {y + bend} {to_x} {to_y - bend} {to_x} {to_y}" fill="none" '
        f'stroke="{paint}" stroke-width="1.6"/>'
        f'<path d="M{to_x - 3.5} {to_y}h7l-3.5 6.5z" fill="{paint}"/>'
    )


def draw() -> str:
    """The picture as the text of an SVG file."""
    note = (
        "Every rank computes two cells' worth in each step: a cell on the diagonal is half masked."
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="{FONT}">',
        "<title>Ring attention of four ranks on a zigzag split</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        text(28, 34, "Ring attention: 4 ranks, 8 chunks", 20, INK),
        *pairs(),
        *blocks(),
        text(LEFT, TOP + 2 * SIZE * CELL + 30, note),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw())
