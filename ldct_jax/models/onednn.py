"""Convolutions of oneDNN on a CPU, where ``pip install ldct_jax[onednn]`` brought the library.

oneDNN's float32 kernels are what PyTorch trains with on a CPU, and faster than XLA's for this
package's shapes, weight gradients above all. XLA calls them through its foreign
function interface; the handlers here are Python functions that fill in pointers (ctypes), so
nothing is compiled. A program that is exported (:func:`disabled`) has none of them, and
``LDCT_ONEDNN=0`` turns them off.

Memory layouts are this package's: images NHWC, kernels HWIO. oneDNN prefers kernels in blocks of
its own; they are reordered at each call, which costs next to nothing.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes as c
import functools
import importlib.metadata
import os
import threading
import warnings

import jax
import numpy as np

from ldct_jax.system.provenance import ONEDNN

# The C interfaces of oneDNN 3 (dnnl_types.h) and XLA (xla/ffi/api/c_api.h).
_CPU, _FLOAT32, _IN_ORDER, _TRAINING, _DIRECT = 1, 3, 1, 64, 1
_ANY, _NHWC, _HWIO = 1, 22, 28
_WEIGHTS_LAYOUT, _WEIGHTS_GRADIENT_LAYOUT, _SCRATCHPAD_LAYOUT = 131, 132, 136
_SRC, _DST, _WEIGHTS, _DIFF_SRC, _DIFF_DST, _DIFF_WEIGHTS = 1, 17, 33, 129, 145, 161
_SCRATCHPAD, _SCRATCHPAD_IS_GIVEN = 80, 1
_ALLOCATE = 2**64 - 1
_FFI_METADATA, _FFI_INTERNAL = 1, 13
_P, _I64 = c.c_void_p, c.c_int64

_disabled = contextvars.ContextVar("onednn_disabled", default=False)
# Primitives write to scratch memory of their own, and two calls at a time would share the cores.
_one_call = threading.Lock()


@contextlib.contextmanager
def disabled():
    """Trace without oneDNN: what is exported runs where the library isn't."""
    token = _disabled.set(True)
    try:
        yield
    finally:
        _disabled.reset(token)


def form(name: str, geometry, first, second, shape) -> dict:
    """The form of a map for ``lax.platform_dependent``: {"cpu": function}, or {} without oneDNN.

    ``name``: "forward", "input_gradient" or "weight_gradient", the maps of
    :mod:`ldct_jax.models.convolution`; ``first``, ``second``: its operands;
    ``shape``: of its result. oneDNN takes float32 and no negative padding.
    """
    if _disabled.get() or first.dtype != np.float32 or second.dtype != np.float32:
        return {}
    if 0 in (*first.shape, *second.shape) or min(map(min, geometry.padding)) < 0:
        return {}
    if library() is None:
        return {}
    lists = (geometry.kernel, *geometry.padding, (geometry.stride, geometry.dilation))
    function = jax.ffi.ffi_call(
        f"ldct_onednn_{name}", jax.ShapeDtypeStruct(shape, np.float32), vmap_method="sequential"
    )
    return {"cpu": functools.partial(function, geometry=np.array(lists, np.int64).ravel())}


@functools.cache
def library():
    """The loaded library with XLA's targets registered, or None where it isn't installed.

    A library that is installed and can't be loaded is told in a warning.
    """
    if os.environ.get("LDCT_ONEDNN") == "0":
        return None
    try:
        files = importlib.metadata.files(ONEDNN) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [f.locate() for f in files if f.name == "libdnnl.so.3"]
    # Threads that spin after a call would take the cores from XLA's.
    given = os.environ.get("OMP_WAIT_POLICY")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        lib = _declared(c.CDLL(str(paths[0])))
    except (IndexError, OSError, AttributeError) as error:
        warnings.warn(f"oneDNN is installed and can't be loaded: {error}", stacklevel=2)
        return None
    finally:
        if given is None:
            del os.environ["OMP_WAIT_POLICY"]
    for name, handler in _HANDLERS.items():
        jax.ffi.register_ffi_target(
            f"ldct_onednn_{name}", jax.ffi.pycapsule(handler), platform="cpu"
        )
    return lib


# ---- oneDNN --------------------------------------------------------------------------------------


def _declared(lib):
    """``lib`` with the types of the functions that don't return a status."""
    lib.dnnl_primitive_desc_query_md.restype = _P
    lib.dnnl_primitive_desc_query_md.argtypes = [_P, c.c_int, c.c_int]
    lib.dnnl_memory_set_data_handle.argtypes = [_P, _P]
    return lib


