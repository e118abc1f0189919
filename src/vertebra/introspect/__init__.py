"""Measurements on a running network: gradients, activations, gates, residual branches, channels; for any module.

Each function leaves the network as it was, also where it raises: hooks, mode, gradients, buffers and random state.
Those that replace blocks (`module_surgery`) change the network in place and return it.
"""

from vertebra.errors import require_extra

with require_extra("torch", "vertebra.introspect"):
    import torch  # noqa: F401

from .activations import ActivationSlopes as ActivationSlopes
from .activations import activation_slopes as activation_slopes
from .block_swaps import PlainBasicBlock as PlainBasicBlock
from .block_swaps import PlainBottleneck as PlainBottleneck
from .block_swaps import move_stride_to_1x1 as move_stride_to_1x1
from .block_swaps import remove_shortcuts as remove_shortcuts
from .block_swaps import replace_activations as replace_activations
from .block_swaps import replace_bottlenecks as replace_bottlenecks
from .block_swaps import replace_depthwise as replace_depthwise
from .channels import changed_values as changed_values
from .channels import contribution_score as contribution_score
from .channels import zeroed_channels as zeroed_channels
from .channels import zeroed_range as zeroed_range
from .dense_sources import DenseSource as DenseSource
from .dense_sources import SourceWeight as SourceWeight
from .dense_sources import dense_sources as dense_sources
from .dense_sources import weights_by_source as weights_by_source
from .dense_sources import zeroed_source as zeroed_source
from .densenet_variants import simplify_densenet as simplify_densenet
from .gates import GateLayer as GateLayer
from .gates import GateStatistics as GateStatistics
from .gates import changed_gates as changed_gates
from .gates import channel_mean_gates as channel_mean_gates
from .gates import gate_layers as gate_layers
from .gates import gate_statistics as gate_statistics
from .gates import layer_mean_gates as layer_mean_gates
from .gates import other_image_gates as other_image_gates
from .gates import record_gates as record_gates
from .gradients import LayerGradient as LayerGradient
from .gradients import first_to_last_ratio as first_to_last_ratio
from .gradients import gradient_norms as gradient_norms
from .gradients import input_gradient_correlation as input_gradient_correlation
from .gradients import noise_arc as noise_arc
from .gradients import output_projection as output_projection
from .head_swaps import add_fully_connected_layers as add_fully_connected_layers
from .head_swaps import pool_globally as pool_globally
from .inception_variants import DenseInception as DenseInception
from .inception_variants import InceptionWith5x5 as InceptionWith5x5
from .inception_variants import ReducedInception as ReducedInception
from .inception_variants import UnreducedInception as UnreducedInception
from .inception_variants import UnreducedInceptionWith5x5 as UnreducedInceptionWith5x5
from .inception_variants import googlenet_with as googlenet_with
from .interleaved_timing import Ratio as Ratio
from .interleaved_timing import Timings as Timings
from .interleaved_timing import time_interleaved as time_interleaved
from .joins import Gate as Gate
from .joins import find_additions as find_additions
from .joins import find_concatenations as find_concatenations
from .joins import find_gates as find_gates
from .joins import shapes_of as shapes_of
from .mbconv_swaps import add_squeeze_excitation as add_squeeze_excitation
from .mbconv_swaps import fuse_mbconv as fuse_mbconv
from .mbconv_swaps import remove_squeeze_excitation as remove_squeeze_excitation
from .mbconv_swaps import separate_mbconv as separate_mbconv
from .operation_values import OperationValues as OperationValues
from .operation_values import operation_values as operation_values
from .path_lengths import PathGradient as PathGradient
from .path_lengths import path_length_gradients as path_length_gradients
from .positions_read import positions_read as positions_read
from .preserve import batch_statistics as batch_statistics
from .preserve import preserved as preserved
from .preserve import set_initial_statistics as set_initial_statistics
from .preserve import usable_statistics as usable_statistics
from .receptive_field_by_gradient import GradientField as GradientField
from .receptive_field_by_gradient import receptive_field_by_gradient as receptive_field_by_gradient
from .residuals import Contribution as Contribution
from .residuals import ResidualBlock as ResidualBlock
from .residuals import ablated_blocks as ablated_blocks
from .residuals import contributions as contributions
from .residuals import residual_blocks as residual_blocks
from .saved_tensors import SavedBytes as SavedBytes
from .saved_tensors import count_saved_bytes as count_saved_bytes
from .saved_tensors import saved_bytes_by_module as saved_bytes_by_module
from .surviving_input import SurvivingInput as SurvivingInput
from .surviving_input import surviving_inputs as surviving_inputs
