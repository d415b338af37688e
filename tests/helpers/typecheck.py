"""The types of every function of the package, checked when it is called, and cheap to set up.

`jaxtyping.jaxtyped` compiles two functions with beartype for each function that is defined, also for a
closure each time it is made, and checks the parameters of each call twice: a fifth of the suite's
time. Here beartype compiles one check for each type, and a function keeps the list of its types.
Shapes are held together over a call in the same way.
"""

import dataclasses
import functools
import inspect
import typing

import jaxtyping
from beartype import BeartypeConf
from beartype.door import is_bearable

# An int where a float is asked for is right, as in the rest of Python.
CONF = BeartypeConf(is_pep484_tower=True)
JAXTYPED = jaxtyping.jaxtyped
P = inspect.Parameter


def _read(annotation, names):
    """An annotation with the strings in it evaluated."""

    def holder(value):
        del value

    holder.__annotations__ = {"value": annotation}
    return typing.get_type_hints(holder, names, include_extras=True)["value"]


@functools.cache
def _without_names(annotation):
    return _read(annotation, {})


def _meant(annotation, names):
    """The type that an annotation means, Any where that is not defined yet."""
    try:
        return _read(annotation, names) if "'" in repr(annotation) else _without_names(annotation)
    except Exception:
        return typing.Any


def _types(fn):
    """Types by the names of the parameters and "return", without those that allow everything."""
    found = {name: _meant(a, fn.__globals__) for name, a in fn.__annotations__.items()}
    return {name: t for name, t in found.items() if t is not typing.Any and t is not object}


def _check(fn, name, value, expected):
    if not is_bearable(value, expected, conf=CONF):
        what = "the result" if name == "return" else f"the argument {name}"
        raise jaxtyping.TypeCheckError(
            f"{what} of {fn.__module__}.{fn.__qualname__} must be {expected}, got {value!r}"
        )


def _function(fn):
    """The function with its types checked; itself if it names none."""
    types = _types(fn) if fn.__annotations__ else {}
    if not types:
        return fn
    names, rest, others = [], None, None
    parameters = inspect.signature(fn).parameters
    for name, parameter in parameters.items():
        if parameter.kind in (P.POSITIONAL_ONLY, P.POSITIONAL_OR_KEYWORD):
            names.append(name)
        elif parameter.kind == P.VAR_POSITIONAL:
            rest = types.get(name)
        elif parameter.kind == P.VAR_KEYWORD:
            others = types.get(name)
    by_place, result = [types.get(name) for name in names], types.get("return")
    context = JAXTYPED("context")  # of the sizes that the names in shapes stand for

    @functools.wraps(fn)
    def checked(*args, **kwargs):
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return fn(*args, **kwargs)
        with context:
            for name, value, expected in zip(names, args, by_place, strict=False):
                if expected is not None:
                    _check(fn, name, value, expected)
            for name, value in kwargs.items():
                expected = types.get(name) if name in parameters else others
                if expected is not None:
                    _check(fn, name, value, expected)
            if rest is not None:
                for value in args[len(names) :]:
                    _check(fn, "*args", value, rest)
            out = fn(*args, **kwargs)
            if result is not None:
                _check(fn, "return", out, result)
            return out

    return checked


def checked(fn):
    """A function, method, property or dataclass with its types checked."""
    if isinstance(fn, classmethod | staticmethod):
        return type(fn)(checked(fn.__func__))
    if isinstance(fn, property):
        return property(*(f and checked(f) for f in (fn.fget, fn.fset, fn.fdel)))
    if not inspect.isclass(fn):
        return _function(fn)
    # The fields of a dataclass, unless a parent checks them.
    if dataclasses.is_dataclass(fn) and fn.__init__.__globals__ is not globals():
        fn.__init__ = _function(fn.__init__)
    return fn


def install(package):
    """Check what is imported of the package from here on; other users of jaxtyping keep its own."""

    def jaxtyped(fn=None, **options):
        if fn is None:
            return functools.partial(jaxtyped, **options)
        owner = getattr(fn, "fget", None) or fn
        ours = getattr(owner, "__module__", "").partition(".")[0] == package
        return checked(fn) if ours else JAXTYPED(fn, **options)

    jaxtyping.jaxtyped = jaxtyped  # which the hook's decorators look up
    jaxtyping.install_import_hook(package, None)
