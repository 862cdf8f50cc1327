"""Searches of hyper-parameters: what is searched, who works on it, what came out."""
