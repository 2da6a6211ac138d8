"""The array namespace of an input, and the few operations that the array standard lacks."""
