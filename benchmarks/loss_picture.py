"""An SVG of validation loss over seconds: a panel for each link, a line for each way."""

COLOURS = ("#222222", "#8c8c8c", "#1f77b4", "#17a2b8", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd")
WIDTH, HEIGHT, LEFT, TOP, GAP = 400, 260, 48, 34, 60


def picture(panels, target):
    """`panels`: {title: {way: [(seconds, loss), ...]}}; the target is a dashed line."""
    names = list(next(iter(panels.values())))
    total = LEFT + len(panels) * (WIDTH + GAP) + 110
    body = [panel(x, *item, target) for x, item in zip(range(99), panels.items(), strict=False)]
    for number, name in enumerate(names):
        x, y = total - 150, TOP + 14 + 20 * number
        body.append(
            f'<path d="M{x} {y}h22" stroke="{COLOURS[number]}" stroke-width="2.5"/>'
            f'<text x="{x + 28}" y="{y + 4}">{name}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{HEIGHT + TOP + 50}" '
        'font-family="sans-serif" font-size="12" fill="#222">'
        '<rect width="100%" height="100%" fill="white"/>' + "\n".join(body) + "</svg>\n"
    )


def panel(place, title, ways, target):
    """One link. Its time axis ends soon after plain sums are done."""
    x0, right = LEFT + place * (WIDTH + GAP), 1.15 * ways["plain"][-1][0]
    losses = [loss for points in ways.values() for _, loss in points]
    low, high = min(target, *losses) - 0.1, max(losses)

    def x(seconds):
        return x0 + WIDTH * seconds / right

    def y(loss):
        return TOP + HEIGHT * (high - loss) / (high - low)

    parts = [f'<text x="{x0}" y="{TOP - 14}" font-size="14" font-weight="bold">{title}</text>']
    parts.append(f'<path d="M{x0} {TOP}v{HEIGHT}h{WIDTH}" fill="none" stroke="#888"/>')
    for second in ticks(right):
        parts.append(
            f'<path d="M{x(second):.1f} {TOP + HEIGHT}v5" stroke="#888"/>'
            f'<text text-anchor="middle" x="{x(second):.1f}" y="{TOP + HEIGHT + 18}">'
            f"{second:g} s</text>"
        )
    for loss in range(int(low) + 1, int(high) + 1):
        parts.append(f'<text text-anchor="end" x="{x0 - 6}" y="{y(loss) + 4:.1f}">{loss}</text>')
    parts.append(f'<path d="M{x0} {y(target):.1f}h{WIDTH}" stroke="#888" stroke-dasharray="4 3"/>')
    for colour, points in zip(COLOURS, ways.values(), strict=False):
        inside = [(s, loss) for s, loss in points if s <= right]
        line = "L".join(f"{x(s):.1f} {y(loss):.1f}" for s, loss in inside)
        parts.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    return "\n".join(parts)


def ticks(right):
    """About five round numbers from 0 up to the end."""
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if right / s <= 6)
    return [step * number for number in range(int(right / step) + 1)]
