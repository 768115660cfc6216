"""Pretraining with masked language modelling and sentence order prediction: `sequence-encoder pretrain`."""
