"""Files as NVIDIA's EDM program writes them: objects that carry a source, which must not be run."""

import struct

from tests.golden import make_edm2
from tests.golden.make_edm import CASES, OUTER, drawn
from tests.helpers.convert_files import (
    dictionary,
    legacy,
    name,
    program,
    storage,
    text,
    tuple_of,
    whole,
)

SOURCE = "raise SystemExit('the source of a file was run')"


def plain(value):
    """Numbers, strings, lists, dictionaries and None as opcodes."""
    if isinstance(value, dict):
        return b"}(" + b"".join(text(k) + plain(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(plain, value)) + b"e"
    if isinstance(value, str):
        return text(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    return b"N" if value is None else whole(value)


def persistent(kind, state):
    """An object with its source."""
    meta = dictionary(
        type=text("class"), version=whole(6), module_src=text(SOURCE), class_name=text(kind),
        state=state,
    )  # fmt: skip
    return name("torch_utils.persistence", "_reconstruct_persistent_obj") + b"(" + meta + b"tR"


def parameter(value):
    """A parameter, whose storage is a file of its own."""
    inner = legacy(storage("FloatStorage", "0", value.size), {"0": (value.size, value.tobytes())})
    held = name("torch.storage", "_load_from_bytes")
    held += b"(B" + struct.pack("<I", len(inner)) + inner + b"tR"
    stride = [s // value.itemsize for s in value.strides]
    tensor = name("torch._utils", "_rebuild_tensor_v2") + tuple_of(
        held, whole(0), tuple_of(*map(whole, value.shape)), tuple_of(*map(whole, stride)), b"\x89",
        name("collections", "OrderedDict") + b")R",
    ) + b"R"  # fmt: skip
    rest = b"\x89" + name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_parameter") + b"(" + tensor + rest + b"tR"


def module(tree, kind=None, **attributes):
    """A module of nested dictionaries of arrays: with its source, or of a class of torch's."""
    parts = {k: v for k, v in tree.items() if isinstance(v, dict)}
    own = {k: parameter(v) for k, v in tree.items() if not isinstance(v, dict)}
    state = dictionary(
        _parameters=dictionary(**own), _buffers=dictionary(),
        _modules=dictionary(**{k: module(v) for k, v in parts.items()}),
        **{k: plain(v) for k, v in attributes.items()},
    )  # fmt: skip
    if kind is not None:
        return persistent(kind, state)
    return name("torch.nn.modules.container", "ModuleDict") + b")\x81" + state + b"b"


def nested(shapes, drawn=drawn):
    """Drawn weights as nested dictionaries."""
    tree = {}
    for path, shape in shapes.items():
        *parents, last = path.split(".")
        place = tree
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = drawn(path, shape)
    return tree


def snapshot(path, case, shapes, **changes):
    """A network-snapshot of a case of the reference numbers."""
    kind, fields = CASES[case]
    given = {k: v for k, v in fields.items() if k not in OUTER}
    size, channels = fields["img_resolution"], fields["img_channels"]
    given |= {"img_resolution": size, "in_channels": channels,
              "out_channels": channels * (2 if kind == "iDDPMPrecond" else 1),
              "label_dim": fields.get("label_dim", 0)}  # fmt: skip
    given |= changes
    net = module(nested(shapes), fields["model_type"], _init_kwargs=given)
    outer = {"sigma_data": 0.5, "M": 1000} | {k: v for k, v in fields.items() if k in OUTER}
    attributes = {k: plain(v) for k, v in outer.items()}
    state = dictionary(_parameters=b"}", _modules=dictionary(model=net), **attributes)
    easy = name("dnnlib.util", "EasyDict") + b")\x81(" + text("a") + whole(1) + b"u"
    body = dictionary(ema=persistent(kind, state), loss_fn=easy)
    path.write_bytes(program(body))
    return path


def edm2_snapshot(path, case, shapes, **changes):
    """A network-snapshot of EDM2's program, of a case of the reference numbers."""
    fields = make_edm2.CASES[case]
    given = {k: v for k, v in fields.items() if k != "sigma_data"} | changes
    net = module(nested(shapes, make_edm2.drawn), "UNet", _init_kwargs=given)
    uncertainty = module({"weight": make_edm2.drawn("logvar", (1, 128))}, "MPConv")
    state = dictionary(
        _parameters=b"}", _modules=dictionary(unet=net, logvar_linear=uncertainty),
        sigma_data=plain(fields.get("sigma_data", 0.5)),
    )  # fmt: skip
    body = dictionary(
        encoder=persistent("StandardRGBEncoder", b"}"), ema=persistent("Precond", state)
    )
    path.write_bytes(program(body))
    return path
