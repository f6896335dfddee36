"""How fast mirrorfeed is, beside the least that could be done and the simplest that would do."""
