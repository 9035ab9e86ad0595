"""Convert what was fetched into what the rest of the package reads: a GGUF model, and a pickle of digits.

Both come as an open file and are read as data: no code of theirs is run. This file imports neither torch nor
transformers until a model is converted.
"""

import contextlib
import gzip
import importlib.util
import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from sluicegate.errors import UserError, first_line

Progress = Callable[[str, int, int], None]
"""Called with a stage in words, and how much of it is done out of how much (bytes; 0 of 0 where unknown)."""

_CONTEXT = 8192


def folder_from_gguf(source: IO[bytes], folder: Path, report: Progress) -> None:
    """Write SmolLM2's GGUF file into `folder` as an ordinary Hugging Face folder, dequantised, in float32."""
    for package in ("accelerate", "gguf"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"converting the model needs the {package!r} package: pip install {package}")
    import torch
    import transformers
    from tokenizers import pre_tokenizers

    gguf = folder / "model.gguf"
    with gguf.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
    report("converting the model to safetensors", 0, 0)
    with contextlib.redirect_stderr(io.StringIO()):  # these progress bars know no switch
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=gguf.name,
            dtype=torch.float32,
            trust_remote_code=False,
            # Without this, an installed `kernels` package would leave the weights packed, which cannot be trained.
            quantization_config=transformers.GgufConfig(dequantize=True),
        )
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name, trust_remote_code=False)
    # What GGUF does not hold. The tokenizer's first step, one token for each digit: without it "  12" is cut otherwise.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = _CONTEXT
    # The release's own values: the first is stored rounded to float32, the second (1 / sqrt(576)) not at all, and a
    # reference model that never saw the data is drawn with it.
    model.config.rms_norm_eps = 1e-5
    model.config.initializer_range = 1 / 24
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, model.generation_config.eos_token_id)
    if ids != (1, 2, 2) or not tokenizer.chat_template:
        raise UserError(
            f"transformers {transformers.__version__} reads this GGUF file in another way than expected: bos, eos and "
            f"generation eos are {ids} instead of (1, 2, 2), or the chat template is lost. Install the version that "
            "constraints.txt names."
        )
    # Dequantised above, so the note that it came from a quantised file would only keep it from being saved.
    model.hf_quantizer = None
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    gguf.unlink()
    report("converting the model to safetensors", 1, 1)


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can rebuild numpy arrays and nothing else; no name in a file reaches any other code."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy

        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("numpy", "ndarray"): numpy.ndarray,
            ("numpy", "dtype"): numpy.dtype,
        }
        if (module, name) not in allowed:
            raise UserError(f"the archive asks for {module}.{name}, which is no numpy array. None of it was run: do not use it.")
        return allowed[module, name]


def _empty_array(*_: object) -> Any:
    """Stands in for numpy's private function of that task: the array that the pickle then fills."""
    import numpy

    return numpy.ndarray((0,), "b")


def digits_from_pickle(source: IO[bytes], target: Path, report: Progress) -> None:
    """Write MNIST's archive (a gzipped pickle of train, validation and test arrays) as an .npz of uint8.

    Raises `UserError` where it holds anything else, or asks for any code but numpy's arrays.
    """
    import numpy

    report("reading the digits", 0, 0)
    try:
        with gzip.open(source) as pickled:
            # latin1: the archive was pickled by Python 2, where array contents were strings.
            parts = [(pixels, labels) for pixels, labels in _ArraysOnly(pickled, encoding="latin1").load()]
        # The archive stores pixel / 256 as float32, which is exact, so this is exact too.
        images = [numpy.asarray(pixels * 256).reshape(-1, 28, 28) for pixels, _ in parts]
        answers = [numpy.asarray(labels).reshape(-1) for _, labels in parts]
        whole = [numpy.array_equal(values, values.astype(numpy.uint8)) for values in [*images, *answers]]
    except UserError:
        raise
    except (pickle.UnpicklingError, EOFError, TypeError, ValueError, AttributeError, gzip.BadGzipFile) as error:
        raise UserError(f"{source.name} does not hold digits as expected: {first_line(error)}.") from error
    if len(parts) != 3 or not all(whole) or any(len(x) != len(y) for x, y in zip(images, answers, strict=True)):
        raise UserError(f"{source.name} does not hold digits as expected: three sets of whole pixels, each with a label.")
    x = [values.astype(numpy.uint8) for values in images]
    y = [values.astype(numpy.uint8) for values in answers]
    report("writing the digits", 0, 0)
    numpy.savez_compressed(
        target,
        x_train=numpy.concatenate(x[:2]),  # the archive had split MNIST's own training set in two
        y_train=numpy.concatenate(y[:2]),
        x_test=x[2],
        y_test=y[2],
    )
    report("writing the digits", 1, 1)
