"""Guidance, ScoreFn -> ScoreFn: by classes, by a worse model, and by any log-likelihood.

The result is a score again, which every sampler and the likelihood accept.
"""

from score_jax._check import check_classes as check_classes
from score_jax._renamed import renamed as _renamed
from score_jax.guidance.classes import Classifier as Classifier
from score_jax.guidance.classes import class_logp as class_logp
from score_jax.guidance.classes import classifier_fn as classifier_fn
from score_jax.guidance.classes import classifier_guidance as classifier_guidance
from score_jax.guidance.differences import autoguidance as autoguidance
from score_jax.guidance.differences import classifier_free as classifier_free
from score_jax.guidance.differences import projected as projected
from score_jax.guidance.differences import rescaled as rescaled
from score_jax.guidance.differences import reverse_momentum as reverse_momentum
from score_jax.guidance.terms import Term as Term
from score_jax.guidance.terms import gradient_of as gradient_of
from score_jax.guidance.terms import guide as guide
from score_jax.guidance.terms import on_x as on_x
from score_jax.guidance.terms import on_x0 as on_x0

__getattr__ = _renamed(__name__)
