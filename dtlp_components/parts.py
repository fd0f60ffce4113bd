# SPDX-License-Identifier: Apache-2.0
"""All public names of the package, imported at once when the first of them is asked for."""

from __future__ import annotations

from .bundle.initial import initial_student
from .bundle.teachers import choose_source, load_teachers
from .checks.input_checks import InputChecks
from .checks.settings import Settings
from .checks.trained_settings import TrainedSettings
from .data.caching import ScanCache
from .data.datalists import load_datalist
from .data.loaders import EndlessDataLoader, RandomDraws
from .data.partial_labels import open_classes
from .data.readers import ScanReader
from .data.review import draw_weights
from .data.scans import ScanDataset, find_images, scans_to_segment
from .data.segmentations import PredictionNames
from .data.studies import unlabeled_studies
from .data.volumes import scan_problems
from .engines.devices import checkpoint_minutes, half_precision_pays, loading_processes, set_up_device
from .engines.method_trainer import MethodTrainer
from .engines.ramp_up import SigmoidRampUp
from .engines.scan_evaluator import ScanEvaluator
from .engines.student_trainer import loss_terms
from .engines.trainer import DTLPTrainer
from .errors import InputError, NonFiniteError
from .handlers.checkpoints import TrainingCheckpoint, run_name
from .handlers.prediction_report import PredictionReport
from .handlers.progress import TrainingProgress
from .handlers.pseudo_label_monitor import PseudoLabelMonitor, predict_sources
from .handlers.run_logs import MLflowLog, MLflowScores, TensorBoardLog
from .handlers.run_record import RunRecord, RunRecordKeeper
from .handlers.score_table import ScoreTable
from .handlers.training_curves import TrainingCurves
from .handlers.training_screens import TrainingScreens
from .handlers.warm_start import WarmStart
from .inferers.flips import FlipAverage
from .inferers.scan_segmenter import ScanSegmenter
from .losses.consistency import DistillationLoss, MaskedReconstructionLoss
from .losses.difficulty import DifficultyAwareLoss
from .losses.partial import PartialDiceCELoss
from .methods.consistency import MeanTeacherConsistency, UncertaintyAwareConsistency
from .methods.copy_paste import BidirectionalCopyPaste
from .methods.cross_pseudo import CrossPseudoSupervision
from .methods.strong_views import FixMatch, UniMatch
from .metrics.calibration import load_calibration
from .networks.diffusion import LabelDiffusion
from .networks.dtlp_net import DTLPNet
from .networks.mean_teacher import MeanTeacher
from .networks.model_average import ModelAverage, average_models
from .networks.two_students import TwoStudents
from .networks.vnet import VNet
from .networks.weights import load_weights
from .processes import join_processes, leave_processes, my_share, rank
from .pseudo_labels.dual_teacher import DualTeacher, PseudoLabels
from .pseudo_labels.propagation import PropagationLoss
from .pseudo_labels.single_teacher import SingleTeacher
from .run_folder import mlflow_address
from .transforms.channel_dropout import RandChannelDropoutd
from .transforms.class_crop import RandClassCropd
from .transforms.dicom_seg import WriteDicomSegd
from .transforms.intensity import CTOrMRIntensityd
from .transforms.label_maps import KeepLargestComponentd, WholeFileWriter
from .transforms.mixing import BlockMask, CrossSetCutMix
from .transforms.partial_labels import LeaveOutOpenVoxelsd, MarkOpenVoxelsd
from .transforms.scan_grid import ScanGridLabelsd
from .transforms.spatial import AntiAliasd, CropToBoxd, ResampleToSpacingd
from .transforms.strong_view import StrongView
from .transforms.style import StyleTransfer

__all__ = [
    "AntiAliasd",
    "BidirectionalCopyPaste",
    "BlockMask",
    "CTOrMRIntensityd",
    "CropToBoxd",
    "CrossPseudoSupervision",
    "CrossSetCutMix",
    "DTLPNet",
    "DTLPTrainer",
    "DifficultyAwareLoss",
    "DistillationLoss",
    "DualTeacher",
    "EndlessDataLoader",
    "FixMatch",
    "FlipAverage",
    "InputChecks",
    "InputError",
    "KeepLargestComponentd",
    "LabelDiffusion",
    "LeaveOutOpenVoxelsd",
    "MLflowLog",
    "MLflowScores",
    "MarkOpenVoxelsd",
    "MaskedReconstructionLoss",
    "MeanTeacher",
    "MeanTeacherConsistency",
    "MethodTrainer",
    "ModelAverage",
    "NonFiniteError",
    "PartialDiceCELoss",
    "PredictionNames",
    "PredictionReport",
    "PropagationLoss",
    "PseudoLabelMonitor",
    "PseudoLabels",
    "RandChannelDropoutd",
    "RandClassCropd",
    "RandomDraws",
    "ResampleToSpacingd",
    "RunRecord",
    "RunRecordKeeper",
    "ScanCache",
    "ScanDataset",
    "ScanEvaluator",
    "ScanGridLabelsd",
    "ScanReader",
    "ScanSegmenter",
    "ScoreTable",
    "Settings",
    "SigmoidRampUp",
    "SingleTeacher",
    "StrongView",
    "StyleTransfer",
    "TensorBoardLog",
    "TrainedSettings",
    "TrainingCheckpoint",
    "TrainingCurves",
    "TrainingProgress",
    "TrainingScreens",
    "TwoStudents",
    "UncertaintyAwareConsistency",
    "UniMatch",
    "VNet",
    "WarmStart",
    "WholeFileWriter",
    "WriteDicomSegd",
    "average_models",
    "checkpoint_minutes",
    "choose_source",
    "draw_weights",
    "find_images",
    "half_precision_pays",
    "initial_student",
    "join_processes",
    "leave_processes",
    "load_calibration",
    "load_datalist",
    "load_teachers",
    "load_weights",
    "loading_processes",
    "loss_terms",
    "mlflow_address",
    "my_share",
    "open_classes",
    "predict_sources",
    "rank",
    "run_name",
    "scan_problems",
    "scans_to_segment",
    "set_up_device",
    "unlabeled_studies",
]
