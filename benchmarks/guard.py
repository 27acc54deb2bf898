"""What became slower since the last record of this kind of machine: benchmarks/table.py in short.

    PEERS=$(bash benchmarks/peers/setup.sh)              # once; makes the peers' environment
    python benchmarks/table.py --short --record benchmarks/records       # once for a machine
    python benchmarks/guard.py --peers "$PEERS"          # five minutes on an idle machine

Ratios to the peers are compared, not times. Machines are noisy: a part in which something fell by
more than a tenth is measured four more times, and the median of all counts. What has fallen then is
printed, and the exit code is 1.
"""

import json
import statistics
import sys
from pathlib import Path

from table import HERE, Part, chosen_parts, measure, parser_of, processor, record_of

LOSS = 0.1
MORE = 4
"""Rounds of a part in which something fell, after the first."""


def fallen(part: Part, before: dict[str, float]) -> dict[str, float]:
    """The rows of a part whose ratio has fallen, and to what: the median of all rounds."""
    ratios: dict[str, list[float]] = {}
    slower: dict[str, float] = {}
    for rounds in (1, MORE):
        for name, row in measure({part.title: part}, rounds, short=True).items():
            ratios.setdefault(name, []).extend(row.ratios)
        medians = {name: statistics.median(each) for name, each in ratios.items()}
        slower = {
            name: ratio
            for name, ratio in medians.items()
            if ratio < (1 - LOSS) * before.get(name, 0.0)
        }
        if not slower:
            break
    return slower


def main() -> int:
    """Measure, compare, print."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--records", type=Path, default=HERE / "records", help="default: %(default)s"
    )
    given = parser.parse_args()
    parts = chosen_parts(parser, given)
    file = record_of(given.records)
    if not file.exists():
        parser.error(f"no record of {processor()}: run table.py --short --record {given.records}")
    before = json.loads(file.read_text())
    slower = {}
    for part in parts.values():
        slower |= fallen(part, before)
    for name, ratio in slower.items():
        print(f"{name}: {ratio:.2f}, was {before[name]:.2f}")
    print(f"{len(slower)} ratios fell by more than {LOSS:.0%}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
