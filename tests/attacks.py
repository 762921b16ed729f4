"""Files that would harm whoever reads them carelessly, after what was published.

* Functions that scanners of pickles (picklescan, fickling) let through, by their advisories, and
  the ways to call one.
* CVE-2025-32434 and CVE-2026-24747, of ``torch.load(weights_only=True)``.
* Pickles that lie about sizes, or whose objects are far larger than they are.
* Archives whose directory and content disagree.
"""

import collections
import io
import os
import pickle
import struct
import zipfile
from typing import Any

import torch
from torch_writers import tar_of

# Functions that run code, commands or programs, read or write files, or connect; and those that
# find such a function by its name.
FUNCTIONS = """
    __builtin__.compile __builtin__.exec __builtin__.getattr _aix_support._read_cmd_output _io.open
    _osx_support._read_output _pyrepl.pager.pipe_pager asyncio.unix_events._UnixSubprocessTransport
    bdb.Bdb.run builtins.__import__ builtins.breakpoint cProfile.runctx cloudpickle.loads
    code.InteractiveInterpreter.runcode ctypes.CDLL dill.loads distutils.file_util.write_file
    doctest.debug_script ensurepip._run_pip functools.partial functools.reduce
    idlelib.pyshell.ModifiedInterpreter.runcode idlelib.run.Executive.runcode imaplib.IMAP4_stream
    importlib.import_module io.FileIO joblib.load lib2to3.pgen2.pgen.ParserGenerator.make_label
    linecache.getline logging.config.listen marshal.loads multiprocessing.util.spawnv_passfds
    nt.system numpy.f2py.crackfortran.getlincoef numpy.load numpy.testing._private.utils.runstring
    operator.attrgetter operator.methodcaller pandas.read_pickle pip.main pkgutil.resolve_name
    posix.system profile.run pty.spawn pydoc.locate pydoc.pipepager runpy.run_path shelve.open
    shutil.rmtree smtplib.SMTP socket.create_connection sqlite3.connect ssl.get_server_certificate
    subprocess.check_output sys.exit test.support.script_helper.assert_python_ok timeit.timeit
    torch._dynamo.guards.GuardBuilder.get torch._inductor.codecache.compile_file
    torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression torch.hub.load
    torch.jit.load torch.jit.unsupported_tensor_ops.execWrapper torch.load torch.serialization.load
    torch.utils._config_module.load_config torch.utils.bottleneck.__main__.run_cprofile
    torch.utils.collect_env.run torch.utils.data.datapipes.utils.decoder.basichandlers trace.Trace
    types.CodeType types.FunctionType uuid._get_command_stdout venv.create webbrowser.open
""".split()


class Reduce:
    """Pickled as a call: of a function, with a tuple of arguments."""

    def __init__(self, *value: Any):
        self.value = value

    def __reduce__(self) -> tuple:
        return self.value


