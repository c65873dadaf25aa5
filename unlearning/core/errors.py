"""The two ways a run ends early: the user can mend it (exit code 2), or the run itself failed (exit code 1)."""


class UserError(Exception):
    """A mistake that the user can mend; its text is one line that names it and the way out."""


class RunFailed(Exception):
    """A run that started well and cannot go on, such as a loss that became NaN."""
