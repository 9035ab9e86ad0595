"""Rows of users' files and of the hub, decoded: the one place where these are opened. What cannot be read, or is larger
than the limits, is refused in one line that names the file and where in it."""

import codecs
import csv
import gzip
import json
import re
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError, first_line, nearest
from sluicegate.values.files import read_json, reading, short

HUB = "hub:OWNER/NAME[:CONFIG][:SPLIT][@REVISION]"
FORMATS = f"*.jsonl, *.json, *.csv, *.tsv, *.txt, *.md (each also with .gz), *.parquet, FOLDER[:SPLIT] of datasets, or {HUB}"
MOST_BYTES, MOST_LINE, MOST_LINES = 4 * 2**30, 2**28, 10_000_000
"""Limits of a file: its bytes (unpacked), the bytes of one line or of one JSON array, and its lines."""
Rows = Iterator[tuple[str, Any]]


def decoded(name: str) -> Rows:
    """Every row of a file or hub data set, after the words for where it stands; a paragraph is a ``{"text": ...}``."""
    if name.startswith("hub:"):
        yield from _hub(name)
        return
    shown = short(name, 200)
    try:
        path, split = Path(name).expanduser(), ""
        head, _, word = name.rpartition(":")
        if head and not path.exists() and Path(head).expanduser().is_dir():
            path, split = Path(head).expanduser(), word
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            yield from _folder(path, split)
            return
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{shown} is a device or a pipe, and rows are read more than once. Save them in a file first.")
        if (reader := _READERS.get(_ending(name))) is None:
            raise UserError(f"cannot read {shown}: unknown ending {path.suffix!r}. Expected {FORMATS}.")
        _check_size(name, found.st_size)
        yield from reader(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no file {shown}. Expected {FORMATS}.") from None
    except UserError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error) as error:
        raise UserError(f"cannot read {shown}: {getattr(error, 'strerror', None) or first_line(error)}.") from None


def is_text(name: str) -> bool:
    """Whether this is a file of running text, which has no columns."""
    return _READERS.get(_ending(name)) is _text


def _ending(name: str) -> str:
    """The ending that tells the format: that before .gz, where the file is packed."""
    path = Path(name)
    return (Path(path.stem) if path.suffix.lower() == ".gz" and not path.stem.endswith(".parquet") else path).suffix.lower()


