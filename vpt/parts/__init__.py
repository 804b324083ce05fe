"""Parts that several ViT methods share."""
