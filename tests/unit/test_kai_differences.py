"""The page on differences from KAI names the cases that come out differently, and the decision for each."""

import os
import re
from pathlib import Path

from tests.conformance import kai_course
from tests.conformance.kai_cases import Case, read

ROOT = Path(__file__).parents[2]
CASES = os.environ.get("TUTTI_KAI_CASES", "")
ROW = re.compile(r"^\| `(?P<case>[^`]+)` \| [^|]+ \| [^|]+ \| (?P<decision>\d+) \|$", re.M)


def told() -> list[tuple[str, str]]:
    """The rows of the page: case and decision."""
    found = ROW.findall((ROOT / "docs/contributor/kai-differences.md").read_text())
    return [(case, decision) for case, decision in found]


def test_every_case_is_named_once_with_a_decision_that_exists():
    cases = [case for case, _ in told()]
    assert cases
    assert len(set(cases)) == len(cases)
    taken = set(re.findall(r"^## (\d+)\. ", (ROOT / "DECISIONS.md").read_text(), re.M))
    assert {decision for _, decision in told()} <= taken


if CASES:

    def test_the_cases_named_are_those_that_fail():
        """KAI's cases are not in the repository."""
        cases = read(Path(CASES))
        failing = {name for name, case in cases if not isinstance(case, Case) or kai_course.run(case).problems}
        assert {case for case, _ in told()} == failing
