"""`python -m scheduler` is `tutti`."""

from scheduler.cli import main

main()
