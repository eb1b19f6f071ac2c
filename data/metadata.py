"""What the tables of public data sets say of a record beside its labels: age, sex and patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Sex = Literal["male", "female"]

CODES: Mapping[Sex, float] = {"male": 0.0, "female": 1.0}
_UNKNOWN = ("", "nan", "none", "unknown")


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV table with a header.

    Raises:
        ValueError: there is no such file, it is no table, or it has no rows; names the file.
    """
    try:
        table = pd.read_csv(path, low_memory=False)
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror or error}); check the path") from None
    except ValueError as error:  # pandas' parser errors, and text that is not UTF-8
        raise ValueError(f"{path} is no CSV table ({error}); repair it") from None
    if table.empty:
        raise ValueError(f"{path} has no rows; a header and one record a row are needed")
    return table


def find_column(table: pd.DataFrame, name: str) -> str | None:
    """Return the column that is called `name`, in capitals or not, or None."""
    return next((str(column) for column in table.columns if str(column).lower() == name), None)


def texts_of(column: pd.Series[Any]) -> list[str]:
    """Return a column's cells as text: whole numbers without a decimal point, empty cells as empty text."""
    if pd.api.types.is_float_dtype(column) and bool((column.dropna() % 1 == 0).all()):
        column = column.astype("Int64")  # pandas made them real numbers for the sake of an empty cell
    return [str(cell).strip() for cell in column.astype(object).where(column.notna(), "")]


def parse_ages(texts: Sequence[str], record_ids: Sequence[str], source: str) -> NDArray[np.float32]:
    """Return ages in years, NaN where unknown.

    Raises:
        ValueError: a text is no number; names `source` and the record.
    """
    ages_N = np.empty(len(texts), np.float32)
    for row, text in enumerate(texts):
        try:
            ages_N[row] = np.nan if text.lower() in _UNKNOWN else float(text)
        except ValueError:
            raise ValueError(
                f"{source}: {record_ids[row]}: age must be a number of years or empty, got {text!r}"
            ) from None
    return ages_N


def parse_sexes(
    texts: Sequence[str], record_ids: Sequence[str], source: str, one: Sex = "female"
) -> NDArray[np.float32]:
    """Return 0 for male, 1 for female, NaN where unknown.

    Args:
        one: what the number 1 stands for in this table; 0 stands for the other.

    Raises:
        ValueError: a text is none of male, female, m, f, 0, 1; names `source` and the record.
    """
    male, female = CODES["male"], CODES["female"]
    codes = {"male": male, "m": male, "female": female, "f": female, "1": CODES[one], "0": 1 - CODES[one]}
    codes |= dict.fromkeys(_UNKNOWN, np.nan)
    for row, text in enumerate(texts):
        if text.lower() not in codes:
            raise ValueError(
                f"{source}: {record_ids[row]}: sex must be male, female, M, F, 0, 1 or empty, got {text!r}"
            )
    return np.array([codes[text.lower()] for text in texts], np.float32)


def parse_patients(table: pd.DataFrame, source: str) -> NDArray[np.str_] | None:
    """Return the ids in the column `patient_id`, or None where there is no such column.

    Raises:
        ValueError: a record has no patient id.
    """
    column = find_column(table, "patient_id")
    if column is None:
        return None
    texts = texts_of(table[column])
    if "" in texts:
        raise ValueError(
            f"{source}: row {texts.index('') + 2} has no {column}; give every record one, or leave the column out"
        )
    return np.array(texts, np.str_)


def parse_age_and_sex(
    table: pd.DataFrame, record_ids: Sequence[str], source: str, one: Sex = "female"
) -> dict[str, NDArray[np.float32]]:
    """Return an index's `meta`: age and sex, as far as the table has such columns.

    Raises:
        ValueError: as `parse_ages` and `parse_sexes`.
    """
    meta = {}
    if (column := find_column(table, "age")) is not None:
        meta["age"] = parse_ages(texts_of(table[column]), record_ids, source)
    if (column := find_column(table, "sex")) is not None:
        meta["sex"] = parse_sexes(texts_of(table[column]), record_ids, source, one)
    return meta
