"""A counter that moves while a process makes progress, whatever it is that it does."""

_steps = 0


def beat() -> None:
    """A step of training, a batch of an evaluation, or the like, is done."""
    global _steps
    _steps += 1


def beats() -> int:
    """How many there were in this process."""
    return _steps