def text(value: str) -> bytes:
    """A string in a pickle."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


# The storage "0" of four floats.
STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"


def rebuilt(storage: bytes, metadata: bytes) -> bytes:
    """In a pickle: a tensor of four elements of a storage, with such metadata."""
    sizes = b"K\x00K\x04\x85K\x01\x85\x89N"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + sizes + metadata + b"tR"


def tensor_with(metadata: bytes) -> bytes:
    """The pickle of a tensor with such metadata."""
    return b"\x80\x02}" + text("a") + rebuilt(STORAGE, metadata) + b"s."


def negated_part(count: int) -> bytes:
    """In a pickle: a tensor that is negated when it is read, of a part of a storage."""
    number = b"J" + struct.pack("<i", count)
    part = b"(" + text("part") + b"K\x00" + number + b"t"
    storage = STORAGE.removesuffix(b"K\x04tQ") + number + part + b"tQ"
    return rebuilt(storage, b"}" + text("neg") + b"\x88s")


def hostile_pickles(canary: str) -> dict[str, bytes]:
    """Pickles by name; those that run a command create the file ``canary``."""
    command = f"touch {canary}"
    short = len(command).to_bytes(1, "little")
    call = b"cos\nsystem\n" + text(command) + b"\x85R"
    characters = b"X\x00\x10\x00\x00" + b"a" * 4096
    pairs = b"(" + b"X\x01\x00\x00\x00aK\x01\x86" * 1000 + b"l"
    # Tuples of the one before, twice: of a hundred bytes, and 2**90 to whoever shows it.
    bomb = b"]" + b"2\x86" * 90
    deep = b"]" + b"\x85" * 20_000
    huge = b"\x8b" + struct.pack("<i", 20_000) + b"\x01" * 20_000
    pickles = {
        "os.system": pickle.dumps(Reduce(os.system, (command,)), 2),
        "builtins.eval": pickle.dumps(Reduce(eval, (f"__import__('os').system({command!r})",)), 2),
        "nested": pickle.dumps({"a": [Reduce(os.system, (command,))]}, 2),
        "in arguments": pickle.dumps(
            Reduce(collections.OrderedDict, ([("a", Reduce(os.system, (command,)))],)), 2
        ),
        # Ways to name and to call a function.
        "GLOBAL": b"cos\nsystem\n(S'" + command.encode() + b"'\ntR.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + short + command.encode()
        + b"\x85R.",
        "INST": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + command.encode() + b"'\no.",
        "NEWOBJ": b"\x80\x02cos\nsystem\n" + text(command) + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n" + text(command) + b"\x85}\x92.",
        "EXT1": b"\x80\x02\x82\x01.",
        "a frozen set": b"\x80\x04(K\x01\x91.",
        "a result that is dropped": b"\x80\x02" + call + b"0}.",
        "a function from the memo": b"\x80\x02cos\nsystem\nq\x000h\x00" + text(command) + b"\x85R.",
        "a call before the pickle breaks": b"\x80\x02" + call + b"\xff\xff",
        "a second pickle": b"\x80\x02}." + call + b".",
        "BUILD on a class": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb"
        b"csubprocess\nPopen\n.",
        "__setstate__ by BUILD": b"\x80\x02ccollections\nOrderedDict\n)R}" + text("__setstate__")
        + b"cos\nsystem\nsb" + text(command) + b"b.",
        "an attribute of a known name": b"\x80\x04\x8c\x0bcollections\x8c\x20OrderedDict.__init__"
        b".__globals__\x93.",
        "a torch name that is not needed": b"ctorch\nload\n(S'x'\ntR.",
        "a torch submodule": b"ctorch.storage\n_load_from_bytes\n(S'x'\ntR.",
        # CVE-2026-24747
        "SETITEM on a list": b"\x80\x02]K\x00K\x01s.",
        "SETITEM on a storage": b"\x80\x02" + STORAGE + b"K\x00K\x01s.",
        "SETITEMS on a tensor": tensor_with(b"}")[:-2] + b"(K\x00K\x01us.",
        "BUILD on a tensor": tensor_with(b"}")[:-2] + b"(K\x01K\x02K\x03tbK\x00K\x01ss.",
        "APPENDS on a dict": b"\x80\x02}(K\x01e.",
        # Sizes
        "a memo of four billion": b"\x80\x02}r\xff\xff\xff\xff0j\xfe\xff\xff\xff.",
        "a string of four gigabytes": b"\x80\x02X\xff\xff\xff\xffabc.",
        "a string of 2**63 bytes": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.",
        "a string of negative length": b"\x80\x02T\xff\xff\xff\xffabc.",
        "a long of 2**31 bytes": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
        "a number of a million digits": b"I" + b"9" * 10**6 + b"\n.",
        "a huge key": b"\x80\x02}" + huge + b"K\x01s.",
        # All numbers that are multiples of 2**61 - 1 have the hash 0.
        "keys with the same hash": b"\x80\x02}(" + b"".join(
            b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(50_000)
        ) + b"u.",
        "places in the memo with the same hash": b"\x80\x02}" + b"".join(
            b"p%d\n" % (n * (2**61 - 1)) for n in range(1, 50_000)
        ) + b".",
        "a long tuple as a key, again and again": b"\x80\x02}(" + b"N" * 100_000 + b"tq\x010"
        + b"h\x01Ns" * 20_000 + b".",
        "a long tuple as arguments, again and again": b"\x80\x02](" + b"N" * 100_000 + b"tq\x010"
        + b"ctorch\ndevice\nq\x020" + b"h\x02h\x01R0" * 20_000 + b".",
        "a long tuple as an identifier, again and again": b"\x80\x02](" + text("storage")
        + b"N" * 100_000 + b"tq\x010" + b"h\x01Q0" * 20_000 + b".",
        "a scalar of a long string, again and again": b"\x80\x02cnumpy._core.multiarray\nscalar\n"
        b"q\x00cnumpy\ndtype\nU\x07S100000\x85Rq\x01B\xa0\x86\x01\x00" + b"a" * 100_000 + b"q\x02"
        + b"h\x00h\x01h\x02\x86R" * 300 + b".",
        "a name of a megabyte around a thousand": b"\x80\x02}" + b"X" + struct.pack("<I", 10**6)
        + b"a" * 10**6 + b"}(" + b"".join(text(str(n)) + b"}" for n in range(1000)) + b"us.",
        "a name that a terminal obeys": tensor_with(b"}").replace(text("a"), text("a\x1b[31m"), 1),
        "a name of a surrogate": tensor_with(b"}").replace(
            text("a"), b"X\x03\0\0\0\xed\xa0\x80", 1
        ),
        "a huge number in a key": b"\x80\x02}" + huge + b"\x85K\x01s.",
        "a huge number as a place in the memo": b"\x80\x02g" + b"1" * 4000 + b"\n.",
        "keys of tuples of tuples": b"\x80\x02}(K\x01K\x01\x86" + b"2\x86" * 90 + b"K\x01u.",
        "a string encoded a thousand times": b"\x80\x02c_codecs\nencode\nq\x01" + characters
        + b"q\x02" + b"h\x01h\x02X\x06\x00\x00\x00latin1\x86R" * 1000 + b".",
        "a list made a dict a thousand times": b"\x80\x02ccollections\nOrderedDict\nq\x01" + pairs
        + b"q\x02" + b"h\x01h\x02\x85R" * 1000 + b".",
        "a dict in the place of a pair": b"\x80\x02ccollections\nOrderedDict\n]}(K\x01K\x01K\x02K"
        b"\x02ua\x85R.",
        "an array of a thousand axes": b"\x80\x02cnumpy._core.numeric\n_frombuffer\n(U\x01acnumpy\n"
        b"dtype\nU\x02u1\x85R" + b"(" + b"K\x01" * 1000 + b"tU\x01CtR.",
        # Structure
        "an empty stack": b"\x80\x02.",
        "no mark": b"\x80\x02}u.",
        "a persistent id that is unknown": b"\x80\x02}X\x01\x00\x00\x00aX\x01\x00\x00\x00zQs.",
        "a persistent id that is not a tuple": b"\x80\x02}X\x01\x00\x00\x00aK\x05Qs.",
    }  # fmt: skip
    for kind, value in {"bomb": bomb, "depth": deep}.items():
        pickles |= {
            f"a {kind} as the name of a module": b"\x80\x04" + value + text("a") + b"\x93.",
            f"a {kind} as a dtype": b"\x80\x02cnumpy\ndtype\n" + value + b"\x85R.",
            f"a {kind} as a key": b"\x80\x02}" + value + b"K\x01s.",
            f"a {kind} as metadata": tensor_with(b"}" + text("b") + value + b"s"),
            f"a {kind} as an identifier": b"\x80\x02" + value + b"Q.",
            f"a {kind} as the content": b"\x80\x02" + value + b".",
        }
    for function in FUNCTIONS:
        module, _, name = function.rpartition(".")
        pickles[function] = f"\x80\x02c{module}\n{name}\n".encode("latin-1") + (
            text(command) + b"\x85R."
        )
    return pickles


def zip_of(pickled: bytes, **members: bytes) -> bytes:
    """A file as torch.save writes it, with a pickle and other members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in ({"version": b"3\n"} | members).items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def legacy_of(pickled: bytes, count: int = 4) -> bytes:
    """A file as PyTorch before 1.6 wrote it, with a pickle and the storage that it uses.

    Args:
        pickled: the pickle.
        count: floats in the storage.
    """
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    storages = b"\x80\x02]."
    if text("storage") + b"ctorch\nFloatStorage\n" in pickled:
        storages = b"\x80\x02]" + text("0") + b"a." + struct.pack("<q", count) + bytes(4 * count)
    return b"".join(pickle.dumps(value, 2) for value in head) + pickled + storages


