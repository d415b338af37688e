"""DDPM++ and NCSN++ on a CPU beside the same networks written in PyTorch: forward and training step.

    PYTHONPATH=where/torch/is OMP_WAIT_POLICY=passive python -m benchmarks.nets_torch [--rounds 10]

Width 32, 32 x 32 x 3, batch 16, DDPM++ with one block a level and NCSN++ with two, dropout 0.1, the same
parameters in both; that both are the same function is checked first. PyTorch's FIR filters are grouped
convolutions. A training step draws noise and noise inputs, and takes the gradient of the mean square
and a step of Adam; ours is one program a step, and one program (a `lax.scan`) for five. Rounds alternate:
each runs all in turn. Printed are the median over the rounds of the ratio of wall times to PyTorch
eager and to `torch.compile` (below 1: ours is faster), and the ratio of the least processor times of all
threads, which alone can be trusted on a busy machine. --profile prints the time of a training step of
both by kind of operation (`benchmarks.kinds`).

For one thread on both sides: taskset -c 1 ... --threads 1, because XLA makes a thread for each core that
it may use.
"""

import argparse
import math
import os
import time

from benchmarks import kinds
from score_jax import runtime

SHAPE, SCAN = (16, 32, 32, 3), 5
TAPS = (1.0, 3.0, 3.0, 1.0)


def networks():
    """name -> our network."""
    from score_jax.nets import NCSNpp

    common = {"channels": 32, "attention": (16,), "dropout": 0.1}
    ncsnpp = {"embedding": "fourier", "fir": True, "progressive_input": "residual"}
    return {
        "DDPM++, 1 block": NCSNpp(**common, num_blocks=1),
        "NCSN++, 2 blocks": NCSNpp(**common, num_blocks=2, **ncsnpp, scale_by_sigma=True),
    }


