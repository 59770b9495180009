"""Questions of many requests answered together: as many at once as the latency target allows, and no endless queue."""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

from injerto.bank.bank import AdapterBank
from injerto.bank.questions import Answer, Question
from injerto.basics.errors import InjertoError

LARGEST = 256
"""Questions in one batch, at most."""


class Full(InjertoError):
    """The queue is as long as it may be.

    Attributes:
        seconds: After which it is likely to have room.
    """

    def __init__(self, seconds: float) -> None:
        """Say when to come again.

        Args:
            seconds: Expected wait.
        """
        self.seconds = max(1, math.ceil(seconds))
        super().__init__(f"too many requests are waiting; try again in {self.seconds} s")


class Closed(InjertoError):
    """The server is going down."""


class Batcher:
    """A thread that asks a bank: whatever waits is answered in one batch, whichever adapters it names.

    Nothing is held back to fill a batch: while one is computed the next one gathers. How many questions it takes
    follows from how long they took before, so that a batch keeps within the latency target.

    Attributes:
        waiting: Questions in the queue.
        batches: How many were computed.
        answered: Questions in them.
        busy: Seconds of computing.
    """

    def __init__(self, bank: AdapterBank, target: float = 0.1, longest: int = 1024) -> None:
        """Start the thread.

        Args:
            bank: Who answers.
            target: Seconds that a batch may take.
            longest: Questions that may wait.
        """
        self.bank, self.target, self.longest = bank, target, longest
        self.waiting, self.batches, self.answered, self.busy = 0, 0, 0, 0.0
        self._each = target / 16
        self._queue: deque[tuple[Sequence[Question], Future[list[Answer]]]] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, name="injerto-batcher", daemon=True)
        self._thread.start()

    def submit(self, questions: Sequence[Question]) -> "Future[list[Answer]]":
        """Ask, and get the answers later.

        Args:
            questions: Of one request; they stay together.

        Raises:
            Full: Where too much is waiting.
            Closed: Where it does not answer any more.
        """
        future: Future[list[Answer]] = Future()
        with self._changed:
            if not self._open:
                raise Closed("the server is going down; try another one")
            if self.waiting and self.waiting + len(questions) > self.longest:
                raise Full(self.waiting * self._each)
            self._queue.append((questions, future))
            self.waiting += len(questions)
            self._changed.notify()
        return future

    def close(self) -> None:
        """Answer what waits, and stop."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _take(self) -> list[tuple[Sequence[Question], "Future[list[Answer]]"]]:
        """The next batch; empty when all is done."""
        with self._changed:
            while not self._queue and self._open:
                self._changed.wait()
            room = min(LARGEST, max(1, int(self.target / self._each)))
            taken: list[tuple[Sequence[Question], Future[list[Answer]]]] = []
            while self._queue and (not taken or len(self._queue[0][0]) <= room):
                questions, future = self._queue.popleft()
                self.waiting -= len(questions)
                room -= len(questions)
                if future.set_running_or_notify_cancel():  # nobody waits for a cancelled one
                    taken.append((questions, future))
            return taken

    def _work(self) -> None:
        while True:
            taken = self._take()
            if not taken:
                with self._changed:
                    if not self._open and not self._queue:
                        return
                continue
            begun = time.perf_counter()
            try:
                answers = self.bank.answer([one for questions, _ in taken for one in questions])
            except BaseException as error:
                self._one_by_one(taken, error)
            else:
                start = 0
                for questions, future in taken:
                    future.set_result(answers[start : start + len(questions)])
                    start += len(questions)
            spent, count = time.perf_counter() - begun, sum(len(questions) for questions, _ in taken)
            self.batches, self.answered, self.busy = self.batches + 1, self.answered + count, self.busy + spent
            self._each += 0.2 * (spent / max(count, 1) - self._each)

    def _one_by_one(
        self, taken: Sequence[tuple[Sequence[Question], "Future[list[Answer]]"]], error: BaseException
    ) -> None:
        """A batch failed: who is to blame gets the error, the others their answers."""
        for questions, future in taken:
            try:
                if len(taken) == 1:
                    raise error
                future.set_result(self.bank.answer(questions))
            except BaseException as own:
                future.set_exception(own)
