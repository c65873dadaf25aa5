"""How near an answer to a request is to what was wanted: by this, dampings, lengths and steps are chosen."""

import torch

from unlearning.language.session import Rows, Session
from unlearning.language.training import objective

LOOKED_AT = 100  # rows of each kind, at most
SAFE = 1.01  # times the loss on unseen rows before: an answer that costs more is taken only where all do


class Aim:
    """How far the session's adapter is from what a request wants, less being better; it is asked again as it changes.

    After a removal, rows that were trained on should be to the adapter what rows are that it has never seen. Rows differ in
    how hard they are, so each side is set against itself: the loss on the removed rows should have risen by as much as
    the loss on unseen rows lies above that on the rows that stay. After other requests the loss on unseen rows should be
    least.
    """

    def __init__(self, session: Session, before: Rows, after: Rows) -> None:
        self.session = session
        self.unseen = session.validation[:LOOKED_AT]
        self.asked = [] if after else list(before[:LOOKED_AT])
        if not self.unseen:
            return
        names = {row.name for row in before}
        stay = [row for row in session.rows if row is not None and row.name not in names][:LOOKED_AT]
        self.start = self._mean(self.unseen)
        if self.asked:
            above = max(0.0, self.start - self._mean(stay)) if stay else 0.0
            self.wanted = self._mean(self.asked) + above

    def __bool__(self) -> bool:
        """False where there are no unseen rows to say anything."""
        return bool(self.unseen)

    def __call__(self) -> tuple[bool, float]:
        """(True where the loss on unseen rows has risen by more than SAFE allows, the distance)."""
        loss = self._mean(self.unseen)
        if not self.asked:
            return False, loss
        return loss > SAFE * self.start, abs(self._mean(self.asked) - self.wanted)

    def _mean(self, rows: Rows) -> float:
        with torch.no_grad():
            return self.session.losses_of(rows).mean().item()


class Rest:
    """The training objective on the rows as a request leaves them, less being better, for an adapter that is at rest: what
    Retrain minimises. A step that is too long for the quadratic that it comes from raises it."""

    asked: Rows = ()  # the formula's own length is right there

    def __init__(self, session: Session, before: Rows, after: Rows) -> None:
        self.session, self.before, self.after = session, before, after

    def __call__(self) -> tuple[bool, float]:
        """(False, the objective in nats)."""
        session, n = self.session, len(self.session.rows)
        part = objective(session, sum(row is not None for row in session.rows))
        with torch.no_grad():
            found = sum(part(batch).item() for batch in session.batches(session.rows))
            for sign, rows in ((-1, self.before), (1, self.after)):
                found += sign * sum(session.losses(batch).sum().item() / n for batch in session.batches(rows))
        return False, found
