"""Parts of a run as bytes: learners and fields as safetensors, metrics as Parquet. What is read is checked before it takes memory."""
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.store.folder import Damage

WIDTHS = {"BOOLEAN": 1 / 8, "INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8}  # bytes of a plain value in Parquet
INDEX = ("step", "lane")  # the first columns


def pack_learner(learner: Learner) -> bytes:
    """The tensors of a learner, and in the header's metadata its plain rest as JSON."""
    tensors, plain = learner.pack()
    return serialise(_loose(tensors), metadata={"learner": json.dumps(plain)})


def unpack_learner(data: bytes, lanes: Lanes) -> Learner:
    """The inverse. Damage where it is no learner of these lanes."""
    tensors, told = _tensors(data)
    try:
        plain = json.loads(told["learner"])
        if Lanes(plain["seeds"], plain["grid"]) != Lanes(lanes.seeds, lanes.grid):
            raise Damage("it has other lanes")
        learner = Learner.unpack({name: t.to(lanes.device) for name, t in tensors.items()}, plain, lanes.device)
    except (LabError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise Damage("it holds no learner") from error
    rows = [learner.on, *(x for net in learner.nets.values() for x in (net.theta, net.moments[0], net.moments[1], net.clock))]
    if not all(x.dim() == 2 and len(x) == len(lanes) for x in rows):
        raise Damage("it has a wrong number of lanes")
    return learner


def pack_fields(fields: dict[str, Tensor]) -> bytes:
    """Fields (T, L, ...) by name."""
    return serialise(_loose(fields))


def unpack_fields(data: bytes, size: tuple[int, int]) -> dict[str, Tensor]:
    """The inverse. Damage where a field does not begin with `size`, (T, L)."""
    fields, _ = _tensors(data)
    for name, t in fields.items():
        if t.shape[:2] != torch.Size(size):
            raise Damage(f"field {name!r} has shape {tuple(t.shape)}, not {size} first")
    return fields


def pack_metrics(steps: Tensor, curves: dict[str, Tensor], lanes: int) -> bytes:
    """steps (T,) and curves (T, L) as a table of T * L rows: step, lane, and a column for each curve.

    Plain and uncompressed, so that a reader can tell from a file's size how much it may hold.
    """
    if taken := set(INDEX) & curves.keys():
        raise LabError(f"A metric called {min(taken)!r} cannot be stored beside the column of that name; call it something else.")
    index = (steps.repeat_interleave(lanes).numpy(), np.tile(np.arange(lanes, dtype=np.int32), len(steps)))
    columns = dict(zip(INDEX, index, strict=True)) | {name: t.reshape(-1).numpy() for name, t in curves.items()}
    out = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), out, compression="none", use_dictionary=False, store_schema=False, write_statistics=False)
    return out.getvalue().to_pybytes()


def unpack_metrics(data: bytes, lanes: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The inverse. Damage where it is no table of so many lanes."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _affordable(file, len(data))
        table = file.read(use_threads=False)
        if any(column.null_count for column in table.columns):
            raise Damage("it has gaps")
        columns = {n: torch.from_numpy(c.to_numpy().copy()).view(-1, lanes) for n, c in zip(table.column_names, table.columns, strict=True)}
        step, lane = (columns.pop(name) for name in INDEX)
    except (pa.ArrowException, OSError, ValueError, TypeError, RuntimeError, KeyError, OverflowError) as error:
        raise Damage("it holds no table of metrics") from error
    if not bool((step == step[:, :1]).all() and (lane == torch.arange(lanes)).all()):
        raise Damage("its rows are not those of these lanes")
    return step[:, 0].clone(), columns


def _affordable(file: pq.ParquetFile, size: int) -> None:
    """Damage where a Parquet file says that it has more rows than its `size` in bytes holds plain values for."""
    widths = [WIDTHS[file.schema.column(i).physical_type] for i in range(file.metadata.num_columns)]
    if file.metadata.num_rows * sum(widths) > size:
        raise Damage("it is packed more tightly than a run writes")


def _loose(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor with memory of its own, which the format asks for."""
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}


def _tensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of safetensors."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return deserialise(data), header.get("__metadata__", {})
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, RecursionError, OverflowError) as error:
        raise Damage("it holds no tensors") from error
