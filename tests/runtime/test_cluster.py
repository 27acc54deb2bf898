"""Descriptions of clusters: read, written, and refused in one line that names the key."""

import tomllib
from pathlib import Path

import pytest

from ringlet.runtime import ClusterError, load_cluster
from ringlet.runtime.planning.cluster import parse_cluster, shipped

TEXT = """
name = "two hosts"
devices = 2
hosts = 2

[device]
memory = 16e9
bandwidth = 1e10
efficiency = [[0, 0.5], [1e9, 0.9]]
peak = {float32 = 1e12}

[[device.operators]]
name = "linear"
shape = [4, 8, 16]
seconds = 1e-6

[[links]]
ranks = 2
latency = 1e-6
bandwidth = 1e10

[[links]]
ranks = 4
latency = 1e-5
bandwidth = 1e9
sharing = 2

[links.factors]
all_gather = [[1000, 2], [100000, 1.5]]

[slowdown]
neighbours = [[2, 1.2]]

[failures]
device_hours = 50000
"""

BAD = [
    ("bandwidth = 1e9", "bandwidth = -3", "links[1].bandwidth is -3; it must be above 0"),
    ("bandwidth = 1e9", "", "links[1].bandwidth is missing"),
    ("bandwidth = 1e9", "bandwidht = 1e9", "bandwidht is unknown; did you mean bandwidth?"),
    ("bandwidth = 1e9", 'bandwidth = "fast"', "links[1].bandwidth is 'fast'; it must be a number"),
    ("bandwidth = 1e9", "bandwidth = nan", "links[1].bandwidth is nan; it must be above 0"),
    ("bandwidth = 1e9", "bandwidth = inf", "links[1].bandwidth is inf; it must be above 0"),
    ("latency = 1e-6", "latency = -1", "links[0].latency is -1; it must be 0 or more"),
    ("ranks = 2", "ranks = 3", "links[1].ranks is 4; it must be a multiple of the tier below, 3"),
    ("ranks = 4", "ranks = 2", "links[1].ranks is 2; it must be a multiple of the tier below, 2"),
    ("hosts = 2", "hosts = 4", "links[1].ranks is 4; the outermost tier must reach all 8 devices"),
    ("hosts = 2", "hosts = 2.5", "hosts is 2.5; it must be a whole number of at least 1"),
    ("hosts = 2", "hosts = 0", "hosts is 0; it must be a whole number of at least 1"),
    ("devices = 2", "devices = true", "devices is True; it must be a whole number of at least 1"),
    ("devices = 2", "devices = 3", "links[1].ranks is 4; the outermost tier must reach all 6"),
    ("sharing = 2", "sharing = 3", "links[1].sharing is 3; it must divide ranks, 4"),
    ("sharing = 2", "oversubscription = 0.5", "oversubscription is 0.5; it must be 1 or more"),
    ("sharing = 2", "memory = true", "links[1].memory is true; hosts of 2 share none"),
    ("sharing = 2", "duplex = 1", "links[1].duplex is 1; it must be true or false"),
    ("memory = 16e9", "", "device.memory is missing"),
    ("[device]", "[devise]", "devise is unknown; did you mean device?"),
    ("peak = {float32 = 1e12}", "peak = {}", "device.peak is {}; it must be a table of FLOP/s"),
    ("peak = {float32 = 1e12}", "peak = {float32 = 0}", "device.peak is {'float32': 0}"),
    ("[1e9, 0.9]", "[1e9, 1.5]", "device.efficiency"),
    ("[1e9, 0.9]", "[0, 0.9]", "device.efficiency"),
    ("[1e9, 0.9]", f"[0x{'f' * 5000}, 0.9]", "device.efficiency is a very long"),
    ("memory = 16e9", f"memory = [0x{'f' * 5000}]", "device.memory is a very long"),
    ("[[0, 0.5], ", "[", "device.efficiency must begin with a row from 0 FLOPs"),
    ("shape = [4, 8, 16]", "shape = [4, 0]", "device.operators[0].shape must be whole numbers"),
    ("seconds = 1e-6", "seconds = 0", "device.operators[0].seconds is 0; it must be above 0"),
    ("device_hours = 50000", "device_hours = 0", "failures.device_hours is 0; it must be above 0"),
    ("[1000, 2]", "[0, 2]", "links[1].factors is {'all_gather': ((0, 2), "),
    ("[1000, 2]", "[1000, 0]", "links[1].factors is {'all_gather': ((1000, 0), "),
    ("[[1000, 2], [100000, 1.5]]", "3", "links[1].factors is {'all_gather': 3}; it must be tables"),
    ("[failures]", "[failure]", "failure is unknown; did you mean failures?"),
    ('name = "two hosts"', 'algorithms = "all_reduce=rign"', "algorithms: RINGLET_ALGORITHM"),
    ("devices = 2", "devices = 2\nlinks = 3", None),
    ("[[2, 1.2]]", "[[2, 1.2], [1, 1.1]]", "slowdown.neighbours"),
]  # fmt: skip


def test_a_description_survives_being_written():
    made = parse_cluster(tomllib.loads(TEXT))
    assert parse_cluster(tomllib.loads(str(made))) == made


def test_the_example_of_the_documentation_is_whole():
    page = (Path(__file__).parents[2] / "docs/reference/clusters.md").read_text()
    example = page.partition("```toml\n")[2].partition("```")[0]
    assert parse_cluster(tomllib.loads(example)).ranks == 64


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_description_is_whole(name):
    made = load_cluster(name)
    assert parse_cluster(tomllib.loads(str(made))) == made


def test_collectives_take_so_much_longer_than_their_formula_as_was_measured():
    tier = parse_cluster(tomllib.loads(TEXT)).links[1]
    sizes = 10, 1000, 10_000, 1e9
    assert [tier.factor("all_gather", n) for n in sizes] == pytest.approx([2, 2, 1.75, 1.5])
    assert tier.factor("all_reduce", 1000) == 1


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_a_bad_figure_is_named(tmp_path, old, new, message):
    file = tmp_path / "bad.toml"
    file.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(ClusterError) as caught:
        load_cluster(file)
    assert "\n" not in str(caught.value)
    assert (message or "is not TOML") in str(caught.value)


def test_a_missing_file_or_name_is_named(tmp_path):
    with pytest.raises(ClusterError, match=r"cannot read .*none\.toml: No such file"):
        load_cluster(tmp_path / "none.toml")
    with pytest.raises(ClusterError, match=r"there is no cluster moon; there are .*selene"):
        load_cluster("moon")
    with pytest.raises(ClusterError, match="Is a directory"):
        load_cluster(tmp_path)


def test_an_operator_twice_is_refused():
    entry = TEXT.partition("[[device.operators]]")[2].partition("[[links]]")[0]
    with pytest.raises(ClusterError, match=r"device.operators has linear of \[4, 8, 16\] twice"):
        parse_cluster(tomllib.loads(TEXT + "[[device.operators]]" + entry))
