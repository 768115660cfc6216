"""The families of models: one module describes each, and this table lists them. Nothing here imports torch.

To add a family, write its module, whose `Family` has the name of the family in capital letters, and add a line here.
A family whose code is only on the Hub has a `RemoteCodeFamily`, which `formats/remote_code_checkpoints.py` lists.
"""

from __future__ import annotations

FAMILY_MODULES = {
    "bert": "bert",
    "roberta": "roberta",
    "distilbert": "distilbert",
    "electra": "electra",
    "albert": "albert",
    "ernie": "ernie",
    "mpnet": "mpnet",
    "deberta-v2": "deberta",
    "nomic_bert": "nomic_bert",
    "gte": "gte",
    "jina_embeddings_v3": "jina_embeddings_v3",
    "eurobert": "eurobert",
    "ultrabert": "ultrabert",
    "data2vec_text": "roberta",
    "roberta_prelayernorm": "pre_norm",
    "xlm_roberta_xl": "pre_norm",
    "megatron_bert": "pre_norm",
    "roformer": "roformer",
    "rembert": "rembert",
    "modernbert": "modernbert",
}
