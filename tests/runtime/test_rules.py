"""The rules of what can be combined: the documentation has the table that is enforced."""

from pathlib import Path

from ringlet.runtime.rules import RULES, table

DOCUMENT = Path(__file__).parents[2] / "docs/reference/combinations.md"


def test_the_table_in_the_documentation_is_the_one_that_is_enforced():
    assert table() in DOCUMENT.read_text(), f"put what runtime.rules.table() returns in {DOCUMENT}"


def test_every_rule_says_what_and_why():
    for name, rule in RULES.items():
        what, _, why = rule.row.partition(" | ")
        assert what and why, name
