"""An SVG of validation loss over seconds: a panel for each link, a line for each way."""

from ringlet.comm.schedules import svg
from ringlet.comm.schedules.lines import WIDTH, Line, panel


def picture(panels, target):
    """`panels`: {title: {way: [(seconds, loss), ...]}}; the target is a dashed line. A time axis
    ends soon after plain sums are done."""
    parts, height = [], 0.0
    for number, (title, ways) in enumerate(panels.items()):
        right = 1.15 * ways["plain"][-1][0]
        inside = {
            way: [(s, loss) for s, loss in points if s <= right] for way, points in ways.items()
        }
        lines = [Line(way, *zip(*points, strict=True)) for way, points in inside.items() if points]
        drawn, height = panel(title, lines, "seconds", target=target)
        place = svg.number(number * WIDTH)
        parts += [f'<g transform="translate({place})">', *drawn, "</g>"]
    return svg.document("validation loss over seconds", len(panels) * WIDTH, height, parts)
