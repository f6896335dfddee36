"""What a puller host types, by subject."""
