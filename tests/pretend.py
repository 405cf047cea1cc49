"""A device that is not there. Its tensors lie on the CPU, say that they lie elsewhere, and refuse what CUDA refuses."""
from contextlib import ExitStack, contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = "meta"  # PyTorch knows it everywhere and need not start it
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
LOOKUPS = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
MAKERS = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}


class Remote(torch.Tensor):
    """A tensor on the pretend device; `inside` holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inside):
        return torch.Tensor._make_wrapper_subclass(
            cls, inside.size(), strides=inside.stride(), storage_offset=inside.storage_offset(), dtype=inside.dtype, device=DEVICE
        )

    def __init__(self, inside):
        self.inside = inside

    def __repr__(self):
        return f"Remote({self.inside})"

    def tolist(self):
        return self.inside.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    """Run an operation on the numbers inside, where all its tensors lie on one device, as far as CUDA asks for that."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, Remote) for x in tensors)
    if there and func not in MOVES and any(not_welcome(func, args, x) for x in tensors):
        raise RuntimeError(f"{func} was given tensors on the CPU beside tensors on another device.")
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]).type == DEVICE
        kwargs = kwargs | {"device": torch.device("cpu")}
    inner_args, inner_kwargs = tree_map_only(Remote, lambda x: x.inside, (args, kwargs))
    out = func(*inner_args, **inner_kwargs)
    if func._schema.is_mutable:
        return kwargs.get("out", args[0])
    return tree_map_only(torch.Tensor, Remote, out) if there else out


def not_welcome(func, args, x):
    """May the operation not take x beside remote tensors? CUDA takes single numbers elementwise, and indices, from the CPU."""
    if isinstance(x, Remote):
        return False
    single = x.dim() == 0 and (torch.Tag.pointwise in func.tags or func._schema.name.endswith("index_put_"))
    index = func._schema.name.removeprefix("aten::") in LOOKUPS and isinstance(args[0], Remote) and any(x is i for i in args[1])
    return not (single or index)


class Operations(TorchDispatchMode):
    """Sends every operation through `compute`."""

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # nothing is compiled here, and loading the compiler takes seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class Literals(TorchFunctionMode):
    """Makes tensors of Python numbers on the CPU first: for "meta" PyTorch would not even look at them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func not in MAKERS:
            return func(*args, **kwargs)
        device = kwargs.pop("device", None)
        if func is torch.Tensor.new_tensor:
            device, kwargs = device or args[0].device, {"dtype": args[0].dtype} | kwargs
            func, args = torch.tensor, args[1:]
        out = func(*args, **kwargs)
        return out if device is None else out.to(device)


@contextmanager
def pretend_device():
    """Within it, tensors may be made on DEVICE."""
    with ExitStack() as stack:
        stack.enter_context(Literals())
        stack.enter_context(Operations())
        yield


def home(x):
    """The numbers of a tensor, or of all tensors in a dictionary, on the CPU; they must have come from DEVICE."""
    if isinstance(x, dict):
        return {name: home(value) for name, value in x.items()}
    assert isinstance(x, Remote), "a result lies on the CPU"
    return x.detach().inside
