"""What is typed: `mirror-puller`, a module for each command."""
