"""Pickles read as data: an interpreter of the few opcodes that containers of tensors need.

A pickle is a program for a small stack machine, and Python's own machine will import and call whatever
the file names. This one accepts numbers, strings, containers and the names of a given table;
`pickletools` only splits the bytes into opcodes and executes nothing. Everything else raises an error
that names it.

Time and memory are linear in the size of the pickle: the arguments of calls may not be longer, in all,
than the bytes read before them (`_Machine.spend`), keys have hashes that an author of a file cannot
make equal, and messages never print a container (`score_jax._check.brief`).
"""

import collections
import io
import mmap
import pickletools
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from score_jax._files import reason

Table = Mapping[str, Any]  # "module.name" -> a function that checks its arguments, or a plain value
PLAIN_KEYS = (str, bytes, int, float, bool, type(None))
MOST_OPCODES = 5_000_000  # an empty set is one byte in the file and 216 in memory
SLACK = 1_000  # entries that calls may receive beyond the bytes read


class Refused(ValueError):
    """The pickle contains something other than plain containers and the names of the table."""


class Built:
    """An object of the table whose state is set in a second step by `build`, which must check it."""

    def build(self, state: Any) -> None:
        """Take the state; raises Refused unless it is as expected."""
        raise Refused("it sets the state of an object")


class Record(dict[Any, Any], Built):
    """An object of a class that is not known, as data: nothing of the class is imported or called.

    `name` is the class or function, `arguments` what it would have been called with, `state` what
    would have been set on it; entries are those of a dictionary.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def build(self, state: Any) -> None:
        """Keep the state."""
        self.state = state

    @classmethod
    def named(cls, name: str) -> Callable[..., "Record"]:
        """The function of arguments that makes records of this name."""
        return lambda *arguments: cls(name, arguments)


class _Call(NamedTuple):
    """A name of the table that may be called by REDUCE."""

    name: str
    function: Callable[..., Any]


class _Machine:
    """The stack, the marks on it, and the memo."""

    def __init__(
        self,
        table: Table,
        persistent: Callable[[Any], Any] | None,
        unknown: Callable[[str], Callable[..., Any]] | None,
    ) -> None:
        self.table = table
        self.persistent = persistent
        self.unknown = unknown
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.position = 0  # bytes read
        self.spent = 0  # entries of the arguments of all calls

    def since_mark(self) -> list[Any]:
        """Take everything above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def find(self, name: str) -> Any:
        """What a name stands for; Refused if it is not in the table."""
        if name in self.table:
            found = self.table[name]
            return _Call(name, found) if callable(found) else found
        if self.unknown is None:
            raise Refused(
                f"it contains {name[:80]}, which is neither a tensor nor a plain container"
            )
        return _Call(name, self.unknown(name))

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """Call a name of the table, unless the same long arguments are used again and again."""
        call = _expect(function, _Call)
        self.spent += sum(len(a) for a in arguments if isinstance(a, list | dict | str | bytes))
        if self.spent > self.position + SLACK:
            raise Refused("it uses its objects again and again as arguments")
        return call.function(*arguments)


def _key(key: Any) -> Any:
    # Tuples of equal hashes are easily made, and nested ones take exponential time to hash. Integers
    # below the modulus are their own hashes.
    if not isinstance(key, PLAIN_KEYS):
        raise Refused(f"a {type(key).__name__} as a key of a dictionary or member of a set")
    if isinstance(key, int) and abs(key) >= sys.hash_info.modulus:
        raise Refused(f"an integer of {key.bit_length()} bits as a key of a dictionary or a set")
    return key


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise Refused(f"a {type(value).__name__} used as a {kind.__name__}")
    return value


def _push(m: _Machine, arg: Any) -> None:
    m.stack.append(arg)


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda m, arg: m.stack.append(value)