def state_with(storage_count: Any, offset: Any, size: Any, stride: Any, key: str = "0") -> bytes:
    """The pickle of a state dict with one float tensor of such sizes."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> tuple | None:
            if item is marker:
                return ("storage", torch.FloatStorage, key, "cpu", storage_count)
            return None

    marker = object()
    rebuild = torch._utils._rebuild_tensor_v2
    buffer = io.BytesIO()
    value = Reduce(rebuild, (marker, offset, size, stride, False, collections.OrderedDict()))
    Pickler(buffer, 2).dump({"a": value})
    return buffer.getvalue()


def zip_bomb(pickled: bytes, size: int) -> bytes:
    """A file with a compressed storage of zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled, compress_type=zipfile.ZIP_STORED)
        archive.writestr("archive/data/0", bytes(size))
    return buffer.getvalue()


def directory_changed(data: bytes, name: bytes, offset: int, layout: str, value: int) -> bytes:
    """A zip file with one number changed in its directory's entry of a member."""
    content = bytearray(data)
    start = content.rindex(name) - 46  # the entry's head, before the name
    struct.pack_into(layout, content, start + offset, value)
    return bytes(content)


def safetensors_of(header: bytes, content: bytes = b"") -> bytes:
    """A safetensors file."""
    return struct.pack("<Q", len(header)) + header + content


