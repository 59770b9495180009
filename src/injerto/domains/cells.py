"""What a cell of a table means: a word, a text, a picture, or something that is none of these."""

import datetime
import decimal
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from PIL import Image

from injerto.basics.errors import InjertoError

_FAILED = "#N/A #NV #REF! #VALUE! #DIV/0! #NAME? #NULL! #NUM! #SPILL! #CALC! #¡REF! #¡VALOR! #¿NOMBRE? #¡DIV/0! #BEZUG!"
SPREADSHEET_ERRORS = frozenset((*_FAILED.split(), "#WERT!"))
"""What a spreadsheet writes where a formula failed."""
_WHOLE = re.compile(r"-?\d+\.0")


def word(cell: Any) -> str:
    """A cell as a stripped string: ``""`` for None, NaN and NA, ``"1"`` for 1.0 (an integer column with gaps).

    Args:
        cell: A cell that holds one value.
    """
    if isinstance(cell, str):
        return cell.strip()
    cell = plain(cell)
    if cell is None or type(cell).__name__ in ("NAType", "NaTType") or cell != cell:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, decimal.Decimal) and cell == cell.to_integral_value():
        return str(int(cell))
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return str(cell).strip()


def plain(cell: Any) -> Any:
    """A numpy or Arrow scalar as the Python value that it holds; anything else as it is.

    Args:
        cell: Any.
    """
    if isinstance(cell, np.generic) or (isinstance(cell, np.ndarray) and cell.ndim == 0):
        return cell.item()
    return cell.as_py() if hasattr(cell, "as_py") else cell


def is_nested(cell: Any) -> bool:
    """Whether a cell holds several values.

    Args:
        cell: Any.
    """
    if isinstance(cell, (str, bytes)) or cell is None:
        return False
    array = isinstance(cell, np.ndarray) or type(cell).__module__.partition(".")[0] == "torch"
    return array or isinstance(cell, (list, tuple, Mapping, Set)) or _is_scalar_list(cell)


def refuse_nested(cells: Sequence[Any], file: str, column: str, advice: str) -> None:
    """Refuse a column with a cell that holds several values.

    Args:
        cells: The column.
        file: What messages call the table.
        column: Its name.
        advice: What to do.

    Raises:
        InjertoError: For the first such cell.
    """
    found = next((cell for cell in cells if is_nested(cell)), None)
    if found is not None:
        kind = {"ndarray": "array", "Tensor": "tensor"}.get(type(found).__name__, type(found).__name__)
        raise InjertoError(f"{file}: column '{column}' holds lists (the first is of type {kind}); {advice}")


def words_of(cells: Sequence[Any], file: str, column: str) -> list[str]:
    """A column of names as stripped strings; numbers that were saved with ``.0`` throughout are whole numbers.

    Args:
        cells: The column.
        file: What messages call the table.
        column: Its name.

    Raises:
        InjertoError: For a cell that holds several values.
    """
    refuse_nested(cells, file, column, "one value per example is supported, name another column")
    names = [cell.decode("utf-8", "replace").strip() if isinstance(cell, bytes) else word(cell) for cell in cells]
    if any(names) and all(_WHOLE.fullmatch(name) for name in names if name):
        return [name.removesuffix(".0") for name in names]
    return names


def is_picture(cell: Any) -> bool:
    """Whether a cell is a picture itself: encoded, a PIL image, ``{"bytes", "path"}`` or an array of pixels.

    Args:
        cell: Any.
    """
    if isinstance(cell, np.ndarray):
        return cell.dtype.kind in "biuf" and cell.ndim in (2, 3)
    return isinstance(cell, (bytes, bytearray, memoryview, Image.Image)) or (
        isinstance(cell, dict) and ("bytes" in cell or "path" in cell)
    )


def _is_scalar_list(cell: Any) -> bool:
    """Whether it is an Arrow scalar that holds a list, or a series."""
    if hasattr(cell, "as_py"):
        return isinstance(cell.as_py(), (list, dict))
    return type(cell).__name__ in ("Series", "DataFrame")