def _made(function, *args) -> _P:
    """What a function of oneDNN creates; RuntimeError where it refuses."""
    result = _P()
    status = function(c.byref(result), *args)
    if status:
        raise RuntimeError(f"oneDNN: {function.__name__} ended with status {status}")
    return result


class _Argument(c.Structure):
    _fields_ = [("index", c.c_int), ("memory", _P)]


@functools.cache
def _engine():
    lib = library()
    engine = _made(lib.dnnl_engine_create, _CPU, c.c_size_t(0))
    return engine, _made(lib.dnnl_stream_create, engine, _IN_ORDER)


@functools.cache
def _attributes():
    """Scratch memory is ours: oneDNN's own may belong to the thread that created a primitive.

    XLA calls from any of its threads, and elsewhere such a primitive fails or writes past the end.
    """
    lib = library()
    attributes = _made(lib.dnnl_primitive_attr_create)
    if lib.dnnl_primitive_attr_set_scratchpad_mode(attributes, _SCRATCHPAD_IS_GIVEN):
        raise RuntimeError("oneDNN: scratch memory can't be given")
    return attributes


def _dims(*values: int):
    return (_I64 * 12)(*values)


class _Convolution:
    """One map for operands of given shapes; ``run`` takes the addresses of its three arrays.

    Args:
      name: of the map.
      image, kernel, output: shapes (B, H, W, C), (kh, kw, C, O), (B, H', W', O).
      geometry: kernel's size, paddings of height and of width, stride, dilation.
    """

    def __init__(self, name, image, kernel, output, geometry):
        self.lib, (self.engine, self.stream), scratch = library(), _engine(), _attributes()
        _, _, top, bottom, left, right, stride, dilation = geometry
        # oneDNN names dimensions as NCHW and OIHW, whatever lies where in memory.
        x, y = (self.layout((s[0], s[3], s[1], s[2]), _NHWC) for s in (image, output))
        oihw = kernel[3], kernel[2], kernel[0], kernel[1]
        plain, own = self.layout(oihw, _HWIO), self.layout(oihw, _ANY)
        window = [_dims(stride, stride), _dims(dilation - 1, dilation - 1)]
        window += [_dims(top, left), _dims(bottom, right)]
        make = self.lib.dnnl_convolution_forward_primitive_desc_create
        what = _made(make, self.engine, _TRAINING, _DIRECT, x, own, None, y, *window, scratch)
        query = _WEIGHTS_LAYOUT
        if name == "input_gradient":
            make = self.lib.dnnl_convolution_backward_data_primitive_desc_create
            what = _made(make, self.engine, _DIRECT, x, own, y, *window, what, scratch)
        elif name == "weight_gradient":
            make = self.lib.dnnl_convolution_backward_weights_primitive_desc_create
            what = _made(make, self.engine, _DIRECT, x, own, None, y, *window, what, scratch)
            query = _WEIGHTS_GRADIENT_LAYOUT
        blocked = _P(self.lib.dnnl_primitive_desc_query_md(what, query, 0))
        image, output, kernel = (self.memory(m, None) for m in (x, y, plain))
        blocks = self.memory(blocked, _ALLOCATE)
        convolution = _made(self.lib.dnnl_primitive_create, what)
        if name == "forward":
            self.arrays = image, kernel, output
            roles = {_SRC: image, _WEIGHTS: blocks, _DST: output}
        elif name == "input_gradient":
            self.arrays = output, kernel, image
            roles = {_DIFF_DST: output, _WEIGHTS: blocks, _DIFF_SRC: image}
        else:
            self.arrays = image, output, kernel
            roles = {_SRC: image, _DIFF_DST: output, _DIFF_WEIGHTS: blocks}
        scratchpad = self.lib.dnnl_primitive_desc_query_md(what, _SCRATCHPAD_LAYOUT, 0)
        roles[_SCRATCHPAD] = self.memory(_P(scratchpad), _ALLOCATE)
        self.steps = [(convolution, self.arguments(roles))]
        if name == "weight_gradient":
            self.steps.append(self.reorder(blocked, blocks, plain, kernel))
        else:
            self.steps.insert(0, self.reorder(plain, kernel, blocked, blocks))

    def layout(self, dims, tag):
        make = self.lib.dnnl_memory_desc_create_with_tag
        return _made(make, len(dims), _dims(*dims), _FLOAT32, tag)

    def memory(self, layout, address):
        return _made(self.lib.dnnl_memory_create, layout, self.engine, _P(address))

    def arguments(self, roles):
        return (_Argument * len(roles))(*(_Argument(i, m) for i, m in roles.items()))

    def reorder(self, from_layout, source, to_layout, target):
        make = self.lib.dnnl_reorder_primitive_desc_create
        what = _made(make, from_layout, self.engine, to_layout, self.engine, None)
        primitive = _made(self.lib.dnnl_primitive_create, what)
        return primitive, self.arguments({_SRC: source, _DST: target})

    def run(self, addresses):
        for memory, address in zip(self.arrays, addresses, strict=True):
            self.lib.dnnl_memory_set_data_handle(memory, address)
        for primitive, arguments in self.steps:
            status = self.lib.dnnl_primitive_execute(
                primitive, self.stream, len(arguments), arguments
            )
            if status:
                raise RuntimeError(f"oneDNN: a convolution ended with status {status}")
        self.lib.dnnl_stream_wait(self.stream)