def _check_size(where: object, size: int, lines: int = 0) -> None:
    if size > MOST_BYTES or lines > MOST_LINES:
        most = f"{MOST_BYTES / 2**30:.3g} GiB and {MOST_LINES:,} lines"
        raise UserError(f"{where}: more than is read of one file ({most}). Divide it, and join the parts by commas.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line, without its end."""
    size = number = lines = 0
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        while raw := file.readline(MOST_LINE + 1):
            size += len(raw)
            if size > MOST_BYTES or (lines := number + 1 + raw.count(b"\r", 0, -2)) > MOST_LINES:
                _check_size(f"{path}, line {number + 1}", size, lines)
            if len(raw) > MOST_LINE:
                most = f"{MOST_LINE / 2**20:.3g} MiB"
                raise UserError(f"{path}, line {number + 1} is longer than {most}. Is it a file of rows? Write one item a line.")
            text = (raw if number else raw.removeprefix(codecs.BOM_UTF8)).decode(errors="surrogateescape")
            if (not text.isascii() and re.search("[\udc80-\udcff]", text)) or "\0" in text:
                raise UserError(f"{path}, line {number + 1} is not UTF-8 text. Save the file as UTF-8 and try again.")
            # \n, \r\n and \r end a line, as everywhere in Python.
            for line in text.removesuffix("\n").removesuffix("\r").split("\r"):
                number += 1
                yield number, line


def json_rows(path: Path) -> Rows:
    """The objects of JSON lines, or those of one JSON array."""
    begun, lines = False, _lines(path)
    for number, line in lines:
        if not begun and line.lstrip().startswith("["):
            array, size = [line], len(line)
            for _, more in lines:
                array.append(more)
                if (size := size + len(more)) > MOST_LINE:
                    raise UserError(f"{path}: an array of more than {MOST_LINE / 2**20:.3g} MiB. Write one JSON object a line instead.")
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
    except (RecursionError, ValueError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else first_line(error).partition(";")[0]
    raise UserError(f"{path}, line {number}: not JSON ({why}): {short(text)}. Expected one JSON object a line, or one array of them.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"the key {short(twice[0])} stands twice")
    return dict(pairs)


def _text(path: Path) -> Rows:
    """Paragraphs: lines up to one that holds nothing, or nothing but blanks."""
    paragraph: list[str] = []
    for number, line in chain(_lines(path), [(0, "")]):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield f"{path}, before line {number}", {"text": "\n".join(paragraph).strip()}
            paragraph = []


def _table(path: Path) -> Rows:
    csv.field_size_limit(MOST_LINE)
    reader = csv.reader((f"{line}\n" for _, line in _lines(path)), delimiter="\t" if _ending(str(path)) == ".tsv" else ",", strict=True)
    try:
        names = next(reader, [])
        for fields in filter(None, reader):
            if len(fields) > len(names) or len({*names}) < len(names):
                found = f"{len(fields)} fields for the {len({*names})} different names {short(', '.join(names))}"
                raise UserError(f"{path}, line {reader.line_num}: {found}. The first line has to name every column, each once.")
            yield f"{path}, line {reader.line_num}", dict(zip(names, fields, strict=False))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not a readable table ({error}).") from None


def _parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            about = file.metadata
            _check_size(path, sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups)), about.num_rows)
            for number, row in enumerate((row for batch in file.iter_batches(1024) for row in batch.to_pylist()), start=1):
                yield f"{path}, row {number}", row
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({first_line(error)}).") from None


def _folder(path: Path, split: str) -> Rows:
    """The rows that `datasets` wrote by ``save_to_disk``: Arrow streams, named in state.json; one folder a split."""
    import pyarrow

    if (path / "dataset_dict.json").is_file():
        path /= _one_of(read_json(path / "dataset_dict.json").get("splits"), split, "split", str(path))
    elif split:
        raise UserError(f"{path} holds one split, so {split!r} cannot be chosen. Leave :{split} out.")
    if not (state := path / "state.json").is_file():
        raise UserError(f"{path} is a folder, and not one that datasets wrote (no state.json). Expected {FORMATS}.")
    with reading(state):
        files = [path / Path(entry["filename"]).name for entry in read_json(state)["_data_files"]]
    _check_size(path, sum(file.stat().st_size for file in files))
    number = count(1)
    for file in files:
        try:
            with pyarrow.memory_map(str(file)) as mapped, pyarrow.ipc.open_stream(mapped) as stream:
                for row in (row for batch in stream for row in batch.to_pylist()):
                    yield f"{path}, row {next(number)}", row
        except (pyarrow.ArrowException, ValueError) as error:
            raise UserError(f"{file}: not a readable Arrow file ({first_line(error)}).") from None


def _one_of(known: Any, wanted: str, what: str, where: str) -> str:
    """The split or configuration that is wanted; without a wish train, or the only one there is."""
    names = [name for name in known if isinstance(name, str) and name == Path(name).name] if isinstance(known, list) else []
    if (found := wanted or ("train" if len(names) != 1 else names[0])) in names:
        return found
    raise UserError(f"{where} has no {what} {found!r}. Nearest: {nearest(found, names, most=8) or 'it has none'}.")


def _hub(name: str) -> Rows:
    try:
        import datasets
    except ImportError:
        raise UserError(f"{name!r} is a hub data set, which needs the 'datasets' package: pip install 'sluicegate[hub]'.") from None
    place, _, revision = name.removeprefix("hub:").partition("@")
    repository, *rest = place.split(":")
    how = {"revision": revision} if revision else {}
    datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False  # earlier versions would ask, and run a data set's own code
    try:
        # One word is a configuration where the data set has one of that name, and else a split.
        known = datasets.get_dataset_config_names(repository, **how) if len(rest) in (1, 2) else []
        if len(rest) == 1 and rest[0] in known:
            rest.append("train")
        config, split = rest if len(rest) > 1 else (None, *rest, "train")[:2]
        if config is not None and known:
            _one_of(known, config, "configuration", f"hub:{repository}")
        rows = datasets.load_dataset(repository, config, split=split, **how)
    except UserError:
        raise
    except Exception as error:
        raise UserError(_why_not(error, name, repository)) from None
    for number, row in enumerate(rows, start=1):
        yield f"{name}, row {number}", row


def _why_not(error: Exception, name: str, repository: str) -> str:
    """One line for what the hub or `datasets` refused; they are known by their names, which their versions share."""
    why, kinds = " ".join(str(error).split()), {cls.__name__ for cls in type(error).__mro__}
    if "GatedRepoError" in kinds or "gated" in why.lower():
        return f"{name!r} is gated: ask its owners on https://huggingface.co/datasets/{repository}, then log in with: hf auth login."
    if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError"}:
        return (
            f"no data set {name!r} on the hub, or none that you may see ({why[:200]}). Look at its name; of a private one: hf auth login."
        )
    if found := re.search(r"Unknown split \"?(.+?)\"?\. Should be one of (\[.*?\])", why):
        known = found[2][2:-2].split("', '")
        return f"hub:{repository} has no split {found[1]!r}. Nearest: {nearest(found[1], known, most=8)}."
    return f"could not load {name!r} ({why[:200]}). Expected {HUB}."


_READERS: dict[str, Callable[[Path], Rows]] = {
    **dict.fromkeys((".jsonl", ".json"), json_rows),
    **dict.fromkeys((".csv", ".tsv"), _table),
    **dict.fromkeys((".txt", ".md"), _text),
    ".parquet": _parquet,
}
