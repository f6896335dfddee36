"""The operator's side of `dead_letter`: finding, moving and replaying letters."""
