"""`encode`: from texts to vectors, following the recipe in the folder of a model."""
