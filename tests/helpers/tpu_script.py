"""Compile training steps of a little network for TPUs that are not there, and print what they do as JSON.

    python -m tests.helpers.tpu_script v5e:2x2/shard_map v5e:4x4/fsdp ...

One process compiles all, because JAX's import takes longer than that. PYTHONPATH holds the folder of
libtpu.
"""

import json
import math
import sys

from benchmarks import clusters

clusters.prepare()

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.compiled import Program, arrays
from score_jax import training
from score_jax.draws import draw_of
from score_jax.nets.layers import Conv, Dense, GroupNorm

PER_CHIP = 2


class Little(nn.Module):
    """Three convolutions in bfloat16 and one in float32, conditioned on a time."""

    @nn.compact
    def __call__(self, x, t):
        dtype = jnp.bfloat16
        h = Conv(64, dtype=dtype)(x)
        h = h + Dense(64, dtype=dtype)(t[:, None])[:, None, None]
        h = Conv(128, dtype=dtype)(nn.silu(GroupNorm()(h)))
        h = Conv(64, dtype=dtype)(nn.silu(GroupNorm()(h)))
        return Conv(3, name="last")(nn.silu(GroupNorm()(h)).astype(jnp.float32))


def main(names):
    net, optimizer = Little(), training.make_optimizer()
    x, t = jnp.zeros((1, 16, 16, 3)), jnp.zeros(1)

    def loss(params, key, batch):
        z = draw_of(key, batch).each(lambda k: jax.random.normal(k, x.shape[1:]))
        return jnp.mean(jnp.square(net.apply(params, batch["x"] + z, jnp.ones(len(z))) - z)), {}

    start = lambda key: training.init_state(key, net.init(key, x, t), optimizer)
    state = jax.eval_shape(start, jax.random.key(0))
    for name in names:
        topology, _, mapping = name.partition("/")
        devices = clusters.devices(topology)
        n = len(devices)
        whole = training.make_train_step(loss, optimizer)
        if mapping == "fsdp":
            lies = training.divided(training.make_mesh(devices, fsdp=training.division(state, n)))
            step = training.global_step(whole, sharding_of=lies)
        elif mapping == "space":
            lies = training.replicated(training.make_mesh(devices, space=4))
            step = training.global_step(whole, sharding_of=lies)
        elif mapping == "both":
            lies = training.divided(training.make_mesh(devices, fsdp=n // 4, space=4))
            step = training.global_step(whole, sharding_of=lies)
        else:
            lies = training.replicated(training.make_mesh(devices))
            each = training.make_train_step(loss, optimizer, axis_name="devices")
            step = training.shard_map_step(each, devices=devices)
        batch = {"x": jax.ShapeDtypeStruct((PER_CHIP * n, *x.shape[1:]), jnp.float32)}
        lowered = clusters.lowered(step, state, batch, lies)
        print(json.dumps(facts(lowered, state, lies)), flush=True)


def facts(lowered, state, lies):
    """What the test looks at."""
    program, text = Program(lowered.compile().as_text()), lowered.as_text()
    types = {a.dtype for _, one in program for a in arrays(one.type)}
    leaves = jax.tree.leaves(state.params)
    return {
        # What the compiler is asked for, and what it makes of that.
        "asked": {
            kind: text.count(f'"stablehlo.{kind}"') for kind in ("all_gather", "reduce_scatter")
        },
        "collectives": [[*key, size] for key, size in program.collectives().items()],
        "reduced": [
            [kind, math.prod(array.shape)]
            for kind, array, _, _ in program.communicated()
            if kind in ("all-reduce", "reduce-scatter") and array.dtype == "f32"
        ],
        "parameters": [leaf.size for leaf in leaves],
        "divided": [leaf.size for leaf in leaves if any(lies(leaf).spec)],
        "aliased": program.aliased,
        "leaves": len(jax.tree.leaves(state)),
        "ratio": training.share_of(state, lies).ratio,
        "types": sorted(types),
        "products": {dtype: sorted(names) for dtype, names in program.products().items()},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
