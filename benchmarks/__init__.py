"""How fast mirrorfeed is, compared with the least possible work and with the simplest code."""
