r"""Sources of examples, batches that resume exactly, dequantisation and scaling.

Integer data with L levels are dequantised and scaled by

    (1)  x = low + (high - low) (k + u) / L,     k in {0, ..., L - 1}, u uniform on [0, 1)

A level is then (high - low) / L wide, and `quantize`, the floor of the inverse, undoes (1) exactly.
`score_jax.likelihood.bits_per_dim` is the change of variables of (1).
"""

from score_jax.data.arrays import Dataset as Dataset
from score_jax.data.arrays import from_arrays as from_arrays
from score_jax.data.arrays import in_memory as in_memory
from score_jax.data.arrays import load_array as load_array
from score_jax.data.arrays import two_moons as two_moons
from score_jax.data.augment import AUGMENT_SIZE as AUGMENT_SIZE
from score_jax.data.augment import Augmentation as Augmentation
from score_jax.data.augment import augment as augment
from score_jax.data.augment import random_augmentation as random_augmentation
from score_jax.data.augment import random_crop as random_crop
from score_jax.data.chunks import read_hdf5 as read_hdf5
from score_jax.data.chunks import read_zarr as read_zarr
from score_jax.data.cifar import read_cifar as read_cifar
from score_jax.data.cropped import Cropped as Cropped
from score_jax.data.folders import labels_found as labels_found
from score_jax.data.folders import labels_of_folders as labels_of_folders
from score_jax.data.folders import labels_of_json as labels_of_json
from score_jax.data.folders import labels_of_names as labels_of_names
from score_jax.data.folders import no_labels as no_labels
from score_jax.data.folders import open_folder as open_folder
from score_jax.data.folders import open_zip as open_zip
from score_jax.data.folders import read_files as read_files
from score_jax.data.folders import read_folder as read_folder
from score_jax.data.folders import read_zip as read_zip
from score_jax.data.idx import read_idx as read_idx
from score_jax.data.images import ImageOptions as ImageOptions
from score_jax.data.images import center_crop as center_crop
from score_jax.data.images import stretch as stretch
from score_jax.data.mnist import load_mnist5k as load_mnist5k
from score_jax.data.paired import Paired as Paired
from score_jax.data.parquet import from_datasets as from_datasets
from score_jax.data.parquet import read_parquet as read_parquet
from score_jax.data.pipeline import Batches as Batches
from score_jax.data.pipeline import batches as batches
from score_jax.data.pipeline import eval_batches as eval_batches
from score_jax.data.pipeline import split as split
from score_jax.data.preparing import Unreadable as Unreadable
from score_jax.data.preparing import write_records as write_records
from score_jax.data.records import read_records as read_records
from score_jax.data.records import record_splits as record_splits
from score_jax.data.scaling import Interval as Interval
from score_jax.data.scaling import dequantize as dequantize
from score_jax.data.scaling import quantize as quantize
from score_jax.data.scaling import random_flip as random_flip
from score_jax.data.scaling import scale as scale
from score_jax.data.scaling import unscale as unscale
from score_jax.data.shards import read_arrays as read_arrays
from score_jax.data.sources import INT_LEVELS as INT_LEVELS
from score_jax.data.sources import Described as Described
from score_jax.data.sources import Description as Description
from score_jax.data.sources import Examples as Examples
from score_jax.data.sources import Subset as Subset
from score_jax.data.sources import as_source as as_source
from score_jax.data.sources import describe as describe
from score_jax.data.sources import take as take
from score_jax.data.survey import Survey as Survey
from score_jax.data.survey import labels_of as labels_of
from score_jax.data.survey import standardised as standardised
from score_jax.data.survey import survey as survey
from score_jax.data.tfds import default_data_dir as default_data_dir
from score_jax.data.tfds import load_digits as load_digits
from score_jax.data.tfds import load_tfds as load_tfds
from score_jax.data.tfds import read_tfds as read_tfds