_convolution = functools.cache(_Convolution)


# ---- XLA's foreign function interface ------------------------------------------------------------


class _Buffer(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("extension", _P), ("dtype", c.c_int), ("data", _P)]
    _fields_ += [("rank", _I64), ("dims", c.POINTER(_I64))]


class _Buffers(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("extension", _P), ("size", _I64), ("types", _P)]
    _fields_ += [("values", c.POINTER(c.POINTER(_Buffer)))]


class _Array(c.Structure):
    _fields_ = [("dtype", c.c_int), ("size", c.c_size_t), ("data", c.POINTER(_I64))]


class _Attributes(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("extension", _P), ("size", _I64), ("types", _P)]
    _fields_ += [("names", _P), ("values", c.POINTER(c.POINTER(_Array)))]


class _Version(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("extension", _P)]
    _fields_ += [("major", c.c_int), ("minor", c.c_int)]


class _Metadata(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("version", _Version)]


class _Extension(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("type", c.c_int), ("next", _P)]
    _fields_ += [("metadata", c.POINTER(_Metadata))]


class _Failure(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("extension", _P)]
    _fields_ += [("message", c.c_char_p), ("code", c.c_int)]


class _Api(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("extension", _P), ("version", _Version)]
    _fields_ += [("internal", _P), ("error", c.CFUNCTYPE(_P, c.POINTER(_Failure)))]


class _Frame(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("extension", c.POINTER(_Extension))]
    _fields_ += [("api", c.POINTER(_Api)), ("context", _P), ("stage", c.c_int)]
    _fields_ += [("args", _Buffers), ("results", _Buffers), ("attributes", _Attributes)]


# Which of a map's three arrays is the image, the kernel, the output.
_ROLES = {"forward": (0, 1, 2), "input_gradient": (2, 1, 0), "weight_gradient": (0, 2, 1)}


def _handler(name: str):
    """The function that XLA calls for a map: None (null) on success, else XLA's error."""

    def handle(frame):
        frame = frame.contents
        if frame.extension and frame.extension.contents.type == _FFI_METADATA:
            # XLA asks for the version of its interface: that of the caller, whose layout it is.
            version, own = frame.extension.contents.metadata.contents.version, frame.api.contents
            version.major, version.minor = own.version.major, own.version.minor
            return None
        try:
            buffers = [frame.args.values[i].contents for i in range(frame.args.size)]
            buffers.append(frame.results.values[0].contents)
            shapes = [tuple(b.dims[: b.rank]) for b in buffers]
            array = frame.attributes.values[0].contents
            roles = (shapes[i] for i in _ROLES[name])
            with _one_call:
                _convolution(name, *roles, tuple(array.data[: array.size])).run(
                    [b.data for b in buffers]
                )
        # Whatever is raised: Ctrl-C may reach the main thread here, and what is raised past ctypes
        # is printed and forgotten, the output left as it was.
        except BaseException as error:
            message = f"{type(error).__name__}: {error}".encode()
            failure = _Failure(c.sizeof(_Failure), None, message, _FFI_INTERNAL)
            return frame.api.contents.error(c.byref(failure))
        return None

    return c.CFUNCTYPE(_P, c.POINTER(_Frame))(handle)


_HANDLERS = {name: _handler(name) for name in _ROLES}
