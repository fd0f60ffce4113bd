# SPDX-License-Identifier: Apache-2.0
"""Names that cross a module boundary: batch keys, pseudo-label sources, loss terms, datalist sections, scan results."""

from __future__ import annotations

from enum import Enum

__all__ = [
    "NO_LABEL",
    "WORDS",
    "DatalistKeys",
    "LossTerms",
    "MethodTerms",
    "PseudoLabelSources",
    "ScanEvents",
    "ScanKeys",
    "TrainingEvents",
    "TrainingStreams",
]


NO_LABEL = -1  # in place of a class index: nothing is learned from this voxel


class StrEnum(str, Enum):
    """
    Text under a name, printed as the text. MONAI's enum of this name would import MONAI, enum's needs Python 3.11.
    """

    def __str__(self) -> str:
        return str(self.value)


class DatalistKeys(StrEnum):
    """Sections of a datalist file and keys of its items."""

    TRAINING = "training"
    UNLABELED = "unlabeled"
    VALIDATION = "validation"
    TESTING = "testing"
    IMAGE = "image"
    LABEL = "label"
    LABELS = "labels"  # names of the classes that were drawn, if not all of them were
    DOMAIN = "domain"
    PATIENT = "patient"
    PUBLISHED_BOX = "published_box"  # [[x0, x1], [y0, y1], [z0, z1]]: voxels of the image file, end excluded


class LossTerms(StrEnum):
    """
    Terms of the total loss (Eq. 22 and its switches), as they appear in ``state.output``, in the logs and, where a term
    has a weight, in the bundle's ``weights``.
    """

    DENOISING = "deno"  # Eq. 2
    DIFFICULTY = "diff"  # Eq. 3
    UNLABELED = "u"  # Eq. 11, not part of Eq. 22
    CUTMIX = "mix"  # Eq. 13
    MASKED = "mic"  # Eq. 15
    RECONSTRUCTION = "rec"  # Eq. 16
    DISTILLATION = "kd"  # Eq. 17
    CORRELATION = "corr"  # Eq. 21
    STUDENT_LABELED = "student_labeled"  # not in the paper: true labels for the student


class MethodTerms(StrEnum):
    """Terms of the losses of the methods to compare with, as they appear in ``state.output`` and in the logs."""

    STUDENT_LABELED = "student_labeled"  # as DTLP's
    SECOND_LABELED = "second_labeled"  # of a second student
    CONSISTENCY = "consistency"  # with the mean teacher's map
    STRONG = "strong"  # a distorted view, against the class on the plain one
    FEATURES = "features"  # dropped features, against the same
    CROSS = "cross"  # each student against the other's classes
    MIXED_LABELED = "mixed_labeled"  # labeled voxels of mixed volumes
    MIXED_UNLABELED = "mixed_unlabeled"  # the others


# what each term of either class, and each other number of a line of the log, is
WORDS = {
    LossTerms.DENOISING: "diffusion decoder: recover true labels from noise",
    LossTerms.DIFFICULTY: "difficulty-aware decoder: true labels, with more weight on hard classes",
    LossTerms.UNLABELED: "student: pseudo-labels of plain scans",
    LossTerms.CUTMIX: "student: mixtures of labeled and unlabeled scans (CutMix)",
    LossTerms.MASKED: "student: pseudo-labels for scans with masked blocks (masked image consistency)",
    LossTerms.RECONSTRUCTION: "student: the mean teacher's output, from scans with masked blocks (reconstruction)",
    LossTerms.DISTILLATION: "student: soft labels of both decoders (knowledge distillation)",
    LossTerms.CORRELATION: "labels propagated to voxels with similar features (correlation)",
    LossTerms.STUDENT_LABELED: "student: true labels",
    MethodTerms.SECOND_LABELED: "second student: true labels",
    MethodTerms.CONSISTENCY: "student: the mean teacher's probabilities",
    MethodTerms.STRONG: "student: classes of the plain scan on a distorted one",
    MethodTerms.FEATURES: "student: the same with features dropped",
    MethodTerms.CROSS: "each student: the other's classes",
    MethodTerms.MIXED_LABELED: "labeled voxels of mixed scans",
    MethodTerms.MIXED_UNLABELED: "unlabeled voxels of mixed scans",
    "loss": "weighted sum of all terms",
    "ramp_up": "factor of all terms that use unlabeled scans, from 0 to 1",
    "difficulty_weight": "largest class weight; their mean is 1",
    "grad_norm": "gradient norm before clipping",
}


class TrainingStreams(StrEnum):
    """Parts of a training iteration, in their order; those with a loss run forward and backward on their own."""

    BATCH = "batch"  # two, on their way to the device
    RECYCLING = "recycling"  # the network's own label map, to be noised
    DIFFUSION = "diffusion"
    DIFFICULTY = "difficulty"
    LABELED = "labeled"  # the student on true labels alone
    TEACHERS = "teachers"
    MIXED = "mixed"
    MASKED = "masked"
    MASKED_LABELED = "masked_labeled"
    UNLABELED = "unlabeled"
    STEP = "step"  # of the optimizer and of the moving average


class TrainingEvents(StrEnum):
    """Events of the trainer beside Ignite's and MONAI's."""

    STREAM_COMPLETED = "stream_completed"  # `state.stream` names it


class PseudoLabelSources(StrEnum):
    """Everything that can name an unlabeled voxel, in the order of ``docs/explanation/method.md``."""

    DIFFUSION = "diffusion"
    DIFFICULTY = "difficulty"
    FIRST_TEACHER = "first_teacher"
    MEAN_TEACHER = "mean_teacher"
    ENSEMBLE = "ensemble"
    STUDENT = "student"


class ScanKeys(StrEnum):
    """What there is of a scan that was segmented, or was not."""

    IMAGE = "image"  # the preprocessed volume; of a scan that cannot be read, its path
    PRED = "pred"  # labels on the scan's grid
    ENTROPY = "entropy"  # of the student, bits
    DISAGREEMENT = "disagreement"  # of student and teachers, bits
    DICOM_SEG = "dicom_seg"  # where it was written
    QUALITY = "quality"  # scores by name
    PROBLEM = "problem"  # what was not written, and why


class ScanEvents(StrEnum):
    """Events of an engine whose iteration is a scan."""

    WINDOWS_COMPLETED = "windows_completed"  # `state.windows` has those done and their total
