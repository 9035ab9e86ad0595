"""Tiny random models of the architectures that people bring, for the tests that hold for all of them."""

from safetensors.torch import load_file
from transformers import (
    BloomConfig,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3MoeConfig,
)

from sluicegate.engine.models import fresh, load, save

_COMMON = {
    "vocab_size": 132,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "bos_token_id": 2,
    "pad_token_id": 0,
    "eos_token_id": None,
}
_GROUPED = _COMMON | {"num_key_value_heads": 2}

CONFIGS = {
    "llama": lambda: LlamaConfig(**_GROUPED),
    "mistral": lambda: MistralConfig(**_GROUPED, sliding_window=8),
    "qwen2": lambda: Qwen2Config(**_GROUPED),
    "gemma2": lambda: Gemma2Config(**_GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=8, final_logit_softcapping=30.0),
    "neox": lambda: GPTNeoXConfig(**_COMMON),
    "gpt2": lambda: GPT2Config(
        vocab_size=132, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=2, eos_token_id=None, pad_token_id=0
    ),
}
_BARE = {"vocab_size": 132, "hidden_size": 32, "initializer_range": 0.1, "bos_token_id": 2, "pad_token_id": 0, "eos_token_id": None}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
OTHERS = {
    "mixtral": lambda: MixtralConfig(**_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "qwen3moe": lambda: Qwen3MoeConfig(**_GROUPED, **_EXPERTS, num_experts=4, head_dim=8),
    # The first layer is dense; of the experts of the second one is shared.
    "deepseek": lambda: DeepseekV3Config(
        **_COMMON, **_EXPERTS, num_key_value_heads=4, n_routed_experts=4, n_shared_experts=1, n_group=1, topk_group=1, q_lora_rank=12,
        first_k_dense_replace=1, kv_lora_rank=16, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=6,
    ),
    "gptoss": lambda: GptOssConfig(**_GROUPED, num_local_experts=4, num_experts_per_tok=2, head_dim=8, sliding_window=8),
    "mamba": lambda: MambaConfig(
        vocab_size=132, hidden_size=32, num_hidden_layers=2, state_size=4, bos_token_id=2, eos_token_id=None, pad_token_id=0
    ),
    "gemma3": lambda: Gemma3TextConfig(**_GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=4),
    "olmo2": lambda: Olmo2Config(**_GROUPED),
    "phi3": lambda: Phi3Config(**_GROUPED),
    "falcon": lambda: FalconConfig(**_BARE, num_attention_heads=4, num_hidden_layers=2),
    "falcon-alibi": lambda: FalconConfig(**_BARE, num_attention_heads=4, num_hidden_layers=2, alibi=True),
    "opt": lambda: OPTConfig(**_COMMON, ffn_dim=64, word_embed_proj_dim=32, init_std=0.1),
    "bloom": lambda: BloomConfig(**_BARE, n_layer=2, n_head=4),
    "gptj": lambda: GPTJConfig(**_BARE, n_positions=64, n_layer=2, n_head=4, rotary_dim=4),
}  # fmt: skip
"""Fused experts (four, of which a token sees two), a state-space model, and other ways of attention and of telling
positions: not routed, but trained, attacked and counted."""
ADDS_ONE = {"gemma2"}
"""Architectures whose norms multiply by 1 + gain."""
TIED = {"gemma2", "gpt2"}
"""Architectures whose output matrix is the embedding."""


def build(name, seed=0):
    return fresh((CONFIGS | OTHERS)[name](), seed)


def learner(seed=0):
    """A model that learns a few dozen facts by heart in a second: one layer, width 64, untied."""
    config = LlamaConfig(
        **_COMMON | {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 256, "hidden_act": "relu", "initializer_range": 0.05}
    )
    return fresh(config, seed)


def llama(width=64, layers=2, vocabulary=132, keys=2, **more):
    """A configuration of this width, with heads of 16 and three times as many units."""
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 16,
        num_key_value_heads=keys,
        head_dim=16,
        vocab_size=vocabulary,
        use_cache=False,
        **more,
    )


def round_trip(model, tokenizer, folder, bits):
    """Load what transformers saved, save it, and check every weight on both ways."""
    model.save_pretrained(folder / "theirs")
    tokenizer.save_pretrained(folder / "theirs")
    loaded, its_tokenizer = load(str(folder / "theirs"))
    assert type(loaded) is type(model)
    assert bits.same(bits.weights(loaded), bits.weights(model))
    save(loaded, its_tokenizer, folder / "ours")
    theirs, ours = (load_file(folder / place / "model.safetensors") for place in ("theirs", "ours"))
    assert bits.same(theirs, ours)
