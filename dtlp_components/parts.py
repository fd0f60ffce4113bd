# SPDX-License-Identifier: Apache-2.0
"""All public names of the package, imported at once when the first of them is asked for."""

from __future__ import annotations

from .bundle.teachers import load_teachers
from .checks.input_checks import InputChecks
from .checks.settings import Settings
from .checks.trained_settings import TrainedSettings
from .data.caching import ScanCache
from .data.datalists import load_datalist
from .data.loaders import EndlessDataLoader, RandomDraws
from .data.readers import ScanReader
from .data.scans import ScanDataset, find_images, scans_to_segment
from .data.segmentations import PredictionNames
from .data.studies import unlabeled_studies
from .data.volumes import scan_problems
from .engines.ramp_up import SigmoidRampUp
from .engines.scan_evaluator import ScanEvaluator
from .engines.trainer import DTLPTrainer, loss_terms
from .errors import InputError, NonFiniteError
from .handlers.checkpoints import TrainingCheckpoint, run_name
from .handlers.prediction_report import PredictionReport
from .handlers.progress import TrainingProgress
from .handlers.pseudo_label_monitor import PseudoLabelMonitor, predict_sources
from .handlers.run_logs import MLflowLog, TensorBoardLog
from .handlers.score_table import ScoreTable
from .handlers.warm_start import WarmStart
from .inferers.flips import FlipAverage
from .inferers.scan_segmenter import ScanSegmenter
from .losses.consistency import DistillationLoss, MaskedReconstructionLoss
from .losses.difficulty import DifficultyAwareLoss
from .networks.diffusion import LabelDiffusion
from .networks.dtlp_net import DTLPNet
from .networks.mean_teacher import MeanTeacher
from .networks.vnet import VNet
from .networks.weights import load_weights
from .pseudo_labels.dual_teacher import DualTeacher, PseudoLabels
from .pseudo_labels.propagation import propagate_logits
from .run_folder import mlflow_address
from .transforms.dicom_seg import WriteDicomSegd
from .transforms.intensity import CTOrMRIntensityd
from .transforms.label_maps import KeepLargestComponentd, WholeFileWriter
from .transforms.mixing import BlockMask, CrossSetCutMix
from .transforms.scan_grid import ScanGridLabelsd
from .transforms.spatial import AntiAliasd, CropToBoxd, ResampleToSpacingd

__all__ = [
    "AntiAliasd",
    "BlockMask",
    "CTOrMRIntensityd",
    "CropToBoxd",
    "CrossSetCutMix",
    "DTLPNet",
    "DTLPTrainer",
    "DifficultyAwareLoss",
    "DistillationLoss",
    "DualTeacher",
    "EndlessDataLoader",
    "FlipAverage",
    "InputChecks",
    "InputError",
    "KeepLargestComponentd",
    "LabelDiffusion",
    "MLflowLog",
    "MaskedReconstructionLoss",
    "MeanTeacher",
    "NonFiniteError",
    "PredictionNames",
    "PredictionReport",
    "PseudoLabelMonitor",
    "PseudoLabels",
    "RandomDraws",
    "ResampleToSpacingd",
    "ScanCache",
    "ScanDataset",
    "ScanEvaluator",
    "ScanGridLabelsd",
    "ScanReader",
    "ScanSegmenter",
    "ScoreTable",
    "Settings",
    "SigmoidRampUp",
    "TensorBoardLog",
    "TrainedSettings",
    "TrainingCheckpoint",
    "TrainingProgress",
    "VNet",
    "WarmStart",
    "WholeFileWriter",
    "WriteDicomSegd",
    "find_images",
    "load_datalist",
    "load_teachers",
    "load_weights",
    "loss_terms",
    "mlflow_address",
    "predict_sources",
    "propagate_logits",
    "run_name",
    "scan_problems",
    "scans_to_segment",
    "unlabeled_studies",
]
