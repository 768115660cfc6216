"""The configuration of a SequenceEncoder: a few independent axes instead of a class for every architecture."""

# No `from __future__ import annotations` here: `@strict` reads the types of the fields, and skips strings.
import copy
import difflib
import math
from dataclasses import fields
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.utils import logging

from ..saving.loading import ReadSafely, check_fields
from ..saving.saving import SavedWithAutoMap
from .peft_targets import register_with_peft
from .rope_parameters import check_rope_parameters, nest_by_layer_type
from .shared_fields import CheckedSharedFields

logger = logging.get_logger(__name__)

# Keywords that are no fields: what transformers passes or stores, and sentence-transformers in a cross-encoder.
_ACCEPTED_KEYWORDS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "quantization_config",
    "sbert_ce_default_activation_function",
    "sentence_transformers",
    "tokenizer_class",
    "torch_dtype",
    "use_cache",
}


# Every layer is a set of modules, each made in turn; and the weights have to fit into some memory, 4 TB in float32.
_MOST_LAYERS = 10_000
_MOST_WEIGHTS = 10**12


@strict
class SequenceEncoderConfig(ReadSafely, SavedWithAutoMap, CheckedSharedFields):
    r"""
    Chooses an encoder along independent axes. The defaults are the encoder of *Attention Is All You Need* (Vaswani
    et al., 2017), as `torch.nn.TransformerEncoder` implements it: scaled embeddings plus sinusoidal positions,
    post-norm layers with a ReLU feed-forward, no norm after the last layer.

    Axes:
        position_embedding (`"sinusoidal"`, `"learned"` or `"rotary"`, defaults to `"sinusoidal"`):
            How a token knows its place. Only `learned` limits the length of a text, to `max_position_embeddings`.
        position_offset (`int`, defaults to 0):
            Rows that a `learned` table has before its first position; RoBERTa's has `pad_token_id + 1`, which it never
            uses. `position_ids` of a text may then start at 0 or at this offset.
        norm_placement (`"post"` or `"pre"`, defaults to `"post"`):
            Norms after each residual addition, or before each branch. `pre` adds a norm after the last layer, and
            leaves out the first layer's attention norm where `embedding_norm` has just done its work.
        norm (`"layer_norm"` or `"rms_norm"`, defaults to `"layer_norm"`), norm_eps, norm_bias:
            The norm used everywhere, its epsilon, and whether layer norms have a bias.
        feed_forward (`"mlp"` or `"glu"`, defaults to `"mlp"`):
            act(xW₁)W₂, or the gated (act(xW₁) * xV)W₂ of Shazeer (2020). `hidden_act` is the activation.
        layer_types (`list[str]`, *optional*):
            `"full_attention"` or `"sliding_attention"` for each layer; a shorter list is repeated to the depth.
        sliding_window (`int`, *optional*):
            In sliding layers a token attends to the tokens at most this far away, on both sides.
        rope_parameters (`dict`, *optional*):
            As in transformers: `rope_theta` (10000 where it is not given), `rope_type` (`default`, `linear`, `llama3`,
            `yarn`), for all layers or nested by layer type.
        embedding_size (`int`, *optional*):
            Channels of the embeddings where they are not the `hidden_size` of the layers; they are then projected to
            it, and a `dense` prediction head goes back to them, as ELECTRA's do.
        scale_embeddings (`bool`, defaults to `True`): multiply token embeddings by the root of their channels.
        embedding_norm (`bool`, defaults to `False`): a norm after the sum of the embeddings.
        type_vocab_size (`int`, defaults to 0): number of segment types; 0 means no segment embedding.

    Heads:
        pooling (`"mean"` or `"cls"`, defaults to `"mean"`): how a sequence becomes one vector.
        pooler_act (`"tanh"`, `"relu"` or `"gelu"`, *optional*): adds BERT's pooler, a dense layer with this activation.
        prediction_head (`"linear"` or `"dense"`, defaults to `"linear"`):
            What stands before the vocabulary projection: nothing, or dense, activation and norm.
        classifier_head (`"linear"` or `"dense"`, defaults to `"linear"`): the same, before the task classifiers.
        head_bias (`bool`, defaults to `True`): whether the dense layer of these heads has a bias.

    Sizes, dropout and initialisation:
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, max_position_embeddings:
            As everywhere in transformers.
        hidden_dropout (residual branches), attention_dropout (attention weights), mlp_dropout (inside the
        feed-forward), embedding_dropout, classifier_dropout: probabilities in [0, 1).
        attention_bias, mlp_bias (`bool`, default to `True`): biases of the linear layers.
        initializer (`"xavier_uniform"` or `"normal"`): how matrices start; `normal` uses `initializer_range`.

    Raises:
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type, a choice that does not exist, or
        fields that contradict each other. The message names the field, its value and what is allowed.
        ValueError: for sizes that no computer holds, a dtype that is none, and labels whose number or indices no model
        can have.

    Example:

    ```python
    >>> from sequence_encoder import SequenceEncoderConfig
    >>> SequenceEncoderConfig(hidden_size=256, num_attention_heads=4).position_embedding
    'sinusoidal'
    >>> SequenceEncoderConfig.from_preset("modernbert", num_hidden_layers=4).layer_types
    ['full_attention', 'sliding_attention', 'sliding_attention', 'full_attention']

    ```
    """

    model_type: ClassVar[str] = "sequence_encoder"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["mlm_loss", "sop_loss"]

    vocab_size: int = 30522
    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    max_position_embeddings: int = 512

    position_embedding: Literal["sinusoidal", "learned", "rotary"] = "sinusoidal"
    position_offset: int = 0
    rope_parameters: dict[str, Any] | None = None
    norm_placement: Literal["post", "pre"] = "post"
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_eps: float = 1e-5
    norm_bias: bool = True
    feed_forward: Literal["mlp", "glu"] = "mlp"
    hidden_act: Literal["relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu"] = "relu"
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    sliding_window: int | None = None
    attention_bias: bool = True
    mlp_bias: bool = True

    embedding_size: int | None = None
    scale_embeddings: bool = True
    embedding_norm: bool = False
    type_vocab_size: int = 0

    pooling: Literal["mean", "cls"] = "mean"
    pooler_act: Literal["tanh", "relu", "gelu"] | None = None
    prediction_head: Literal["linear", "dense"] = "linear"
    classifier_head: Literal["linear", "dense"] = "linear"
    head_bias: bool = True
    tie_word_embeddings: bool = False

    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    mlp_dropout: float | int = 0.1
    embedding_dropout: float | int = 0.1
    classifier_dropout: float | int = 0.1

    initializer: Literal["xavier_uniform", "normal"] = "xavier_uniform"
    initializer_range: float = 0.02

    # Once more, since the types that transformers gives its own fields are strings, which `@strict` skips.
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None

    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    cls_token_id: int | None = None
    sep_token_id: int | None = None
    mask_token_id: int | None = None

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "SequenceEncoderConfig":
        """The configuration of a known family (`vanilla`, `bert`, `roberta`, `distilbert`, `modernbert`), base size.

        Raises:
            ValueError: if there is no preset of that name.
        """
        from .presets import PRESETS

        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
        return cls(**_override(copy.deepcopy(PRESETS[name]), overrides))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, but fields among `kwargs` are completed and checked together with those of the dict.

        Transformers sets them on the finished configuration, as it does here with what is no field.

        Raises:
            ValueError: for the configuration of another `model_type`.
        """
        check_fields(config_dict, cls.__name__)
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"model_type is {model_type!r}, and must be {cls.model_type!r}. Transformers' Auto classes load a "
                "model as what it is; `convert` of sequence_encoder carries one over."
            )
        # Transformers looks after `dtype`, whose "auto" is no value for a field, and after `label2id`, which a number
        # of labels would replace; `rope_scaling` sets a field there.
        names = {field.name for field in fields(cls)} - {"dtype", "label2id"} | {"rope_scaling"}
        overrides = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        labels = config_dict.get("id2label") or {}
        if "id2label" not in overrides and kwargs.get("num_labels", len(labels)) != len(labels):
            config_dict = {**config_dict, "id2label": None, "label2id": None}
        return super().from_dict(_override(config_dict, overrides), **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers."""
        # Where peft asks for the type of a model, whose matrices it then looks for.
        register_with_peft(SequenceEncoderConfig.model_type)
        return super().to_dict()

    def __post_init__(self, **kwargs: Any) -> None:
        self._warn_of_unknown(kwargs)
        self._check_size()
        if self.embedding_size == self.hidden_size:
            self.embedding_size = None
        if self.layer_types is None:
            self.layer_types = ["full_attention"] * self.num_hidden_layers
        if 0 < len(self.layer_types) < self.num_hidden_layers:
            repeats = -(-self.num_hidden_layers // len(self.layer_types))
            self.layer_types = (list(self.layer_types) * repeats)[: self.num_hidden_layers]
        super().__post_init__(**kwargs)

    def _warn_of_unknown(self, kwargs: dict[str, Any]) -> None:
        """transformers keeps any keyword as an attribute; a misspelt axis must not pass in silence."""
        own = [field.name for field in fields(self) if field.name in SequenceEncoderConfig.__annotations__]
        for name in kwargs:
            if name in _ACCEPTED_KEYWORDS or name.startswith("_"):
                continue
            close = ["rope_parameters"] if name.startswith("rope_") else difflib.get_close_matches(name, own, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            logger.warning(f"`{name}` is not a field of SequenceEncoderConfig and changes nothing in the model.{hint}")

    def _check_size(self) -> None:
        """Refuses what would take all memory and minutes before it failed: already the list of layer types does."""
        if self.num_hidden_layers > _MOST_LAYERS:
            raise ValueError(f"num_hidden_layers must be at most {_MOST_LAYERS:,}, got {self.num_hidden_layers}.")
        width, positions = self.embedding_dim, self.position_offset + self.max_position_embeddings
        rows = self.vocab_size + self.type_vocab_size + (positions if self.position_embedding == "learned" else 0)
        matrices = {"mlp": 2, "glu": 3}[self.feed_forward]
        layer = self.hidden_size * (4 * self.hidden_size + matrices * self.intermediate_size)
        weights = rows * width + self.num_hidden_layers * layer
        if weights > _MOST_WEIGHTS:
            sizes = ("vocab_size", "type_vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size")
            given = ", ".join(f"{name}={getattr(self, name)}" for name in (*sizes, "num_hidden_layers"))
            raise ValueError(
                f"{given} need about {weights:,} weights, {weights * 4 >> 30:,} GiB in float32; at most "
                f"{_MOST_WEIGHTS:,} weights are allowed."
            )

    def convert_rope_params_to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Nests `rope_parameters` by layer type, the one form that the model reads. Called by transformers."""
        # The old name of `rope_parameters`, already warned of; transformers would set the field by it, not nested.
        kwargs.pop("rope_scaling", None)
        if self.position_embedding == "rotary":
            given = self.rope_parameters or {}
            self.rope_parameters = nest_by_layer_type(given, self.layer_types or [], self.default_theta)
            if self.rope_parameters:
                self.standardize_rope_params()
        return kwargs

    def validate_architecture(self) -> None:
        """Checks the fields that depend on each other. Run by `@strict` after construction."""
        self._check_size()
        for name in (
            "vocab_size",
            "hidden_size",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.embedding_size is not None and self.embedding_size < 1:
            raise ValueError(f"embedding_size must be at least 1, or None, got {self.embedding_size}.")
        if self.tie_word_embeddings and self.prediction_dim != self.embedding_dim:
            raise ValueError(
                f"tie_word_embeddings=True needs prediction_head='dense' where embedding_size={self.embedding_size} is "
                f"not hidden_size={self.hidden_size}, got prediction_head={self.prediction_head!r}."
            )
        for name in ("num_hidden_layers", "type_vocab_size", "position_offset"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        for name in ("norm_eps", "initializer_range"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in (field for field in self.__dataclass_fields__ if field.endswith("_dropout")):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a probability in [0, 1), got {getattr(self, name)}.")
        if self.hidden_size % self.num_attention_heads:
            small = [n for n in range(1, math.isqrt(self.hidden_size) + 1) if self.hidden_size % n == 0]
            divisors = sorted({*small, *(self.hidden_size // n for n in small)})
            raise ValueError(
                f"hidden_size={self.hidden_size} is not divisible by num_attention_heads={self.num_attention_heads}; "
                f"the divisors are {divisors}."
            )

    def validate_positions(self) -> None:
        """Checks the position axis against the sizes. Run by `@strict` after construction."""
        if self.position_embedding == "sinusoidal" and self.embedding_dim % 2:
            name = "hidden_size" if self.embedding_size is None else "embedding_size"
            raise ValueError(f"position_embedding='sinusoidal' needs an even {name}, got {self.embedding_dim}.")
        if self.position_offset and self.position_embedding != "learned":
            raise ValueError(
                f"position_offset={self.position_offset} belongs to position_embedding='learned', got "
                f"{self.position_embedding!r}; leave it out, or pass position_offset=0."
            )
        if self.position_embedding != "rotary":
            if self.rope_parameters is not None:
                raise ValueError(
                    f"rope_parameters belong to position_embedding='rotary', got {self.position_embedding!r}; leave "
                    "them out, or pass rope_parameters=None."
                )
            return
        if self.head_dim % 2:
            raise ValueError(
                "position_embedding='rotary' needs an even head size, got "
                f"hidden_size / num_attention_heads = {self.head_dim}."
            )
        check_rope_parameters(self.rope_parameters, self.layer_types or [])

    def validate_layer_type(self) -> None:
        """Checks the attention pattern of the layers, in place of transformers. Run by `@strict` after construction."""
        layer_types = self.layer_types or []
        if len(layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types has {len(layer_types)} entries for num_hidden_layers={self.num_hidden_layers}; give one "
                "for each layer, or a shorter pattern to repeat."
            )
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(f"sliding_window must be at least 1, or None, got {self.sliding_window}.")
        if "sliding_attention" in layer_types and self.sliding_window is None:
            raise ValueError("layer_types has 'sliding_attention' layers, which need sliding_window >= 1, got None.")

    @property
    def base_model_tp_plan(self) -> dict[str, str]:  # type: ignore[override]
        """How the layers that there are split into tensor-parallel ranks. Read by transformers."""
        up_proj = {"mlp": ("up_proj", "colwise"), "glu": ("gate_up_proj", "packed_colwise")}
        name, style = up_proj[self.feed_forward]
        return {
            # It is laid out head by head, so that a plain split of its columns gives each rank whole heads.
            "layers.*.self_attn.qkv_proj": "colwise",
            "layers.*.self_attn.o_proj": "rowwise",
            f"layers.*.mlp.{name}": style,
            "layers.*.mlp.down_proj": "rowwise",
        }

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def embedding_dim(self) -> int:
        """Channels of the embeddings."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def prediction_dim(self) -> int:
        """Channels that the vocabulary projection takes."""
        return self.embedding_dim if self.prediction_head == "dense" else self.hidden_size


def _override(given: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """The given fields with some replaced; given layer types then follow a number of layers that stands alone.

    Fewer layers are the first ones, and more of them go on with the pattern.
    """
    depth, layer_types = overrides.get("num_hidden_layers"), given.get("layer_types")
    if layer_types == []:
        given = {**given, "layer_types": None}
    elif layer_types and isinstance(depth, int):
        period = next((n for n in range(1, len(layer_types)) if layer_types[n:] == layer_types[:-n]), len(layer_types))
        given = {**given, "layer_types": layer_types[: min(period, depth)]}
    return {**given, **overrides}
