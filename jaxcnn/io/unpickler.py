"""Read the pickles in PyTorch's files without running code from them.

A pickle is a program for a stack machine, and Python's own machine lets it call any function.
This one builds plain data (dicts, lists, tuples, numbers, strings) and calls only the functions
that its caller lists by name; any other name is refused as soon as it occurs.
"""

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from jaxcnn.errors import CheckpointError, shown


def is_whole(value: Any) -> bool:
    """Whether a value from a file can be a size, an offset or a count."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


class Call:
    """The function that ``module.name`` in a pickle stands for.

    Args:
        function: called with the pickled arguments; its result is data.
    """

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]):
        self.function = function


class Stateful:
    """An object that a pickle makes first and fills with its state later."""

    def set_state(self, state: Any) -> None:
        """Take the state; it comes from the file, and must be checked."""
        raise NotImplementedError


_MARK = object()
# Each operation makes an object of up to 60 bytes, perhaps from one byte of the file. 50,000
# tensors need fewer operations.
_MAX_OPERATIONS = 2_000_000
_MAX_DIGITS = 4096  # int() of longer decimal strings is refused by Python itself
_MAX_ARGUMENTS = 16


class Unpickler:
    """Machine that runs one pickle at a time from a buffer.

    Its memory is bounded by the length of the buffer: strings are slices of the buffer, and no
    opcode makes more than a few objects. The functions in ``names`` must keep to that bound.

    Args:
        buffer: the bytes.
        names: the data or :class:`Call` that each allowed ``module.name`` stands for.
        persistent_load: makes the object of a persistent id.
        path: of the file, for errors.
        position: where the pickle starts.

    Attributes:
        position: where the pickle starts; after :meth:`load`, where it ended.
        names: as given.
    """

    def __init__(
        self,
        buffer: Any,
        names: Mapping[str, Any],
        persistent_load: Callable[[Any], Any],
        path: str,
        position: int = 0,
    ):
        self.position = position
        self._buffer = memoryview(buffer)
        self.names = names
        self._persistent_load = persistent_load
        self._path = path

    def load(self) -> Any:
        """Run the pickle that starts at ``position`` and return its object.

        Raises:
            CheckpointError: for a name that is not allowed, or if this is not a valid pickle.
        """
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        size = len(self._buffer)
        for _ in range(_MAX_OPERATIONS):
            if self.position >= size:
                raise self._cut_short()
            opcode = self._buffer[self.position]
            self.position += 1
            if opcode == _STOP:
                return self._pop()
            operation = _BY_CODE[opcode]
            if operation is None:
                raise self._error(f"opcode {opcode:#x} does not occur in checkpoints")
            operation(self)
        raise self._error(f"its pickle has more than {_MAX_OPERATIONS:,} operations")

    # --- the buffer

    def _error(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._path} cannot be read as a checkpoint: {what}.")

    def _cut_short(self) -> CheckpointError:
        return CheckpointError(f"{self._path} is damaged: its pickle is cut short.")

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self._buffer):
            raise self._cut_short()
        data = bytes(self._buffer[self.position : end])
        self.position = end
        return data

    def _number(self, layout: str) -> Any:
        start, self.position = self.position, self.position + struct.calcsize(layout)
        if self.position > len(self._buffer):
            raise self._cut_short()
        return struct.unpack_from(layout, self._buffer, start)[0]

    def _line(self) -> bytes:
        # A line is a name or a number: search no further than one can be long.
        window = bytes(self._buffer[self.position : self.position + 2 * _MAX_DIGITS])
        end = window.find(b"\n")
        if end < 0:
            raise CheckpointError(f"{self._path} is damaged: a line in its pickle has no end.")
        self.position += end + 1
        return window[:end]

    def _text(self, data: bytes, encoding: str = "utf-8") -> str:
        try:
            return data.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
        except UnicodeDecodeError as error:
            raise self._error("a string is not valid UTF-8") from error

    # --- the stack

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise self._error("its pickle pops from an empty stack")
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                items = self._stack[index + 1 :]
                del self._stack[index:]
                return items
        raise self._error("its pickle lacks a mark")

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise self._error(f"its pickle adds items to something other than a {kind.__name__}")
        return self._stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise self._error("its pickle has a key without a value")
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # No weights have other keys, and hashing those can take forever: tuples of tuples,
            # long numbers, numbers whose hashes are all the same.
            if isinstance(key, str):
                target[key] = value

    def _put(self, index: int) -> None:
        if not self._stack or self._stack[-1] is _MARK:
            raise self._error("its pickle memoizes from an empty stack")
        if not 0 <= index < 2**32:
            raise self._error("its pickle memoizes under an impossible number")
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise self._error(
                f"its pickle refers to object {shown(index)}, which is not in its memo"
            )
        self._push(self._memo[index])

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self._error("it asks for a name that is not text")
        full = f"{module}.{name}"
        if full not in self.names:
            raise CheckpointError(
                f"{self._path} was not read: it asks for {full[:200]!r}, which a checkpoint of "
                f"weights does not need and which could run code; save only the model's "
                f"state_dict() in PyTorch."
            )
        self._push(self.names[full])

    def _call(self) -> None:
        arguments, target = self._pop(), self._pop()
        if not isinstance(target, Call) or not isinstance(arguments, tuple):
            raise self._error("its pickle calls something that is not a function")
        if len(arguments) > _MAX_ARGUMENTS:  # each call copies them
            raise self._error(f"its pickle calls a function with {len(arguments):,} arguments")
        self._push(self._checked(target.function, *arguments))

    def _build(self) -> None:
        state, target = self._pop(), self._top(object)
        # The state of anything else (a state_dict's _metadata) contains no tensors.
        if isinstance(target, Stateful):
            self._checked(target.set_state, state)

    def _checked(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except CheckpointError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise self._error(f"a call has invalid arguments ({error})") from error

    def _integer(self) -> None:
        line = self._line()
        if line in (b"00", b"01"):
            self._push(line == b"01")
        else:
            self._push(self._decimal(line.rstrip(b"L")))

    def _decimal(self, digits: bytes) -> int:
        if not re.fullmatch(rb"[+-]?\d{1,%d}" % _MAX_DIGITS, digits):
            raise self._error("invalid number")
        return int(digits)

    def _float(self) -> None:
        try:
            self._push(float(self._line()))
        except ValueError as error:
            raise self._error("invalid number") from error

    def _string(self) -> None:
        line = self._line()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"" or b"\\" in line:
            raise self._error("invalid quoted string")
        self._push(self._text(line[1:-1], "latin-1"))

    def _pop_top(self) -> None:
        if not self._stack:
            raise self._error("its pickle pops from an empty stack")
        self._stack.pop()


def _little(machine: Unpickler, size: int) -> int:
    return int.from_bytes(machine._take(size), "little", signed=True)


def _append(machine: Unpickler, items: list[Any]) -> None:
    machine._top(list).extend(items)


def _set_item(machine: Unpickler) -> None:
    value, key = machine._pop(), machine._pop()
    machine._set_items([key, value])


def _tuple_of(count: int) -> Callable[[Unpickler], None]:
    def operation(machine: Unpickler) -> None:
        machine._push(tuple([machine._pop() for _ in range(count)][::-1]))

    return operation


def _dict_of_marked(machine: Unpickler) -> None:
    items = machine._pop_mark()
    machine._push({})
    machine._set_items(items)


def _text_of(layout: str, encoding: str = "utf-8") -> Callable[[Unpickler], None]:
    return lambda machine: machine._push(
        machine._text(machine._take(machine._number(layout)), encoding)
    )


def _bytes_of(layout: str) -> Callable[[Unpickler], None]:
    return lambda machine: machine._push(machine._take(machine._number(layout)))


def _constant(value: Any) -> Callable[[Unpickler], None]:
    return lambda machine: machine._push(value)


def _stack_global(machine: Unpickler) -> None:
    name, module = machine._pop(), machine._pop()
    machine._name(module, name)


def _global(machine: Unpickler) -> None:
    module, name = machine._text(machine._line()), machine._text(machine._line())
    machine._name(module, name)


def _instance(machine: Unpickler) -> None:
    arguments = tuple(machine._pop_mark())
    _global(machine)
    machine._push(arguments)
    machine._call()


# By opcode, of protocols 0 to 5. No version of torch.save writes the others (EXT1, NEWOBJ_EX, ...).
_OPERATIONS: dict[bytes, Callable[[Unpickler], None]] = {
    b"\x80": lambda m: m._number("<B"),  # PROTO
    b"\x95": lambda m: m._number("<Q"),  # FRAME: a hint for buffered readers
    b"(": lambda m: m._push(_MARK),
    b"0": lambda m: m._pop_top(),
    b"1": lambda m: m._pop_mark(),
    b"2": lambda m: m._push(m._top(object)),
    # numbers
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"I": lambda m: m._integer(),
    b"L": lambda m: m._integer(),
    b"J": lambda m: m._push(m._number("<i")),
    b"K": lambda m: m._push(m._number("<B")),
    b"M": lambda m: m._push(m._number("<H")),
    b"\x8a": lambda m: m._push(_little(m, m._number("<B"))),
    b"\x8b": lambda m: m._push(_little(m, m._number("<i"))),
    b"F": lambda m: m._float(),
    b"G": lambda m: m._push(m._number(">d")),
    # strings; Python 2's are bytes, which become text: names in a state dict are ASCII
    b"S": lambda m: m._string(),
    b"T": _text_of("<i", "latin-1"),
    b"U": _text_of("<B", "latin-1"),
    b"V": lambda m: m._push(m._text(m._line(), "raw-unicode-escape")),
    b"X": _text_of("<I"),
    b"\x8c": _text_of("<B"),
    b"\x8d": _text_of("<Q"),
    b"B": _bytes_of("<I"),
    b"C": _bytes_of("<B"),
    b"\x8e": _bytes_of("<Q"),
    b"\x96": _bytes_of("<Q"),  # BYTEARRAY8: of NumPy arrays in protocol 5
    # containers
    b")": _constant(()),
    b"t": lambda m: m._push(tuple(m._pop_mark())),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"]": lambda m: m._push([]),
    b"l": lambda m: m._push(m._pop_mark()),
    b"a": lambda m: _append(m, [m._pop()]),
    b"e": lambda m: _append(m, m._pop_mark()),
    b"}": lambda m: m._push({}),
    b"d": _dict_of_marked,
    b"s": _set_item,
    b"u": lambda m: m._set_items(m._pop_mark()),
    # the memo
    b"p": lambda m: m._put(m._decimal(m._line())),
    b"q": lambda m: m._put(m._number("<B")),
    b"r": lambda m: m._put(m._number("<I")),
    b"\x94": lambda m: m._put(len(m._memo)),
    b"g": lambda m: m._get(m._decimal(m._line())),
    b"h": lambda m: m._get(m._number("<B")),
    b"j": lambda m: m._get(m._number("<I")),
    # names, calls and persistent ids
    b"c": _global,
    b"\x93": _stack_global,
    b"i": _instance,
    b"R": lambda m: m._call(),
    b"\x81": lambda m: m._call(),  # NEWOBJ: a class and its arguments
    b"b": lambda m: m._build(),
    b"P": lambda m: m._push(m._checked(m._persistent_load, m._text(m._line()))),
    b"Q": lambda m: m._push(m._checked(m._persistent_load, m._pop())),
}
_STOP = ord(".")
_BY_CODE = [_OPERATIONS.get(bytes([code])) for code in range(256)]