def tar_headers(*kinds_and_sizes: tuple[bytes, bytes]) -> bytes:
    """Headers of a tar archive, of such kinds, that state such sizes."""
    data = b""
    for kind, size in kinds_and_sizes:
        head = b"a".ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0")
        rest = kind + bytes(100) + b"ustar\x0000" + bytes(247)
        checksum = sum(head.ljust(148, b"\0") + b" " * 8 + rest)
        data += head.ljust(148, b"\0") + b"%06o\0 " % checksum + rest
    return data + bytes(1024)


def hostile_archives(evil: bytes) -> dict[str, bytes]:
    """Whole files by name.

    Args:
        evil: a pickle that runs a command.
    """
    state = state_with(4, 0, (4,), (1,))
    sound = zip_of(state, **{"data/0": bytes(16), "data/1": bytes(16)})
    return {
        # CVE-2025-32434: these two were read by other code, which ran what is in them
        "a TorchScript program": zip_of(
            evil, **{"constants.pkl": evil, "code/__torch__.py": b"import os"}
        ),
        "a call in each part of a tar archive": tar_of(evil, evil, evil),
        "a call in a tar archive's pickle": tar_of(b"K\x00.K\x00.].", b"K\x00.", evil),
        "a bomb as a key in a tar archive": tar_of(
            b"K\x00.].", b"K\x01.(K\x01]" + b"2\x86" * 90 + b"Nt." + bytes(16), b"}."
        ),
        # picklescan's: the directory says otherwise than the content, or that it is not readable
        "a wrong checksum": directory_changed(zip_of(evil), b"archive/data.pkl", 16, "<I", 1),
        "a flag that says encrypted": directory_changed(
            zip_of(evil), b"archive/data.pkl", 8, "<H", 1
        ),
        "another name in the directory": sound.replace(b"archive/data/0", b"archive/data/2", 1),
        "a call in another pickle": zip_of(evil, **{"data/0": bytes(16), "other.pkl": evil}),
        # CVE-2026-24747, and sizes
        "a storage shorter than its count": zip_of(
            state_with(2**20, 0, (2**20,), (1,)), **{"data/0": bytes(16)}
        ),
        "a tensor outside its storage": zip_of(
            state_with(4, 2, (4,), (1,)), **{"data/0": bytes(16)}
        ),
        "a storage outside the file": directory_changed(
            directory_changed(sound, b"archive/data/0", 20, "<I", 2**30),
            b"archive/data/0", 24, "<I", 2**30,
        ),
        "a storage whose start is outside the file": directory_changed(
            sound, b"archive/data/0", 42, "<I", 2**31
        ),
        "a storage that is another": directory_changed(
            zip_of(state_with(4, 0, (4,), (1,), "1"), **{"data/0": bytes(16), "data/1": bytes(16)}),
            b"archive/data/1", 42, "<I", sound.index(b"archive/data/0") - 30,
        ),
        "a zip bomb": zip_bomb(state_with(2**20, 0, (2**20,), (1,)), 2**22),
        "a safetensors header with a list as a dtype": safetensors_of(
            b'{"a":{"dtype":[],"shape":[1],"data_offsets":[0,1]}}', b"0"
        ),
        "a safetensors header in UTF-16": safetensors_of(
            '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.encode("utf-16-le"), b"0"
        ),
        "a safetensors header that is too deep": safetensors_of(
            b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
        ),
        "a safetensors header that is deep, with a checksum": safetensors_of(
            b'{"__metadata__":{"jaxcnn_sha256":"0"},"a":{"b":' + b"[" * 900 + b"]" * 900 + b"}}"
        ),
        "a safetensors shape that is impossible": safetensors_of(
            b'{"a":{"dtype":"F32","shape":[0,4611686018427387903],"data_offsets":[0,0]}}'
        ),
        "a safetensors name that a terminal obeys": safetensors_of(
            b'{"\\u001b[31m":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"0"
        ),
        # Negated parts of one storage: each would be a copy of it.
        "a storage negated again and again": legacy_of(
            b"\x80\x02}(" + (text("a") + negated_part(25_000)) * 99 + b"u.", 25_000
        ),
        "a tar archive whose headers are read forever": tar_headers((b"x", b"-1536")),
        "a tar archive of long names of long names": tar_headers(*[(b"L", b"0")] * 3000),
        "a tar tensor with an impossible stride": tar_of(
            b"K\x01.(K\x00" + text("cpu") + b"ctorch\nFloatStorage\nt." + struct.pack("<q", 1)
            + bytes(4) + b"].",
            b"K\x01.(K\x01K\x00Nt." + struct.pack("<ii3q", 1, 0, 1, 2**61, 0),
            b"}" + text("a") + b"K\x01Qs.",
        ),
    }  # fmt: skip


