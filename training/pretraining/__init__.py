"""`sequence-encoder pretrain`: masked tokens and sentence order, on any corpus."""
