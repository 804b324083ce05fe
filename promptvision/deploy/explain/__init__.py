"""Explanations of a trained run: words, maps of attention and similarity, features; figures and a page of them."""
