# SPDX-License-Identifier: Apache-2.0
"""Being asked to stop: by Ctrl-C, by a scheduler before it kills, by whoever shuts the machine down."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, NoReturn

from ignite.engine import Engine

from ..processes import num_processes

__all__ = ["SignalWatch"]


class SignalWatch:
    """
    Remember the first signal to stop, so that what is under way can be finished; the second has its usual effect,
    unless several processes work together.

    Ignite's ``Checkpoint`` with ``Events.TERMINATE`` would stop in the middle of an epoch too, but nothing in Ignite
    listens to signals.

    Args:
        names: of the signals; those that the system does not have are left out.
    """

    def __init__(self, names: tuple[str, ...] = ("SIGTERM", "SIGINT", "SIGUSR1")) -> None:
        self.signals = [getattr(signal, name) for name in names if hasattr(signal, name)]
        self.received: signal.Signals | None = None
        self._earlier: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """
        From now on; only the main thread may, so elsewhere nothing happens. What is ignored (nohup) stays ignored.
        """
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in self.signals if signal.getsignal(number) is not signal.SIG_IGN]
            self._earlier = {number: signal.signal(number, self._remember) for number in heard}

    def stop_listening(self) -> None:
        """What was done before is done again."""
        for number, earlier in self._earlier.items():
            signal.signal(number, earlier)
        self._earlier = {}

    def end(self, engine: Engine, number: int = 0) -> NoReturn:
        """
        End a run for the signal that came; whoever calls has finished what was under way, and said so.

        Args:
            engine: that runs.
            number: of the signal, if it came to another process than this one.

        Raises:
            SystemExit: with 128 and the number of the signal, as a shell says it.
        """
        engine.logger.disabled = True  # Ignite would call it an error
        raise SystemExit(128 + (number or self.received or 0))

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if num_processes() == 1:
            self.stop_listening()
        # else torchrun, which was told as well, passes the signal on; and kills whoever takes too long
