"""Pretraining of the embedded backbones on the miniature world: a CLIP from captions, a ViT from labels."""