def torch_network(net, params):
    """The network as a torch module with our parameters."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    def layout(value):
        order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim)
        return torch.tensor(np.asarray(value if order is None else value.transpose(order)))

    class Layers(torch.nn.Module):
        """Parameters by our names; `layer(name)` are those of one layer."""

        def __init__(self, tree):
            super().__init__()
            for name, value in tree.items():
                if isinstance(value, dict):
                    self.add_module(name, Layers(value))
                else:
                    self.register_parameter(name, torch.nn.Parameter(layout(value)))

        def __getitem__(self, name):
            return getattr(self, name)

    def norm(x, p):
        groups = next(g for g in range(min(x.shape[1] // 4, 32), 0, -1) if x.shape[1] % g == 0)
        return F.group_norm(x, groups, p.scale, p.bias, 1e-6)

    def conv(x, p, stride=1, padding=1):
        return F.conv2d(x, p.kernel, p.bias, stride, padding)

    def dense(x, p):
        return F.linear(x, p.kernel, p.bias)

    def pointwise(x, p):
        return F.conv2d(x, p["map"].kernel[:, :, None, None], p["map"].bias)

    taps = torch.tensor(TAPS) / sum(TAPS)
    square = (taps[:, None] * taps[None])[None, None]

    def filtered(x, stride=1, padding=0):
        c = x.shape[1]
        return F.conv2d(x, square.to(x).expand(c, 1, 4, 4), None, stride, padding, groups=c)

    def resize(x, up):
        c = x.shape[1]
        if not net.fir:
            return F.interpolate(x, scale_factor=2) if up else F.avg_pool2d(x, 2)
        if up:
            return F.conv_transpose2d(x, 4 * square.to(x).expand(c, 1, 4, 4), None, 2, 1, groups=c)
        return filtered(x, 2, 1)

    def block(x, emb, p, train, up=None):
        y = F.silu(norm(x, p.norm0))
        if up is not None:
            x, y = resize(x, up), resize(y, up)
        y = conv(y, p.conv0) + dense(F.silu(emb), p.label)[:, :, None, None]
        y = F.dropout(F.silu(norm(y, p.norm1)), net.dropout, train)
        y = conv(y, p.conv1)
        x = pointwise(x, p.skip) if hasattr(p, "skip") else x
        return (x + y) * math.sqrt(0.5)

    def attention(x, p):
        b, c, h, w = x.shape
        y = norm(x, p.norm)
        q, k, v = (pointwise(y, p[n]).reshape(b, c, h * w) for n in ("query", "key", "value"))
        weights = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) / math.sqrt(c), dim=2)
        y = torch.einsum("bnm,bcm->bcn", weights, v).reshape(b, c, h, w)
        return (x + pointwise(y, p.out)) * math.sqrt(0.5)

    half = net.channels // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10_000) / (half - 1)))

    class Network(Layers):
        """The U-Net of `score_jax.nets.NCSNpp`, channels first."""

        def embed(self, noise_input):
            if net.embedding == "positional":
                angle = noise_input[:, None] * rates.to(noise_input)
            else:
                frequency = self.fourier.frequency.detach()
                angle = torch.log(noise_input)[:, None] * frequency * (2 * math.pi)
            emb = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
            return dense(F.silu(dense(emb, self.embed0)), self.embed1)

        def forward(self, x, noise_input, train=False):
            emb, last = self.embed(noise_input), len(net.channel_mult) - 1
            pyramid, h = x, conv(x, self["first"])
            skips = [h]
            for level in range(last + 1):
                for i in range(net.num_blocks):
                    h = block(h, emb, self[name := f"enc{level}_{i}"], train)
                    if hasattr(self, f"{name}_attention"):
                        h = attention(h, self[f"{name}_attention"])
                    skips.append(h)
                if level != last:
                    h = block(h, emb, self[f"down{level}"], train, up=False)
                    if net.progressive_input == "residual":
                        pyramid = filtered(F.pad(pyramid, (2, 2, 2, 2)))
                        pyramid = conv(pyramid, self[f"input{level}"].conv, 2, 0)
                        pyramid = h = (pyramid + h) * math.sqrt(0.5)
                    skips.append(h)
            h = block(h, emb, self.mid0, train)
            h = block(attention(h, self.mid_attention), emb, self.mid1, train)
            for level in range(last, -1, -1):
                for i in range(net.num_blocks + 1):
                    h = torch.cat([h, skips.pop()], dim=1)
                    h = block(h, emb, self[f"dec{level}_{i}"], train)
                if hasattr(self, f"dec{level}_attention"):
                    h = attention(h, self[f"dec{level}_attention"])
                if level:
                    h = block(h, emb, self[f"up{level}"], train, up=True)
            h = conv(F.silu(norm(h, self.last_norm)), self["last"])
            return h / noise_input[:, None, None, None] if net.scale_by_sigma else h

    return Network(params["params"])


def torch_runs(net, params, compiled):
    """name -> run(), of the torch network; with `compiled`, by torch.compile."""
    import torch

    network = torch_network(net, params)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, eps=1e-8)
    call = torch.compile(network) if compiled else network
    b, h, w, c = SHAPE
    x, noise_input = torch.ones(b, c, h, w), torch.linspace(1.0, 40.0, b)

    def forward():
        with torch.inference_mode():
            return call(x, noise_input)

    def step():
        noise = torch.randn(b, c, h, w)
        given = 1 + 40 * torch.rand(b)
        loss = torch.square(call(x + noise, given, train=True) - noise).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return {
        "forward": forward,
        "step": step,
        f"{SCAN} steps": lambda: [step() for _ in range(SCAN)],
    }


def jax_runs(net, params):
    """name -> run(), of our network."""
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(1e-4)
    x, noise_input = jnp.ones(SHAPE), jnp.linspace(1.0, 40.0, SHAPE[0])

    def loss(params, key):
        keys = jax.random.split(key, 3)
        noise = jax.random.normal(keys[0], SHAPE)
        given = 1 + 40 * jax.random.uniform(keys[1], SHAPE[:1])
        out = net.apply(params, x + noise, given, train=True, rngs={"dropout": keys[2]})
        return jnp.square(out - noise).mean()

    def step(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    one = jax.jit(step, donate_argnums=0)
    many = jax.jit(
        lambda c, key: jax.lax.scan(step, c, jax.random.split(key, SCAN)), donate_argnums=0
    )
    apply = jax.jit(net.apply)
    held = {}

    def run(name, program):
        copy = jax.tree.map(jnp.copy, params)
        held[name] = copy, optimizer.init(copy)

        def call():
            held[name], value = program(held[name], jax.random.key(0))
            return jax.block_until_ready(value)

        given = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), held[name])
        key = jax.eval_shape(lambda: jax.random.key(0))
        call.text = lambda: program.lower(given, key).compile().as_text()  # type: ignore[attr-defined]
        return call

    return {
        "forward": lambda: jax.block_until_ready(apply(params, x, noise_input)),
        "step": run("step", one),
        f"{SCAN} steps": run("scan", many),
    }


def check(net, params):
    """Both networks are the same function."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    x = rng.normal(size=SHAPE).astype(np.float32)[:2]
    given = np.array([1.5, 30.0], np.float32)
    ours = np.asarray(jax.jit(net.apply)(params, jnp.asarray(x), jnp.asarray(given)))
    with torch.inference_mode():
        theirs = torch_network(net, params)(
            torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(given)
        )
    theirs = theirs.numpy().transpose(0, 2, 3, 1)
    off = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"largest difference of outputs {off:.1e}")
    assert off < 1e-4


