"""`promptvision fit`: what suits these images, tried in the time given and chosen on held-out images."""
