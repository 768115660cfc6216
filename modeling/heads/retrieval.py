"""The encoder with heads for sparse and multi-vector retrieval, as in BGE-M3.

The definitions are those of BGE-M3 (Chen et al., 2024, https://arxiv.org/abs/2402.03216, section 3.2) and of
FlagEmbedding (https://github.com/FlagOpen/FlagEmbedding, FlagEmbedding/finetune/embedder/encoder_only/m3/modeling.py).

Shapes: B batch, S sequence, D hidden, C channels of token vectors.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils.generic import can_return_tuple

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..attention.masks import real_tokens
from ..forward_options import ForwardOptions
from ..modeling_sequence_encoder import SequenceEncoderModel
from ..packing import positions_from_documents, sequence_starts
from ..pooling import POOLINGS
from ..text_encoding.embedding_recipe import EmbeddingRecipe, Normalize
from ..text_encoding.multi_encoding import MultiEncodingMixin


@dataclass
class RetrievalOutput(BaseModelOutputWithPooling):
    """The outputs of `SequenceEncoderForRetrieval`.

    Attributes:
        dense_vecs: (B, D) vector of each text, by the embedding recipe; None if a row has several documents, or if the
            recipe is not supported.
        token_weights: (B, S) weight of each token, 0 at padding and at the special tokens.
        colbert_vecs: (B, S, C) vector of each token, of unit length; 0 at padding and at the first token of a text.
    """

    dense_vecs: torch.Tensor | None = None
    token_weights: torch.Tensor | None = None
    colbert_vecs: torch.Tensor | None = None


class SequenceEncoderForRetrieval(MultiEncodingMixin, SequenceEncoderModel):  # type: ignore[misc] # wraps `push_to_hub`
    """The encoder with two linear layers for retrieval, and thus three representations of a text from one pass.

    Its dense vector is that of the encoder, a weight for each token is its sparse representation, and a vector for each
    token is its multi-vector representation. Everything that takes an encoder also takes this model.
    """

    _auto_classes = ("AutoModelForTextEncoding",)
    _hub_task = "sentence-similarity"
    _has_pipeline = False
    _outputs = (1, "token_vector_size")
    embedding_recipe: EmbeddingRecipe | None = EmbeddingRecipe(pooling=("cls",), after=(Normalize(),))

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        self.sparse_linear = nn.Linear(config.hidden_size, 1)
        self.colbert_linear = nn.Linear(config.hidden_size, config.token_vector_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        needed: torch.Tensor | bool = True,
        **kwargs: Unpack[ForwardOptions],
    ) -> RetrievalOutput:
        """Encode a batch. For the inputs, see `SequenceEncoderModel.forward`. Without ids, special tokens have weights.

        Args:
            needed: The tokens whose vectors the caller uses. The three representations need all, which is True.
            **kwargs: See `ForwardOptions`.

        Returns:
            The outputs of the encoder, and `dense_vecs`, `token_weights` and `colbert_vecs`, see `RetrievalOutput`.

        Raises:
            ValueError: If inputs are invalid.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = super().forward(*inputs, needed=needed, **{**kwargs, "return_dict": True})
        if needed is not True:
            return RetrievalOutput(**outputs)
        hidden_states = outputs.last_hidden_state
        token_mask = real_tokens(attention_mask)
        token_mask = None if token_mask is None else token_mask.to(hidden_states.device).expand(hidden_states.shape[:2])
        cu_seq_lens, seq_idx = kwargs.get("cu_seq_lens_q"), kwargs.get("seq_idx")
        if seq_idx is not None and cu_seq_lens is None and position_ids is None:
            position_ids = positions_from_documents(seq_idx)
        first = sequence_starts(hidden_states.shape[:2], hidden_states.device, token_mask, position_ids, cu_seq_lens)
        return RetrievalOutput(
            **outputs,
            dense_vecs=None if outputs.pooler_output is None else self._dense(hidden_states, token_mask),
            token_weights=self._token_weights(hidden_states, input_ids, token_mask),
            colbert_vecs=self._token_vectors(hidden_states, first, token_mask),
        )

    def _dense(self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor | None:
        recipe = self.embedding_recipe or EmbeddingRecipe()
        if recipe.obstacle is not None:
            return None
        vectors = torch.cat([POOLINGS[mode](hidden_states, token_mask) for mode in recipe.pooling], dim=-1)
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        for step in recipe.after:
            vectors = step(vectors)
        return vectors

    def _token_weights(
        self, hidden_states: torch.Tensor, input_ids: torch.Tensor | None, token_mask: torch.Tensor | None
    ) -> torch.Tensor:
        weights = self.sparse_linear(hidden_states).squeeze(-1).relu()
        left_out = torch.zeros_like(weights, dtype=torch.bool) if token_mask is None else ~token_mask
        if input_ids is not None:
            for token in self.config.tokens_without_weight:
                left_out = left_out | (input_ids == token).to(left_out.device)
        return weights.masked_fill(left_out, 0)

    def _token_vectors(
        self, hidden_states: torch.Tensor, first: torch.Tensor, token_mask: torch.Tensor | None
    ) -> torch.Tensor:
        vectors = self.colbert_linear(hidden_states)
        vectors = F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
        left_out = first if token_mask is None else first | ~token_mask
        return vectors.masked_fill(left_out[..., None], 0)
