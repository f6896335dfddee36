"""Spool -> broker."""
