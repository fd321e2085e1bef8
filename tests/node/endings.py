"""Disks on which the process ends, or the kernel refuses, at a step that the test names."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dra_driver.disk import Disk

T = TypeVar("T")


class Ended(BaseException):
    """Stands for the end of the process: no handler of an error sees it."""


class Ends(Disk):
    """Ends before its n-th step (from 1); counts them."""

    def __init__(self, before: int = 0) -> None:
        self.before = before
        self.steps: list[str] = []

    def change(self, step: str, path: Path, act: Callable[[], T]) -> T:
        self.steps.append(step)
        if len(self.steps) == self.before:
            raise Ended
        return super().change(step, path, act)


class Refuses(Disk):
    """One kind of step fails as the kernel would say it."""

    def __init__(self, step: str, error: int) -> None:
        self.step = step
        self.error = error

    def change(self, step: str, path: Path, act: Callable[[], T]) -> T:
        if step == self.step:
            raise OSError(self.error, os.strerror(self.error))
        return super().change(step, path, act)
