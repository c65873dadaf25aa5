"""The ways a run ends early: the user can mend it (exit code 2), the run itself failed (1), or it was told to (143)."""


class UserError(Exception):
    """A mistake that the user can mend; its text is one line that names it and the way out."""


class RunFailed(Exception):
    """A run that started well and cannot go on, such as a loss that became NaN."""


class Diverged(RunFailed):
    """A training whose loss is no longer finite."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which a cluster ends a job: what is half written is cleared up as after Ctrl-C."""
