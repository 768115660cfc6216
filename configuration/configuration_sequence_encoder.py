"""The configuration of a SequenceEncoder: independent fields instead of a class for every architecture."""

# No `from __future__ import annotations` here: `@strict` reads the types of the fields, and skips a type given as a
# string.
from dataclasses import fields
from functools import cached_property
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from ..saving.code_saving import CodeSavingMixin
from ..saving.loading import SafeConfigLoadingMixin
from .checked_fields import CheckedFieldsMixin
from .layer_groups import group_of_each_layer, with_overrides
from .logit_calibration_field import keeps_calibration
from .peft_targets import register_with_peft
from .presets import PresetsMixin
from .rope_parameters import nest_by_layer_type
from .shared_fields import CheckedConfig


@strict
class SequenceEncoderConfig(SafeConfigLoadingMixin, PresetsMixin, CheckedFieldsMixin, CodeSavingMixin, CheckedConfig):
    r"""Configuration of a SequenceEncoder. Independent fields select its architecture.

    The defaults are the encoder of *Attention Is All You Need* (Vaswani et al., 2017) as `torch.nn.TransformerEncoder`
    implements it: scaled embeddings plus sinusoidal positions, post-norm layers with a ReLU feed-forward network, and
    no norm after the last layer.

    Args:
        vocab_size (`int`, defaults to 30522): Number of tokens in the vocabulary.
        hidden_size (`int`, defaults to 512): Number of channels of the layers.
        num_hidden_layers (`int`, defaults to 6): Number of layers.
        num_hidden_groups (`int`, *optional*): Number of groups of consecutive layers that share their weights, as in
            ALBERT; 1 if all layers do. By default, each layer has its own weights.
        num_attention_heads (`int`, defaults to 8): Number of attention heads of each layer.
        num_key_value_heads (`int`, *optional*): Number of heads of keys and values, which divides
            `num_attention_heads`; each serves a group of query heads (Ainslie et al., 2023). By default, there are as
            many as query heads.
        intermediate_size (`int`, defaults to 2048): Number of inner channels of the feed-forward networks.
        max_position_embeddings (`int`, defaults to 512): Maximum number of tokens in a text. Only learned positions
            enforce it.
        position_embedding (`"sinusoidal"`, `"learned"`, `"rotary"` or `"none"`, defaults to `"sinusoidal"`): How the
            model encodes the positions of tokens.
        position_offset (`int`, defaults to 0): Number of unused rows at the start of the table of learned positions.
            RoBERTa has `pad_token_id + 1` of them. The `position_ids` of a text may start at 0 or at this offset.
        rope_parameters (`dict`, *optional*): Parameters of rotary positions, in the format of transformers:
            `rope_theta` (defaults to 10000), `rope_type` (`default`, `linear`, `llama3` or `yarn`) and what that type
            needs, either for all layers or nested by layer type.
        position_bias (`"bucketed"`, `"alibi"` or `"disentangled"`, *optional*): What is added to attention scores for
            the distance of two tokens, with any `position_embedding`: a learned number for each head and bucket of
            distances, as in T5 and MPNet; a penalty that grows linearly (Press et al., 2022); or products of queries
            and keys with embeddings of the distance, as in DeBERTa (He et al., 2021).
        relative_attention_num_buckets (`int`, defaults to 32): Number of buckets of a `bucketed` position bias, half of
            them for each direction.
        relative_attention_max_distance (`int`, defaults to 128): Distance from which all distances share the last
            bucket of their direction.
        pos_att_type (`list[str]`, *optional*): The products of a `disentangled` position bias: `"c2p"` for queries with
            distances, `"p2c"` for keys with distances. By default both.
        share_att_key (`bool`, defaults to `False`): Whether each layer of a `disentangled` position bias projects
            distances with the weights of its queries and keys, instead of separate ones.
        position_buckets (`int`, *optional*): Number of buckets for each direction of a `disentangled` position bias.
            The nearer half of them hold one distance each, and the others hold ranges that grow logarithmically up to
            `max_relative_positions`. By default, each distance has its own embedding.
        max_relative_positions (`int`, *optional*): Distance from which all distances share an embedding of a
            `disentangled` position bias; `max_position_embeddings` by default.
        norm_rel_ebd (`"none"` or `"layer_norm"`, defaults to `"none"`): Whether to normalise the embeddings of
            distances.
        conv_kernel_size (`int`, defaults to 0): Number of tokens, an odd number, of a convolution beside the first
            layer, as in DeBERTa v2, or before it if `norm_placement="pre"`. 0 means no convolution.
        conv_act (`str`, defaults to `"tanh"`): Activation of the convolution: `tanh`, `linear` for none, or one of
            those of `hidden_act`.
        norm_placement (`"post"` or `"pre"`, defaults to `"post"`): Whether norms come after each residual addition or
            before each branch. `pre` adds a norm after the last layer, and omits the attention norm of the first layer
            if `embedding_norm` already normalises its input and no other layer shares its weights.
        first_attn_norm (`bool`, defaults to `False`): Whether the first layer with `norm_placement="pre"` has its
            attention norm even then, as in RoBERTa-PreLayerNorm.
        norm (`"layer_norm"` or `"rms_norm"`, defaults to `"layer_norm"`): The norm used everywhere.
        norm_eps (`float`, defaults to 1e-5): Epsilon of the norms.
        norm_bias (`bool`, defaults to `True`): Whether layer norms have a bias.
        feed_forward (`"mlp"` or `"glu"`, defaults to `"mlp"`): Whether the feed-forward network computes act(xW₁)W₂ or
            the gated (act(xW₁) * xV)W₂ of Shazeer (2020).
        hidden_act (`str`, defaults to `"relu"`): Activation of the feed-forward network: `relu`, `gelu`, `gelu_new`,
            `gelu_pytorch_tanh`, `quick_gelu` or `silu`.
        layer_types (`list[str]`, *optional*): `"full_attention"` or `"sliding_attention"` for each layer. A shorter
            list is repeated. By default, all layers use full attention.
        sliding_window (`int`, *optional*): Number of tokens to attend to on each side in layers with sliding attention.
        attention_bias (`bool`, defaults to `True`): Whether the linear layers of attention have a bias.
        mlp_bias (`bool`, defaults to `True`): Whether the linear layers of the feed-forward network have a bias.
        mlp_down_bias (`bool`, *optional*): Whether the last layer of the feed-forward network has a bias; `mlp_bias` by
            default.
        embedding_size (`int`, *optional*): Number of channels of the embeddings; `hidden_size` by default. If the two
            differ, the model projects the embeddings to `hidden_size`, and a `dense` prediction head projects back, as
            in ELECTRA.
        embedding_projection (`"after_norm"` or `"before_norm"`, defaults to `"after_norm"`): Where this projection is.
            Before the norm and dropout of the embeddings, it has no bias, as in DeBERTa.
        scale_embeddings (`bool`, defaults to `True`): Whether to multiply token embeddings by the square root of their
            number of channels.
        embedding_norm (`bool`, defaults to `False`): Whether to normalise the sum of the embeddings.
        type_vocab_size (`int`, defaults to 0): Number of segment types. With 0 there is no segment embedding.
        task_type_vocab_size (`int`, defaults to 0): Number of task types, as in ERNIE. The model adds the embedding of
            task 0 to all tokens, as ERNIE does for texts without `task_type_ids`. With 0 there is no such embedding.
        pooling (`"mean"` or `"cls"`, defaults to `"mean"`): Whether the vector of a text is the mean over its tokens or
            its first token.
        pooler_act (`"tanh"`, `"relu"` or `"gelu"`, *optional*): Adds BERT's pooler, a dense layer with this activation.
        pooler_placement (`"after"` or `"before"`, defaults to `"after"`): Whether this layer follows the pooling, or
            comes before it, on the vector of each token, as in EuroBERT.
        pooler_dropout (`float`, defaults to 0.0): Dropout probability before the dense layer of the pooler.
        prediction_head (`"linear"`, `"dense"` or `"mlp"`, defaults to `"linear"`): What follows the encoder before the
            vocabulary projection: nothing, a dense layer with activation and norm, or two dense layers with an
            activation after each, as in UltraBERT.
        prediction_head_size (`int`, *optional*): Number of channels between the layers of an `mlp` prediction head;
            `hidden_size` by default.
        output_embedding_size (`int`, *optional*): Number of channels of the dense prediction head; by
            default those of the embeddings.
        decoder_bias (`bool`, defaults to `True`): Whether the vocabulary projection has a bias.
        classifier_head (`"linear"` or `"dense"`, defaults to `"linear"`): The same for the classifiers of task heads.
        head_act (`str`, *optional*): Activation of these heads, one of those of `hidden_act`; `hidden_act` by default.
        head_bias (`bool`, defaults to `True`): Whether the dense layers of these heads have a bias.
        multi_vector_size (`int`, *optional*): Number of channels of the vector that `SequenceEncoderForRetrieval` gives
            each token; `hidden_size` by default.
        unweighted_token_ids (`list[int]`, *optional*): Ids of tokens to which `SequenceEncoderForRetrieval` gives no
            weight; by default the special tokens below, except the mask token.
        tie_word_embeddings (`bool`, defaults to `False`): Whether the vocabulary projection shares the weights of the
            token embeddings.
        hidden_dropout (`float`, defaults to 0.1): Dropout probability of the residual branches.
        attention_dropout (`float`, defaults to 0.1): Dropout probability of the attention weights.
        mlp_dropout (`float`, defaults to 0.1): Dropout probability inside the feed-forward network.
        embedding_dropout (`float`, defaults to 0.1): Dropout probability of the embeddings.
        classifier_dropout (`float`, defaults to 0.1): Dropout probability before the classifiers of the heads.
        initializer (`"xavier_uniform"` or `"normal"`, defaults to `"xavier_uniform"`): How matrices are initialised.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the `normal` initialisation.
        problem_type (`str`, *optional*): `single_label_classification`, `multi_label_classification` or `regression`.
            By default, the labels of the first batch decide.
        logit_calibration (`list[dict]`, *optional*): How `SequenceEncoderForSequenceClassification` calibrates its
            logits: a list of steps, applied in order, which `calibrate` writes. A step with `temperature_weight`,
            `temperature_bias` and `log_entropy_range` divides the logits by `softplus(temperature_weight *
            log(entropy) + temperature_bias)`, where the logarithm is clamped to the range. A step with `scale` and
            `offset` scales and shifts the logit of each label.
        zero_shot_classification (`dict`, *optional*): What `SequenceEncoderForZeroShotClassification` needs: the ids of
            the tokens before labels and before the text, how the vectors of tokens become those of labels and texts,
            and how these are compared. `convert` sets it for a GLiClass.
        span_extraction (`dict`, *optional*): How `SequenceEncoderForSpanExtraction` scores spans, see
            `SpanExtractionFields`; it fills in what is missing.
        pad_token_id (`int`, *optional*, defaults to 0): Id of the padding token.
        bos_token_id (`int`, *optional*): Id of the token at the beginning of a text.
        eos_token_id (`int` or `list[int]`, *optional*): Id of the token at the end of a text.
        cls_token_id (`int`, *optional*): Id of the classification token.
        sep_token_id (`int`, *optional*): Id of the separator token.
        mask_token_id (`int`, *optional*): Id of the mask token.

    Raises:
        huggingface_hub.errors.StrictDataclassError: If a value has the wrong type or is not one of the choices, or if
            fields contradict each other. The message names the field, its value and what is allowed.
        ValueError: If the model would be too large for any computer, `dtype` is not a floating dtype, or the labels
            have an invalid number or index.

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
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["mlm_loss", "sop_loss", "bow_loss"]

    vocab_size: int = 30522
    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_hidden_groups: int | None = None
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    intermediate_size: int = 2048
    max_position_embeddings: int = 512

    position_embedding: Literal["sinusoidal", "learned", "rotary", "none"] = "sinusoidal"
    position_offset: int = 0
    rope_parameters: dict[str, Any] | None = None
    position_bias: Literal["bucketed", "alibi", "disentangled"] | None = None
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    pos_att_type: list[Literal["c2p", "p2c"]] | None = None
    share_att_key: bool = False
    position_buckets: int | None = None
    max_relative_positions: int | None = None
    norm_rel_ebd: Literal["none", "layer_norm"] = "none"
    conv_kernel_size: int = 0
    conv_act: Literal["tanh", "linear", "relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu"] = "tanh"
    norm_placement: Literal["post", "pre"] = "post"
    first_attn_norm: bool = False
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_eps: float = 1e-5
    norm_bias: bool = True
    feed_forward: Literal["mlp", "glu"] = "mlp"
    hidden_act: Literal["relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu"] = "relu"
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    sliding_window: int | None = None
    attention_bias: bool = True
    mlp_bias: bool = True
    mlp_down_bias: bool | None = None

    embedding_size: int | None = None
    embedding_projection: Literal["after_norm", "before_norm"] = "after_norm"
    scale_embeddings: bool = True
    embedding_norm: bool = False
    type_vocab_size: int = 0
    task_type_vocab_size: int = 0

    pooling: Literal["mean", "cls"] = "mean"
    pooler_act: Literal["tanh", "relu", "gelu"] | None = None
    pooler_placement: Literal["after", "before"] = "after"
    pooler_dropout: float | int = 0.0
    prediction_head: Literal["linear", "dense", "mlp"] = "linear"
    prediction_head_size: int | None = None
    output_embedding_size: int | None = None
    decoder_bias: bool = True
    classifier_head: Literal["linear", "dense"] = "linear"
    head_act: Literal["relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu"] | None = None
    head_bias: bool = True
    multi_vector_size: int | None = None
    unweighted_token_ids: list[int] | None = None
    tie_word_embeddings: bool = False

    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    mlp_dropout: float | int = 0.1
    embedding_dropout: float | int = 0.1
    classifier_dropout: float | int = 0.1

    initializer: Literal["xavier_uniform", "normal"] = "xavier_uniform"
    initializer_range: float = 0.02

    # Declared again: in transformers the type of this field is a string, which `@strict` skips.
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    logit_calibration: list[dict[str, Any]] | None = None
    zero_shot_classification: dict[str, Any] | None = None
    span_extraction: dict[str, Any] | None = None

    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    cls_token_id: int | None = None
    sep_token_id: int | None = None
    mask_token_id: int | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from a dict and from fields that override it.

        Transformers would set the overrides on the finished configuration. Here they are completed and checked
        together with the fields of the dict.

        Args:
            config_dict: The fields of the configuration.
            **kwargs: Fields that override those of the dict, and other arguments of transformers' `from_dict`.

        Raises:
            ValueError: If the configuration has another `model_type`.
        """
        # `normalize` and `max_length` are those of a static encoder, for model2vec. Transformers takes the second for
        # an option of generation.
        known = cls.checked_fields(config_dict).items()
        config_dict = {name: value for name, value in known if name not in ("normalize", "max_length")}
        # Transformers handles `dtype`, which may be "auto" here but not in a field, and `label2id`, which `num_labels`
        # would replace. It reads `rope_scaling` as `rope_parameters`.
        names = {field.name for field in fields(cls)} - {"dtype", "label2id"} | {"rope_scaling"}
        overrides = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        labels = config_dict.get("id2label") or {}
        if "id2label" not in overrides and kwargs.get("num_labels", len(labels)) != len(labels):
            config_dict = {**config_dict, "id2label": None, "label2id": None}
        if not keeps_calibration(config_dict, {**kwargs, **overrides}):
            config_dict = {**config_dict, "logit_calibration": None}
        return super().from_dict(with_overrides(config_dict, overrides), **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, as in transformers."""
        # Peft calls this to learn the model type, and then looks up the target modules of that type.
        register_with_peft(SequenceEncoderConfig.model_type)
        return super().to_dict()

    def __post_init__(self, **kwargs: Any) -> None:
        self.check_keywords(kwargs)
        # If an Auto class has several classes of ours, transformers iterates over this list.
        self.architectures = self.architectures or []
        if self.embedding_size == self.hidden_size:
            self.embedding_size = None
        if self.num_key_value_heads == self.num_attention_heads:
            self.num_key_value_heads = None
        if self.prediction_head_size == self.hidden_size:
            self.prediction_head_size = None
        if self.output_embedding_size == self.embedding_dim:
            self.output_embedding_size = None
        if self.multi_vector_size == self.hidden_size:
            self.multi_vector_size = None
        if self.head_act == self.hidden_act:
            self.head_act = None
        if self.num_hidden_groups == self.num_hidden_layers:
            self.num_hidden_groups = None
        if self.mlp_down_bias == self.mlp_bias:
            self.mlp_down_bias = None
        if self.position_bias == "disentangled" and self.pos_att_type is None:
            self.pos_att_type = ["c2p", "p2c"]
        if self.layer_types is None:
            self.layer_types = ["full_attention"] * self.num_hidden_layers
        if 0 < len(self.layer_types) < self.num_hidden_layers:
            repeats = -(-self.num_hidden_layers // len(self.layer_types))
            self.layer_types = (list(self.layer_types) * repeats)[: self.num_hidden_layers]
        super().__post_init__(**kwargs)
        if self.id2label is not None and self.label2id is None:
            self.label2id = {label: int(number) for number, label in self.id2label.items()}

    def convert_rope_params_to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Nest `rope_parameters` by layer type, the only format that the model reads. Called by transformers."""
        # The old name of `rope_parameters`, which `__post_init__` warns of. Transformers would copy it without nesting.
        kwargs.pop("rope_scaling", None)
        if self.position_embedding == "rotary":
            given = self.rope_parameters or {}
            self.rope_parameters = nest_by_layer_type(given, self.layer_types or [], self.default_theta)
            if self.rope_parameters:
                self.standardize_rope_params()
        return kwargs

    # An attribute that can be assigned: transformers 5.15 to 5.20 add a rule, and their quantizers replace the plan.
    @cached_property
    def base_model_tp_plan(self) -> dict[str, str]:  # type: ignore[override]
        """The tensor-parallel plan of the layers, which transformers reads."""
        up_proj = {"mlp": ("up_proj", "colwise"), "glu": ("gate_up_proj", "packed_colwise")}
        name, style = up_proj[self.feed_forward]
        plan = {
            # The columns are ordered by head, so a plain split gives each rank whole heads.
            "layers.*.self_attn.qkv_proj": "colwise",
            "layers.*.self_attn.o_proj": "rowwise",
            f"layers.*.mlp.{name}": style,
            "layers.*.mlp.down_proj": "rowwise",
        }
        if self.position_bias == "disentangled" and not self.share_att_key:
            projections = {"c2p": "key_proj", "p2c": "query_proj"}
            plan |= {f"layers.*.self_attn.distances.{projections[kind]}": "colwise" for kind in self.pos_att_type or []}
        return plan

    @property
    def layer_groups(self) -> list[int]:
        """The group of each layer. Layers of the same group share their weights."""
        return group_of_each_layer(self.num_hidden_layers, self.num_hidden_groups)

    @property
    def num_distinct_layers(self) -> int:
        """Number of layers that have their own weights."""
        return self.num_hidden_layers if self.num_hidden_groups is None else self.num_hidden_groups

    @property
    def head_dim(self) -> int:
        """Number of channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def key_value_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def omits_first_attn_norm(self) -> bool:
        """Whether the first layer has no attention norm, because `embedding_norm` has just normalised its input."""
        alone = self.layer_groups.count(0) == 1
        normalised = self.embedding_norm and self.embedding_dim == self.hidden_size and not self.conv_kernel_size
        return self.norm_placement == "pre" and alone and normalised and not self.first_attn_norm

    @property
    def has_down_bias(self) -> bool:
        """Whether the last layer of the feed-forward network has a bias."""
        return self.mlp_bias if self.mlp_down_bias is None else self.mlp_down_bias

    @property
    def score_terms(self) -> int:
        """Number of products that are added up to an attention score."""
        return 1 + len(set(self.pos_att_type or []))

    @property
    def relative_rows(self) -> int:
        """Number of embeddings of distances of a `disentangled` position bias, half of them for each direction."""
        return 2 * (self.position_buckets or self.max_relative_positions or self.max_position_embeddings)

    @property
    def num_hidden_states(self) -> int:
        """Number of hidden states that a model can return: those of the embeddings and of each layer."""
        return self.num_hidden_layers + 1

    @property
    def is_static(self) -> bool:
        """Whether the encoder is only a table of token vectors (static embeddings)."""
        changed = (self.scale_embeddings, self.embedding_norm, self.type_vocab_size, self.task_type_vocab_size)
        plain = self.position_embedding == "none" and self.position_bias is None and self.embedding_size is None
        return self.num_hidden_layers == 0 and self.norm_placement == "post" and plain and not any(changed)

    @property
    def embedding_dim(self) -> int:
        """Number of channels of the embeddings."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def prediction_dim(self) -> int:
        """Number of input channels of the vocabulary projection."""
        if self.prediction_head == "linear":
            return self.hidden_size
        return self.embedding_dim if self.output_embedding_size is None else self.output_embedding_size

    @property
    def token_vector_size(self) -> int:
        """Number of channels of the vectors that `SequenceEncoderForRetrieval` gives tokens."""
        return self.multi_vector_size or self.hidden_size

    @property
    def tokens_without_weight(self) -> list[int]:
        """Ids of the tokens to which `SequenceEncoderForRetrieval` gives no weight."""
        if self.unweighted_token_ids is not None:
            return self.unweighted_token_ids
        ends = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
        special = [self.pad_token_id, self.bos_token_id, self.cls_token_id, self.sep_token_id, *ends]
        return sorted({token for token in special if token is not None})
