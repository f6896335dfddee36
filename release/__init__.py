"""What is published, built and checked: `python -m release`."""
