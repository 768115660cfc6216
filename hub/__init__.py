"""How models are saved and shared so that others can rely on them. Imports of itself nothing of the rooms above."""