def _empty(kind: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda m, arg: m.stack.append(kind())


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    def handle(m: _Machine, arg: Any) -> None:
        items = tuple(m.stack.pop() for _ in range(count))
        m.stack.append(items[::-1])

    return handle


def _gather(kind: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    return lambda m, arg: m.stack.append(kind(m.since_mark()))


def _dict(items: list[Any]) -> dict[Any, Any]:
    return {_key(k): v for k, v in zip(items[::2], items[1::2], strict=True)}


def _appends(m: _Machine, arg: Any) -> None:
    items = m.since_mark()
    _expect(m.stack[-1], list).extend(items)


def _append(m: _Machine, arg: Any) -> None:
    item = m.stack.pop()
    _expect(m.stack[-1], list).append(item)


def _setitems(m: _Machine, arg: Any) -> None:
    items = m.since_mark()
    _expect(m.stack[-1], dict).update(_dict(items))


def _setitem(m: _Machine, arg: Any) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _expect(m.stack[-1], dict)[_key(key)] = value


def _additems(m: _Machine, arg: Any) -> None:
    items = m.since_mark()
    _expect(m.stack[-1], set).update(map(_key, items))


def _put(m: _Machine, arg: Any) -> None:
    m.memo[len(m.memo) if arg is None else arg] = m.stack[-1]


def _get(m: _Machine, arg: Any) -> None:
    m.stack.append(m.memo[arg])


def _pop(m: _Machine, arg: Any) -> None:
    m.stack.pop()


def _mark(m: _Machine, arg: Any) -> None:
    m.marks.append(len(m.stack))


def _global(m: _Machine, arg: Any) -> None:
    m.stack.append(m.find(".".join(arg.split(" ", 1))))


def _stack_global(m: _Machine, arg: Any) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.stack.append(m.find(f"{_expect(module, str)}.{_expect(name, str)}"))


def _instance(m: _Machine, arg: Any) -> None:
    name = ".".join(arg.split(" ", 1))
    raise Refused(f"it contains an instance of {name[:80]}")


def _reduce(m: _Machine, arg: Any) -> None:
    arguments, call = _expect(m.stack.pop(), tuple), m.stack.pop()
    m.stack.append(m.call(call, arguments))


def _new(m: _Machine, arg: Any) -> None:
    arguments, call = _expect(m.stack.pop(), tuple), _expect(m.stack.pop(), _Call)
    if call.name in m.table:
        raise Refused(f"it uses the opcode NEWOBJ with {call.name}")
    m.stack.append(m.call(call, arguments))


def _build(m: _Machine, arg: Any) -> None:
    # PyTorch sets the versions of the modules on its state dicts, and nothing else.
    state, obj = m.stack.pop(), m.stack[-1]
    if isinstance(obj, Built):
        obj.build(state)
        return
    if not isinstance(obj, dict) or not isinstance(state, dict) or set(state) - {"_metadata"}:
        raise Refused(f"it sets attributes of a {type(obj).__name__}")


def _persistent(m: _Machine, arg: Any) -> None:
    if m.persistent is None:
        raise Refused("it refers to an object outside of the pickle")
    m.stack.append(m.persistent(m.stack.pop()))


HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, arg: None),
    "NONE": _constant(None), "NEWTRUE": _constant(True), "NEWFALSE": _constant(False),
    **dict.fromkeys((
        "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
        "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING",
    ), _push),
    "BYTEARRAY8": lambda m, arg: m.stack.append(bytes(arg)),
    "EMPTY_DICT": _empty(dict), "EMPTY_LIST": _empty(list), "EMPTY_TUPLE": _constant(()),
    "EMPTY_SET": _empty(set), "MARK": _mark, "POP": _pop,
    "TUPLE": _gather(tuple), "LIST": _gather(list), "DICT": _gather(_dict),
    "FROZENSET": _gather(lambda items: frozenset(map(_key, items))),
    "TUPLE1": _tuple(1), "TUPLE2": _tuple(2), "TUPLE3": _tuple(3),
    "APPEND": _append, "APPENDS": _appends, "SETITEM": _setitem, "SETITEMS": _setitems,
    "ADDITEMS": _additems,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
    "GLOBAL": _global, "STACK_GLOBAL": _stack_global, "INST": _instance,
    "REDUCE": _reduce, "NEWOBJ": _new, "BUILD": _build, "BINPERSID": _persistent,
}  # fmt: skip


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return set(map(_key, _expect(items, list)))


def _ordered(items: Iterable[Any] = ()) -> dict[Any, Any]:
    return collections.OrderedDict((_key(k), v) for k, v in _expect(items or [], list))


def _encode(text: Any, encoding: Any) -> bytes:
    # How bytes are written by protocol 2, always in Latin 1.
    return bytes(_expect(text, str).encode("latin-1"))


CONTAINERS: dict[str, Any] = {
    "collections.OrderedDict": _ordered,
    "_codecs.encode": _encode,
    **{f"{module}.set": _set for module in ("__builtin__", "builtins")},
}


def read_pickle(
    source: io.BytesIO | mmap.mmap,
    table: Table = CONTAINERS,
    persistent: Callable[[Any], Any] | None = None,
    unknown: Callable[[str], Callable[..., Any]] | None = None,
) -> Any:
    """Read one pickle from where `source` stands to its end, executing nothing but `table`.

    `table` maps "module.name" to functions (called with the arguments that the pickle gives, which
    they must check) or to plain values; `persistent` is given the persistent ids; `unknown(name)`
    makes the function that stands for a name outside of the table (`Record.named`). Raises Refused, a
    ValueError, for everything else, naming it, and ValueError for a damaged pickle.

    >>> read_pickle(io.BytesIO(b"(K\\x01K\\x02t."))
    (1, 2)
    """
    machine = _Machine(table, persistent, unknown)
    start = source.tell()
    try:
        for count, (opcode, arg, position) in enumerate(pickletools.genops(source)):  # type: ignore[arg-type]
            if opcode.name not in HANDLERS:
                raise Refused(f"it uses the opcode {opcode.name}, which no file of tensors needs")
            if count >= MOST_OPCODES:
                raise Refused(f"it has more than {MOST_OPCODES:,} opcodes")
            machine.position = (position or 0) - start
            HANDLERS[opcode.name](machine, arg)
        (result,) = machine.stack
        return result
    except Refused:
        raise
    except Exception as error:
        raise ValueError(f"the pickle is damaged ({reason(error)})") from error
