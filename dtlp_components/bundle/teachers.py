# SPDX-License-Identifier: Apache-2.0
"""The networks of a training run, from its last checkpoint: what teaches the student is not in ``model.pt``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from ..checks.key_table import key_table, model_keys
from ..errors import InputError
from ..keys import PseudoLabelSources as Sources
from ..networks.model_average import log_of_mean
from ..networks.weights import fit_problem, load_tensors

__all__ = ["WITH_DECODERS", "Teachers", "choose_source", "load_teachers", "load_training_networks"]

# methods that train the decoders of DTLP-Net
WITH_DECODERS = ("dtlp", "and")

EXPECTED = "the checkpoints/last.pt of a training run with these settings"


def load_training_networks(parser: ConfigParser, checkpoint: str | os.PathLike[str]) -> tuple[nn.Module, nn.Module]:
    """
    Load a run's weights into the networks of its ``train.json``; both are put in eval mode.

    Args:
        parser: has read ``train.json``, with the run's model settings.
        checkpoint: the run's ``checkpoints/last.pt``.

    Returns:
        ``training_network`` and ``mean_teacher``.

    Raises:
        InputError: if there is no such file, or it is of another kind or of other settings.
    """
    if not Path(checkpoint).is_file():
        raise InputError(f"No checkpoint at {Path(checkpoint).absolute()}: train first, or pass the run's output_dir.")
    network, teacher = parser.get_parsed_content("training_network"), parser.get_parsed_content("mean_teacher")
    content = load_tensors(checkpoint, EXPECTED)
    for name, module in (("network", network), ("mean_teacher", teacher)):
        if not isinstance(content, dict) or name not in content:
            raise InputError(f"{Path(checkpoint).absolute()}: expected {EXPECTED}, got a file without `{name}`.")
        if problem := fit_problem(module, content[name]):
            raise InputError(f"{Path(checkpoint).absolute()}: {problem}")
        module.load_state_dict(content[name])
    return network.eval(), teacher.eval()


class Teachers:
    """
    What each teacher of a training says of a window; the diffusion teacher draws the same noise each time.

    Args:
        pseudo_labeler: maps windows to :py:class:`dtlp_components.PseudoLabels`.
        seed: of the noise.
        samples: label maps that the diffusion teacher draws of each window, each from noise of its own; those after the
            first are named ``diffusion 2`` and so on.
    """

    names = (Sources.DIFFUSION, Sources.DIFFICULTY, Sources.MEAN_TEACHER)

    def __init__(self, pseudo_labeler: Any, seed: int = 0, samples: int = 1) -> None:
        self.pseudo_labeler, self.seed, self.samples = pseudo_labeler, seed, samples

    def __call__(self, windows: Tensor) -> dict[str, Tensor]:
        """Windows ``(B, in_channels, *patch)`` -> probabilities by name ``(B, C, *patch)``."""
        probabilities = self.sources(windows)
        opinions = {str(name): probabilities[name] for name in self.names}
        for sample in range(1, self.samples):
            with self._noise(windows, sample):
                drawn = self.pseudo_labeler.diffusion(windows).float()
            opinions[f"{Sources.DIFFUSION} {sample + 1}"] = torch.softmax(drawn, dim=1)
        return opinions

    def sources(self, windows: Tensor) -> dict[str, Tensor]:
        """Likewise, of every source of pseudo-labels, the ensemble among them."""
        with self._noise(windows, 0):
            probabilities: dict[str, Tensor] = self.pseudo_labeler(windows).probabilities
        return probabilities

    @contextmanager
    def _noise(self, windows: Tensor, sample: int) -> Iterator[None]:
        devices = [windows.device] if windows.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed + sample)
            yield


class _Source(nn.Module):
    """
    The logarithm of a source's probabilities, in place of logits: ``(B, in_channels, *patch) -> (B, C, *patch)``.
    """

    def __init__(self, teachers: Teachers, source: str) -> None:
        super().__init__()
        self.teachers, self.source = teachers, source

    def forward(self, windows: Tensor) -> Tensor:
        return log_of_mean([self.teachers.sources(windows)[self.source].float()])


def choose_source(source: str, student: nn.Module, teachers: Teachers | None) -> nn.Module:
    """
    The network whose labels are to be written.

    Args:
        source: ``student``, or a source of pseudo-labels.
        student: with its weights.
        teachers: of its training; ``None`` without a checkpoint.

    Raises:
        InputError: if a teacher is asked for and there is none, or the training had no such source.
    """
    if source == Sources.STUDENT:
        return student
    if teachers is None:
        raise InputError(f"--source {source}: expected --checkpoint RUN/checkpoints/last.pt as well, got none.")
    return _Source(teachers, source)


def load_teachers(
    train_config: str,
    checkpoint: str,
    settings: Mapping[str, Any],
    device: str | torch.device = "cpu",
    samples: int = 1,
) -> Teachers:
    """
    Teachers of the training run that a checkpoint is of.

    Args:
        train_config: the bundle's ``train.json``.
        checkpoint: the run's ``checkpoints/last.pt``.
        settings: values by key, of which those are taken that shape the networks.
        device: where they compute.
        samples: see :py:class:`Teachers`.

    Raises:
        InputError: see :py:func:`load_training_networks`; or if the run had no unlabeled batches.
    """
    if not Path(train_config).is_file():
        raise InputError(
            f"{Path(train_config).absolute()}: no such file; the teachers are built from the bundle's train.json."
        )
    recorded = _recorded_settings(checkpoint)
    method = recorded.get("method", "dtlp")
    if method not in WITH_DECODERS:
        raise InputError(
            f"{Path(checkpoint).absolute()}: expected a training run with method {', '.join(WITH_DECODERS)}, whose "
            f"decoders can disagree with the moving average, got method {method!r}, whose only teacher is that average."
        )
    parser = ConfigParser()
    parser.read_config(train_config)
    parser.update(
        {name: value for name, value in {**settings, **recorded}.items() if name in model_keys(teachers=True)}
    )
    parser["device"] = str(device)
    load_training_networks(parser, checkpoint)
    if recorded.get("batch_size_unlabeled") == 0:
        raise InputError(
            f"{Path(checkpoint).absolute()}: expected a training run with --batch_size_unlabeled greater than 0, got "
            "one on labeled scans only, which trains no teachers."
        )
    return Teachers(parser.get_parsed_content("pseudo_labeler"), samples=samples)


def _recorded_settings(checkpoint: str) -> dict[str, Any]:
    """
    What the training recorded beside its weights, as far as the table of keys allows it; empty if it cannot be read.
    """
    try:
        # mapped: what is asked for is a few bytes of it
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        settings: dict[str, Any] = content["progress"]["settings"]
    except Exception:  # torch raises many kinds; whoever loads the networks says what is wrong
        return {}
    table = key_table()
    return {name: value for name, value in settings.items() if name in table and table[name].accepts(value)}
