"""The barriers of the cones: one cone per file, and their product."""