# What the error says. Of the other attacks: that the file was not read, as it asks for a function.
WORDS = {
    "has no tensors": (
        *("a huge key", "a huge number in a key", "keys with the same hash"),
        *("a long tuple as a key, again and again", "a bomb as a key", "a depth as a key"),
        *("keys of tuples of tuples", "a dict in the place of a pair"),
        "a name of a megabyte around a thousand",
    ),
    # A zip archive has one; in a legacy file the next one lists the storages.
    "has no tensors|asks for 'os.system'": ("a second pickle",),
    "does not occur in checkpoints": ("EXT1", "a frozen set"),
    "adds items to something other than": (
        *("SETITEM on a list", "SETITEM on a storage", "SETITEMS on a tensor"),
        *("BUILD on a tensor", "APPENDS on a dict"),
    ),
    "refers to object .*, which is not in its memo": (
        *("a memo of four billion", "a huge number as a place in the memo"),
    ),
    "its pickle is cut short": (
        *("a string of four gigabytes", "a string of 2**63 bytes"),
        *("a string of negative length", "a long of 2**31 bytes"),
    ),
    "a line in its pickle has no end": ("a number of a million digits",),
    "memoizes under an impossible number": ("places in the memo with the same hash",),
    "calls a function with 100,000 arguments": ("a long tuple as arguments, again and again",),
    "a storage has no valid identifier": (
        *("a long tuple as an identifier, again and again", "a persistent id that is unknown"),
        *("a persistent id that is not a tuple", "a bomb as an identifier"),
        "a depth as an identifier",
    ),
    "its objects are larger than the file": (
        *("a scalar of a long string, again and again", "a string encoded a thousand times"),
        *("a list made a dict a thousand times", "a storage negated again and again"),
    ),
    "has some that cannot be printed": (
        *("a name that a terminal obeys", "a name of a surrogate"),
        "a safetensors name that a terminal obeys",
    ),
    "has no valid shape and dtype": ("an array of a thousand axes",),
    "pops from an empty stack": ("an empty stack",),
    "lacks a mark": ("no mark",),
    "a name that is not text": (
        *("a bomb as the name of a module", "a depth as the name of a module"),
    ),
    "of the dtype <tuple>": ("a bomb as a dtype", "a depth as a dtype"),
    "has unknown metadata": ("a bomb as metadata", "a depth as metadata"),
    "has no dict of tensors": ("a bomb as the content", "a depth as the content"),
    "contains a TorchScript program": ("a TorchScript program",),
    "the storage of a tensor is missing": ("a bomb as a key in a tar archive",),
    "has another name in the directory": (
        *("another name in the directory", "a storage that is another"),
    ),
    "storage '0' is too short": ("a storage shorter than its count",),
    "elements outside its storage": ("a tensor outside its storage",),
    "ends before its tensors do": ("a storage outside the file",),
    "its member 'data/0' is missing": ("a storage whose start is outside the file",),
    "has a compressed member": ("a zip bomb",),
    "has the unknown dtype <list>": ("a safetensors header with a list as a dtype",),
    "header is not valid JSON": (
        *("a safetensors header in UTF-16", "a safetensors header that is too deep"),
    ),
    "not a table of tensors": ("a safetensors header that is deep, with a checksum",),
    "has an impossible shape": (
        *("a safetensors shape that is impossible", "a tar tensor with an impossible stride"),
    ),
    "a header that is not one of a file": (
        *("a tar archive whose headers are read forever",),
        "a tar archive of long names of long names",
    ),
}  # fmt: skip


def expected_words(name: str) -> str:
    """What the error for an attack says."""
    attack = name.removesuffix(", zip").removesuffix(", legacy")
    default = f"was not read: it asks for '{attack if attack in FUNCTIONS else ''}"
    return next((words for words, names in WORDS.items() if attack in names), default)


def attacks(canary: str) -> dict[str, bytes]:
    """All of them, as files."""
    pickles = hostile_pickles(canary)
    return (
        {f"{name}, zip": zip_of(p, **{"data/0": bytes(16)}) for name, p in pickles.items()}
        | {f"{name}, legacy": legacy_of(p) for name, p in pickles.items()}
        | hostile_archives(pickles["os.system"])
    )
