"""Ours, whatever packages call their own tests."""
