"""The branch table: who is registered, and what is known of each branch and script."""
