"""Structural schemas of custom resources: pruning, defaults, validation."""

from __future__ import annotations

from typing import Protocol

from scheduler.devcluster.errors import FieldError
from scheduler.devcluster.lists import Lists
from scheduler.devcluster.objects import Obj


class Schema(Protocol):
    """What a custom resource's definition says about its objects."""

    lists: Lists

    def shaped(self, obj: Obj) -> Obj:
        """Unknown fields removed, defaults filled in."""
        ...

    def faults(self, obj: Obj) -> list[FieldError]:
        """What is wrong with it."""
        ...
