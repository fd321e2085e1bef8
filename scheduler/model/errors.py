"""The one exception of the core: something that cannot be, was."""


class InvariantError(Exception):
    """Ours: a defect of the scheduler. The service stops loudly rather than act on a plan that cannot be right."""
