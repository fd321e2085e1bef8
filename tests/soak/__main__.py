"""`python -m tests.soak --seeds 0-199 --seconds 60 --at-once 4`: clusters that live under faults, one per seed.

Gangs arrive, end and fail; nodes, pools, devices and schedulers come and go; the API server has bad days. At every
version of every claim no device may be held twice; no gang may be bound in part for more than 30 s; when all is over,
every Job must have ended and no claim may hold a device. The exit code tells whether it was so for all seeds. A seed
repeats its course, though not its timing to the millisecond.
"""

import argparse
import json
import multiprocessing
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.soak.course import soak


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seeds", default="0-9", help="FIRST-LAST, or one number")
    parser.add_argument("--seconds", type=float, default=60, help="how long each lives under faults")
    parser.add_argument("--at-once", type=int, default=2, help="clusters at a time, a process each")
    parser.add_argument("--real", action="store_true", help="on a real control plane each (make real builds it)")
    parser.add_argument("--tell", action="store_true", help="print what happened in each, event by event")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    bad: list[int] = []
    total: Counter[str] = Counter()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.at_once, mp_context=spawn, max_tasks_per_child=1) as pool:
        running = {pool.submit(soak, seed, options.seconds, real=options.real): seed for seed in seeds}
        for done in as_completed(running):
            seed, report = running[done], done.result()
            told = report.pop("told")
            print(f"seed {seed}: {json.dumps(report)}", flush=True)
            if report["problems"]:
                bad.append(seed)
            if options.tell or report["problems"]:
                print("\n".join(f"    {line}" for line in told), flush=True)
            total.update({name: value for name, value in report.items() if isinstance(value, int)})
    print(f"{len(seeds)} seeds, {len(bad)} with problems: {sorted(bad)}; {json.dumps(total)}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
