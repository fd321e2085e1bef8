"""`python -m tests.perf NAME [options] [--json]`: a benchmark; prints figures, asserts nothing."""

import argparse
import json
import sys

from tests.perf import dra, fill, prepare, publish, restart, room, takeover, versus

BENCHMARKS = {
    "consolidate": room.CONSOLIDATE,
    "dra": dra,
    "fill": fill,
    "preempt": room.PREEMPT,
    "prepare": prepare,
    "publish": publish,
    "reclaim": room.RECLAIM,
    "restart": restart,
    "takeover": takeover,
    "versus": versus,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.perf", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    choices = parser.add_subparsers(dest="name", required=True)
    for name, module in BENCHMARKS.items():
        options = choices.add_parser(name, help=(module.__doc__ or "").partition("\n")[0])
        options.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        module.add_options(options)
    options = parser.parse_args()
    figures = BENCHMARKS[options.name].run(options)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        for line in _lines(figures):
            print(line)
    sys.stdout.flush()


def _lines(figures: dict[str, object], indent: str = "") -> list[str]:
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines


if __name__ == "__main__":
    main()
