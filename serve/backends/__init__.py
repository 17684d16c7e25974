"""Backends: local models and models of other servers, behind one protocol."""
