"""Rows of users' files and of the hub, decoded: the one place where these are opened.

What cannot be read, and what is larger than the limits, is refused in one line that names the file and where in it.
"""

import codecs
import csv
import gzip
import json
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError, first_line

FORMATS = "*.jsonl, *.json, *.csv, *.tsv, *.txt or *.md (each also with .gz), *.parquet, or hub:OWNER/NAME[:CONFIG][:SPLIT]"
MOST_BYTES, MOST_LINE, MOST_LINES = 4 * 2**30, 2**28, 20_000_000
"""Limits of a file: its bytes (unpacked), the bytes of one line or of one JSON array, and its lines."""

Rows = Iterator[tuple[str, Any]]
"""Decoded rows, each with the words for where it stands."""


def decoded(name: str) -> Rows:
    """Every row of a file or of a hub data set (``hub:OWNER/NAME[:CONFIG][:SPLIT][@REVISION]``); of running text, a
    ``{"text": ...}`` a paragraph."""
    if name.startswith("hub:"):
        yield from _hub(name)
        return
    path = _regular(name)
    ending, packed = _ending(name)
    if ending not in _READERS or (packed and ending == ".parquet"):
        raise UserError(f"cannot read {short(name, 200)}: unknown ending {path.suffix!r}. Expected {FORMATS}.")
    try:
        yield from _READERS[ending](path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {short(name, 200)}: {_reason(error)}.") from None


def is_text(name: str) -> bool:
    """Whether this is a file of running text, which has no columns."""
    return _READERS.get(_ending(name)[0]) is _text


def short(text: str, most: int = 60) -> str:
    """A text in quotes, its end left out where it is long."""
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or first_line(error)


def _ending(name: str) -> tuple[str, bool]:
    """The ending that tells the format, and whether the file is packed."""
    path = Path(name)
    packed = path.suffix.lower() == ".gz"
    return Path(path.stem if packed else path.name).suffix.lower(), packed


def _regular(name: str) -> Path:
    """The file of this name; `UserError` for one that cannot be read twice, or is too large to be held."""
    try:
        path = Path(name).expanduser()
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no file {short(name, 200)}. Expected {FORMATS}.") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot read {short(name, 200)}: {_reason(error)}.") from None
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{name!r} is a folder. Expected a file: {FORMATS}.")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{name!r} is a device or a pipe, and rows are read more than once. Save them in a file first.")
    if found.st_size > MOST_BYTES:
        raise _too_large(name)
    return path


def _too_large(where: object) -> UserError:
    most = f"{MOST_BYTES / 2**30:,.2g} GiB and {MOST_LINES:,} lines"
    return UserError(f"{where}: more than is read of one file ({most}). Divide it, and join the parts by commas.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line, without its end."""
    size = number = 0
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        while raw := file.readline(MOST_LINE + 1):
            where = f"{path}, line {number + 1}"
            size += len(raw)
            if size > MOST_BYTES or number > MOST_LINES:
                raise _too_large(where)
            if len(raw) > MOST_LINE:
                raise UserError(f"{where} is longer than {MOST_LINE / 2**20:,.3g} MiB. Is it a file of rows? Write one item a line.")
            try:
                text = (raw if number else raw.removeprefix(codecs.BOM_UTF8)).decode()
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:
                raise UserError(f"{where} is not UTF-8 text. Save the file as UTF-8 and try again.")
            # \n, \r\n and \r end a line, as everywhere in Python.
            for line in text.removesuffix("\n").removesuffix("\r").split("\r"):
                number += 1
                yield number, line


def _json(path: Path) -> Rows:
    """The objects of JSON lines, or those of one JSON array."""
    lines = _lines(path)
    begun = False
    for number, line in lines:
        if not begun and line.lstrip().startswith("["):
            array, size = [line], len(line)
            for _, more in lines:
                array.append(more)
                size += len(more)
                if size > MOST_LINE:
                    raise UserError(f"{path}: an array of more than {MOST_LINE / 2**20:,.3g} MiB. Write one JSON object a line instead.")
            for n, row in enumerate(_decode("\n".join(array), path, number), start=1):
                yield f"{path}, row {n}", row
        elif line.strip():
            begun = True
            yield f"{path}, line {number}", _decode(line, path, number)


def _decode(text: str, path: Path, number: int) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        number, why = number + error.lineno - 1, f"{error.msg} at column {error.colno}"
    except RecursionError:
        why = "nested too deeply"
    except ValueError as error:
        why = first_line(error).partition(";")[0]
    raise UserError(f"{path}, line {number}: not JSON ({why}): {short(text)}. Expected one JSON object a line, or one array of them.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {short(twice)} stands twice")
    return found


def _text(path: Path) -> Rows:
    """Paragraphs: lines up to one that holds nothing, or nothing but blanks."""
    paragraph: list[str] = []
    number = 0
    for number, line in _lines(path):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield f"{path}, line {number}", {"text": "\n".join(paragraph).strip()}
            paragraph = []
    if paragraph:
        yield f"{path}, line {number}", {"text": "\n".join(paragraph).strip()}


def _table(path: Path) -> Rows:
    csv.field_size_limit(MOST_LINE)
    tabs = _ending(str(path))[0] == ".tsv"
    reader = csv.DictReader((f"{line}\n" for _, line in _lines(path)), delimiter="\t" if tabs else ",", strict=True)
    try:
        if twice := [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]:
            raise UserError(f"{path}, line 1: the column {short(twice[0])} stands twice.")
        for row in reader:
            if None in row:
                raise UserError(f"{path}, line {reader.line_num}: more fields than the {len(row) - 1} of the first line.")
            yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not a readable table ({error}).") from None


def _parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
            if file.metadata.num_rows > MOST_LINES or sum(group.total_byte_size for group in groups) > MOST_BYTES:
                raise _too_large(path)
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({first_line(error)}).") from None


def _hub(name: str) -> Rows:
    try:
        import datasets
    except ImportError:
        raise UserError(f"{name!r} is a hub data set, which needs the 'datasets' package: pip install 'sluicegate[hub]'.") from None
    place, _, revision = name.removeprefix("hub:").partition("@")
    repository, *rest = place.split(":")
    if len(rest) > 2:
        raise UserError(f"cannot read {name!r}: expected hub:OWNER/NAME[:CONFIG][:SPLIT][@REVISION].")
    datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False  # earlier versions would ask, and run a data set's own code
    config, split = (None, rest[0]) if len(rest) == 1 else (*rest, None, "train")[:2]
    try:
        if (
            len(rest) == 1
            and split in (names := datasets.get_dataset_config_names(repository, revision=revision or None))
            and len(names) > 1
        ):
            config, split = split, "train"
        rows = datasets.load_dataset(repository, config, split=split, revision=revision or None)
    except Exception as error:
        what = f"split {split!r}" + (f" of configuration {config!r}" if config else "")
        raise UserError(f"could not load {what} of {repository!r} from the hub: {first_line(error)}. Write {FORMATS[-34:]}.") from None
    for number, row in enumerate(rows, start=1):
        yield f"{name}, row {number}", row


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _json,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".txt": _text,
    ".md": _text,
    ".parquet": _parquet,
}
