"""KAI's integration tables, given as JSON (schema kai-cases/1), against `scheduler.decision.decide`.

python -m tests.conformance.kai FILE.json [--only SUBSTRING] [--why]

A line per case: `ok`, or `FAIL` and what differs. Then how many of each kind of case passed. `--only`: the cases whose
id or name contains this; `--why`: below each, what was decided. Exit code 1 if any failed, 2 if the call is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path, PurePosixPath

from tests.conformance.kai_cases import Case, Unreadable, read
from tests.conformance.kai_course import Course
from tests.conformance.kai_course import run as go


def run(path: Path, *, only: str = "", why: bool = False) -> tuple[int, int]:
    """Run the cases of the file, a line each; (passed, failed). Ends the program with 2 if the file is none of such."""
    passed, failed = Counter[str](), Counter[str]()
    try:
        for name, case in read(path):
            if only not in name and not (isinstance(case, Case) and only in case.name):
                continue
            course = Course(problems=[case]) if isinstance(case, str) else go(case)
            kind = "unreadable" if isinstance(case, str) else _kind(case)
            (failed if course.problems else passed)[kind] += 1
            print(_line(name, course))
            if why:
                print(*(f"       {line}" for line in course.told), sep="\n")
    except Unreadable as problem:
        print(problem, file=sys.stderr)
        raise SystemExit(2) from problem
    for kind in sorted(passed | failed):
        print(f"{kind}: {passed[kind]} of {passed[kind] + failed[kind]}")
    return passed.total(), failed.total()


def _line(name: str, course: Course) -> str:
    if course.problems:
        return f"FAIL {name}: {'; '.join(course.problems)}"
    notes = "; ".join(course.notes)
    return f"ok   {name}{f' ({notes})' if notes else ''}"


def _kind(case: Case) -> str:
    """What the case is counted under: the folder that it comes from, else its actions; and whether it goes on."""
    of = PurePosixPath(case.source).parent.name or "+".join(case.run.actions)
    return f"{of}, in rounds" if case.run.mode == "rounds" else of


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.kai", description="Runs KAI's scheduling cases.")
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="cases whose id or name contains this")
    parser.add_argument("--why", action="store_true", help="print what was decided")
    asked = parser.parse_args(arguments)
    if not asked.file.is_file():
        print(f"{asked.file}: no such file; name a JSON file of conformance cases", file=sys.stderr)
        return 2
    passed, failed = run(asked.file, only=asked.only, why=asked.why)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
