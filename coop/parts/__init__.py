"""Parts that several CLIP methods share."""
