"""python -m tests.conformance {cel|dra|fairshare|kai} FILE.json: peers' cases against our code.

Prints a line per case and, last, `N passed, M failed`; the exit code is 1 when any failed, 2 when the call is wrong.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

SUITES = ("cel", "dra", "fairshare", "kai")


def main(arguments: list[str]) -> int:
    """Runs the suite named first on the file named second."""
    if len(arguments) != 2 or arguments[0] not in SUITES:
        print(f"usage: python -m tests.conformance {{{'|'.join(SUITES)}}} FILE.json", file=sys.stderr)
        return 2
    name, file = arguments[0], Path(arguments[1])
    if not file.is_file():
        print(f"{file}: no such file; name a JSON file of conformance cases", file=sys.stderr)
        return 2
    passed, failed = importlib.import_module(f"tests.conformance.{name}").run(file)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
