"""The tokenizer of tasks in which a word is a token. Imports neither torch nor transformers until it is made."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNK, BOS = SPECIAL = ("<pad>", "<unk>", "<bos>")
"""The special tokens; a task's vocabulary begins with them."""


def word_level(vocabulary: Sequence[str]) -> "PreTrainedTokenizerFast":
    """A word-level tokenizer: an id is a word's place in `vocabulary`, or `<unk>`'s; `<bos>` stands in front."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(vocabulary)}
    inner = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=BOS, pad_token=PAD, unk_token=UNK, padding_side="right")
