# SPDX-License-Identifier: Apache-2.0
"""The first signal is remembered, the second has its usual effect. What a run makes of it is in test_checkpoints."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from dtlp_components.handlers.signals import SignalWatch


@pytest.fixture(autouse=True)
def usual_effects() -> Iterator[None]:
    """Those of a program that was started at a terminal."""
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, effect in earlier.items():
        signal.signal(number, effect)


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nohup, or a shell's background
    watch = SignalWatch()
    watch.listen()
    os.kill(os.getpid(), signal.SIGINT)
    assert watch.received is None
    watch.stop_listening()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_first_signal_is_remembered_and_the_second_interrupts() -> None:
    watch = SignalWatch(("SIGINT", "SIGTERM"))
    watch.listen()
    assert watch.received is None
    os.kill(os.getpid(), signal.SIGINT)
    assert watch.received == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_signal_of_another_system_is_left_out() -> None:
    assert SignalWatch(("SIGNOTHING", "SIGTERM")).signals == [signal.SIGTERM]


def test_other_threads_do_not_listen() -> None:
    before, errors = signal.getsignal(signal.SIGTERM), []

    def listen() -> None:
        try:
            SignalWatch().listen()
        except ValueError as error:  # what Python says of signals outside of the main thread
            errors.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert (errors, signal.getsignal(signal.SIGTERM)) == ([], before)
