"""Networks, SDEs and the records made of them as JSON: {"kind": class, **its own fields}, and back.

A network or an SDE that `score_jax.nets` or `score_jax.sde` exports is known here by its name; its
dataclass fields say which values are allowed.
"""

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from score_jax import nets, sde
from score_jax import parametrization as forms
from score_jax._check import brief
from score_jax._files import reason
from score_jax.model import Model
from score_jax.types import SDE

NOT_FIELDS = {"parent", "name"}  # of a Linen module: its place, not its form


def _exported(module: types.ModuleType, wanted: Callable[[type], bool]) -> dict[str, type]:
    """The dataclasses that a module exports, by name."""
    known = {k: v for k, v in vars(module).items() if isinstance(v, type)}
    return {k: v for k, v in known.items() if dataclasses.is_dataclass(v) and wanted(v)}


def _is_network(cls: type) -> bool:
    # A classifier takes no class labels.
    return issubclass(cls, nn.Module) and "y" in inspect.signature(cls.__call__).parameters


def _is_sde(cls: type) -> bool:
    return hasattr(cls, "marginal") and all(_can_write(f.type) for f in dataclasses.fields(cls))


def _can_write(hint: Any) -> bool:
    function = typing.get_origin(hint) is typing.get_origin(Callable[[], Any])
    return not function or hint == forms.NoiseInput


NETS = _exported(nets, _is_network)
SDES = _exported(sde, _is_sde)
NOISE_INPUTS = _exported(forms, lambda cls: cls.__name__.endswith("Input"))
# Annotations of fields that hold one of several objects.
KINDS: dict[Any, dict[str, type]] = {nn.Module: NETS, SDE: SDES, forms.NoiseInput: NOISE_INPUTS}
NAMED: dict[Any, dict[str, Any]] = {
    forms.Parametrization: {p.name: p for p in forms.PARAMETRIZATIONS},
    forms.Variance: {v.name: v for v in forms.VARIANCES},
}
NUMBERED = ("edm", "consistency")  # names that may have a number, "edm(0.7)"


@dataclasses.dataclass(frozen=True)
class Ingredients:
    """What a `Model` is made of, with the network as a module: a value that can be written as JSON.

    >>> Ingredients(NCSNpp(), VP(), TimeInput()).model().score(params)
    """

    net: nn.Module
    sde: SDE
    noise_input: forms.NoiseInput
    parametrization: forms.Parametrization = forms.NOISE
    variance: forms.Variance | None = None

    def model(self) -> Model:
        """The model of the network's `apply`."""
        return Model(
            self.sde, self.net.apply, self.noise_input, self.parametrization, self.variance
        )


def fields_of(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a record, a network or an SDE that can be written, by name."""
    named = {f.name: f for f in dataclasses.fields(cls) if f.init and _can_write(f.type)}
    return {k: f for k, f in named.items() if k not in NOT_FIELDS or not issubclass(cls, nn.Module)}


def to_record(value: Any, omit: Collection[str] = ()) -> Any:
    """A value as what JSON can hold. Fields of networks in `omit` are left out.

    Raises ValueError for what has no such form, such as a network that is not exported.

    >>> to_record(VP())
    {'kind': 'VP', 'beta_min': 0.1, 'beta_max': 20.0, 't1': 1.0}
    """
    if isinstance(value, forms.Parametrization | forms.Variance):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        left_out = omit if isinstance(value, nn.Module) else ()
        names = [name for name in fields_of(cls) if name not in left_out]
        tree = {name: to_record(getattr(value, name), omit) for name in names}
        return {"kind": cls.__name__, **tree} if _has_kind(cls) else tree
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list | np.ndarray):
        return [to_record(v, omit) for v in getattr(value, "tolist", lambda: value)()]
    if isinstance(value, type | np.dtype):
        return jnp.dtype(value).name
    raise ValueError(f"value cannot be written as JSON: {value!r}")


def _has_kind(cls: type) -> bool:
    known = [found.get(cls.__name__) for found in KINDS.values()]
    if cls not in known and issubclass(cls, nn.Module):
        raise ValueError(f"net must be one of {', '.join(NETS)}, got {cls.__name__}")
    return cls in known


def to_json(value: Any, omit: Collection[str] = ()) -> str:
    """A record as indented JSON, as `to_record`."""
    return json.dumps(to_record(value, omit), indent=2) + "\n"


def read_json(hint: Any, text: str, where: str = "config") -> Any:
    """Read what `to_json` wrote of a value of type `hint`; ValueError that names a wrong field."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the {where} is not JSON: {reason(error)}") from None
    return from_record(hint, tree, where)


def from_record(hint: Any, value: Any, where: str) -> Any:
    """The value of type `hint` that a record stands for; `where` names it in errors (ValueError).

    >>> from_record(SDE, {"kind": "VE", "sigma_max": 90.0}, "sde")
    VE(sigma_min=0.01, sigma_max=90.0, t1=1.0)
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in KINDS:
        return _of_kind(KINDS[hint], value, where)
    if hint is forms.Parametrization and isinstance(value, str):
        found = forms.parametrization_of(value)
        return _choice(NAMED[hint], value, where) if found is None else found
    if hint in NAMED:
        return _choice(NAMED[hint], value, where)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if origin is Literal:
        return _choice({v: v for v in args}, value, where)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else from_record(args[0], value, where)
    if origin is tuple and isinstance(value, list | tuple):
        each = args[:1] * len(value) if args[1:] == (...,) else args
        if len(each) == len(value):
            return tuple(from_record(k, v, where) for k, v in zip(each, value, strict=True))
    if hint is Any:  # a precision by its name, or numbers
        return getattr(jnp, value, value) if isinstance(value, str) else value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, got {brief(value)}")


def _choice(known: Mapping[Any, Any], value: Any, where: str) -> Any:
    if not isinstance(value, str | int) or value not in known:
        raise ValueError(f"{where} must be one of {tuple(known)}, got {brief(value)}")
    return known[value]


def _of_kind(known: Mapping[str, type], tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ValueError(f"{where} must be an object, got {brief(tree)}")
    fields = dict(tree)
    return _build(_choice(known, fields.pop("kind", None), f"{where}.kind"), fields, where)


def _build(cls: Any, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ValueError(f"{where} must be an object, got {brief(tree)}")
    known = fields_of(cls)
    unknown = sorted(set(tree) - set(known))
    if unknown:
        raise ValueError(
            f"{where} has unknown fields {[k[:60] for k in unknown[:4]]}; known: {sorted(known)}"
        )
    without = (dataclasses.MISSING, dataclasses.MISSING)
    missing = [k for k, f in known.items() if (f.default, f.default_factory) == without]
    if not set(missing) <= set(tree):
        raise ValueError(f"{where} needs the fields {missing}")
    return cls(**{k: from_record(known[k].type, v, f"{where}.{k}") for k, v in tree.items()})
