"""Pictures: data of any shape, trajectories from noise to data, loss curves.

`picture` chooses the form: grids of images (of volumes the middle slices), lines of series and vectors,
points of the plane. Grids need Pillow alone; lines and points need matplotlib
(`pip install "score_jax[plots]"`).
"""

from score_jax.viz.files import save_animation as save_animation
from score_jax.viz.files import save_image as save_image
from score_jax.viz.grids import GAP as GAP
from score_jax.viz.grids import INK as INK
from score_jax.viz.grids import PAPER as PAPER
from score_jax.viz.grids import as_images as as_images
from score_jax.viz.grids import captioned as captioned
from score_jax.viz.grids import how_shown as how_shown
from score_jax.viz.grids import image_grid as image_grid
from score_jax.viz.grids import in_range as in_range
from score_jax.viz.grids import is_image as is_image
from score_jax.viz.grids import labelled as labelled
from score_jax.viz.grids import side_by_side as side_by_side
from score_jax.viz.grids import strip as strip
from score_jax.viz.grids import to_uint8 as to_uint8
from score_jax.viz.grids import value_range as value_range
from score_jax.viz.grids import with_bar as with_bar
from score_jax.viz.pictures import named_grid as named_grid
from score_jax.viz.pictures import picture as picture
from score_jax.viz.plots import intervals as intervals
from score_jax.viz.plots import loss_curve as loss_curve
from score_jax.viz.plots import new_figure as new_figure
from score_jax.viz.plots import render as render
from score_jax.viz.plots import scatter_2d as scatter_2d
from score_jax.viz.plots import series as series
from score_jax.viz.plots import smooth as smooth
from score_jax.viz.plots import vectors as vectors
