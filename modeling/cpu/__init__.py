"""What a CPU computes faster than the plain modules do, with the same results. Readers of the model can skip it."""