def filled(net):
    """Parameters with nothing at zero, so that all parts of the network are compared."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(SHAPE), jnp.ones(SHAPE[0]))
    rng = np.random.default_rng(0)
    scale = lambda v: 1 / math.sqrt(max(math.prod(v.shape[:-1]), 16))
    draw = lambda v: jnp.asarray(rng.normal(size=v.shape) * scale(v), v.dtype)
    return jax.tree.map(draw, shapes)


def compare(name, net, args):
    """Print the ratios of one network."""
    import numpy as np

    params = filled(net)
    check(net, params)
    sides = {"jax": jax_runs(net, params), "eager": torch_runs(net, params, False)}
    if args.compiled:
        sides["compile"] = torch_runs(net, params, True)
    for work in args.work or sides["jax"]:
        wall, spent = ({side: [] for side in sides} for _ in range(2))
        for runs in sides.values():
            runs[work]()  # compiles
            runs[work]()
        for _ in range(args.rounds):
            for side, runs in sides.items():
                start, processor = time.perf_counter(), time.process_time()
                runs[work]()
                wall[side].append(time.perf_counter() - start)
                spent[side].append(time.process_time() - processor)
        line = f"{name:17s} {work:8s} jax {1e3 * np.median(wall['jax']):7.1f} ms"
        for side in list(sides)[1:]:
            ratio = np.median(np.array(wall["jax"]) / np.array(wall[side]))
            least = min(wall["jax"]) / min(wall[side])
            processor = min(spent["jax"]) / min(spent[side])
            line += f"   / {side} {ratio:.2f} (least {least:.2f}, processor {processor:.2f})"
        print(line, flush=True)
    if args.profile:
        step, theirs = sides["jax"]["step"], sides["eager"]["step"]
        step()  # compiles, where only other work was measured
        theirs()
        both = [
            (kinds.spent_jax(step, step.text()), kinds.spent_torch(theirs))
            for _ in range(args.rounds)
        ]
        print(kinds.table({"jax": [a for a, _ in both], "eager": [b for _, b in both]}), flush=True)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--networks", nargs="+", help="names of the networks, in part")
    parser.add_argument("--work", nargs="+", choices=["forward", "step", f"{SCAN} steps"])
    parser.add_argument("--compiled", action="store_true", help="torch.compile as a second peer")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--threads", type=int, default=None, help="of torch (default: its own)")
    args = parser.parse_args()
    tuned = runtime.tune_cpu()
    import jax

    try:
        import torch
    except ImportError:
        raise SystemExit("this benchmark compares with PyTorch, which is not installed") from None
    if args.threads:
        torch.set_num_threads(args.threads)
    print(
        f"jax {jax.__version__} (tuned: {tuned}), torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    for name, net in networks().items():
        if not args.networks or any(part in name for part in args.networks):
            compare(name, net, args)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
