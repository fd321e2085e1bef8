"""`python -m dra_driver`."""

from dra_driver.cli import main

main()
