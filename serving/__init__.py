"""Serves models over HTTP, in the protocols of OpenAI and of text-embeddings-inference."""
