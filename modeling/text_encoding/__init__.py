"""`encode`: from texts to vectors, as the folder of the model says."""
